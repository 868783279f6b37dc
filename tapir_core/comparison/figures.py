"""What a comparison comes to: each arm's scores, differences and costs over its run seeds, and what that shows. Pure.

Scores are shares of held-out instructions with the right final result (0-1). The test split is reported; the dev split
stands apart, since decisions read it. Costs are means over run seeds, of an arm as if it stood alone; what was really
paid stands beside them, since runs share what is equal.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean

from tapir_core.comparison.arms import Arm
from tapir_core.comparison.outcome import ArmOutcome, Graded, Training
from tapir_core.evaluation.bootstrap import Resampled, Values, paired_values, resample
from tapir_core.evaluation.statistics import MAX_FAILED_SHARE
from tapir_core.judging.estimates import share_interval
from tapir_core.paths import BACKBONE
from tapir_core.randomness import derive_rng
from tapir_core.summary.formats import student_name
from tapir_core.task_types import TASK_TYPES

__all__ = [
    "BASIC",
    "RANDOM",
    "ArmRow",
    "ComparedArms",
    "Costs",
    "Point",
    "compare_arms",
    "difference",
    "share_of",
    "shares_by_task_type",
    "too_many",
]

RANDOM = "random"
"""The arm that all others are set against."""

BASIC = "S_0"
"""The row of what all arms start from."""

_Students = Mapping[int, Mapping[str, Graded]]
"""Run seed → split → what the student got right."""


@dataclass(frozen=True, slots=True)
class Costs:
    """What an arm takes, on average over its run seeds."""

    tokens: float
    """Trained on after S_0, over all rounds and epochs."""
    loss_tokens: float
    steps: float
    tokens_ratio: float | None
    """To the reference of the same run seed; nothing while that is not finished."""
    steps_ratio: float | None
    teacher_answers: float
    judge_answers: float
    usd: float
    stored_share: float | None
    """Of its answers, those that were asked for before, by another run or an earlier start."""
    paid_requests: float
    paid_usd: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Point:
    """One student of an arm's curve."""

    tokens: float
    """Trained on after S_0."""
    test: Resampled


@dataclass(frozen=True, slots=True)
class ArmRow:
    """One row: an arm, or what arms start from."""

    name: str
    label: str
    exploratory: bool
    run_seeds: tuple[int, ...]
    missing: int
    """Test answers that the students lack, of all run seeds together: failed for good, or never given."""
    test: Resampled | None = None
    dev: Resampled | None = None
    to_random: Resampled | None = None
    """Of the test split, over the run seeds that both have."""
    costs: Costs | None = None
    curve: tuple[Point, ...] = ()
    """From S_0 on."""
    task_types: Mapping[str, Resampled] = field(default_factory=dict)
    """Task type → the same of its test items, where no more of them are missing than in the whole."""
    why: str = ""
    """Why there is no figure: too many test answers are missing with a run seed."""


@dataclass(frozen=True, slots=True)
class ComparedArms:
    """What a comparison came to, as far as it has come."""

    name: str
    rows: tuple[ArmRow, ...]
    """Backbone, S_0, then the arms in their order; those without a finished run are left out."""
    reference: str
    unfinished: tuple[str, ...]
    """Names of planned runs that are not finished, primary ones first."""
    differences: Mapping[tuple[str, str], Resampled]
    """(one row, other row) → one − other on the test split, of primary arms and S_0."""
    prices: str
    """What USD means here, in words."""
    concludes: bool
    """Whether verdicts are wanted, and every primary run is finished."""
    conditions: Mapping[str, str] = field(default_factory=dict)
    """Under which the figures were made: what → in words."""

    def row(self, name: str) -> ArmRow | None:
        """The row of that name."""
        return next((each for each in self.rows if each.name == name), None)


