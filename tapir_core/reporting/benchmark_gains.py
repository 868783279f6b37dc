"""Two students of a run on the same questions of its benchmarks: difference, interval, p-value."""

from collections.abc import Sequence
from dataclasses import replace

from tapir_core.evaluation.benchmarks import benchmark_of, exchanges_of, judged_places
from tapir_core.evaluation.benchmarks.types import ItemValues
from tapir_core.evaluation.statistics import PairedDifference, compare_paired
from tapir_core.randomness import derive_rng
from tapir_core.reporting.benchmarks import metric_label
from tapir_core.reporting.formats import NOTHING, count, number, student_name
from tapir_core.reporting.look import Look
from tapir_core.reporting.tables import Table
from tapir_core.stages import StageAt

__all__ = ["NO_GAINS", "PAIRED_COLUMNS", "benchmark_gains_table", "headline_values", "paired_cells"]


def benchmark_gains_table(look: Look, students: Sequence[int]) -> Table:
    """How much better the last of ``students`` is than the first that was trained, benchmark by benchmark.

    A benchmark has a row where the figures of both stand: then judge, prompt and settings are those of today.
    """
    trained = [each for each in students if each >= 0]
    if len(trained) < 2:
        return NO_GAINS
    before, after = trained[0], trained[-1]
    rows = []
    for name, settings in look.run.config.evaluation.asked.items():
        first, second = (headline_values(look, name, student) for student in (before, after))
        for metric in first.keys() & second.keys():
            rng = derive_rng(look.run.config.run.seed, "benchmark", name, metric)
            limit = settings.max_failed_share
            found = compare_paired(second[metric], first[metric], rng=rng, max_failed_share=limit)
            rows.append((name, *paired_cells(metric_label(metric), found)))
    title = f"{student_name(after)} against {student_name(before)} on the same questions"
    return replace(NO_GAINS, title=title, rows=tuple(sorted(rows)))


def paired_cells(figure: str, found: PairedDifference) -> tuple[str, ...]:
    """The cells of a difference under ``PAIRED_COLUMNS`` but the first; ``figure`` is what it is called."""
    estimate = found.difference
    span = NOTHING if estimate.low is None else f"{estimate.low:+.2f} to {estimate.high:+.2f}"
    p_value = NOTHING if found.p_value is None else f"{found.p_value:.4f}"
    figures = (_signed(estimate.value), number(estimate.stderr), span, p_value)
    return (figure, estimate.why, *figures, count(estimate.n), count(found.n_failed))


def headline_values(look: Look, name: str, student: int) -> dict[str, ItemValues]:
    """What the headlines of a student are made of; nothing where its figures do not stand."""
    items = look.rows(StageAt("benchmark_items", benchmark=name))
    answers, replies, scores = (
        look.rows(StageAt(stage, student, benchmark=name))
        for stage in ("benchmark_answers", "benchmark_replies", "benchmark_scores")
    )
    if items is None or answers is None or replies is None or scores is None:
        return {}
    return benchmark_of(look.run.config, name).values(exchanges_of(items, answers), judged_places(replies))


def _signed(value: float | None) -> str:
    return NOTHING if value is None else f"{value:+.2f}"


_NOTE = (
    "Paired over questions; p of a sign-flip test with 10,000 draws. A question that one of the two lacks, or failed, "
    "is in neither."
)

PAIRED_COLUMNS = ("Benchmark", "Figure", "Note", "Difference", "Standard error", "95 % interval", "p", "n", "Failed")

NO_GAINS = Table("Students on the same questions", PAIRED_COLUMNS, (), text_columns=3, note=_NOTE)
"""Of a run that asked no two trained students."""
