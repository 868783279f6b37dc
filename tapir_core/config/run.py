"""The whole configuration of a run: `RunConfig`, and the ladder that resolves one round of it."""

from typing import Annotated, Any, ClassVar

from pydantic import Field, field_serializer

from tapir_core.config._base import Section
from tapir_core.config.benchmarks import JudgedBenchmark
from tapir_core.config.budget import BudgetConfig
from tapir_core.config.calls import CallsConfig
from tapir_core.config.curriculum import CurriculumConfig, RoundConfig, RoundName
from tapir_core.config.data import DataConfig
from tapir_core.config.endpoints import EndpointConfig
from tapir_core.config.evaluation import EvaluationConfig
from tapir_core.config.roles import JudgeConfig, TeacherConfig
from tapir_core.config.student import StudentConfig
from tapir_core.config.training import BasicTuningConfig, TrainingConfig

__all__ = ["RunConfig", "RunSection"]


class RunSection(Section):
    """Name, place, seed and length of the run."""

    free: ClassVar[tuple[str, ...]] = ("name", "root", "prompts")

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,79}$")]
    """The run's folder under `root`: letters, digits, `.`, `_` and `-`, at most 80. `--name` replaces it."""

    root: str = "runs"
    """Folder of all runs, with the call store they share in `.tapir/`; or `s3://BUCKET/FOLDER` (docs/storage.md)."""

    seed: int = 1
    """Every draw of the run derives from it."""

    rounds: Annotated[int, Field(ge=1, le=49)] = 3
    """R: most rounds; the stop rule may end sooner."""

    prompts: str | None = None
    """Folder whose prompt files replace the shipped ones of the same name."""


class RunConfig(Section):
    """One run, whole. Hand-written as TOML, kept resolved as `config.resolved.json` in the run folder."""

    free: ClassVar[tuple[str, ...]] = ("calls", "budget")

    run: RunSection
    """Name, place, seed and length."""

    data: DataConfig
    """Pool and held-out set."""

    student: StudentConfig = StudentConfig()
    """The small model."""

    teacher: TeacherConfig
    """The strong LLM."""

    judge: JudgeConfig
    """Who scores."""

    curriculum: CurriculumConfig = CurriculumConfig()
    """What holds for all rounds."""

    basic_tuning: BasicTuningConfig = BasicTuningConfig()
    """S_0."""

    rounds: dict[RoundName, RoundConfig] = Field(default_factory=dict)
    """`[rounds.default]` and `[rounds.N]`: what is set there; a round past the last entry uses the last entry."""

    training: TrainingConfig = TrainingConfig()
    """What all fine-tunes share."""

    evaluation: EvaluationConfig = EvaluationConfig()
    """Benchmarks, and what keeps them out of what is trained on."""

    calls: CallsConfig = CallsConfig()
    """How calls are made."""

    budget: BudgetConfig = BudgetConfig()
    """What the run may cost at most."""

    @field_serializer("rounds")
    def _only_what_is_set(self, rounds: dict[str, RoundConfig]) -> dict[str, dict[str, Any]]:
        # An entry written with all its defaults would hide [rounds.default] when it is read again.
        return {name: entry.model_dump(mode="json", include=entry.model_fields_set) for name, entry in rounds.items()}

    @property
    def round_numbers(self) -> range:
        """The rounds that are planned: 1 to R."""
        return range(1, self.run.rounds + 1)

    def round(self, number: int) -> RoundConfig:
        """Round ``number`` (from 1) with every field resolved, α included."""
        fields: dict[str, Any] = {}
        for entry in (self.rounds.get("default"), self._entry_of(number)):
            if entry is not None:
                fields |= {name: getattr(entry, name) for name in entry.model_fields_set}
        if fields.get("alpha") is None:
            scheduled = self.curriculum.alpha_start + (number - 1) * self.curriculum.alpha_step
            fields["alpha"] = min(1.0, round(scheduled, 9))
        return RoundConfig.model_validate(fields)

    def batch_size(self, number: int) -> int:
        """Examples that one optimizer step of round ``number`` (0: of S_0) sees."""
        own = self.round(number).batch_size if number else None
        return own or self.training.batch_size

    def verdict_round(self, number: int) -> int | None:
        """The round whose verdicts say how hard the pool of round ``number`` is; nothing for random seeds, or for S_0.

        It is the round itself, or without `curriculum.rejudge` the first one that is judged at all.
        """
        if number < 1 or not self.round(number).selection.reads_difficulty:
            return None
        first = number if self.curriculum.rejudge else 1
        judged = (each for each in range(first, number + 1) if self.round(each).selection.reads_difficulty)
        return next(judged, None)

    def judge_of(self, benchmark: JudgedBenchmark) -> EndpointConfig:
        """Who judges a benchmark: its own judge, or the run's first one."""
        return benchmark.judge or self.judge.endpoint

    def judges(self, number: int) -> bool:
        """Whether round ``number`` lets the student answer its pool and the judge score the answers."""
        return self.verdict_round(number) == number

    def checks_expansion(self, number: int) -> bool:
        """Whether round ``number`` keeps those new instructions only that are as hard as its seeds."""
        return self.curriculum.expansion.check_difficulty and self.judges(number)

    def _entry_of(self, number: int) -> RoundConfig | None:
        """The entry of the round's number; past the last entry, the last one holds."""
        numbered = sorted(int(name) for name in self.rounds if name != "default")
        if numbered and number > numbered[-1]:
            number = numbered[-1]
        return self.rounds.get(str(number))
