"""What every run needs: this machine, the root of all runs and a Prefect server.

Of the machine: both environments with the versions of their engines, accelerators, memory. Nothing heavy is loaded, and
no root and no store is made. Limits: of accelerators only NVIDIA's are seen, as `nvidia-smi` shows them; of GPU workers
only process workers (`--type process`) that were started in this folder.

Checks run side by side, each within its own time; none hides another.
Imports no Prefect before a server is looked at: its settings must stand in the environment before.
"""

import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import psutil
import sqlalchemy as sa

from flows.commands.store import opened
from flows.prefect_server import server as prefect_server
from flows.prefect_server.caretaker import GPU_POOL, POOLS
from tapir_core import config as cfg
from tapir_core import installation, paths
from tapir_core.calls import root_store_url, store_tables
from tapir_core.errors import ConfigError, MissingPrerequisite, TapirError
from tapir_core.storage import Storage, on_this_machine
from tapir_core.store_admin.rows import reading
from tasks.engines import machine, student_server

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

_PACKAGES = ("prefect", "openai", "torch", "transformers", "trl", "deepspeed")
_GIB = 2**30
_PROBE = b"tapir doctor"
_SERVER_SECONDS = 45.0
"""The first look at a server imports Prefect, which takes seconds."""

_LOGS = (
    "look at the server's log (.tapir/logs/prefect-server.log of the root); a server with a password wants "
    "PREFECT_API_AUTH_STRING"
)

Level = Literal["ok", "warning", "fault"]
"""A fault stops a run or an operation, a warning may."""


@dataclass(frozen=True, slots=True)
class Finding:
    """The state of one part; `examine` gives it the name of its check."""

    part: str
    level: Level
    found: str
    """Versions, addresses, figures; or what is wrong."""
    remedy: str = ""
    """What to do; nothing where all is well."""


@dataclass(frozen=True, slots=True)
class Check:
    """A look at one part."""

    part: str
    look: Callable[[], Finding]
    """May raise: that is a fault."""
    remedy: str
    """What helps when the look fails or takes too long, and its error does not say it."""
    limit_seconds: float = 15.0


def finding(level: Level, found: str, remedy: str = "") -> Finding:
    """A finding on one line, which `examine` gives its part; the remedy is left out where all is well."""
    return Finding("", level, " ".join(found.split()), "" if level == "ok" else remedy)


def fault_of(message: str, remedy: str = "") -> Finding:
    """The fault of an error message, which says its remedy after a semicolon; ``remedy`` where it does not."""
    found, _, said = message.partition("; ")
    return Finding("", "fault", found, said or remedy)


def examine(checks: Sequence[Check]) -> list[Finding]:
    """Make all checks at once; the findings stand in the order of the checks.

    A check that is still at work at its limit is a fault, and is left behind: it ends with the process.
    """
    found: dict[Check, Finding] = {}

    def look(check: Check) -> None:
        try:
            found[check] = check.look()
        except TapirError as error:
            found[check] = fault_of(str(error), check.remedy)
        except Exception as error:  # whatever breaks one check is a fault of its part, and the others are made
            found[check] = Finding("", "fault", f"{type(error).__name__}: {error}", check.remedy)

    started = time.monotonic()
    threads = {check: threading.Thread(target=look, args=[check], daemon=True) for check in checks}
    for thread in threads.values():
        thread.start()
    for check, thread in threads.items():
        thread.join(max(0.0, check.limit_seconds - (time.monotonic() - started)))
    late = {each: Finding("", "fault", f"no answer within {each.limit_seconds:g} s", each.remedy) for each in checks}
    return [replace(found.get(each, late[each]), part=each.part) for each in checks]


Look = Callable[["SyncPrefectClient", str], Finding]
"""Of a server and the root whose server it is."""


