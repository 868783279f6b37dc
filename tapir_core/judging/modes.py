"""The modes of a judge, their verdicts, and panels: what is shown, whose score is whose, several judges as one. Pure.

Grain: a ``Verdict`` is one row of ``verdicts/``, one instruction in one order by one judge. "Could not judge" is a
value with a reason, never a score. A judge is shown both answers in one prompt, or one answer a call; `ASKED_AS` of the
configuration says which. One answer has no order: one row an instruction and judge, whose ``order`` is the name of the
mode, made of the student's score of this round and the teacher's, which is paid once.

Whatever reads scores reads combined verdicts, of one judge too; what each judge said stays in ``verdicts/``. Laws of
`combine_judges`: the order of the judges changes nothing; one judge is the identity; an unscored verdict, or one that
is missing, leaves the others'. A combined verdict is unscored only when no judge scored it.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from statistics import fmean
from typing import Any, Literal, TypeVar

import polars as pl

from tapir_core.config import JudgeConfig, PanelRule, VerifierConfig
from tapir_core.judging.prompt import fill_in, show_instruction
from tapir_core.judging.verdict import REPLIES, SCALE, JudgeReply, PairReply, PointReply, Scores
from tapir_core.prompts import Prompt
from tapir_core.stages import JUDGE
from tapir_core.text import Unparsed

_T = TypeVar("_T")
Mark = tuple[float | None, str | None]
"""A verifier's score of an answer, from 0 to 1; or nothing, and why."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """One judge reply, parsed: two scores, or unscored with a reason. Fields are the columns of ``verdicts/``."""

    instruction_id: str
    order: str
    student_score: float | None
    teacher_score: float | None
    status: Literal["scored", "unscored"]
    reason: str | None
    raw: str | None
    judge: str
    """Its name among the judges of the run."""


def unscored(instruction_id: str, order: str, reason: str, raw: str | None, judge: str) -> Verdict:
    """A verdict without scores: the judge refused, failed for good, or gave no verdict."""
    return Verdict(instruction_id, order, None, None, "unscored", reason, raw, judge)


def levelled(verdict: Verdict) -> Verdict:
    """The verdict on two equal answers: both have the mean of what it gives them, since only their places differ."""
    points = [each for each in (verdict.student_score, verdict.teacher_score) if each is not None]
    return replace(verdict, student_score=(mean := fmean(points)), teacher_score=mean) if points else verdict


def verified(
    judge: JudgeConfig, verifier: VerifierConfig, instruction_id: str, student: Mark, teacher: Mark
) -> Iterator[Verdict]:
    """The verdicts that a verifier's scores make, the same in each order; none where a judge is to be asked.

    Scores from 0 to 1 become 1 to 10. Each mark is a score, or nothing with the reason.
    """
    marks, (lowest, highest) = {"student": student, "teacher": teacher}, SCALE
    points = [None if score is None else lowest + (highest - lowest) * score for score, _ in marks.values()]
    why = "; ".join(f"{whose}: {reason}" for whose, (score, reason) in marks.items() if score is None)
    for order in judge.expected_orders:
        if not why:
            yield Verdict(instruction_id, order, points[0], points[1], "scored", None, None, verifier.function)
        elif verifier.only:
            yield unscored(instruction_id, order, f"verifier: {why}", None, verifier.function)


def verdict_rows(verdicts: Iterable[Verdict]) -> pl.DataFrame:
    """Verdicts as the table ``verdicts/``, in the order given."""
    return pl.DataFrame([astuple(verdict) for verdict in verdicts], schema=JUDGE.columns, orient="row")


_Row = Mapping[str, Any]
"""instruction_id, instruction, system, reference, teacher (its response), student (its response)."""


class JudgeMode:
    """Both answers in one prompt. What a request is about is its ``place``: here the order of the answers."""

    form: type[JudgeReply] = PairReply
    """Of a reply."""

    shown: tuple[str, ...] = ("teacher", "student")
    """Whose answers stand in a prompt: columns of a row."""

    def __init__(self, judge: JudgeConfig) -> None:
        """What is open of `judge.replies` still counts as text."""
        self.judge, self.form = judge, REPLIES.get(judge.mode, self.form)
        self.schema = self.form.schema_text() if judge.replies == "json" else ""
        """That a reply has to obey; empty where it is text."""

    def parse(self, raw: str | None, shown: str | None = None) -> Scores | Unparsed:
        """The scores of one reply; ``shown`` is what the judge read, where that is known."""
        return self.form.scores(raw) if self.schema else self.form.scores_in_text(raw, shown)

    def places(self) -> tuple[str, ...]:
        """The requests for one instruction to one judge."""
        return self.judge.orders

    def order_of(self, place: str) -> str:
        """The order under which a verdict of this request stands in ``verdicts/``."""
        return place

    def render(self, prompt: Prompt, row: _Row, place: str) -> str:
        """What the judge reads."""
        text = fill_in(
            prompt,
            instruction=show_instruction(row),
            system=row["system"],
            reference=row["reference"],
            **self.answers(row, place),
        )
        return self.form.asked_by(text) if self.schema else text

    def answers(self, row: _Row, place: str) -> dict[str, str]:
        """Section of the prompt → the answer that stands in it."""
        first, second = _in_order(place, row["student"], row["teacher"])
        return {"answer_1": first, "answer_2": second}

    def rests_on(self, place: str) -> tuple[str, ...]:
        """The requests of which the verdict at ``place`` is made; none where it stands at another one."""
        return (place,)

    def combine(
        self, instruction_id: str, place: str, replies: Sequence[Scores | Unparsed], raw: str | None, judge: str
    ) -> Verdict:
        """The verdict of what `rests_on` names, each parsed; ``raw`` is the first reply."""
        [found] = replies
        if isinstance(found, Unparsed):
            return unscored(instruction_id, place, found.reason, raw, judge)
        return Verdict(instruction_id, place, *_in_order(place, *found), "scored", None, raw, judge)

    def is_balanced(self) -> bool:
        """Whether a liking for a position cancels out, or has none to like."""
        return len(self.places()) > 1

    def calls(self, rows: float, fresh: float) -> tuple[float, float]:
        """Calls that ``rows`` instructions need, and those that are paid; no round judged ``fresh`` of them before."""
        return rows * len(self.places()), rows * len(self.places())

    def in_words(self) -> str:
        """For a reader of figures."""
        return f"{self.judge.mode}, {' and '.join(self.judge.orders).replace('_', ' ')}"


