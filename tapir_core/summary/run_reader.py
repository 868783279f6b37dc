"""One look at a run folder: the stages that hold, their rows and counts, and the stages as a reader knows them.

What a look has found it keeps, so it must not outlive the report that it is taken for.
"""

from collections import Counter
from collections.abc import Iterable
from datetime import datetime

import polars as pl

from tapir_core.data.dataset import DatasetRef, Manifest
from tapir_core.run_folder import RunFolder
from tapir_core.stages import BENCHMARK, EVALUATION, Line, StageAt, lines, with_steps
from tapir_core.summary.types import StageSummary, Usage


class Look:
    """Reads stages that hold; what does not hold is None."""

    def __init__(self, run: RunFolder) -> None:
        self.run = run
        self.seen: dict[StageAt, DatasetRef | None] = {}
        """What was found of its stages."""
        self._spans: list[tuple[float, float]] = []
        self.updated = ""
        """When the last stage that was looked at was done."""

    def manifest(self, at: StageAt) -> Manifest | None:
        """The stage's manifest."""
        return self.run.manifest(at) if self.run.holds(at, self.seen) is not None else None

    def rows(self, at: StageAt) -> pl.DataFrame | None:
        """The stage's rows."""
        return self.run.rows(at) if self.run.holds(at, self.seen) is not None else None

    def waves(self, number: int) -> list[int]:
        """Waves of a round of which something is done."""
        planned = range(1, self.run.config.curriculum.expansion.max_waves + 1)
        return [wave for wave in planned if self.manifest(StageAt("wave_requests", number, wave)) is not None]

    def summarise_stages(self, names: Iterable[str], number: int | None) -> tuple[StageSummary, ...]:
        """The lines of ``names`` of which something is done; the steps of a stage count as one."""
        known = lines()
        found = (self._summarise_line(known[name], number) for name in names)
        return tuple(stage for stage in found if stage is not None)

    def busy_seconds(self) -> float:
        """Time in which one of the stages looked at was at work."""
        busy, end = 0.0, float("-inf")
        for start, stop in sorted(self._spans):
            busy += max(0.0, stop - max(start, end))
            end = max(end, stop)
        return busy

    def _summarise_line(self, line: Line, number: int | None) -> StageSummary | None:
        manifests = [manifest for at in self._parts(line, number) if (manifest := self.manifest(at)) is not None]
        if not manifests:
            return None
        for manifest in manifests:
            self._note_time(manifest)
        return StageSummary(
            line.name,
            line.asks,
            sum(manifest.rows for manifest in manifests if manifest.stage == line.rows_of),
            sum(manifest.counts.get("seconds", 0.0) for manifest in manifests),
            dict(sum((Counter(manifest.accepted_missing) for manifest in manifests), Counter[str]())),
            sum((_usage(manifest) for manifest in manifests), Usage()),
        )

    def _parts(self, line: Line, number: int | None) -> list[StageAt]:
        config, name = self.run.config, line.name
        if name not in {stage.name for stage in BENCHMARK}:
            stages = [stage for stage in EVALUATION if stage.line == name] if number is not None else []
            whole = [stage.at(number) for stage in stages] or [StageAt(name, number)]
            waves = self.waves(number) if number is not None and number > 0 else []
            return [step for at in whole for step in with_steps(config, at, waves) if step.stage.line == name]
        if number is None:
            judged = config.evaluation.judged.items()
            return [StageAt(name, benchmark=each, model=model) for each, of in judged for model in of.outputs]
        return [StageAt(name, number, benchmark=each) for each in config.evaluation.asked]

    def _note_time(self, manifest: Manifest) -> None:
        self.updated = max(self.updated, manifest.created)
        stop = datetime.fromisoformat(manifest.created).timestamp()
        self._spans.append((stop - manifest.counts.get("seconds", 0.0), stop))


def _usage(manifest: Manifest) -> Usage:
    counts = manifest.counts
    return Usage(
        int(counts.get("calls", 0)),
        int(counts.get("stored", 0)),
        int(counts.get("prompt_tokens", 0)),
        int(counts.get("completion_tokens", 0)),
        counts.get("usd", 0.0),
    )
