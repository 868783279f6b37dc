"""One judgment of AlpacaEval 2.0: which output is shown first, and what the annotator's reply says. Pure.

The scale of a preference: 1 the baseline's output is better, 2 the model's, between them a probability, 1.5 a draw.
The annotator is asked for one token, the identifier of the better output: ``m`` is the one shown first, ``M`` the
one shown second. Source: tatsu-lab/alpaca_eval, annotator `weighted_alpaca_eval_gpt4_turbo`.
"""

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass

from tapir_core.judging.combine import ShownAnswers
from tapir_core.replies import Unparsed

__all__ = [
    "BASELINE",
    "DRAW",
    "FIRST",
    "MODEL",
    "SECOND",
    "Annotation",
    "Comparison",
    "is_switched",
    "kept_preference",
    "preference_from_choice",
    "preference_from_logprobs",
]

BASELINE, DRAW, MODEL = 1.0, 1.5, 2.0
"""Preferences at the ends of the scale and in its middle."""

FIRST, SECOND = "m", "M"
"""Identifiers of the output shown first and of the one shown second."""

_AROUND_A_CHOICE = " \t\r\n\"'`*.()[]"


@dataclass(frozen=True, slots=True)
class Annotation:
    """One judgment, as the figures take it."""

    preference: float | None
    """1-2; None when it failed."""
    model_chars: int
    """Length of the model's output in code points."""
    baseline_chars: int
    """Length of the baseline's output in code points."""
    switched: bool | None = None
    """Whether the model's output was shown first; None where nobody wrote it down."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """The two outputs to one instruction."""

    instruction: str
    model_output: str
    baseline_output: str

    @property
    def is_draw(self) -> bool:
        """True when the outputs are equal: a draw, and nobody is asked."""
        return self.model_output == self.baseline_output

    @property
    def switched(self) -> bool:
        """True when the model's output is shown first."""
        return is_switched(self.instruction)

    @property
    def shown(self) -> ShownAnswers:
        """The outputs as the annotator sees them."""
        if self.switched:
            return ShownAnswers(self.model_output, self.baseline_output)
        return ShownAnswers(self.baseline_output, self.model_output)


def is_switched(instruction: str) -> bool:
    """Whether the model's output is shown first: drawn from the instruction alone, so equal for every model.

    The draw is the original's (its seed is 0), since its judgments are only met in its orders.
    """
    return random.Random(f"is_switched_outputs{instruction}0").choices([False, True], k=1)[0]


def preference_from_logprobs(logprobs: Mapping[str, float], *, switched: bool) -> float | Unparsed:
    """The preference (1-2) that the first token's log-probabilities give.

    Args:
        logprobs: token → natural logarithm of its probability, for the most likely first tokens. An identifier that
            is not among them has probability 0; all other tokens are disregarded.
        switched: whether the model's output was shown first.
    """
    found = {token: logprobs[token] for token in (FIRST, SECOND) if token in logprobs}
    highest = max(found.values(), default=-math.inf)
    if highest == -math.inf:
        return Unparsed("no identifier among the tokens")
    first, second = (math.exp(found[token] - highest) if token in found else 0.0 for token in (FIRST, SECOND))
    return _unswitched(first / (first + second), switched)


def preference_from_choice(reply: str | None, *, switched: bool) -> float | Unparsed:
    """1 or 2, from a reply that is an identifier and nothing else but blanks, quotation marks or brackets."""
    choice = (reply or "").strip(_AROUND_A_CHOICE)
    if choice not in (FIRST, SECOND):
        return Unparsed("no identifier")
    return _unswitched(float(choice == FIRST), switched)


def kept_preference(stored: float | None) -> float | None:
    """The preference (1-2) that a stored one means; None when the judgment failed.

    Failed is what is None, NaN or off the scale (-1 is the original's mark). 0 is an old spelling of a draw.
    """
    if stored == 0:
        return DRAW
    return stored if stored is not None and BASELINE <= stored <= MODEL else None


def _unswitched(first_is_better: float, switched: bool) -> float:
    return BASELINE + first_is_better if switched else MODEL - first_is_better
