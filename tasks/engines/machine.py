"""What a child that computes may use of this machine: its GPUs, what its processor really can do, its address.

GPUs are NVIDIA's only, as `nvidia-smi` and ``CUDA_VISIBLE_DEVICES`` name them. Runs wait for each other's GPUs
(`hold_gpus`), whatever their root or user: a GPU in use is an abstract Unix socket, bound and never listening, that the
kernel gives to one process and frees when that process ends. Limits: Linux only; a container with its own network is a
machine of its own; other programs are not waited for.

Some virtual machines advertise AMX without having it: the first AMX instruction ends the process with SIGILL (oneDNN
issue 5689). torch 2.13 and vLLM 0.32 believe the processor, so children that compute are told to do without.

What other machines ask, the replicas of a GPU worker and the ranks of its training, listens at one address only. The
worker's environment may name it. Otherwise it is the address from which this machine reaches the Prefect server, or the
call store; in a container or a pod, its address on their network. It is 127.0.0.1 if both are on this machine, or if
the store is a file.
"""

import errno
import functools
import importlib.util
import ipaddress
import os
import resource
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from importlib import metadata
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import psutil

from tapir_core.errors import ConfigError, MissingPrerequisite
from tapir_core.installation import gpu_setup
from tasks.engines.keys import keyless_environment

GPUS_VARIABLE = "CUDA_VISIBLE_DEVICES"

LOOPBACK = "127.0.0.1"

_CGROUP = Path("/sys/fs/cgroup")
"""What limits a container's memory."""

HOST_VARIABLE = "TAPIR_WORKER_HOST"
"""Environment variable of a worker: the name or address of its machine at which others reach it."""

_NO_DEVICES = "No devices were found"
"""What nvidia-smi says where there is a driver and no GPU."""

_OLDEST_DRIVER = {12: 525, 13: 580}
"""Major version of CUDA → the first NVIDIA driver on Linux that runs what is built for it (CUDA's release notes)."""


def visible_gpus() -> list[str]:
    """What names each GPU in ``CUDA_VISIBLE_DEVICES``; none on a machine without GPUs."""
    named = os.environ.get(GPUS_VARIABLE)
    if named is not None:
        # CUDA stops at the first that is no device.
        return [each for each in named.split(",") if each.strip() not in ("", "-1")]
    return ask_nvidia("--query-gpu=index")


@contextmanager
def hold_gpus(
    say: Callable[[str], object], check: Callable[[], object], *, look_seconds: float = 1.0
) -> Iterator[None]:
    """Hold all GPUs that this process may use for the block, once no other run has them.

    Args:
        say: Gets the GPU that is waited for.
        check: Called at each look; what it raises ends the wait.
        look_seconds: Between two looks.
    """
    with ExitStack() as held:
        # By names that are alike in every process, whichever GPUs each one sees. In one order for all: two that wait
        # for each other's would wait forever.
        for gpu in sorted(_of_visible_gpus("uuid") or visible_gpus()):
            if (name := _take(gpu)) is None:
                say(f"GPU {gpu} is in use by another run of this machine, which is waited for")
                while (name := _take(gpu)) is None:
                    check()
                    time.sleep(look_seconds)
            held.enter_context(name)
        yield


class Gpus:
    """The GPUs of this machine for one run: its servers, at work or at rest, and its training hold them together."""

    def __init__(self) -> None:
        self._users, self._held, self._lock = 0, ExitStack(), threading.Lock()

    @contextmanager
    def hold(self, say: Callable[[str], object], check: Callable[[], object]) -> Iterator[None]:
        """As `hold_gpus`, which is waited for only where nobody of the run holds them yet."""
        with self._lock:
            if not self._users:
                self._held.enter_context(hold_gpus(say, check))
            self._users += 1
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                if not self._users:
                    self._held.close()


def gpu_memory(which: str = "total") -> list[int]:
    """Bytes of each GPU that may be used; none where they cannot be told. ``which``: "total", "used" or "free"."""
    told = (line.split() for line in _of_visible_gpus(f"memory.{which}"))
    return [int(words[0]) * 2**20 for words in told if words[0].isdigit()]


def free_memory() -> int:
    """Bytes that are free now: of the fullest GPU where there are any, else of this machine, or of its container."""
    if visible_gpus():
        return min(gpu_memory("free"), default=0)
    free = psutil.virtual_memory().available
    with suppress(OSError, ValueError):  # no container, or one without a limit
        limit, used = (int((_CGROUP / f"memory.{each}").read_text()) for each in ("max", "current"))
        free = min(free, limit - used)
    return free


