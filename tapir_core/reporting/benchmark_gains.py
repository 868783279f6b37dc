"""Benchmarks: what a student gained on another, question by question, and how far each is asked."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import polars as pl

from tapir_core.evaluation.benchmark import benchmark_of, exchanges_of
from tapir_core.evaluation.scores import ItemValues, judgments_of
from tapir_core.evaluation.statistics import PairedDifference, compare_paired
from tapir_core.paths import BACKBONE
from tapir_core.randomness import derive_rng
from tapir_core.reporting.benchmarks import beside_in_words, headlines_in_words, metric_label
from tapir_core.reporting.tables import Table
from tapir_core.stages import Compared, StageAt, benchmark_stages
from tapir_core.summary.formats import NOTHING, count, number, student_name
from tapir_core.summary.run_reader import Look

__all__ = [
    "DIFFERS",
    "NO_GAINS",
    "PAIRED_COLUMNS",
    "benchmark_gains_table",
    "benchmark_states_tables",
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


_DONE = {"benchmark_answers": "answered", "benchmark_replies": "judged", "benchmark_scores": "done"}
"""Stage → how far a benchmark is whose last stage that holds is this one."""

_OUT_OF_DATE = "out of date"
_WHY_OUT_OF_DATE = (
    "Out of date: made with another configuration, file, checkpoint or version of tapir; `tapir run`, then the command "
    "that made it, makes it again."
)

_COLUMNS = ("Student", "Asked", "State", "Figure")
_Found = tuple[str, str, str, pl.DataFrame | None]
"""Student or model, when it is asked, how far it is, its figures where they hold."""


def benchmark_states_tables(look: Look) -> list[Table]:
    """A table for each benchmark that is asked each round or was asked later, for figures of two have no common scale.

    A row a student: all of them of what is asked each round, of the others those that were asked. Then every model
    whose outputs are a file.
    """
    tables = []
    for name in look.run.config.evaluation.asked:
        found = list(_found(look, name))
        if not found:
            continue
        cells = tuple((*told, _figure(rows)) for *told, rows in found)
        tables.append(Table(f"Benchmark {name}", _COLUMNS, cells, text_columns=len(_COLUMNS), note=_note(found)))
    return tables


def _found(look: Look, name: str) -> Iterator[_Found]:
    config = look.run.config
    each_round, judged = name in config.evaluation.each_round, config.evaluation.judged.get(name)
    models = [] if judged is None else [*judged.outputs]
    for who in (*range(BACKBONE, config.run.rounds + 1), *models):
        state = _state(look, name, who)
        if not state and not each_round and who not in models:
            continue
        when = "each round" if each_round and who not in models else "later"
        yield student_name(who), when, state or "to do", look.rows(benchmark_stages(name, who)[-1])


def _note(found: Sequence[_Found]) -> str:
    scores = [rows for *_, rows in found if rows is not None]
    figures = f"In brackets the 95 % interval. {beside_in_words(pl.concat(scores))}" if scores else ""
    stale = any(state == _OUT_OF_DATE for _, _, state, _ in found)
    return " ".join(filter(None, (figures, _WHY_OUT_OF_DATE if stale else "")))


def _figure(scores: pl.DataFrame | None) -> str:
    return NOTHING if scores is None else "; ".join(headlines_in_words(scores))


def _state(look: Look, name: str, who: Compared) -> str:
    """How far it is; empty where nothing of it lies in the run's folder."""
    stages = benchmark_stages(name, who)
    for at in reversed(stages):
        if look.manifest(at) is not None:
            return _DONE[at.name]
        if look.run.manifest(at) is not None:
            return _OUT_OF_DATE
    return "begun" if any(look.run.storage.names(at.folder) for at in stages) else ""
