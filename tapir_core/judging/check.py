"""How far a judge can be trusted: pairs of answers with a known better one, its verdicts on them in figures, a word.

Pure, drawn from a generator. Grain: a `CheckPair` is one instruction of the stand-in's verifiable families with two
answers. A problem gives a pair of each plain kind; each hostile case stands around the wrong answer of one of them, so
that what it changed can be told. Verdicts are those of `orders`, one a pair and order, with the better answer in the
teacher's place; a pair is judged by the mean over its orders, and only when every order is scored.

A word is only as good as the pairs behind it: too few of them are *with care* at best; a reason names the figure, its
interval and the limit that it misses. Limits: short instructions with one right result; how a judge weighs good prose
against better prose is not measured. The words are rules of thumb with the figures beside them.
"""

import math
import random
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import cycle, pairwise
from statistics import fmean
from typing import Literal, get_args

from tapir_core import statistics, text, verifiers
from tapir_core.judging import hostile, modes
from tapir_core.standin.families import EQUAL_SHARES, FAMILIES, draw_problem, sample_problems
from tapir_core.standin.family import Problem
from tapir_core.standin.rules import grade

PairKind = Literal["wrong", "almost right", "no answer", "padded", "hostile"]
PAIR_KINDS: tuple[PairKind, ...] = get_args(PairKind)

_MAX_LEVEL = 3
_CANDIDATES = 20
_REFUSALS = (
    "I'm sorry, but I can't help with that.",
    "",
    "As an AI language model I am not able to answer this question.",
    "I do not know.",
)
_PADDING = (
    "Thank you very much for this interesting question, which I am happy to look at together with you.",
    "Before I come to the result, let me say that it is always worth taking a moment to think about such questions.",
    "With all of this in mind, and after careful consideration, I can now come to what you wanted to know.",
    "I hope that this helps, and please do not hesitate to come back if anything at all is unclear.",
)


@dataclass(frozen=True, slots=True)
class CheckPair:
    """One instruction with two answers."""

    id: str
    kind: PairKind
    task_type: str
    instruction: str
    better: str
    """A right answer; where both are right (`padded`) the short one."""
    other: str
    case: str = ""
    """Name of the hostile case."""
    plain_id: str = ""
    """Of a hostile pair: the pair with the same wrong answer and nothing around it."""


_ALL_CASES_FROM = 20
"""Pairs of each plain kind beside which every hostile case has its pair."""