def check_gpu_training() -> None:
    """Refuse to train on a machine with GPUs that its training would not use, or not get far with.

    Raises:
        MissingPrerequisite: this environment's torch is built for a CPU, or for a newer CUDA than the driver knows; or
            there is no C compiler or no header of Python's, with which Triton makes its kernels at the first step.
    """
    if not (gpus := visible_gpus()):
        return
    version, cuda = metadata.version("torch"), cuda_of_torch()
    if not cuda:
        raise MissingPrerequisite(
            f"this machine has {len(gpus)} GPUs and {sys.prefix} holds torch {version} for processors, on which "
            f"it would train; run `{gpu_setup(version)}`, or hide the GPUs with {GPUS_VARIABLE}= in the environment"
        )
    drivers = {int(each.partition(".")[0]) for each in _of_visible_gpus("driver_version") if each[:1].isdigit()}
    wanted = _OLDEST_DRIVER.get(cuda, 0)
    if drivers and min(drivers) < wanted:
        raise MissingPrerequisite(
            f"torch {version} is built for CUDA {cuda}, which wants a driver from {wanted} on, and this "
            f"machine has {min(drivers)}; update the driver"
        )
    compiles = "training on GPUs compiles kernels at its first step (Triton), and there is no"
    if not any(shutil.which(each) for each in (os.environ.get("CC", ""), "gcc", "clang")):
        raise MissingPrerequisite(
            f"{compiles} C compiler; install one (Debian: `apt-get install gcc`), or name it in CC"
        )
    if not (headers := Path(sysconfig.get_path("include", _TRITONS_SCHEME), "Python.h")).exists():
        raise MissingPrerequisite(
            f"{compiles} {headers}; install the headers of this Python (Debian: `apt-get install python3-dev`)"
        )


def cuda_of_torch() -> int:
    """Major version of CUDA that this environment's torch is built for, which is not imported; 0 where it says none."""
    found = importlib.util.find_spec("torch")
    build = runpy.run_path(str(Path(found.origin).with_name("version.py"))) if found and found.origin else {}
    return int((build.get("cuda") or "0").partition(".")[0])


def _of_visible_gpus(what: str) -> list[str]:
    """A line a GPU; none where the driver does not answer: what is asked here is told or compared, and no need."""
    try:
        visible = visible_gpus()
        return ask_nvidia(f"--query-gpu={what}", f"--id={','.join(visible)}") if visible else []
    except MissingPrerequisite:
        return []


def _take(gpu: str) -> socket.socket | None:
    """The socket that reserves a GPU; None while another process or thread has it."""
    name = socket.socket(socket.AF_UNIX)
    try:
        name.bind(f"\0tapir-gpu-{gpu}")
    except OSError as exc:
        name.close()
        if exc.errno != errno.EADDRINUSE:
            raise
        return None
    return name


def ask_nvidia(*query: str) -> list[str]:
    """Its lines, one a GPU; none where there is no such program, or it finds no device.

    Raises:
        MissingPrerequisite: it does not answer, or fails: there may be GPUs that nothing can use until that is fixed.
    """
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    try:
        done = subprocess.run(
            [program, *query, "--format=csv,noheader"], capture_output=True, text=True, timeout=30, check=False
        )
    except subprocess.TimeoutExpired as exc:
        raise MissingPrerequisite(
            "nvidia-smi does not answer: its driver may hang; restart the machine, or hide the GPUs with "
            f"{GPUS_VARIABLE}= in the environment"
        ) from exc
    if done.returncode and _NO_DEVICES not in done.stdout:
        said = (done.stdout + done.stderr).strip().splitlines() or [f"exit code {done.returncode}"]
        raise MissingPrerequisite(
            f"nvidia-smi fails ({said[-1].strip()}); fix the driver, after an update by a restart of the machine, or "
            f"hide the GPUs with {GPUS_VARIABLE}= in the environment"
        )
    return [line.strip() for line in done.stdout.splitlines()] if done.returncode == 0 else []


@functools.cache
def in_words() -> str:
    """The processor cores that this process may use, and the GPUs: `16 cores and 1 x NVIDIA H100 80GB HBM3`."""
    cores = len(os.sched_getaffinity(0))
    gpus = (f"{count} x {name}" for name, count in Counter(_of_visible_gpus("name")).items())
    return " and ".join([f"{cores} core{'s' * (cores > 1)}", *gpus])


def share_out(gpus: list[str], workers: int) -> list[list[str]]:
    """The GPUs of each worker, neighbours together; the first ones get those that are left over."""
    return [part.tolist() for part in np.array_split(gpus, workers)]