def compare_arms(
    name: str,
    arms: Sequence[Arm],
    outcomes: Sequence[ArmOutcome],
    *,
    unfinished: Sequence[str],
    prices: str,
    concludes: bool,
) -> ComparedArms:
    """Set finished runs against each other; the reference is the first of ``arms``."""
    of_arm = {arm.name: {each.run_seed: each for each in outcomes if each.arm.name == arm.name} for arm in arms}
    reference = of_arm[arms[0].name]
    random = _last(of_arm.get(RANDOM, {}))
    rows = [
        _start_row(name, number, {seed: _splits(each, number) for seed, each in reference.items()}, random)
        for number in (BACKBONE, 0)
        if reference
    ]
    rows += [_arm_row(name, arm, of_arm[arm.name], reference, random) for arm in arms if of_arm[arm.name]]
    students = {arm.name: _last(of_arm[arm.name]) for arm in arms if not arm.exploratory}
    students[BASIC] = {seed: _splits(each, 0) for seed, each in reference.items()}
    return ComparedArms(
        name, tuple(rows), arms[0].name, tuple(unfinished), _differences(name, students), prices, concludes
    )


def difference(comparison: str, first: _Students, second: _Students, *scope: str) -> Resampled | None:
    """``first`` − ``second`` on the test split; nothing where they share no item, or too many lack an answer of one."""
    if any(_too_many_missing(each) for each in (first, second)):
        return None
    paired = paired_values(_values(first, "test"), _values(second, "test"))
    for seed, items in paired.items():
        asked = first[seed]["test"].task_types.keys() | second[seed]["test"].task_types.keys()
        if too_many(len(asked) - len(items), len(asked)):
            return None
    return resample(paired, rng=derive_rng(0, comparison, "difference", *scope))


def _differences(comparison: str, students: Mapping[str, _Students]) -> dict[tuple[str, str], Resampled]:
    names = list(students)
    found = {
        (one, other): difference(comparison, students[one], students[other], one, other)
        for one in names
        for other in names
        if one != other
    }
    return {pair: each for pair, each in found.items() if each is not None}


def _start_row(comparison: str, number: int, students: _Students, random: _Students) -> ArmRow:
    name = student_name(number)
    label = "Backbone, untouched" if number == BACKBONE else f"{BASIC}, after basic fine-tuning"
    return _row(comparison, name, label, False, students, random)


def _arm_row(
    comparison: str,
    arm: Arm,
    outcomes: Mapping[int, ArmOutcome],
    reference: Mapping[int, ArmOutcome],
    random: _Students,
) -> ArmRow:
    curve = _curve(comparison, arm.name, outcomes)
    row = _row(comparison, arm.name, arm.label, arm.exploratory, _last(outcomes), random, curve)
    return replace(row, costs=_costs(outcomes, reference))


def _row(
    comparison: str,
    name: str,
    label: str,
    exploratory: bool,
    students: _Students,
    random: _Students,
    curve: tuple[Point, ...] = (),
) -> ArmRow:
    missing = sum(splits["test"].missing for splits in students.values())
    row = ArmRow(name, label, exploratory, tuple(sorted(students)), missing, why=_too_many_missing(students))
    if row.why:
        return row
    return replace(
        row,
        test=_score(comparison, name, students, "test"),
        dev=_score(comparison, name, students, "dev"),
        to_random=None if name == RANDOM else difference(comparison, students, random, name, RANDOM),
        curve=curve,
        task_types=shares_by_task_type(comparison, name, {seed: splits["test"] for seed, splits in students.items()}),
    )


def _score(comparison: str, name: str, students: _Students, split: str) -> Resampled | None:
    """A share, so its intervals end at 0 and 1; nothing where too many answers of the split are missing."""
    if _too_many_missing(students, split):
        return None
    return share_of(_values(students, split), comparison, "score", name, split)


def _curve(comparison: str, name: str, outcomes: Mapping[int, ArmOutcome]) -> tuple[Point, ...]:
    """Students of which too many answers are missing are left out."""
    points = []
    for number in sorted(set.intersection(*(set(each.trainings) for each in outcomes.values()))):
        students = {seed: _splits(each, number) for seed, each in outcomes.items()}
        test = _score(comparison, f"{name} {number}", students, "test")
        if test is not None:
            points.append(Point(fmean(each.tokens_to(number) for each in outcomes.values()), test))
    return tuple(points)


