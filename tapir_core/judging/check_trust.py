"""From the figures of a judge check to a word: trust it, trust it with care, or do not. Pure.

A word is only as good as the pairs behind it: too few of them are *with care* at best. The limits stand at the top; a
reason names the figure, its interval and the limit that it misses.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from tapir_core.judging.check import Group, JudgeCheck
from tapir_core.judging.check_pairs import PairKind
from tapir_core.judging.estimates import Estimate

__all__ = ["Trust", "TrustWord", "weigh_check"]

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
