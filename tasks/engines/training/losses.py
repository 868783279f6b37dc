"""What a training minimises beside the cross-entropy of the teacher's answers, as functions of log-probabilities.

All are natural logarithms. A gradient flows through what the student says now, and through nothing else.
"""

from torch import Tensor
from torch.nn.functional import logsigmoid

_MOST_RATIO = 2.0
"""Most by which a token counts that the student has become likelier to sample since it did."""
_LEAST_REST = 1e-6
"""Least probability of all tokens but the likeliest: its logarithm must stay finite."""


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


def policy(log_probs: Tensor, sampled: Tensor, teacher: Tensor, clip: float | None) -> Tensor:
    """The loss of each token that the student sampled (arXiv 2604.13010, with a ratio for what it has learnt since).

    Its advantage is by how much the teacher finds it likelier than the student does now.

    Args:
        log_probs: s, of the sampled tokens under the student; (tokens,), as all here.
        sampled: q, the same when it sampled them.
        teacher: t, the same under the teacher.
        clip: Largest advantage, either way; None for any.
    """
    now = log_probs.detach()
    advantage = teacher - now
    if clip is not None:
        advantage = advantage.clamp(-clip, clip)
    return -(now - sampled).exp().clamp(max=_MOST_RATIO) * advantage * log_probs


def forward_kl(log_probs: Tensor, teacher: Tensor) -> Tensor:
    """KL(teacher ‖ student) of each token, over the teacher's k likeliest and all others as one: (tokens,).

    It is that of the whole distributions only where k is all.

    Args:
        log_probs: Of the teacher's k likeliest tokens under the student, (tokens, k).
        teacher: The same under the teacher.
    """
    rest = [(1 - each.exp().sum(-1)).clamp(min=_LEAST_REST) for each in (teacher, log_probs)]
    likeliest = (teacher.exp() * (teacher - log_probs)).sum(-1)
    return likeliest + rest[0] * (rest[0] / rest[1]).log()
