"""What a run has come to: a pure reading of its folder, which works at any time.

Limits: a stage that does not hold (another configuration, a missing part) counts as not done. Seconds and calls are
those of a stage's last start; what a killed start had spent shows as answers from the store.
"""

import polars as pl

from tapir_core.config import JudgeConfig
from tapir_core.curriculum import best_round, split_usable
from tapir_core.data.dataset import Manifest
from tapir_core.paths import BACKBONE
from tapir_core.run_folder import RunFolder
from tapir_core.run_state import state_of
from tapir_core.stages import StageAt, lines_once
from tapir_core.summary.grading import measure_gain
from tapir_core.summary.rounds import Pool, benchmark_figures, summarise_decontamination, summarise_round
from tapir_core.summary.run_reader import Look
from tapir_core.summary.types import RunSummary

__all__ = ["summarise"]


def summarise(run: RunFolder) -> RunSummary:
    """Everything that reports and status lines say of a run.

    Raises:
        ConfigError: there is no such run.
    """
    look, config = Look(run), run.config
    first, unusable = _first_pool(look)
    pool, labels = look.manifest(StageAt("pool")), first.labels
    found = (summarise_round(look, number, first) for number in range(BACKBONE, config.run.rounds + 1))
    rounds = tuple(each for each in found if each.stages)
    once = look.summarise_stages((*lines_once(), "benchmark_replies"), None)
    state = state_of(run, look.seen)
    students = [each.number for each in rounds if each.scores is not None and each.number > 0]
    roles = {"teacher": [config.teacher.endpoint], "judge": [*config.judge.endpoints.values()]}
    return RunSummary(
        name=run.record.name,
        root=run.ref.root,
        created=run.record.created,
        updated=look.updated,
        backbone=config.student.backbone,
        teacher=config.teacher.endpoint.name,
        judge=_judges(config.judge),
        standins=tuple(role for role, endpoints in roles.items() if all(each.is_standin for each in endpoints)),
        planned_rounds=config.run.rounds,
        next_stage=state.next_stage,
        stopped=state.stopped,
        pool=labels.height if labels is not None else pool.rows if pool is not None else None,
        unusable=unusable,
        dropped=_dropped(pool),
        decontamination=summarise_decontamination(look),
        stages=once,
        rounds=rounds,
        outputs=_outputs(look),
        best=best_round(state.history) if any(each.dev_score is not None for each in state.history) else None,
        gain=measure_gain(look, 0, students[-1]) if students else None,
        busy_seconds=round(look.busy_seconds(), 1),
    )


def _first_pool(look: Look) -> tuple[Pool, dict[str, int] | None]:
    """The first pool, and why instructions left it."""
    pool, labels, teacher = (look.rows(StageAt(name)) for name in ("pool", "label", "teach"))
    if pool is None or labels is None or teacher is None:
        return Pool(labels), None
    split = split_usable(pool, teacher, labels)
    return Pool(labels, split.examples.select("instruction_id", "task_type")), split.dropped


def _outputs(look: Look) -> dict[str, pl.DataFrame]:
    models = dict.fromkeys(model for each in look.run.config.evaluation.judged.values() for model in each.outputs)
    found = {model: benchmark_figures(look, model) for model in models}
    return {model: rows for model, rows in found.items() if rows is not None}


def _dropped(pool: Manifest | None) -> dict[str, int]:
    counts = {} if pool is None else pool.counts
    return {name.replace("_", " "): int(count) for name, count in counts.items() if name != "seconds" and count}


def _judges(judge: JudgeConfig) -> str:
    return " and ".join(judge.names) if judge.panel else judge.endpoint.name