def checks_of(root: str, config: cfg.RunConfig | None = None) -> list[Check]:
    """Checks of this machine, of a root and, last, of the server of it; ``config`` says what they have to do for it."""
    engine, is_remote = config.student.engine if config else None, "://" in root
    # A cold disk takes long to give what the Python of an environment imports.
    remedy = f"`{installation.STUDENT_SETUP}` builds it anew"
    student = Check("student environment", lambda: _look_at_student(engine), remedy, limit_seconds=60)
    disk = Check("disk", lambda: _look_at_disk(root), "look whether the file system of the root answers")
    return [
        Check("environment", _look_at_environment, f"`{installation.package_setup()}` builds it"),
        *([student] if engine is None or engine.served_by != "others" else []),
        Check("accelerators", lambda: _look_at_accelerators(engine), "look at `nvidia-smi`; a driver may hang"),
        Check("memory", _look_at_memory, "look at /proc/meminfo"),
        Check(
            "storage",
            partial(_try_remote if is_remote else _try_folder, root),
            "correct the root's address, or its credentials in the environment",
        ),
        *([] if is_remote else [disk]),
        Check(
            "store",
            lambda: _look_at_store(root, config),
            "`tapir store stats --check` looks for damage; docs/store.md says how to save the rest",
            limit_seconds=30,
        ),
        Check("Prefect server", lambda: _look_at_server(root), _LOGS, _SERVER_SECONDS),
    ]


def _look_at_environment() -> Finding:
    versions, where = (
        {name: installation.version_of(name) for name in _PACKAGES},
        f"Python {sys.version.split()[0]} in {sys.prefix}",
    )
    return (
        finding("fault", f"{where} has no {', no '.join(missing)}", f"install with `{installation.package_setup()}`")
        if (missing := [name for name, version in versions.items() if version is None])
        else finding("ok", f"{where}: {', '.join(f'{name} {version}' for name, version in versions.items())}")
    )


def _look_at_student(engine: cfg.StudentEngine | None) -> Finding:
    """A fault where this machine is to serve; one that drives runs whose student others serve needs no vLLM."""
    try:
        found = _installed(engine)
        return finding("ok", found.in_words if found else "nothing is needed here")
    except MissingPrerequisite as error:
        if engine is not None and engine.served_by == "driver":
            raise
        why, _, remedy = str(error).partition("; ")
    return (
        finding("fault", f"{why}, and a worker of {GPU_POOL} that works here can serve no student", remedy)
        if _has_worker(GPU_POOL)
        else finding("ok", f"{why}; none is needed here: workers of {GPU_POOL} elsewhere serve the student")
        if engine is not None
        else finding(
            "warning",
            f'{why}: this machine only drives runs with student.engine.type = "replicas" or "endpoint"',
            f"`{installation.STUDENT_SETUP}` builds it for other runs; "
            "`tapir doctor CONFIG` says whether a run needs it",
        )
    )


def _installed(engine: cfg.StudentEngine | None) -> student_server.Installed | None:
    here = engine or cfg.VllmEngine()
    return student_server.serving(here).installed(here)


def _has_worker(pool: str) -> bool:
    """Whether a process worker of ``pool`` works in this folder."""
    wanted, here = {"worker", "start", "process", pool}, os.getcwd()
    seen = psutil.process_iter(["cmdline", "cwd"])
    return any(wanted <= set(each.info["cmdline"] or ()) and each.info["cwd"] == here for each in seen)


def _look_at_accelerators(engine: cfg.StudentEngine | None) -> Finding:
    query, student = "--query-gpu=name,memory.total,memory.used,driver_version", None
    lines = machine.ask_nvidia(query) if machine.visible_gpus() else []
    gpus = "; ".join("{}, {}, {} in use, driver {}".format(*line.split(", ")) for line in lines)
    if not gpus:
        seen = "no NVIDIA GPU" if shutil.which("nvidia-smi") else "no NVIDIA GPU (no nvidia-smi)"
        return finding("ok", f"{seen}: student and training use the CPU")
    # That an environment is missing has a check of its own.
    with suppress(MissingPrerequisite):
        student = _installed(engine)
    return (
        finding(
            "warning", f"{gpus}, but torch in this environment is a CPU build", f"`{installation.gpu_setup(torch)}`"
        )
        if (torch := installation.version_of("torch")) and not machine.cuda_of_torch()
        else finding(
            "warning",
            f"{gpus}, but the student's environment is a CPU build",
            f"`{installation.STUDENT_SETUP} --student vllm-cuda`",
        )
        if student is not None and student.device == "cpu"
        else finding("ok", gpus)
    )