def _costs(outcomes: Mapping[int, ArmOutcome], reference: Mapping[int, ArmOutcome]) -> Costs:
    runs = list(outcomes.values())
    pairs = [(each.trained, reference[seed].trained) for seed, each in outcomes.items() if seed in reference]
    answers = sum(sum(each.answers.values()) for each in runs)
    return Costs(
        tokens=fmean(each.trained.tokens for each in runs),
        loss_tokens=fmean(each.trained.loss_tokens for each in runs),
        steps=fmean(each.trained.steps for each in runs),
        tokens_ratio=_ratio(pairs, "tokens"),
        steps_ratio=_ratio(pairs, "steps"),
        teacher_answers=fmean(each.answers["teacher"] for each in runs),
        judge_answers=fmean(each.answers["judge"] for each in runs),
        usd=fmean(each.usd for each in runs),
        stored_share=sum(each.stored for each in runs) / answers if answers else None,
        paid_requests=fmean(each.paid_requests for each in runs),
        paid_usd=fmean(each.paid_usd for each in runs),
        seconds=fmean(each.seconds for each in runs),
    )


def _ratio(pairs: Sequence[tuple[Training, Training]], name: str) -> float | None:
    ratios = [getattr(own, name) / getattr(other, name) for own, other in pairs if getattr(other, name)]
    return fmean(ratios) if ratios else None


def _last(outcomes: Mapping[int, ArmOutcome]) -> dict[int, dict[str, Graded]]:
    return {seed: _splits(each, each.last) for seed, each in outcomes.items()}


def _splits(outcome: ArmOutcome, number: int) -> dict[str, Graded]:
    return {split: outcome.students[number, split] for split in ("dev", "test")}


def _values(students: _Students, split: str) -> Values:
    return {seed: splits[split].correct for seed, splits in students.items()}


def _too_many_missing(students: _Students, split: str = "test") -> str:
    """Why there is no figure of the split; nothing where enough is there with every run seed."""
    for seed, splits in students.items():
        missing, n = splits[split].missing, len(splits[split].task_types)
        if too_many(missing, n):
            most = f"more than {MAX_FAILED_SHARE:.0%}"
            return f"with run seed {seed}, {missing} of {n} {split} answers are missing, {most}"
    return ""


def share_of(values: Values, *scope: str) -> Resampled | None:
    """The mean of marks; where all are equal, with Wilson's interval of one run seed, for draws would not differ."""
    found = resample(values, rng=derive_rng(0, *scope))
    if found is None:
        return None
    ends = {end: min(1.0, max(0.0, getattr(found, end))) for end in ("low90", "high90", "low95", "high95")}
    if found.value in (0.0, 1.0):
        n = min(len(items) for items in values.values() if items)
        low, high = share_interval(found.value, n)
        ends = dict.fromkeys(("low90", "low95"), low) | dict.fromkeys(("high90", "high95"), high)
    return replace(found, **ends)


def shares_by_task_type(comparison: str, name: str, students: Mapping[int, Graded]) -> dict[str, Resampled]:
    """Task type → share of its items, of one student a run seed.

    A type of which too many answers are missing with a run seed is left out.
    """
    found: dict[str, Resampled] = {}
    for task_type in TASK_TYPES:
        asked = {
            seed: [item for item, of_type in test.task_types.items() if of_type == task_type]
            for seed, test in students.items()
        }
        values = {
            seed: {item: test.correct[item] for item in asked[seed] if item in test.correct}
            for seed, test in students.items()
        }
        if any(too_many(len(items) - len(values[seed]), len(items)) for seed, items in asked.items()):
            continue
        if share := share_of(values, comparison, "task type", name, task_type):
            found[task_type] = share
    return found


def too_many(missing: int, n: int) -> bool:
    """Whether so many of ``n`` answers are missing that those left would be no random sample."""
    return missing > MAX_FAILED_SHARE * n
