"""What a comparison comes to: each arm's scores, differences and costs over its run seeds, and what that shows. Pure.

In words, read off the intervals: one row beats another when the whole 90 % interval of their difference lies above 0,
and does not when it lies below; anything else is not shown. The intervals are not corrected for how many differences
are looked at.

Scores are shares of held-out instructions with the right final result (0-1). The test split is reported; the dev split
stands apart, since decisions read it. Costs are means over run seeds, of an arm as if it stood alone; what was really
paid stands beside them, since runs share what is equal.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import permutations
from math import hypot
from statistics import fmean

from tapir_core import paths, randomness, statistics, task_types, text
from tapir_core.comparison import outcome, plan
from tapir_core.summary.formats import student_name

BASIC = "S_0"
"""The row of what all arms start from."""

_ENDS = ("low", "high", "low90", "high90")

_OF_ONE_SEED = f"{statistics.COVERS['items and reruns']}, and no other run seed"

_Students = Mapping[int, Mapping[str, outcome.Graded]]
"""Run seed → split → what the student got right."""


@dataclass(frozen=True, slots=True)
class Point:
    """One student of an arm's curve."""

    tokens: float
    """Trained on after S_0."""
    test: statistics.Resampled


@dataclass(frozen=True, slots=True)
class ArmRow:
    """One row: an arm, or what arms start from."""

    name: str
    label: str
    exploratory: bool
    run_seeds: tuple[int, ...]
    missing: int
    """Test answers that the students lack, of all run seeds together: failed for good, or never given."""
    test: statistics.Resampled | None = None
    dev: statistics.Resampled | None = None
    natural: statistics.Resampled | None = None
    """Of the test split with the families' shares of the pool, where they are known with every run seed."""
    natural_to_random: statistics.Resampled | None = None
    to_random: statistics.Resampled | None = None
    """Of the test split, over the run seeds that both have."""
    costs: Mapping[str, float | None] | None = None
    """What → how much of it the arm takes, on average over its run seeds."""
    curve: tuple[Point, ...] = ()
    """From S_0 on."""
    task_types: Mapping[str, statistics.Resampled] = field(default_factory=dict)
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
    differences: Mapping[tuple[str, str], statistics.Resampled]
    """(one row, other row) → one − other on the test split, of primary arms and S_0."""
    prices: str
    """What USD means here, in words."""
    concludes: bool
    """Whether verdicts are wanted, and every primary run is finished."""
    conditions: Mapping[str, str] = field(default_factory=dict)
    """Under which the figures were made: what → in words."""


def compare_arms(
    name: str,
    arms: Sequence[plan.Arm],
    outcomes: Sequence[outcome.ArmOutcome],
    *,
    unfinished: Sequence[str],
    prices: str,
    concludes: bool,
) -> ComparedArms:
    """Set finished runs against each other; the reference is the first of ``arms``."""
    of_arm = {arm.name: {each.run_seed: each for each in outcomes if each.arm.name == arm.name} for arm in arms}
    reference = of_arm[arms[0].name]
    labels = {
        student_name(paths.BACKBONE): "Backbone, untouched",
        BASIC: f"{BASIC}, after basic fine-tuning",
        **{arm.name: arm.label for arm in arms},
    }
    students = {
        **{student_name(at): _students(reference, at) for at in (paths.BACKBONE, 0) if reference},
        **{arm: _students(runs) for arm, runs in of_arm.items() if runs},
    }
    rows = {
        each: _row(name, each, labels[each], of, {} if each == plan.RANDOM else students.get(plan.RANDOM, {}))
        for each, of in students.items()
    }
    for arm in arms:
        if runs := of_arm[arm.name]:
            row = replace(rows[arm.name], exploratory=arm.exploratory, costs=_costs(runs, reference))
            rows[arm.name] = row if row.why else replace(row, curve=_curve(name, arm.name, runs))
    compared = [each for each in (*(arm.name for arm in arms if not arm.exploratory), BASIC) if each in students]
    return ComparedArms(
        name,
        rows=tuple(rows.values()),
        reference=arms[0].name,
        unfinished=tuple(unfinished),
        differences={
            (one, other): found
            for one, other in permutations(compared, 2)
            if (found := _difference(name, students[one], students[other], one, other))
        },
        prices=prices,
        concludes=concludes,
    )


def _students(runs: Mapping[int, outcome.ArmOutcome], number: int | None = None) -> _Students:
    """The students of a round of these runs, or the last ones."""
    return {
        seed: {split: each.students[each.last if number is None else number, split] for split in ("dev", "test")}
        for seed, each in runs.items()
    }