def _look_at_memory() -> Finding:
    memory = psutil.virtual_memory()
    # A student server and a training of the quickstart's size, one after the other, with the driver beside them.
    return finding(
        "warning" if memory.available < 6 * _GIB else "ok",
        f"{memory.available / _GIB:.1f} of {memory.total / _GIB:.1f} GiB available",
        "end other programs, or lower student.engine.cpu_kv_cache_gib and training.micro_batch_size",
    )


def _try_folder(root: str) -> Finding:
    folder, remedy = _nearest(root), "allow it, or name another root with --root"
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(_PROBE)
    except OSError as exc:
        return finding("fault", f"{folder} cannot be written ({exc.strerror})", remedy)
    later = "" if folder == Path(root) else "; the first run makes it"
    return finding("ok", f"{Path(root).absolute()} can be written{later}")


def _try_remote(root: str) -> Finding:
    storage, probe = Storage(root), paths.probe_file(os.urandom(4).hex())
    storage.write_bytes(probe, _PROBE)
    try:
        return (
            finding("ok", f"{root}: wrote, read and removed a file")
            if storage.read_bytes(probe) == _PROBE
            else finding("fault", f"{root} returned other bytes than were written", "check its versioning and caches")
        )
    finally:
        storage.remove(probe)


def _look_at_disk(root: str) -> Finding:
    folder = _nearest(root)
    free = shutil.disk_usage(folder).free / 10**9
    # The quickstart's environments and its run take about 10 GB.
    return finding(
        "fault" if free < 1 else "warning" if free < 10 else "ok",
        f"{free:.1f} GB free at {folder.absolute()}",
        "free some, or name a root on another disk with --root; old runs may go, answers stay",
    )


def _look_at_store(root: str, config: cfg.RunConfig | None) -> Finding:
    named = config.calls.store_url if config else None
    # Before a configuration's first run nothing lacks; a root that somebody typed may be the wrong one.
    is_new = config is not None and named is None and not Path(root).exists()
    try:
        url = named or root_store_url(root)
    except ConfigError as error:
        return finding("warning", str(error).partition("; ")[0], "name a configuration to check its store")
    shown = store_tables.shown_url(url)
    if not store_tables.is_there(url):
        remedy = "the first run makes it; or name the right root with --root"
        return finding("ok" if is_new else "warning", f"there is none yet at {shown}", remedy)
    with opened(url, root) as engine, reading(engine) as connection:
        rows = connection.scalar(sa.select(sa.func.count()).select_from(store_tables.answers))
        noted = sa.select(store_tables.meta.c.value).where(store_tables.meta.c.name == "schema_version")
        version = connection.scalar(noted)
    return finding("ok", f"{shown}: {rows:,} answers, schema {version}; `tapir store stats --check` reads each of them")


def _nearest(root: str) -> Path:
    """The root, or the nearest folder above it that is there."""
    return next(folder for folder in (Path(root), *Path(root).parents) if folder.exists())


def server_parts(root: str) -> list[Check]:
    """Checks of what is on the server that stands; none where none stands."""
    looks: dict[str, Look] = {
        "work pools": lambda client, root: _compare(
            root, POOLS, {each.name: each.is_paused for each in client.read_work_pools()}
        ),
        "deployments": _look_at_deployments,
        "workers": _look_at_workers,
        "automations": _look_at_automations,
    }
    found = [Check(part, partial(_ask_server, root, look), _LOGS, _SERVER_SECONDS) for part, look in looks.items()]
    return found if _is_named() or _is_own(root) else []


def _is_named() -> bool:
    return bool(os.environ.get("PREFECT_API_URL"))


def _is_own(root: str) -> bool:
    """Whether the server of this root is the one of `tapir up`."""
    return not _is_named() and on_this_machine(root).exists(paths.SERVER_RECORD)


