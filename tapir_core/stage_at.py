"""A stage in its place in a run: of which round, which wave, which benchmark. Plain values, so that it travels."""

from dataclasses import dataclass

from tapir_core.paths import BACKBONE, benchmark_folder, model_folder, round_folder, wave_folder
from tapir_core.stage_columns import PLACES

__all__ = ["Compared", "StageAt"]

Compared = int | str
"""Who is compared on a benchmark: the student after a round (`BACKBONE`: untouched), or a model of a file, by name."""


@dataclass(frozen=True, slots=True)
class StageAt:
    """A stage in its round (nothing for the stages that run once), or a step of an expansion wave."""

    name: str
    round: int | None = None
    wave: int | None = None
    """Wave of an expansion, from 1; nothing for the stages that are no step of a wave."""
    benchmark: str | None = None
    """Benchmark that is asked; nothing for the stages that are no part of one."""
    model: str | None = None
    """Model whose outputs come from a file, in place of a round's student."""

    def __str__(self) -> str:
        places = [] if self.round is None else ["backbone" if self.round == BACKBONE else f"round {self.round}"]
        places += [self.model] if self.model else []
        places += [f"wave {self.wave}"] if self.wave else []
        places += [self.benchmark] if self.benchmark else []
        return f"{self.name} ({', '.join(places)})" if places else self.name

    @property
    def number(self) -> int:
        """The round, of a stage that has one."""
        assert self.round is not None, f"{self.name} runs once, not by round"
        return self.round

    @property
    def benchmark_name(self) -> str:
        """The benchmark, of a stage that belongs to one."""
        assert self.benchmark is not None, f"{self.name} is no stage of a benchmark"
        return self.benchmark

    @property
    def folder(self) -> str:
        """Where its rows lie in the run folder."""
        place = PLACES[self.name]
        if self.wave is not None:
            place = wave_folder(self.wave, place)
        if self.benchmark is not None:
            place = benchmark_folder(self.benchmark, place)
        if self.model is not None:
            return f"{model_folder(self.model)}/{place}"
        return place if self.round is None else f"{round_folder(self.round)}/{place}"