class _OneAnswer(JudgeMode):
    """One answer a call. A place is whose answer is shown; the teacher's is the same in every round, and paid once."""

    form = PointReply
    shown = ("teacher",)

    def places(self) -> tuple[str, ...]:
        return ("student", "teacher")

    def order_of(self, place: str) -> str:
        return self.judge.mode

    def answers(self, row: _Row, place: str) -> dict[str, str]:
        return {"answer": row[place]}

    def rests_on(self, place: str) -> tuple[str, ...]:
        return ("student", "teacher") if place == "student" else ()

    def combine(
        self, instruction_id: str, place: str, replies: Sequence[Scores | Unparsed], raw: str | None, judge: str
    ) -> Verdict:
        scores = list[float]()
        for whose, found in zip(("", "teacher: "), replies, strict=True):
            if isinstance(found, Unparsed):
                return unscored(instruction_id, self.judge.mode, f"{whose}{found.reason}", raw, judge)
            scores += found
        student, teacher = scores
        return Verdict(instruction_id, self.judge.mode, student, teacher, "scored", None, raw, judge)

    def calls(self, rows: float, fresh: float) -> tuple[float, float]:
        return 2 * rows, rows + fresh

    def in_words(self) -> str:
        return self.judge.mode


def mode_of(judge: JudgeConfig) -> JudgeMode:
    """How the judges of a run are asked."""
    return (JudgeMode if judge.asked_as.shows_both else _OneAnswer)(judge)


def _in_order(order: str, first: _T, second: _T) -> tuple[_T, _T]:
    """What is the student's and the teacher's as ``order`` shows it; and of what was shown, whose it is."""
    return (second, first) if order == "teacher_first" else (first, second)


_PLACE = ["instruction_id", "order"]
_DIGITS = 9


def combine_judges(verdicts: pl.DataFrame, rule: PanelRule) -> pl.DataFrame:
    """The verdicts of all judges as those of one: one row an instruction and order, sorted by both.

    ``reason`` names every reason once where nobody scored; ``judge`` names who counted, and ``raw`` holds their
    replies, each under its judge's name where there are several.
    """
    rows = verdicts.cast(JUDGE.columns).sort(*_PLACE, "judge")
    again = pl.all_horizontal(pl.col(each) == pl.col(each).shift() for each in _PLACE)
    if not rows.select(again.any()).item():  # nothing to combine, of which a million rows would take gigabytes
        return rows.with_columns(pl.col("student_score", "teacher_score").round(_DIGITS))
    rows = _mark_counted(rows, rule)
    counts, any_scored = pl.col("counts"), pl.col("any_scored").any()
    reasons = pl.col("reason").drop_nulls().unique().sort().str.join("; ")
    raw, judge = (pl.col(name).filter(counts & pl.col("raw").is_not_null()) for name in ("raw", "judge"))
    several = pl.concat_str(pl.lit("["), judge, pl.lit("]\n"), raw).str.join("\n\n")
    return (
        rows.group_by(_PLACE, maintain_order=True)
        .agg(
            pl.col("student_score", "teacher_score").filter(counts).mean().round(_DIGITS),
            status=pl.when(any_scored).then(pl.lit("scored")).otherwise(pl.lit("unscored")),
            reason=pl.when(~any_scored & (pl.col("reason").count() > 0)).then(reasons),
            raw=pl.when(raw.len() == 1).then(raw.first()).when(raw.len() > 1).then(several),
            judge=pl.col("judge").filter(counts).str.join(", "),
        )
        .select(*JUDGE.columns)
        .cast(JUDGE.columns)
    )


def _mark_counted(rows: pl.DataFrame, rule: PanelRule) -> pl.DataFrame:
    """Adds ``counts``: the verdicts that the combined one is made of; of a row that nobody scored, all."""
    scored = pl.col("status") == "scored"
    rows = rows.with_columns(scored=scored, any_scored=scored.any().over(_PLACE))
    if rule == "majority":
        rows = (
            rows.with_columns(winner=(pl.col("teacher_score") - pl.col("student_score")).sign())
            .with_columns(votes=pl.when("scored").then(pl.col("scored").sum().over(*_PLACE, "winner")))
            .with_columns(leads=pl.col("votes") == pl.col("votes").max().over(_PLACE))
        )
        leaders = pl.col("winner").filter(pl.col("leads")).n_unique().over(_PLACE)
        rows = rows.with_columns(scored=pl.col("scored") & ((leaders > 1) | pl.col("leads")))
    return rows.with_columns(counts=pl.col("scored") | ~pl.col("any_scored"))
