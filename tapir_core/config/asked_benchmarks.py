"""What benchmarks have in common that the student is asked: their files, how it answers, who judges, a baseline."""

import re
from abc import abstractmethod
from collections.abc import Iterator
from typing import Annotated, ClassVar

from pydantic import AfterValidator, Discriminator, Field, NonNegativeInt, Tag

from tapir_core.config._base import Kind, Section
from tapir_core.config.endpoints import EndpointConfig, Sampling

__all__ = ["AskedBenchmark", "Baseline", "BenchmarkConfig", "JudgedBenchmark", "ModelName", "RunBaseline"]


class RunBaseline(Section):
    """A baseline that is a student of another run: what it answered to the same benchmark."""

    run: str
    """Name of a run in the same root."""

    round: Annotated[int, Field(ge=-1)]
    """Its student: 0 is S_0, -1 the untouched backbone. It must have answered already."""

    benchmark: str | None = None
    """What the benchmark is called there; nothing: the same as here."""


Baseline = Annotated[
    Annotated[str, Tag("of a file")] | Annotated[RunBaseline, Tag("of a run")],
    Discriminator(lambda value: "of a file" if isinstance(value, str) else "of a run"),
]
"""File or URL, or a student of another run. With tags an error speaks of the form that was written."""


def _check_model_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,59}", name) or re.fullmatch(r"backbone|[sS]_\d+", name):
        raise ValueError(
            "is no name for a model; use a letter or digit, then letters, digits, `.`, `_` and `-`, and not what a "
            "student of the run is called (backbone, S_0, …)"
        )
    return name


ModelName = Annotated[str, AfterValidator(_check_model_name)]
"""A model's name in tables and folders."""


class BenchmarkConfig(Kind):
    """A benchmark from outside; without a `type` it is one that is not asked."""

    default_type: ClassVar[str | None] = "questions"


class AskedBenchmark(BenchmarkConfig):
    """What every benchmark that is asked has."""

    questions: str
    """File or URL with its questions, in the benchmark's own form; they are looked for in what is trained on too."""

    max_failed_share: Annotated[float, Field(ge=0, le=1)] = 0.05
    """Share of judgments (`lm_eval`: of questions) that may fail, for want of an answer too; above it no figure."""

    @property
    def files(self) -> dict[str, str | None]:
        """Its files beside the questions, by the field that names them."""
        return {}

    @property
    def output_files(self) -> dict[str, str]:
        """Files with outputs of models that stand beside the students, by the field that names them."""
        return {}

    @property
    def folders(self) -> dict[str, str | None]:
        """Its folders, by the field that names them."""
        return {}

    @abstractmethod
    def longest_answer(self, student: Sampling) -> int:
        """Most tokens of one answer of the student, whose own sampling is given."""

    @abstractmethod
    def answering_in_words(self, student: Sampling) -> str:
        """How the student's answers are drawn."""

    def contradictions(self) -> Iterator[str]:
        """What does not fit together, each to be put behind the benchmark's name."""
        return iter(())

    @property
    def read_for_figures(self) -> tuple[str, ...]:
        """Fields whose files are read again for the figures of every student."""
        return ()


class JudgedBenchmark(AskedBenchmark):
    """What every benchmark has that a judge is asked about."""

    judge: EndpointConfig | None = None
    """Who judges the answers; nothing: the judge of `[judge]`, of a panel the first one."""

    sampling: Sampling = Sampling(max_tokens=2048)
    """Sampling of the judge's replies."""

    reasks: NonNegativeInt = 2
    """Times that a judgment which cannot be parsed is asked for again with another seed before it has failed."""

    outputs: dict[ModelName, str] = Field(default_factory=dict)
    """Models to compare the students with: name → file or URL with its answers, in the form of a baseline's.
    `tapir evaluate` has them judged as the students' are."""

    @property
    def output_files(self) -> dict[str, str]:
        """Files with outputs of models that stand beside the students, by the field that names them."""
        return {f"outputs.{model}": path for model, path in self.outputs.items()}

    @property
    @abstractmethod
    def prompts(self) -> tuple[str, ...]:
        """Prompts of its judge."""

    @property
    def logprobs_asked(self) -> int:
        """Log-probabilities asked of its judge."""
        return 0

    @property
    def judging_in_words(self) -> str:
        """How its judge is asked."""
        asked = f", {self.logprobs_asked} log-probabilities" if self.logprobs_asked else ""
        return f"{self.sampling.in_words}{asked}"

    @property
    def baseline_run(self) -> RunBaseline | None:
        """The student of another run that is its baseline, if one is."""
        baseline = getattr(self, "baseline", None)
        return baseline if isinstance(baseline, RunBaseline) else None

    @property
    def baseline_file(self) -> str | None:
        """The file that its baseline is, if one is."""
        baseline = getattr(self, "baseline", None)
        return baseline if isinstance(baseline, str) else None