def _row(comparison: str, name: str, label: str, students: _Students, random: _Students) -> ArmRow:
    """One row; ``random`` is what it is set against, if anything."""
    # The backbone is not trained, so that a rerun changes nothing of it.
    trained = 0 if name == student_name(paths.BACKBONE) else 1
    row = ArmRow(
        name,
        label,
        exploratory=False,
        run_seeds=tuple(sorted(students)),
        missing=sum(splits["test"].missing for splits in students.values()),
        why=_too_many_missing(students, "test"),
    )
    if row.why:
        return row
    asked = {name for splits in students.values() for name in splits["test"].task_types.values() if name}
    by_type = {
        task_type: {seed: {"test": splits["test"].of_type(task_type)} for seed, splits in students.items()}
        for task_type in task_types.in_order(asked)
    }
    shares = {
        each: _score(by_type[each], "test", comparison, "task type", name, each, trained=trained) for each in by_type
    }
    return replace(
        row,
        test=_score(students, "test", comparison, "score", name, "test", trained=trained),
        dev=_score(students, "dev", comparison, "score", name, "dev", trained=trained),
        natural=_score(students, "test", comparison, "natural", name, "test", trained=trained, natural=True),
        to_random=_difference(comparison, students, random, name, plan.RANDOM, trained=trained + 1),
        natural_to_random=_difference(
            comparison, students, random, "natural", name, plan.RANDOM, trained=trained + 1, natural=True
        ),
        task_types={task_type: share for task_type, share in shares.items() if share},
    )


def _difference(
    comparison: str, first: _Students, second: _Students, *scope: str, trained: int = 2, natural: bool = False
) -> statistics.Resampled | None:
    """``first`` − ``second`` on the test split; nothing where they share no item, or too many lack an answer of one.

    ``trained`` of the two are trained.
    """
    if _too_many_missing(first, "test") or _too_many_missing(second, "test"):
        return None
    paired = statistics.paired_values(_values(first, "test"), _values(second, "test"))
    for seed, items in paired.items():
        asked = first[seed]["test"].task_types.keys() | second[seed]["test"].task_types.keys()
        if len(asked) - len(items) > statistics.MAX_FAILED_SHARE * len(asked):
            return None
    return statistics.resample(
        _at_natural(paired, first, "test") if natural else paired,
        rng=randomness.derive_rng(0, comparison, "difference", *scope),
        rerun=statistics.rerun_sd(trained),
    )


def _score(
    students: _Students, split: str, *scope: str, trained: int = 1, natural: bool = False
) -> statistics.Resampled | None:
    """The share of right answers, with intervals that end at 0 and 1; nothing where too many of the split are missing.

    Where all marks are equal it has Wilson's interval of one run seed, for draws would not differ.
    """
    right = _values(students, split)
    values = _at_natural(right, students, split) if natural else right
    found = (
        None
        if _too_many_missing(students, split)
        else statistics.resample(values, rng=randomness.derive_rng(0, *scope), rerun=statistics.rerun_sd(trained))
    )
    if found is None:
        return None
    value = found.value
    if value in (0.0, 1.0):
        sizes = [
            statistics.effective_size(students[seed][split].weights[item] for item in items) if natural else len(items)
            for seed, items in values.items()
            if items
        ]
        low, high = statistics.share_interval(value, min(sizes))
        # What a rerun changes is in the draws, whose items do not differ.
        low, high = value - hypot(value - low, value - found.low), value + hypot(high - value, found.high - value)
        found = replace(found, low=low, high=high, low90=low, high90=high)
    return replace(found, **{end: min(1.0, max(0.0, getattr(found, end))) for end in _ENDS})


def _curve(comparison: str, name: str, runs: Mapping[int, outcome.ArmOutcome]) -> tuple[Point, ...]:
    """Students of which too many answers are missing are left out."""
    tests = {
        number: _score(_students(runs, number), "test", comparison, "score", f"{name} {number}", "test")
        for number in sorted(set.intersection(*(set(each.trainings) for each in runs.values())))
    }
    return tuple(
        Point(fmean(each.tokens_to(number) for each in runs.values()), test) for number, test in tests.items() if test
    )


