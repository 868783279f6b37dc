"""What of a benchmark failed, in words: whose answer is not there, and what the judge said in place of a judgment.

Everything is counted in questions, whatever a figure counts: a question is in it once for each reason.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from tapir_core.evaluation.benchmarks.types import NO_ANSWER, NO_BASELINE, Judged, Place
from tapir_core.text import shorten

__all__ = ["Failures"]

_LISTED = 5
_LONGEST_SAID = 160
_OF_LOGPROBS = re.compile("log.?prob", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Failures:
    """How the failures of one benchmark are told."""

    field: str = ""
    """Of the configuration, which has the benchmark; named where a setting of it is the remedy."""
    baseline: str = ""
    """Whose answers stand against the student's."""
    logprobs_asked: int = 0
    """Log-probabilities that the judge was asked for."""

    def in_words(self, judged: Mapping[Place, Judged], mode: str | None = None) -> str:
        """The failed judgments by reason (those of one mode, if it is named); empty where no reason is known."""
        reasons: dict[str, dict[str, str]] = {}
        for (question, _, of, _), each in judged.items():
            if each.value is None and each.reason and mode in (None, of):
                reasons.setdefault(each.reason, {}).setdefault(question, each.said)
        told = [self._of_reason(reason, questions) for reason, questions in reasons.items()]
        return f"failed: {'; '.join(told)}" if told else ""

    def _of_reason(self, reason: str, questions: Mapping[str, str]) -> str:
        of = f"{len(questions)} question{'s' if len(questions) != 1 else ''}"
        if reason in (NO_ANSWER, NO_BASELINE):
            more = ", …" if len(questions) > _LISTED else ""
            listed = f"{of} ({', '.join(list(questions)[:_LISTED])}{more})"
            whose = f"the baseline, {self.baseline}, has no answer" if reason == NO_BASELINE else reason
            return f"{whose} to {listed}"
        said = next((shorten(each, _LONGEST_SAID) for each in questions.values() if each), "")
        remedy = ""
        if self.logprobs_asked and any(_OF_LOGPROBS.search(each) for each in questions.values()):
            remedy = f" (an endpoint that gives no log-probabilities: set {self.field}.top_logprobs = 0)"
        return f"{of}: {reason}" + (f", {said!r}" if said else "") + remedy
