"""The waves of one round's expansion: ask for what the target shares still lack, gate it, ask again."""

from flows.sharding import run_shards
from tapir_core.run_folder import RunFolder, RunRef
from tapir_core.stages import StageAt
from tasks.expand import (
    collect_expansion,
    collect_rejected,
    examine_shard,
    expand_shard,
    gate_wave,
    plan_requests,
    screen_wave,
    screened_rows,
)

__all__ = ["expand_round"]


def expand_round(run: RunRef, number: int) -> None:
    """Expand the seeds of round ``number``, wave by wave, until nothing lacks or the waves are used up."""
    folder = RunFolder(run)
    if all(folder.holds(StageAt(name, number)) for name in ("expand", "expansion_rejected")):
        return
    for wave in range(1, folder.config.curriculum.expansion.max_waves + 1):
        requests = plan_requests(run, number, wave).rows
        if requests == 0:
            break
        run_shards(run, StageAt("wave_candidates", number, wave), expand_shard, requests)
        screen_wave(run, number, wave)
        passed = screened_rows(folder, StageAt("wave_screened", number, wave)).height
        run_shards(run, StageAt("wave_examined", number, wave), examine_shard, passed)
        gate_wave(run, number, wave)
    collect_rejected(run, number)
    collect_expansion(run, number)