def _costs(
    outcomes: Mapping[int, outcome.ArmOutcome], reference: Mapping[int, outcome.ArmOutcome]
) -> dict[str, float | None]:
    runs = list(outcomes.values())
    pairs = [(each.trained, reference[seed].trained) for seed, each in outcomes.items() if seed in reference]
    answers = sum(sum(each.answers.values()) for each in runs)
    trained = [outcome.total(each.trainings.values()) for each in runs]
    distinct = [each.distinct for each in runs if each.distinct is not None]
    return {
        # Trained on after S_0, over all rounds and epochs.
        "tokens": fmean(each.trained.tokens for each in runs),
        "steps": fmean(each.trained.steps for each in runs),
        # To the reference of the same run seed; nothing while that is not finished.
        "tokens_ratio": fmean(own.tokens / other.tokens for own, other in pairs) if pairs else None,
        "steps_ratio": fmean(own.steps / other.steps for own, other in pairs) if pairs else None,
        # Of all trainings, that of S_0 among them.
        "all_tokens": fmean(each.tokens for each in trained),
        # Of them, those with a loss.
        "answer_tokens": fmean(each.loss_tokens for each in trained),
        "all_steps": fmean(each.steps for each in trained),
        # Instructions in the mixtures of all trainings, each counted once; nothing where a run's are not known.
        "distinct": fmean(distinct) if len(distinct) == len(runs) else None,
        "teacher_answers": fmean(each.answers["teacher"] for each in runs),
        "judge_answers": fmean(each.answers["judge"] for each in runs),
        "usd": fmean(each.usd for each in runs),
        # Of its answers, those that were asked for before, by another run or an earlier start.
        "stored_share": sum(each.stored for each in runs) / answers if answers else None,
        "paid_requests": fmean(each.paid_requests for each in runs),
        "paid_usd": fmean(each.paid_usd for each in runs),
        "seconds": fmean(each.seconds for each in runs),
    }


def _values(students: _Students, split: str) -> statistics.Values:
    return {seed: splits[split].correct for seed, splits in students.items()}


def _at_natural(values: statistics.Values, students: _Students, split: str) -> statistics.Values:
    """The values at natural shares; none where the weights of a run seed are not known."""
    weights = {seed: students[seed][split].weights for seed in values}
    return statistics.at_weights(values, weights) if all(weights.values()) else {}


def _too_many_missing(students: _Students, split: str) -> str:
    """Why there is no figure of the split; nothing where enough is there with every run seed.

    So many answers are missing that those left would be no random sample.
    """
    for seed, splits in students.items():
        missing, n = splits[split].missing, len(splits[split].task_types)
        if missing > statistics.MAX_FAILED_SHARE * n:
            return (
                f"with run seed {seed}, {missing} of {n} {split} answers are missing, more than "
                f"{statistics.MAX_FAILED_SHARE:.0%}"
            )
    return ""


def verdicts(compared: ComparedArms) -> list[str]:
    """One sentence for each difference that counts; why there is none, where none may be drawn."""
    if not compared.concludes:
        unfinished = text.first_few(compared.unfinished, 3)
        return [
            f"No verdict: {len(compared.unfinished)} runs are not finished ({unfinished})."
            if unfinished
            else "No verdict: these runs are too small to carry one; they show that the comparison works."
        ]
    arms = [each for each in compared.rows if each.costs and not each.exploratory and each.name != plan.RANDOM]
    pairs = [(*pair, compared.differences.get((pair[0].name, pair[1].name))) for pair in _pairs(compared, arms)]
    return [
        *(_verdict(one.label, other.label, found) for one, other, found in pairs if found),
        *(
            f"No verdict on {one.label} against {other.label}: too many answers of one or the other are missing."
            for one, other, found in pairs
            if not (found or one.why or other.why)
        ),
        *(f"No verdict on {row.label}: {row.why}." for row in compared.rows if row.why and not row.exploratory),
    ]


def _verdict(one: str, other: str, found: statistics.Resampled) -> str:
    value, low, high = (100 * each for each in (found.value, found.low90, found.high90))
    beats = (
        f"{one} beats {other}"
        if low > 0
        else f"{one} does not beat {other}, it is worse"
        if high < 0
        else f"That {one} beats {other} is not shown"
    )
    return f"{beats}: {value:+.1f} points (90 % interval {low:+.1f} to {high:+.1f}, p = {found.p:.4f})."


def covers_sentence(compared: ComparedArms) -> str:
    """What the intervals cover, and what they do not."""
    run_seeds = {each.run_seeds for row in compared.rows for each in (row.test, row.to_random) if each}
    several = max(run_seeds, default=0)
    of_all = (
        f"Intervals of rows with {several} run seeds cover the choice of held-out instructions and that of the run "
        "seed, which draws the samples and the order of training and, where they are generated, pool and held-out set"
        if several > 1
        else f"Intervals cover {_OF_ONE_SEED}, for there is one"
    )
    alone = f"; figures of one run seed cover {_OF_ONE_SEED}" if several > 1 and 1 in run_seeds else ""
    return (
        f"{of_all}{alone}. They cover no other teacher, judge, backbone, pool or setting, and are not corrected for "
        "the number of arms."
    )


def _pairs(compared: ComparedArms, arms: Sequence[ArmRow]) -> Iterator[tuple[ArmRow, ArmRow]]:
    """Each arm against random; the reference against every other one; each arm against S_0."""
    rows = {each.name: each for each in compared.rows}
    random, basic, reference = rows[plan.RANDOM], rows[BASIC], rows[compared.reference]
    yield from ((each, random) for each in arms)
    yield from ((reference, each) for each in arms if each is not reference)
    yield from ((each, basic) for each in (*arms, random))
