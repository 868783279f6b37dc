"""What a training minimises beside the cross-entropy of the teacher's answers, as functions of log-probabilities."""

from torch import Tensor
from torch.nn.functional import logsigmoid


def preference(log_probs: Tensor, reference: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """Direct preference optimization (arXiv 2305.18290, equation 7).

    Args:
        log_probs: (pairs, 2): of each pair's better and worse answer under the student, summed over its tokens, nats.
        reference: The same under the student with which the training began.
        beta: β.

    Returns:
        The loss of each pair, and its margin: by how much more the student has come to prefer the better answer, in
        nats times β. Both (pairs,).
    """
    moved = log_probs - reference
    margins = beta * (moved[:, 0] - moved[:, 1])
    return -logsigmoid(margins), margins
