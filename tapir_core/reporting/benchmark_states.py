"""How far the benchmarks of a run are: those of each round, and what `tapir evaluate` asked beside them."""

from collections.abc import Iterator, Sequence

import polars as pl

from tapir_core.paths import BACKBONE
from tapir_core.reporting.benchmarks import beside_in_words, headlines_in_words
from tapir_core.reporting.tables import Table
from tapir_core.stages import Compared, benchmark_stages
from tapir_core.summary.formats import NOTHING, student_name
from tapir_core.summary.run_reader import Look

__all__ = ["benchmark_states_tables"]

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
