"""The waves of one round's expansion: ask for what the target shares still lack, gate it, ask again."""

from flows.steps import run_shards, run_stage
from flows.until import end_if_reached
from tapir_core.run_folder import RunFolder, RunRef
from tapir_core.stages import StageAt, plan
from tasks.expand import (
    collect_expansion,
    collect_rejected,
    examine_shard,
    expand_shard,
    gate_wave,
    plan_requests,
    screen_wave,
)
from tasks.pool import contaminated

__all__ = ["expand_round"]


def expand_round(ref: RunRef, number: int) -> None:
    """Expand the seeds of round ``number``, wave by wave, until nothing lacks or the waves are used up."""
    run = RunFolder(ref)
    listed = ["contaminated"] if StageAt("contaminated") in plan(run.config) else []
    if all(run.holds(StageAt(name, number)) for name in ("expand", "expansion_rejected", *listed)):
        end_if_reached(run, StageAt("expand", number))
        return
    for wave in range(1, run.config.curriculum.expansion.max_waves + 1):
        if run_stage(ref, plan_requests, number, wave=wave).rows == 0:
            break
        run_shards(ref, StageAt("wave_candidates", number, wave), expand_shard)
        run_stage(ref, screen_wave, number, wave=wave)
        run_shards(ref, StageAt("wave_examined", number, wave), examine_shard)
        run_stage(ref, gate_wave, number, wave=wave)
    run_stage(ref, collect_rejected, number)
    if listed:
        run_stage(ref, contaminated, number)
    run_stage(ref, collect_expansion, number)
