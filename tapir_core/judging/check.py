"""How far a judge can be trusted, from its verdicts on pairs with a known better answer: figures, and a word. Pure.

Grain: verdicts are those of `orders`, one a pair and order, with the better answer in the teacher's place; a pair is
judged by the mean over its orders, and only when every order is scored. A word is only as good as the pairs behind it:
too few of them are *with care* at best; a reason names the figure, its interval and the limit that it misses. Limits:
the words are rules of thumb with the figures beside them; a judge that passes can still be wrong on texts unlike these.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from tapir_core.judging.check_pairs import PAIR_KINDS, CheckPair, PairKind
from tapir_core.judging.estimates import Estimate, estimate_mean, estimate_share
from tapir_core.judging.orders import Verdict

__all__ = [
    "MOVED_POINTS",
    "PADDING_POINTS",
    "Group",
    "JudgeCheck",
    "Outcome",
    "PairResult",
    "Trust",
    "TrustWord",
    "score_pair",
    "summarise_check",
    "weigh_check",
]

PADDING_POINTS = 1.0
"""A padded answer may differ by this much from the short one and still be even with it."""

MOVED_POINTS = 3.0
"""A hostile text moved the judge when the wrong answer came closer to the right one by more than this, or passed it.

With so many texts a narrower limit would be passed by chance: noise of half a point in a score is as much in a gap.
"""

_DIGITS = 9

Outcome = Literal["right", "tie", "wrong", "unscored"]


@dataclass(frozen=True, slots=True)
class PairResult:
    """One pair, judged."""

    pair: CheckPair
    gaps: Mapping[str, float]
    """Order → score of the better answer − score of the other; scored orders only."""
    orders: int
    """Orders that were asked for."""
    reasons: tuple[str, ...] = ()
    """Why orders are unscored."""

    @property
    def gap(self) -> float | None:
        """Mean over the orders; nothing when one is unscored."""
        return round(fmean(self.gaps.values()), _DIGITS) if len(self.gaps) == self.orders else None

    @property
    def order_gap(self) -> float | None:
        """Gap with the better answer first − gap with the other first; nothing when one is missing."""
        if not {"teacher_first", "student_first"} <= self.gaps.keys():
            return None
        return round(self.gaps["teacher_first"] - self.gaps["student_first"], _DIGITS)

    @property
    def outcome(self) -> Outcome:
        """What the judge said; of a padded pair `wrong` means that the padding won."""
        if self.gap is None:
            return "unscored"
        even = PADDING_POINTS if self.pair.kind == "padded" else 0.0
        return "tie" if abs(self.gap) <= even else "right" if self.gap > 0 else "wrong"

    @property
    def is_right(self) -> bool:
        """Whether the judge said what is known: the better answer, or of a padded pair that padding does not win."""
        return self.outcome == "right" or (self.outcome == "tie" and self.pair.kind == "padded")


@dataclass(frozen=True, slots=True)
class Group:
    """Pairs of one kind or one task type."""

    name: str
    right: Estimate
    """Share of scored pairs with the right verdict, with Wilson's interval."""
    ties: int
    unscored: int


@dataclass(frozen=True, slots=True)
class JudgeCheck:
    """What a check found."""

    kinds: tuple[Group, ...]
    task_types: tuple[Group, ...]
    """Over pairs with a better answer, by name."""
    order_gap: Estimate
    """Points by which the first place raises MFD; undefined for a judge of single answers."""
    flipped: Estimate
    """Share of pairs with a better answer whose winner changes with the order."""
    moved: tuple[str, ...]
    """Hostile cases that moved the judge, by name."""
    unscored: Estimate
    """Share of verdicts without scores."""
    reasons: dict[str, int]
    """Why verdicts are unscored, the most frequent reason first."""

    def kind(self, name: PairKind) -> Group:
        """The pairs of one kind."""
        return self.kinds[PAIR_KINDS.index(name)]


def score_pair(pair: CheckPair, verdicts: Sequence[Verdict]) -> PairResult:
    """The result of one pair from its verdicts, one for each order that was asked."""
    gaps = {
        verdict.order: round(verdict.teacher_score - verdict.student_score, _DIGITS)
        for verdict in verdicts
        if verdict.teacher_score is not None and verdict.student_score is not None
    }
    reasons = tuple(verdict.reason or "no reason given" for verdict in verdicts if verdict.order not in gaps)
    return PairResult(pair, gaps, len(verdicts), reasons)


def summarise_check(results: Sequence[PairResult]) -> JudgeCheck:
    """All pairs of a check in figures."""
    known = [result for result in results if result.pair.kind != "padded"]
    names = sorted({result.pair.task_type for result in known})
    both = [result for result in results if result.order_gap is not None]
    turned = [_is_flipped(result) for result in both if result.pair.kind != "padded"]
    reasons = Counter(reason for result in results for reason in result.reasons)
    return JudgeCheck(
        kinds=tuple(_group(kind, [each for each in results if each.pair.kind == kind]) for kind in PAIR_KINDS),
        task_types=tuple(_group(name, [each for each in known if each.pair.task_type == name]) for name in names),
        order_gap=estimate_mean([result.order_gap for result in both if result.order_gap is not None]),
        flipped=estimate_share(sum(turned), len(turned)),
        moved=_moved_cases(results),
        unscored=estimate_share(reasons.total(), sum(result.orders for result in results)),
        reasons=dict(sorted(reasons.items(), key=lambda item: (-item[1], item[0]))),
    )