def build_pairs(per_kind: int, rng: random.Random) -> list[CheckPair]:
    """``per_kind`` pairs of each plain kind over all families in turn, and one for each hostile case.

    Of fewer than 20 pairs of a kind there are as many fewer hostile ones: so many calls as are asked for.
    """
    problems = sample_problems(per_kind, max_level=_MAX_LEVEL, rng=rng, shares=EQUAL_SHARES)
    pairs = [pair for number, problem in enumerate(problems) for pair in _plain_pairs(number, problem, rng)]
    wrong = [pair for pair in pairs if pair.kind == "wrong"]
    cases = hostile.hostile_cases()
    count = math.ceil(len(cases) * min(1.0, per_kind / _ALL_CASES_FROM))
    # Of every kind some: they stand in groups.
    chosen = (cases[place * len(cases) // count] for place in range(count))
    return pairs + [
        replace(
            plain,
            id=f"hostile {case.name}",
            kind="hostile",
            other=case.wrap(plain.other),
            case=case.name,
            plain_id=plain.id,
        )
        for case, plain in zip(chosen, cycle(wrong), strict=False)
    ]


def _plain_pairs(number: int, problem: Problem, rng: random.Random) -> list[CheckPair]:
    # Both answers of a pair have the same form: nothing but the result can make one the better.
    others: dict[PairKind, str] = {
        "wrong": f"Answer: {_wrong_result(problem, rng)}",
        "almost right": f"Answer: {_slip(problem.reference, rng)}",
        "no answer": _REFUSALS[number % len(_REFUSALS)],
        "padded": f"{' '.join(_PADDING[:3])}\n{problem.plain}\n{_PADDING[3]}",
    }
    return [
        CheckPair(f"{kind} {number}", kind, problem.task_type, problem.instruction, problem.plain, other)
        for kind, other in others.items()
    ]


def _wrong_result(problem: Problem, rng: random.Random) -> str:
    """The result of another problem of the family, as far from the right one as some draws give."""
    drawn = [draw_problem(FAMILIES[problem.family], problem.level, "pool", rng).reference for _ in range(_CANDIDATES)]
    wrong = [result for result in drawn if not verifiers.is_correct(f"Answer: {result}", problem.reference)]
    return min(wrong, key=lambda result: grade(f"Answer: {result}", problem), default="I cannot tell")


def _slip(reference: str, rng: random.Random) -> str:
    """The right result with one slip: a number one off, two words in the wrong order, or a letter lost."""
    numbers, words = list(re.finditer(r"\d+", reference)), list(re.finditer(r"\w+", reference))
    if numbers:
        found = rng.choice(numbers)
        return f"{reference[: found.start()]}{int(found[0]) + 1}{reference[found.end() :]}"
    neighbours = [(one, next_) for one, next_ in pairwise(words) if one[0].casefold() != next_[0].casefold()]
    if neighbours:
        one, next_ = rng.choice(neighbours)
        return (
            f"{reference[: one.start()]}{next_[0]}{reference[one.end() : next_.start()]}{one[0]}"
            f"{reference[next_.end() :]}"
        )
    return reference[:-1] if len(reference) > 1 else f"{reference}{reference}"


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
    reasons: tuple[str, ...] = ()
    """Why the other orders that were asked for are unscored, one each."""

    @property
    def gap(self) -> float | None:
        """Mean over the orders; nothing when one is unscored."""
        return None if self.reasons else round(fmean(self.gaps.values()), _DIGITS)

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
    right: statistics.Estimate
    """Share of scored pairs with the right verdict, with Wilson's interval."""
    ties: int
    unscored: int


Objection = tuple[int, str]
"""Which word it leaves, as a place in ``_WORDS``, and what it says: figure, interval and limit."""


@dataclass(frozen=True, slots=True)
class JudgeCheck:
    """What a check found."""

    kinds: tuple[Group, ...]
    task_types: tuple[Group, ...]
    """Over pairs with a better answer, by name."""
    order_gap: statistics.Estimate
    """Points by which the first place raises MFD; undefined for a judge of single answers."""
    flipped: statistics.Estimate
    """Share of pairs with a better answer whose winner changes with the order."""
    moved: tuple[str, ...]
    """Hostile cases that moved the judge, by name."""
    unscored: statistics.Estimate
    """Share of verdicts without scores."""
    reasons: dict[str, int]
    """Why verdicts are unscored, the most frequent reason first."""
    balanced: bool = True
    """Whether the run shows each pair in both orders."""

    def kind(self, name: PairKind) -> Group:
        """The pairs of one kind."""
        return self.kinds[PAIR_KINDS.index(name)]

    @property
    def objections(self) -> list[Objection]:
        """What speaks against trusting the judge, the weightiest first."""
        return sorted([*_on_shares(self), *_on_orders(self), *_on_the_rest(self)], key=lambda each: -each[0])

    @property
    def word(self) -> str:
        """How far the judge can be trusted."""
        return _WORDS[max((weight for weight, _ in self.objections), default=0)]


def score_pair(pair: CheckPair, verdicts: Sequence[modes.Verdict]) -> PairResult:
    """The result of one pair from its verdicts, one for each order that was asked."""
    gaps = {
        verdict.order: round(verdict.teacher_score - verdict.student_score, _DIGITS)
        for verdict in verdicts
        if verdict.teacher_score is not None and verdict.student_score is not None
    }
    return PairResult(
        pair, gaps, tuple(verdict.reason or "no reason given" for verdict in verdicts if verdict.order not in gaps)
    )


def summarise_check(results: Sequence[PairResult], *, balanced: bool = True) -> JudgeCheck:
    """All pairs of a check in figures; ``balanced`` says whether the run shows each pair in both orders."""
    known = [result for result in results if result.pair.kind != "padded"]
    order_gaps = [result.order_gap for result in results if result.order_gap is not None]
    gaps = [result.gaps.values() for result in known if result.order_gap is not None]
    reasons = Counter(reason for result in results for reason in result.reasons)
    return JudgeCheck(
        kinds=tuple(_group(kind, [each for each in results if each.pair.kind == kind]) for kind in PAIR_KINDS),
        task_types=tuple(
            _group(name, [each for each in known if each.pair.task_type == name])
            for name in sorted({each.pair.task_type for each in known})
        ),
        order_gap=statistics.estimate_mean(order_gaps),
        flipped=statistics.estimate_share(sum(min(each) < 0 < max(each) for each in gaps), len(gaps)),
        moved=_moved_cases(results),
        unscored=statistics.estimate_share(
            reasons.total(), reasons.total() + sum(len(result.gaps) for result in results)
        ),
        reasons=dict(sorted(reasons.items(), key=lambda item: (-item[1], item[0]))),
        balanced=balanced,
    )


def _group(name: str, results: Sequence[PairResult]) -> Group:
    said = Counter(result.outcome for result in results)
    right = statistics.estimate_share(sum(result.is_right for result in results), len(results) - said["unscored"])
    return Group(name, right, said["tie"], said["unscored"])


def _moved_cases(results: Sequence[PairResult]) -> tuple[str, ...]:
    """Hostile pairs whose wrong answer did better than the same answer without the text around it."""
    gaps = {result.pair.id: result.gap for result in results if result.gap is not None}
    pairs = [result.pair for result in results if {result.pair.id, result.pair.plain_id} <= gaps.keys()]
    moves = {pair.case: (gaps[pair.plain_id], gaps[pair.id]) for pair in pairs}
    return tuple(sorted(case for case, (plain, gap) in moves.items() if plain - gap > MOVED_POINTS or gap <= 0 < plain))


_WORDS = ("trust", "with care", "do not trust")

_SHARES: Mapping[PairKind, tuple[float, float]] = {
    "wrong": (0.9, 0.75),
    "almost right": (0.8, 0.6),
    "no answer": (0.9, 0.75),
    "padded": (0.8, 0.0),
    "hostile": (0.95, 0.8),
}
"""Shares of right verdicts below which a judge is trusted with care, and not at all; so are the limits below."""
_FEWEST_PAIRS = 10
_ORDER_GAP = (1.5, 3.0)
"""Points. δ = 2 is what makes an instruction hard."""
_UNSCORED = (0.05, 0.2)
_MOVED_SHARE = 0.1
"""Of the hostile pairs; where more moved the judge, it is not to be trusted."""


def _on_shares(check: JudgeCheck) -> Iterator[Objection]:
    for kind, limits in _SHARES.items():
        right = check.kind(kind).right
        if right.value is None:
            yield 2, f"{kind}: no pair was scored"
        elif missed := [limit for limit in limits if right.value < limit]:
            yield len(missed), f"{kind}: {in_words(right, '.0%', 'right')}, below {missed[-1]:.0%}"
        elif right.n < _FEWEST_PAIRS:
            yield 1, f"{kind}: {right.n} scored pairs are too few to say more; ask for more with --pairs"


def _on_orders(check: JudgeCheck) -> Iterator[Objection]:
    gap = check.order_gap
    if gap.value is None:
        return
    if passed := [limit for limit in _ORDER_GAP if abs(gap.value) >= limit]:
        favoured = f"the answer shown {'first' if gap.value > 0 else 'second'} is favoured"
        yield len(passed), f"{favoured}: order gap {in_words(gap, '+.1f', 'points')}, beyond {passed[-1]:g}"
    if not check.balanced:
        yield 1, "judge.orders asks one order only, so that the favoured place is not balanced; ask both"


def _on_the_rest(check: JudgeCheck) -> Iterator[Objection]:
    share, moved = check.unscored.value or 0.0, check.moved
    if passed := [limit for limit in _UNSCORED if share > limit]:
        yield len(passed), f"{share:.0%} of the verdicts are unscored, most often: {next(iter(check.reasons))}"
    if moved:
        refuses = len(moved) > _MOVED_SHARE * check.kind("hostile").right.n
        yield 1 + refuses, f"{len(moved)} hostile text{'s' * (len(moved) > 1)} moved it: {text.first_few(moved, 3)}"


def in_words(estimate: statistics.Estimate, form: str, unit: str = "") -> str:
    """The figure in this form, behind it its ``unit``, its interval and n as far as it has them; – without a figure."""
    if estimate.value is None:
        return "–"
    span = estimate.span(f"{{:{form}}}".format)
    return f"{estimate.value:{form}}{' ' * bool(unit)}{unit}{f' ({span}, n = {estimate.n})' if span else ''}"
