"""What a comparison shows, in words, read off its intervals: beats, does not beat, not shown. Pure.

One row beats another when the whole 90 % interval of their difference lies above 0, and does not when it lies below;
anything else is not shown. The intervals are not corrected for how many differences are looked at.
"""

from collections.abc import Iterator, Sequence

from tapir_core.comparison.figures import BASIC, RANDOM, ArmRow, ComparedArms
from tapir_core.evaluation.bootstrap import Resampled

__all__ = ["covers_sentence", "in_words", "verdicts"]


def verdicts(compared: ComparedArms) -> list[str]:
    """One sentence for each difference that counts; why there is none, where none may be drawn."""
    if not compared.concludes:
        return [_why_none(compared)]
    arms = [each for each in compared.rows if each.costs and not each.exploratory and each.name != RANDOM]
    said = [
        in_words(one, other, compared.differences[one.name, other.name])
        for one, other in _pairs(compared, arms)
        if (one.name, other.name) in compared.differences
    ]
    said += [
        f"No verdict on {one.label} against {other.label}: too many answers of one or the other are missing."
        for one, other in _pairs(compared, arms)
        if (one.name, other.name) not in compared.differences and not one.why and not other.why
    ]
    return said + [f"No verdict on {row.label}: {row.why}." for row in compared.rows if row.why and not row.exploratory]


def in_words(one: ArmRow, other: ArmRow, found: Resampled) -> str:
    """What the difference of two rows shows."""
    figures = (
        f"{100 * found.value:+.1f} points (90 % interval {100 * found.low90:+.1f} to {100 * found.high90:+.1f}, "
        f"p = {found.p:.4f})"
    )
    if found.low90 > 0:
        return f"{one.label} beats {other.label}: {figures}."
    if found.high90 < 0:
        return f"{one.label} does not beat {other.label}, it is worse: {figures}."
    return f"That {one.label} beats {other.label} is not shown: {figures}."


def covers_sentence(compared: ComparedArms) -> str:
    """What the intervals cover, and what they do not."""
    several = max((row.test.run_seeds for row in compared.rows if row.test), default=0)
    of_all = (
        f"Intervals of rows with {several} run seeds cover the choice of held-out instructions and that of the run "
        "seed, which draws the samples and the order of training and, where they are generated, pool and held-out set"
        if several > 1
        else "Intervals cover the choice of held-out instructions only, for there is one run seed"
    )
    alone = "; figures of one run seed cover the instructions only" if several > 1 and _has_alone(compared) else ""
    return (
        f"{of_all}{alone}. They cover no other teacher, judge, backbone, pool or setting, and are not corrected for "
        "the number of arms."
    )


def _pairs(compared: ComparedArms, arms: Sequence[ArmRow]) -> Iterator[tuple[ArmRow, ArmRow]]:
    """Each arm against random; the reference against every other one; each arm against S_0."""
    random, basic = compared.row(RANDOM), compared.row(BASIC)
    reference = compared.row(compared.reference)
    assert random is not None
    assert basic is not None
    assert reference is not None
    yield from ((each, random) for each in arms)
    yield from ((reference, each) for each in arms if each is not reference)
    yield from ((each, basic) for each in (*arms, random))


def _why_none(compared: ComparedArms) -> str:
    if compared.unfinished:
        left = ", ".join(compared.unfinished[:3]) + (", …" if len(compared.unfinished) > 3 else "")
        return f"No verdict: {len(compared.unfinished)} runs are not finished ({left})."
    return "No verdict: these runs are too small to carry one; they show that the comparison works."


def _has_alone(compared: ComparedArms) -> bool:
    figures = (each for row in compared.rows for each in (row.test, row.to_random))
    return any(each is not None and each.run_seeds == 1 for each in figures)