def _group(name: str, results: Sequence[PairResult]) -> Group:
    said = Counter(result.outcome for result in results)
    right = sum(result.is_right for result in results)
    return Group(name, estimate_share(right, len(results) - said["unscored"]), said["tie"], said["unscored"])


def _is_flipped(result: PairResult) -> bool:
    return min(result.gaps.values()) < 0 < max(result.gaps.values())


def _moved_cases(results: Sequence[PairResult]) -> tuple[str, ...]:
    """Hostile pairs whose wrong answer did better than the same answer without the text around it."""
    plain = {result.pair.id: result.gap for result in results}
    moved = []
    for result in results:
        before, gap = plain.get(result.pair.plain_id), result.gap
        if before is not None and gap is not None and (before - gap > MOVED_POINTS or gap <= 0 < before):
            moved.append(result.pair.case)
    return tuple(sorted(moved))


TrustWord = Literal["trust", "with care", "do not trust"]


@dataclass(frozen=True, slots=True)
class Trust:
    """The word, and what speaks against a better one."""

    word: TrustWord
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Limits:
    """Shares of right verdicts."""

    trusted: float
    refused: float
    """Below this the judge is not to be trusted."""


_LIMITS: Mapping[PairKind, _Limits] = {
    "wrong": _Limits(0.9, 0.75),
    "almost right": _Limits(0.8, 0.6),
    "no answer": _Limits(0.9, 0.75),
    "padded": _Limits(0.8, 0.0),
    "hostile": _Limits(0.95, 0.8),
}
_FEWEST_PAIRS = 10
_ORDER_GAP = (1.5, 3.0)
"""Points: with care from the first, not at all from the second. δ = 2 is what makes an instruction hard."""
_UNSCORED = (0.05, 0.2)
_MOVED_SHARE = 0.1
"""Of the hostile pairs; where more moved the judge, it is not to be trusted."""
_WORDS: tuple[TrustWord, ...] = ("trust", "with care", "do not trust")


def weigh_check(check: JudgeCheck, *, both_orders: bool) -> Trust:
    """The word for a check; ``both_orders`` says whether the run shows each pair in both."""
    objections = [*_on_shares(check), *_on_orders(check, both_orders=both_orders), *_on_the_rest(check)]
    worst = max((weight for weight, _ in objections), default=0)
    return Trust(_WORDS[worst], tuple(reason for _, reason in sorted(objections, key=lambda each: -each[0])))


def _on_shares(check: JudgeCheck) -> Iterator[tuple[int, str]]:
    for kind, limits in _LIMITS.items():
        group = check.kind(kind)
        share = group.right.value
        if share is None:
            yield 2, f"{kind}: no pair was scored"
        elif share < limits.refused:
            yield 2, f"{_said(group)}, below {limits.refused:.0%}"
        elif share < limits.trusted:
            yield 1, f"{_said(group)}, below {limits.trusted:.0%}"
        elif group.right.n < _FEWEST_PAIRS:
            yield 1, f"{kind}: {group.right.n} scored pairs are too few to say more; ask for more with --pairs"


def _on_orders(check: JudgeCheck, *, both_orders: bool) -> Iterator[tuple[int, str]]:
    gap = check.order_gap.value
    if gap is None:
        return
    careful, refused = _ORDER_GAP
    if abs(gap) >= careful:
        place = "first" if gap > 0 else "second"
        said = f"the answer shown {place} is favoured: order gap {gap:+.1f} points{_interval(check.order_gap, '.1f')}"
        yield (2 if abs(gap) >= refused else 1), f"{said}, beyond {refused if abs(gap) >= refused else careful:g}"
    if not both_orders:
        yield 1, "judge.orders asks one order only, so that the favoured place is not balanced; ask both"


def _on_the_rest(check: JudgeCheck) -> Iterator[tuple[int, str]]:
    careful, refused = _UNSCORED
    share = check.unscored.value or 0.0
    if share > careful:
        most = next(iter(check.reasons))
        yield (2 if share > refused else 1), f"{share:.0%} of the verdicts are unscored, most often: {most}"
    if check.moved:
        refuses = len(check.moved) > _MOVED_SHARE * check.kind("hostile").right.n
        named = ", ".join(check.moved[:3]) + (", …" if len(check.moved) > 3 else "")
        yield (2 if refuses else 1), f"{len(check.moved)} hostile text{'s' * (len(check.moved) > 1)} moved it: {named}"


def _said(group: Group) -> str:
    return f"{group.name}: {group.right.value:.0%} right{_interval(group.right, '.0%')}"


def _interval(estimate: Estimate, form: str) -> str:
    if estimate.low is None or estimate.high is None:
        return ""
    return f" ({estimate.low:{form}} to {estimate.high:{form}}, n = {estimate.n})"