WITHOUT_AMX = {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_FP16"}
"""Variables with which torch multiplies without AMX; every processor that says AMX has the instructions named here."""

KEEP_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**40)}
"""Variables with which glibc keeps large blocks that were freed, to hand them out again.

Given back to the system, each step faults them in page by page; where a virtual machine's memory comes from its host
only then, a training took 1.3 times as long (docs/LOG.md).
"""

_TRITONS_SCHEME = "posix_prefix"
"""Where Triton looks for Python's headers, on Debian's Python too."""

_OPEN_FILES = 65536
"""More than the calls of any run."""

_CPUINFO = Path("/proc/cpuinfo")

_BF16 = {"avx512_bf16", "amx_bf16", "bf16"}
"""Instructions that multiply in bf16. Without them torch widens each number: 9 times slower than fp32 (docs/LOG.md)."""
_SLOW_BF16 = "GenuineIntel"
"""Whose processors need AMX for it: with `avx512_bf16` alone training takes 1.3 to 1.6 times as long (docs/LOG.md)."""

_MULTIPLY = "import torch; ones = torch.ones(64, 64, dtype=torch.bfloat16); ones @ ones"


@functools.cache
def amx_is_broken(python: str, cpuinfo: Path = _CPUINFO) -> bool:
    """Whether this machine's AMX ends the process that uses it. Only where there is AMX a child tries, for 2 seconds.

    Args:
        python: An interpreter with torch.
        cpuinfo: What the kernel says of the processor.
    """
    if not cpuinfo.exists() or "amx_tile" not in cpuinfo.read_text():
        return False
    tried = subprocess.run(
        [python, "-c", _MULTIPLY],
        capture_output=True,
        timeout=120,
        env={name: value for name, value in keyless_environment().items() if name not in WITHOUT_AMX},
    )
    return tried.returncode == -signal.SIGILL


def computes_in_bf16(*, broken_amx: bool, cpuinfo: Path = _CPUINFO) -> bool:
    """Whether this machine's processor is faster in bf16 than in fp32.

    Args:
        broken_amx: Its AMX is left alone (`WITHOUT_AMX`). What is left for bf16 then is no faster than fp32.
        cpuinfo: What the kernel says of the processor.
    """
    if broken_amx or not cpuinfo.exists():
        return False
    said = set(cpuinfo.read_text().split())
    return "amx_bf16" in said or (_SLOW_BF16 not in said and not _BF16.isdisjoint(said))


def allow_open_files() -> None:
    """Let this process and its children hold more files and connections open than the usual 1,024, a call each."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(_OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def held_memory() -> int:
    """Bytes of memory that this process holds; from now on `peak_memory` is the most that it held since."""
    with suppress(OSError):  # where the kernel does not let it, the most since its start
        Path("/proc/self/clear_refs").write_text("5")
    return psutil.Process().memory_info().rss


def peak_memory() -> int:
    """The most bytes that this process held since `held_memory`."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def own_host(store: str) -> str:
    """The address or name of this machine for the others of a run whose call store has the URL ``store``.

    Raises:
        ConfigError: the environment names an address that others cannot reach, or there is no way to them.
    """
    if named := os.environ.get(HOST_VARIABLE):
        with suppress(ValueError):  # a name
            if ipaddress.ip_address(named).is_unspecified:
                raise ConfigError(
                    f"{HOST_VARIABLE} = {named!r} is no address that others can ask; name this machine's own"
                )
        return named
    others = filter(None, (urlsplit(url).hostname for url in (os.environ.get("PREFECT_API_URL", ""), store)))
    return next(
        (each for each in map(_address_towards, others) if not ipaddress.ip_address(each).is_loopback), LOOPBACK
    )


def interface_of(host: str) -> str:
    """The network interface that has the address of ``host``, for gloo and NCCL.

    Raises:
        ConfigError: no interface of this machine has it.
    """
    try:
        address = ipaddress.ip_address(socket.getaddrinfo(host, None, socket.AF_INET)[0][4][0])
    except OSError as exc:
        raise ConfigError(f"{HOST_VARIABLE} = {host!r} has no address ({exc}); name this machine's own") from exc
    there = {each.address: name for name, all_of_it in psutil.net_if_addrs().items() for each in all_of_it}
    # The loopback interface has all of 127.0.0.0/8, and lists one address.
    interface = there.get(LOOPBACK if address.is_loopback else str(address))
    if interface is None:
        raise ConfigError(
            f"no network interface of this machine has the address {address}; name one that it has in {HOST_VARIABLE}"
        )
    return interface


def _address_towards(other: str) -> str:
    """This machine's address on the way to another one; nothing is sent."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((other, 9))
            return str(probe.getsockname()[0])
    except OSError as exc:
        raise ConfigError(f"no way to {other!r} ({exc}); name this machine's address in {HOST_VARIABLE}") from exc
