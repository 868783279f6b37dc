"""How far the benchmarks of a run are: those of each round, and what `tapir evaluate` asked beside them."""

from collections.abc import Iterator

from tapir_core.paths import BACKBONE
from tapir_core.reporting.benchmarks import headlines_in_words
from tapir_core.reporting.formats import NOTHING, student_name
from tapir_core.reporting.look import Look
from tapir_core.reporting.tables import Table
from tapir_core.stages import Compared, benchmark_stages

__all__ = ["benchmark_states_table"]

_DONE = {"benchmark_answers": "answered", "benchmark_replies": "judged", "benchmark_scores": "done"}
"""Stage → how far a benchmark is whose last stage that holds is this one."""


def benchmark_states_table(look: Look) -> Table:
    """A row a benchmark and student: every student of what is asked each round, of the others those that were asked.

    Then every model whose outputs are a file.
    """
    columns = ("Benchmark", "Student", "Asked", "State", "Figure", "Judge")
    note = (
        "Out of date: made with another configuration, file or checkpoint; the command that made it makes it again. "
        "In brackets the 95 % interval. Figures of different judges are on different scales."
    )
    return Table("Benchmarks", columns, tuple(_rows(look)), text_columns=6, note=note)


def _rows(look: Look) -> Iterator[tuple[str, ...]]:
    config = look.run.config
    for name in config.evaluation.asked:
        each_round = name in config.evaluation.each_round
        judged = config.evaluation.judged.get(name)
        models = [] if judged is None else [*judged.outputs]
        for who in (*range(BACKBONE, config.run.rounds + 1), *models):
            state = _state(look, name, who)
            if not state and not each_round and who not in models:
                continue
            scores = look.rows(benchmark_stages(name, who)[-1])
            figure = NOTHING if scores is None else "; ".join(headlines_in_words(scores))
            judge = NOTHING if scores is None else scores["judge"][0]
            when = "each round" if each_round and who not in models else "later"
            yield name, student_name(who), when, state or "to do", figure, judge


def _state(look: Look, name: str, who: Compared) -> str:
    """How far it is; empty where nothing of it lies in the run's folder."""
    stages = benchmark_stages(name, who)
    for at in reversed(stages):
        if look.manifest(at) is not None:
            return _DONE[at.name]
        if look.run.manifest(at) is not None:
            return "out of date"
    return "begun" if any(look.run.storage.names(at.folder) for at in stages) else ""
