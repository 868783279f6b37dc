"""Students of a run on the same questions of its benchmarks: difference, interval, p-value.

The first trained student that was asked, which is S_0, is set against the last one and the best one, the backbone
against the best one. Figures of different judges, prompts or settings are not paired.
Limits: each p-value is that of its own difference, however many are in the table.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import polars as pl

from tapir_core.evaluation.benchmark import benchmark_of, exchanges_of
from tapir_core.evaluation.scores import ItemValues, judgments_of
from tapir_core.evaluation.statistics import PairedDifference, compare_paired
from tapir_core.paths import BACKBONE
from tapir_core.randomness import derive_rng
from tapir_core.reporting.benchmarks import metric_label
from tapir_core.reporting.tables import Table
from tapir_core.stages import StageAt
from tapir_core.summary.formats import NOTHING, count, number, student_name
from tapir_core.summary.run_reader import Look

__all__ = [
    "DIFFERS",
    "NO_GAINS",
    "PAIRED_COLUMNS",
    "benchmark_gains_table",
    "headline_values",
    "paired_cells",
    "unpaired_cells",
]

DIFFERS = {"judge": "another judge", "prompt_version": "another prompt", "settings": "other settings"}
"""Column of ``scores/`` that must be equal for figures to be paired → what is said where it is not."""


def benchmark_gains_table(look: Look, students: Sequence[int], best: int | None) -> Table:
    """How much better some of ``students`` are than others, a row a benchmark, pair and headline.

    Args:
        look: The run.
        students: Rounds; of each benchmark those of them that have figures.
        best: The best student by the dev split of the held-out set. Where it is not known, or was not asked, the last
            one is set against the backbone.
    """
    rows = []
    for name in look.run.config.evaluation.asked:
        asked = {each: scores for each in sorted(students) if (scores := _scores(look, name, each)) is not None}
        for after, before in _pairs([*asked], best):
            pair = (student_name(after), student_name(before), name)
            differs = [words for part, words in DIFFERS.items() if asked[after][part][0] != asked[before][part][0]]
            cells = [unpaired_cells(differs)] if differs else _paired(look, name, after, before)
            rows += [(*pair, *each) for each in cells]
    return replace(NO_GAINS, rows=tuple(rows))


def _pairs(asked: Sequence[int], best: int | None) -> list[tuple[int, int]]:
    """Which student is set against which, each pair once."""
    trained = [each for each in asked if each > BACKBONE]
    if not trained:
        return []
    first, last = trained[0], trained[-1]
    of_trained = [(last, first), *([(best, first)] if best in trained else [])]
    of_backbone = [(best if best in trained else last, BACKBONE)] if BACKBONE in asked else []
    return [pair for pair in dict.fromkeys([*of_trained, *of_backbone]) if pair[0] != pair[1]]


def _paired(look: Look, name: str, after: int, before: int) -> Iterator[tuple[str, ...]]:
    config = look.run.config
    first, second = (headline_values(look, name, student) for student in (before, after))
    for metric in sorted(first.keys() & second.keys()):
        rng = derive_rng(config.run.seed, "benchmark", name, metric, after, before)
        limit = config.evaluation.asked[name].max_failed_share
        found = compare_paired(second[metric], first[metric], rng=rng, max_failed_share=limit)
        yield paired_cells(metric_label(metric), found)


def paired_cells(figure: str, found: PairedDifference) -> tuple[str, ...]:
    """The cells of a difference under ``PAIRED_COLUMNS`` from the figure on; ``figure`` is what it is called."""
    estimate = found.difference
    span = NOTHING if estimate.low is None else f"{estimate.low:+.2f} to {estimate.high:+.2f}"
    p_value = NOTHING if found.p_value is None else f"{found.p_value:.4f}"
    figures = (_signed(estimate.value), number(estimate.stderr), span, p_value)
    return (figure, estimate.why, *figures, count(estimate.n), count(found.n_failed))


def unpaired_cells(differs: Sequence[str]) -> tuple[str, ...]:
    """The cells under ``PAIRED_COLUMNS``, from the figure on, of two students not compared; ``differs`` says why."""
    return (NOTHING, f"not compared: {', '.join(differs)}", *[NOTHING] * (len(PAIRED_COLUMNS) - 5))


def headline_values(look: Look, name: str, student: int) -> dict[str, ItemValues]:
    """What the headlines of a student are made of; nothing where its figures do not stand."""
    items = look.rows(StageAt("benchmark_items", benchmark=name))
    answers, replies = (
        look.rows(StageAt(stage, student, benchmark=name)) for stage in ("benchmark_answers", "benchmark_replies")
    )
    if items is None or answers is None or replies is None or _scores(look, name, student) is None:
        return {}
    return benchmark_of(look.run.config, name).values(exchanges_of(items, answers), judgments_of(replies))


def _signed(value: float | None) -> str:
    return NOTHING if value is None else f"{value:+.2f}"


def _scores(look: Look, name: str, student: int) -> pl.DataFrame | None:
    return look.rows(StageAt("benchmark_scores", student, benchmark=name))


PAIRED_COLUMNS = (
    *("Student", "Against", "Benchmark", "Figure", "Note"),
    *("Difference", "Standard error", "95 % interval", "p", "n", "Failed"),
)

NO_GAINS = Table(
    "Students on the same questions",
    PAIRED_COLUMNS,
    (),
    text_columns=5,
    note=(
        "First column minus the second one, paired over questions; p of a sign-flip test with 10,000 draws. A question "
        "that one of the two lacks, or failed, is in neither. The best student is that of the dev split of the "
        "held-out set, which no benchmark is part of."
    ),
)
"""Of a run that asked no two students."""
