r"""A judge's reply becomes scores. The last verdict in the reply counts; a score outside 1-10 is a parse failure.

The form is ``[[a, b]]`` (``[[a]]`` pointwise), with decimals; ``8/10`` is read as 8. Nothing here raises, and nothing
falls back on other numbers of the reply: a reply without a verdict is asked for again, then unscored. Small models
write ``[ [a, b]]``, or after ``Scores:`` other brackets or none. On a line of its own that is a verdict where there is
no better one, and where the judge was shown no such scores: ``[ [`` is also how an answer's own verdict is disarmed.

Whose verdict it is matters: a reply may quote an answer that imitates ours. The last *own* verdict counts: a line that
is nothing but ``Scores: [[a, b]]``, outside quotations. A reply without such a line has its last verdict in the
running text, one in a quotation only where there is no other. Quotations are fenced blocks, lines after ``>`` and what
stands in quotation marks; what a model thinks aloud up to ``</think>`` counts as little. When the own line that counts
is broken (``Scores: [[nan, 2]]``), so is the verdict.

Limits: a reply that quotes outside every quotation and never writes its own line is read by its last verdict. The time
is linear in the length of a reply: no pattern has an unbounded quantifier that what follows it could begin inside.
"""

import re
from functools import lru_cache
from typing import Annotated

from pydantic import Field, ValidatorFunctionWrapHandler, WrapValidator

from tapir_core.json_reply import JsonReply
from tapir_core.judging.prompt import INVISIBLE, see
from tapir_core.text import Unparsed

SCALE = (1.0, 10.0)
"""Lowest and highest score that a judge may give."""

Scores = tuple[float, ...]
"""Of the answers in the order in which they were shown."""

_NUMBER = r"\s{0,8}([-+]?[0-9]{1,8}(?:\.[0-9]{1,8})?)(?:\s?/\s?10)?\s{0,8}"
_LABEL = r"(?:final |overall )?scores?[\s*_]{0,8}:[\s*_]{0,8}"
_LABELLED = re.compile(rf"{_LABEL}(\[\[[^\[\]]*+\]\])", re.IGNORECASE)


@lru_cache
def _forms(count: int) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """How a verdict is written: exactly, and loosely: in other brackets, or in none after a label."""
    scores = "[,;]".join([_NUMBER] * count)
    loose = rf"(?:{_LABEL}[\[(]?\s?[\[(]?|\[\s?\[){scores}[\])]?\s?[\])]?"
    return re.compile(rf"\[\[{scores}\]\]"), re.compile(loose, re.IGNORECASE)


_DECORATION = " \t\r\f\v\u00a0*_#~|.-"
"""What may stand around a verdict line: blanks, Markdown, a full stop."""
_FENCES = ("```", "~~~")
_OPENING, _CLOSING = frozenset("\"'`“‘«„「"), frozenset("\"'`”’»“」")


def _on_scale(said: object, read: ValidatorFunctionWrapHandler) -> object:
    if isinstance(said, bool) or not SCALE[0] <= (score := read(said)) <= SCALE[1]:
        raise ValueError("outside 1-10")
    return score


Score = Annotated[float, WrapValidator(_on_scale)]


class JudgeReply(JsonReply):
    """What a judge replies, by a schema or in text: an explanation, then scores, which a subclass names in their order.

    In text they stand as ``[[a, b]]``. A score is of an answer: of each one shown, in the order in which they are.
    """

    explanation: str = Field(description="your judgement in two or three sentences")

    @classmethod
    def score_names(cls) -> list[str]:
        """The fields that hold scores, in order."""
        return list(cls.model_fields)[1:]

    @classmethod
    def scores(cls, raw: str | None) -> Scores | Unparsed:
        """Those of a reply by the schema."""
        reply = cls.read(raw)
        return reply if isinstance(reply, Unparsed) else tuple(getattr(reply, name) for name in cls.score_names())

    @classmethod
    def scores_in_text(cls, raw: str | None, shown: str | None = None) -> Scores | Unparsed:
        """The last ones that a reply in text gives as its own; ``shown`` is what the judge was asked, where known."""
        exact, loose = _forms(len(cls.score_names()))
        last = _last_verdict(exact, raw or "")
        verdict = exact.fullmatch(last)
        if not last and shown is not None:
            verdict = _loose_verdict(loose, raw or "", shown)
        if verdict is None:
            return Unparsed("no verdict")
        scores = _scores(verdict)
        return scores if all(SCALE[0] <= score <= SCALE[1] for score in scores) else Unparsed("score outside 1-10")


class PairReply(JudgeReply):
    """Of two answers."""

    score_1: Score = Field(description="the score of answer 1, a number from 1 to 10")
    score_2: Score = Field(description="the score of answer 2, a number from 1 to 10")


class PointReply(JudgeReply):
    """Of one answer."""

    score: Score = Field(description="a number from 1 to 10")


REPLIES: dict[str, type[JudgeReply]] = {}
"""Of a `judge.mode` whose judge replies in another form than a `PairReply`, or shown one answer a `PointReply`."""


def _scores(verdict: re.Match[str]) -> Scores:
    return tuple(map(float, verdict.groups()))


def _loose_verdict(form: re.Pattern[str], reply: str, shown: str) -> re.Match[str] | None:
    """The last line of its own; none where its scores stand so in what was shown, from which it may be copied."""
    found = [found for line in _unquoted_lines(reply) if (found := form.fullmatch(line.strip(_DECORATION)))]
    given = map(_scores, form.finditer(see(shown).replace(INVISIBLE, "")))
    return found[-1] if found and _scores(found[-1]) not in given else None


def _last_verdict(form: re.Pattern[str], reply: str) -> str:
    """The text of the verdict that counts; empty when there is none."""
    lines = _unquoted_lines(reply)
    own = [verdict for line in lines if "[[" in line and (verdict := _own_verdict(form, line))]
    if own:
        return own[-1]
    said = "\n".join(lines)
    in_text = [
        found[0]
        for found in form.finditer(said)  # one in quotation marks is somebody else's
        if said[found.start() - 1 : found.start()] not in _OPENING
        and said[found.end() : found.end() + 1] not in _CLOSING
    ]
    return (in_text or [found[0] for found in form.finditer(reply)] or [""])[-1]


def _unquoted_lines(reply: str) -> list[str]:
    """The reply without thoughts, fenced blocks and quoted lines. A fence that is never closed fences nothing."""
    lines = reply.rpartition("</think>")[2].split("\n")
    fences = [place for place, line in enumerate(lines) if line.lstrip().startswith(_FENCES)]
    blocks = zip(fences[::2], fences[1::2], strict=False)
    fenced = {place for opening, closing in blocks for place in range(opening, closing + 1)}
    return [line for place, line in enumerate(lines) if place not in fenced and not line.lstrip().startswith(">")]


def _own_verdict(form: re.Pattern[str], line: str) -> str:
    """The verdict of a line that is nothing else: labelled in any state, bare only in the right form."""
    bare = line.strip(_DECORATION)
    if labelled := _LABELLED.fullmatch(bare):
        return labelled[1]
    return bare if form.fullmatch(bare) else ""