def _look_at_server(root: str) -> Finding:
    if _is_own(root) and prefect_server.living_server(root) is None:
        return fault_of(f"the one that `tapir up` started does not answer; `tapir up` starts it again; {_LOGS}")
    if not _is_own(root) and not _is_named():
        prefect_server.check_database(root)
        return finding("ok", "none stands: `tapir run` brings its own, `tapir up` starts one that stays")
    api = prefect_server.standing_server(root)
    return _ask_server(root, lambda client, _: finding("ok", f"{api}, Prefect {client.api_version()}"))


def _ask_server(root: str, look: Look) -> Finding:
    """What a look finds on the server that stands, whatever Prefect took for its address when it was imported."""
    # That it answers is seen by the check of the server.
    api = prefect_server.named_server(root) or prefect_server.standing_server(root)
    os.environ.update(prefect_server.own_settings(root))
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: api}), get_client(sync_client=True) as client:
        return look(client, root)


def _look_at_deployments(client: "SyncPrefectClient", root: str) -> Finding:
    from flows.deploy import is_foreign, standing_deployments

    standing = standing_deployments(client, prefect_server.DEPLOYMENTS)
    foreign = [name for name, each in standing.items() if is_foreign(each)]
    return _compare(root, prefect_server.DEPLOYMENTS, {name: each.paused for name, each in standing.items()}, foreign)


def _compare(root: str, names: Sequence[str], is_paused: Mapping[str, bool], foreign: Sequence[str] = ()) -> Finding:
    """Whether all that is wanted is among what is there, and at work; ``foreign`` are of another version of tapir."""
    remedy = f"`tapir {'up' if _is_own(root) else 'deploy'}` makes what is missing"
    return (
        finding("fault", f"{', '.join(foreign)}: applied by another version of tapir, and cannot start here", remedy)
        if foreign
        else finding("fault", f"{', '.join(missing)}: not there", remedy)
        if (missing := [name for name in names if name not in is_paused])
        else finding("warning", f"{', '.join(paused)}: paused, so nothing starts there", "resume it in the UI")
        if (paused := [name for name in names if is_paused[name]])
        else finding("ok", ", ".join(names))
    )


def _look_at_workers(client: "SyncPrefectClient", root: str) -> Finding:
    from flows.deploy import online_workers

    # Where there is no such pool, its own check says so.
    online = {pool: online_workers(client, pool) for pool in POOLS}
    lacking = [pool for pool, workers in online.items() if not workers]
    return (
        finding("ok", f"online: {', '.join(name for workers in online.values() for name in workers)}")
        if not lacking
        else finding(
            "fault",
            f"none is online for {', '.join(lacking)}",
            f"`tapir up` starts it again; it writes to {' and '.join(map(paths.worker_log, lacking))}"
            if _is_own(root)
            else f"start one on the machine that is to work: `{prefect_server.worker_command(root)} "
            f"--type process --pool {lacking[0]}`",
        )
    )


def _look_at_automations(client: "SyncPrefectClient", root: str) -> Finding:
    from flows import deploy

    found = [each for wanted in deploy.automations() for each in client.read_automations_by_name(wanted.name)]
    # Those of a deployment that was deleted may be left, and start nothing.
    standing = deploy.standing_deployments(client, prefect_server.DEPLOYMENTS).values()
    found += [each for one in standing for each in deploy.triggers_of(client, one)]
    is_on, undone = {each.name: each.enabled for each in found}, deploy.AUTOMATIONS
    off = [name for name in undone if not is_on.get(name, True)]
    return (
        finding("fault", f"not there: {'; '.join(missing)}", "`tapir deploy` makes what is missing")
        if (missing := [f"{name!r}, so that {so}" for name, so in undone.items() if name not in is_on])
        else finding("warning", "; ".join(paused), "resume it in the UI")
        if (paused := [f"{name!r} is paused, so that {undone[name]}" for name in off if name != deploy.OFF_AT_FIRST])
        else finding("ok", ", ".join(f"{name} (off)" if name in off else name for name in undone))
    )
