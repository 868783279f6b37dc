"""The machine: both environments with the versions of their engines, accelerators, memory.

Nothing heavy is loaded. Limits: of accelerators only NVIDIA's are seen, as `nvidia-smi` shows them.
"""

import shutil
import subprocess
import sys
from importlib import metadata

import psutil

from flows.commands.diagnosis.finding import Check, Finding, fault, ok, warning
from tapir_core.config import VllmEngine
from tasks.engines.vllm_command import find_environment

__all__ = ["machine_checks"]

_PACKAGES = ("prefect", "openai", "torch", "transformers", "trl", "deepspeed")
_GIB = 2**30
_MEMORY_GIB = 6
"""A student server and a training of the quickstart's size, one after the other, with the driver beside them."""

_GPU_QUERY = ["--query-gpu=name,memory.total,memory.used,driver_version", "--format=csv,noheader"]


def machine_checks(engine: VllmEngine | None) -> list[Check]:
    """Checks of this machine; ``engine`` names the student's environment, nothing where a server of others answers."""
    checks = [
        Check("environment", _look_at_environment, "`make setup` builds it"),
        Check("accelerators", lambda: _look_at_accelerators(engine), "look at `nvidia-smi`; a driver may hang"),
        Check("memory", _look_at_memory, "look at /proc/meminfo"),
    ]
    if engine is not None:
        remedy = "`make student-env` builds it anew"
        # A cold disk takes long to give what its Python imports.
        student = Check("student environment", lambda: _look_at_student(engine), remedy, limit_seconds=60)
        checks.insert(1, student)
    return checks


def _look_at_environment() -> Finding:
    versions = {name: _version(name) for name in _PACKAGES}
    missing = [name for name, version in versions.items() if version is None]
    where = f"Python {sys.version.split()[0]} in {sys.prefix}"
    if missing:
        return fault(f"{where} lacks {', '.join(missing)}", "`make setup` builds the environment .venv")
    return ok(f"{where}: {', '.join(f'{name} {version}' for name, version in versions.items())}")


def _look_at_student(engine: VllmEngine) -> Finding:
    found = find_environment(engine)
    versions = ", ".join(f"{name} {version}" for name, version in found.versions.items())
    return ok(f"{engine.python}: {versions}; built for {'GPUs' if found.device == 'cuda' else 'the CPU'}")


def _look_at_accelerators(engine: VllmEngine | None) -> Finding:
    program = shutil.which("nvidia-smi")
    if program is None:
        return ok("no NVIDIA GPU (no nvidia-smi): student and training use the CPU")
    done = subprocess.run([program, *_GPU_QUERY], capture_output=True, text=True, timeout=10, check=False)
    if done.returncode:
        said = (done.stdout + done.stderr).strip().splitlines()
        return fault(
            f"nvidia-smi: {said[0] if said else done.returncode}", "mend the driver, or reboot after an update"
        )
    gpus = [_gpu(line) for line in done.stdout.splitlines() if line.strip()]
    if not gpus:
        return ok("no NVIDIA GPU: student and training use the CPU")
    shown = "; ".join(gpus)
    if (_version("torch") or "").endswith("+cpu"):
        return warning(f"{shown}, and the torch of this environment is a CPU build", "remove .venv, then `make setup`")
    if engine is not None and find_environment(engine).device == "cpu":
        remedy = "remove .venv-vllm, then `make student-env STUDENT=vllm-cuda`"
        return warning(f"{shown}, and the student's environment is a CPU build", remedy)
    return ok(shown)


def _gpu(line: str) -> str:
    name, memory, used, driver = (each.strip() for each in line.split(","))
    return f"{name}, {memory}, {used} in use, driver {driver}"


def _look_at_memory() -> Finding:
    memory = psutil.virtual_memory()
    shown = f"{memory.available / _GIB:.1f} of {memory.total / _GIB:.1f} GiB available"
    if memory.available < _MEMORY_GIB * _GIB:
        return warning(
            shown, "end other programs; student.engine.cpu_kv_cache_gib and training.micro_batch_size lower the need"
        )
    return ok(shown)


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
