"""What runs need: the machine, the root of all runs, a Prefect server, and what one configuration asks for.

Of the machine: both environments with the versions of their engines, accelerators, memory. Of a configuration: itself,
its endpoints and their prices, the backbone and its chat template. Nothing heavy is loaded, and no root and no store is
made. Limits: of accelerators only NVIDIA's are seen, as `nvidia-smi` shows them; of GPU workers only process workers
(`--type process`) that were started in this folder.

Checks are made side by side, each within its own time, none hiding the others. A check says what it found and what
helps.

Imports no Prefect before a server is looked at: its settings must stand in the environment before.
"""

import asyncio
import difflib
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
from tapir_core import installation, judging, proxies, sources, text
from tapir_core.calls import Endpoint, Failure, root_store_url, store_tables
from tapir_core.calls.client import Client
from tapir_core.calls.types import is_local
from tapir_core.config.checks import check_config, missing_prerequisites
from tapir_core.errors import ConfigError, MissingPrerequisite, TapirError
from tapir_core.evaluation.benchmark import benchmark_of
from tapir_core.paths import BACKBONE, BACKBONE_CACHE, SERVER_RECORD, probe_file, worker_log
from tapir_core.prices import Price, UnknownPrice, missing_prices, price_of
from tapir_core.storage import Storage, on_this_machine
from tapir_core.store_admin.rows import is_there, reading
from tasks.engines import backbone, machine, student_server, supervisor, vllm
from tasks.engines.endpoints import endpoint_of
from tasks.engines.training import launch, prerequisites
from tasks.engines.verifier import check_verifier

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

_PACKAGES = ("prefect", "openai", "torch", "transformers", "trl", "deepspeed")
_GIB = 2**30
_PROBE = b"tapir doctor"
_SHOWN = 80
"""Characters of an instruction."""
_REPLY_SECONDS = 10.0
_TEMPLATE_SECONDS = 60.0
_SERVER_SECONDS = 45.0
"""The first look at a server imports Prefect, which takes seconds."""

AUTOMATIONS = {
    "tapir: flow runs without a sign of life": "nothing notices a flow run whose worker was killed",
    "tapir: how a cancelled flow run goes on": "a cancelled flow run does not say how it goes on",
    "retry-a-run-that-stopped-in-judging": "a run that its judge stopped waits for *retry-judge* by hand",
    "retry-a-run-that-went-on-without-verdicts": "its verdicts wait for *retry-judge* by hand",
    "sweep-a-registered-backbone": "a backbone that is added waits for *sweep-backbones* by hand",
}
"""Automations and triggers of deployments, by their names on the server; what happens without each."""

OFF_AT_FIRST = ("retry-a-run-that-went-on-without-verdicts",)

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
    """Checks of this machine, of a root and of the server of it; then of what ``config`` needs beside them."""
    engine, is_remote = config.student.engine if config else None, "://" in root
    # A cold disk takes long to give what the Python of an environment imports.
    student = Check(
        "student environment",
        lambda: _look_at_student(engine),
        f"`{installation.STUDENT_SETUP}` builds it anew",
        limit_seconds=60,
    )
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
        *(run_checks(config, root) if config else []),
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
    # That an environment is missing has a check of its own.
    with suppress(MissingPrerequisite):
        student = _installed(engine) if gpus else None
    seen = "no NVIDIA GPU" if shutil.which("nvidia-smi") else "no NVIDIA GPU (no nvidia-smi)"
    return (
        finding("ok", f"{seen}: student and training use the CPU")
        if not gpus
        else finding(
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
    folder = _nearest(root)
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(_PROBE)
    except OSError as exc:
        return finding(
            "fault", f"{folder} cannot be written ({exc.strerror})", "allow it, or name another root with --root"
        )
    return finding(
        "ok", f"{Path(root).absolute()} can be written{'' if folder == Path(root) else '; the first run makes it'}"
    )


def _try_remote(root: str) -> Finding:
    storage, probe = Storage(root), probe_file(os.urandom(4).hex())
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
    if not is_there(url):
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


def read_run(config: str | Path, overrides: Sequence[str] = ()) -> tuple[cfg.RunConfig | None, list[Finding]]:
    """The configuration if it can be read, and what is wrong with it, a finding each."""
    read = None
    try:
        read = cfg.load.load_config(config, overrides)
        problems = [*check_config(read), *missing_prerequisites(read, os.environ)]
    except ConfigError as error:
        problems = [*error.problems]
    found = [fault_of(each, "see docs/configuration.md") for each in problems]
    if read is not None and not found:
        found = [
            finding(
                "ok",
                f"{config}: {read.run.rounds} round{'s' if read.run.rounds > 1 else ''} of {read.student.backbone}",
            ),
            *_sizes(read),
        ]
    return read, [replace(each, part="configuration") for each in found]


def _sizes(config: cfg.RunConfig) -> list[Finding]:
    """What sizes that are left to the pool become, or why they cannot be told."""
    try:
        return [finding("ok", said) for said in sources.settle_sizes(config)[1]]
    except ConfigError as error:
        return [fault_of(each, "see docs/own-data.md") for each in error.problems]


def run_checks(config: cfg.RunConfig, root: str) -> list[Check]:
    """Checks of what ``config`` needs beside the machine and the root."""
    student = Check(
        "student.engine",
        lambda: _look_at_serving(config.student),
        "start that server, or correct student.engine.base_url",
    )
    training = Check(
        "training",
        lambda: _look_at_training(config, root),
        "take a smaller student.backbone, or set [training.lora]",
    )
    return [
        Check("data.pool", lambda: _look_at_pool(config), "see docs/own-data.md", limit_seconds=60),
        *(
            Check(
                field,
                partial(_look_at_endpoint, field, endpoint),
                f"start that server, or correct {field}.base_url",
                limit_seconds=_REPLY_SECONDS * len(endpoint.base_urls) + 5,
            )
            for field, endpoint in config.endpoints.items()
            if isinstance(endpoint, cfg.OpenAIEndpoint)
        ),
        *(
            Check(field, partial(_look_at_model, field, endpoint, root), "name a model folder or a hub id")
            for field, endpoint in config.endpoints.items()
            if isinstance(endpoint, cfg.VllmEndpoint)
        ),
        *_judge_check(config),
        *([student] if config.student.engine.served_by == "others" else []),
        *(
            Check(
                f"evaluation.benchmarks.{name}",
                partial(_look_at_benchmark, config, name),
                each.remedy,
                limit_seconds=60,
            )
            for name, each in config.evaluation.asked.items()
            if each.remedy
        ),
        *(
            Check(
                "judge.verifier", partial(_look_at_verifier, each), "correct it (docs/verifiers.md)", limit_seconds=90
            )
            for each in [config.judge.verifier]
            if each
        ),
        Check("prices", lambda: _look_at_prices(config), "set the prices beside each model"),
        Check(
            "backbone",
            lambda: _look_at_backbone(config, root),
            "name a model folder, a hub id or a chat template that can be read",
            limit_seconds=_TEMPLATE_SECONDS + 10,
        ),
        *([] if config.training.runs_on == "worker" else [training]),
    ]


def _look_at_pool(config: cfg.RunConfig) -> Finding:
    """The pool's size, its first instruction, and the rows that are skipped or merged."""
    pool = sources.clean_pool(config)
    first = text.shorten(judging.show_instruction(pool.rows.row(0, named=True)), _SHOWN)
    said = "; ".join([f'{pool.rows.height:,} instructions, the first is "{first}"', *pool.notes])
    if not pool.lost:
        return finding("ok", said)
    lost = fault_of(pool.lost)
    return replace(lost, level="warning", found=f"{said}; {lost.found}")


def _judge_check(config: cfg.RunConfig) -> list[Check]:
    """A warning where a teacher that may be small, as it answers here, judges its own answers."""
    endpoint = config.teacher.endpoint
    is_here = isinstance(endpoint, cfg.VllmEndpoint) or (
        isinstance(endpoint, cfg.OpenAIEndpoint) and is_local(endpoint.base_urls[0])
    )
    found = f"{endpoint.model_for('judge')} judges its own answers, and runs here"
    remedy = "test it with `tapir judge-check CONFIG --pairs 4`; half a billion parameters are too few for a judge"
    return [Check("judge", lambda: finding("warning", found, remedy), "")] if is_here and config.judges_itself else []


def _look_at_endpoint(field: str, endpoint: cfg.OpenAIEndpoint) -> Finding:
    """The worst of its addresses."""
    configured = endpoint_of(endpoint, field, concurrency=1)
    found = [_ask(replace(configured, base_url=address), endpoint.model) for address in endpoint.base_urls]
    return max(found, key=lambda each: ("ok", "warning", "fault").index(each.level))


def _look_at_model(field: str, endpoint: cfg.VllmEndpoint, root: str) -> Finding:
    """Whether the run can serve it, and whether it is here already."""
    found = vllm.VllmServer.installed(endpoint.as_vllm, field)
    cache = on_this_machine(root).local(BACKBONE_CACHE)
    folder = backbone.find_backbone(endpoint.as_student, cache, field=f"{field}.model")
    where = f"is here ({folder})" if folder else "is fetched from the model hub when a run begins"
    return finding("ok", f"{endpoint.model} {where}; {found.in_words}")


def _look_at_serving(student: cfg.StudentConfig) -> Finding:
    served = student_server.serving(student.engine)(student, Path(os.devnull), lambda _line: None)
    # The model's name, where it is the same for every checkpoint.
    name, other = (student.engine.model_name(Path(each)) for each in ("one", "another"))
    return _ask(served.endpoint(student_server.Student(BACKBONE, Path(), "")), name if name == other else None)


def _look_at_verifier(verifier: cfg.VerifierConfig) -> Finding:
    check_verifier(verifier)
    return finding("ok", f"{verifier.function} ({verifier.source or 'shipped'})")


def _look_at_benchmark(config: cfg.RunConfig, name: str) -> Finding:
    scripts = supervisor.ScriptRunner(lambda _: Path(os.devnull), lambda: None)
    return finding("ok", benchmark_of(config, name, scripts).look())


def _ask(endpoint: Endpoint, model: str | None) -> Finding:
    """Whether an address answers, takes the key and has the model: asks for its list of models, which costs nothing."""
    got, where = asyncio.run(_list_models(endpoint)), endpoint.base_url
    if isinstance(got, Failure):
        return _no_models(endpoint, got)
    near = ", ".join(difflib.get_close_matches(model or "", got or (), n=3) or (got or [])[:3]) or "none"
    return (
        finding(
            "warning",
            f"{where} answers and lists no models, so key and model stay unproved",
            "check that base_url ends as its provider says, mostly in /v1; `tapir judge-check` sends real requests",
        )
        if got is None
        else finding(
            "warning",
            f"{where} does not list the model {model!r}; it lists {near}",
            "correct model, unless it is a private one",
        )
        if model is not None and model not in got
        else finding(
            "ok",
            f"{where}: {'the key is accepted' if endpoint.api_key else 'no key is needed'}"
            f"{f', {model} is there' if model else ''}",
        )
    )


def _no_models(endpoint: Endpoint, failure: Failure) -> Finding:
    """Why an address does not list its models."""
    return (
        finding("fault", f"{endpoint.base_url} refuses the key: {failure.message}", endpoint.key_remedy)
        if failure.kind == "unauthorized"
        else finding(
            "warning", f"{endpoint.base_url}: {failure.message}", "wait, then check again; a run retries by itself"
        )
        if failure.kind not in ("connection", "timeout")
        else finding("fault", failure.message, f"start or correct that proxy, or unset {proxy.source}")
        if (proxy := proxies.proxy_before(endpoint.base_url, endpoint.proxy))
        else finding("fault", failure.message, "start that server, or correct base_url")
    )


async def _list_models(endpoint: Endpoint) -> list[str] | Failure | None:
    asking = Client(endpoint, timeout_seconds=_REPLY_SECONDS)
    try:
        return await asking.list_models()
    finally:
        await asking.close()


def _look_at_prices(config: cfg.RunConfig) -> Finding:
    if missing := missing_prices(config):
        return fault_of("\n".join(missing))
    prices = {field: price_of(endpoint) for field, endpoint in config.endpoints.items()}
    unknown = [
        finding("warning", f"{field}: {price.reason}, so its calls count as free", price.remedy)
        for field, price in prices.items()
        if isinstance(price, UnknownPrice)
    ]
    known = [
        f"{field} {price.usd_per_million_prompt_tokens:g} in, {price.usd_per_million_completion_tokens:g} out "
        f"({price.source})"
        for field, price in prices.items()
        if isinstance(price, Price)
    ]
    return unknown[0] if unknown else finding("ok", f"USD per million tokens: {'; '.join(known)}")


def _look_at_backbone(config: cfg.RunConfig, root: str) -> Finding:
    name = config.student.backbone
    folder = backbone.find_backbone(config.student, on_this_machine(root).local(BACKBONE_CACHE))
    template = config.student.template
    chat = None if folder is None else launch.render_chat(folder, template, timeout_seconds=_TEMPLATE_SECONDS)
    system = "; it takes no system message, so rows with a `system` text cannot be asked"
    return (
        finding(
            "ok",
            f"{folder}: its chat template renders {len(chat.text)} characters of a conversation"
            f"{'' if chat.takes_system else system}",
        )
        if chat is not None
        else finding("ok", f"{name}: installed; the first run converts it")
        if name == cfg.EMBEDDED_STUDENT
        else finding(
            "warning",
            f"{name} is not here yet, so its chat template stays unproved",
            "the first run fetches it; a gated model needs HF_TOKEN",
        )
    )


def _look_at_training(config: cfg.RunConfig, root: str) -> Finding:
    machine.check_gpu_training()
    prerequisites.check_packages(config.training)
    folder = backbone.find_backbone(config.student, on_this_machine(root).local(BACKBONE_CACHE))
    ahead = prerequisites.look_ahead(config.training, folder) if folder else []
    unknown = "not told by the backbone's files, or the driver" if folder else "known once the backbone is here"
    return (
        replace(fault_of(ahead[1]), level="warning")
        if len(ahead) > 1
        else finding("ok", ahead[0] if ahead else f"how much memory training takes is {unknown}")
    )


def server_parts(root: str) -> list[Check]:
    """Checks of what is on the server that stands; none where none stands."""
    looks: dict[str, Look] = {
        "work pools": _look_at_pools,
        "deployments": _look_at_deployments,
        "workers": _look_at_workers,
        "automations": _look_at_automations,
    }
    expected = looks if _is_named() or _is_own(root) else {}
    return [Check(part, partial(_ask_server, root, look), _LOGS, _SERVER_SECONDS) for part, look in expected.items()]


def _is_named() -> bool:
    return bool(os.environ.get("PREFECT_API_URL"))


def _is_own(root: str) -> bool:
    """Whether the server of this root is the one of `tapir up`."""
    return not _is_named() and on_this_machine(root).exists(SERVER_RECORD)


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


def _look_at_pools(client: "SyncPrefectClient", root: str) -> Finding:
    return _compare(root, POOLS, {each.name: each.is_paused for each in client.read_work_pools()})


def _look_at_deployments(client: "SyncPrefectClient", root: str) -> Finding:
    from flows.deploy import is_foreign, standing_deployments

    standing = standing_deployments(client, prefect_server.DEPLOYMENTS)
    if foreign := [name for name, each in standing.items() if is_foreign(each)]:
        why = "applied by another version of tapir, and cannot start here"
        return finding("fault", f"{', '.join(foreign)}: {why}", _make(root))
    return _compare(root, prefect_server.DEPLOYMENTS, {name: each.paused for name, each in standing.items()})


def _compare(root: str, names: Sequence[str], is_paused: Mapping[str, bool]) -> Finding:
    """Whether all that is wanted is among what is there, and at work."""
    return (
        finding("fault", f"{', '.join(missing)}: not there", _make(root))
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
    start = f"{prefect_server.worker_settings(root)} prefect worker start --type process --pool"
    return (
        finding("ok", f"online: {', '.join(name for workers in online.values() for name in workers)}")
        if not lacking
        else finding(
            "fault",
            f"none is online for {', '.join(lacking)}",
            f"`tapir up` starts it again; it writes to {' and '.join(map(worker_log, lacking))}"
            if _is_own(root)
            else f"start one on the machine that is to work: `{start} {lacking[0]}`",
        )
    )


def _look_at_automations(client: "SyncPrefectClient", root: str) -> Finding:
    from flows.deploy import automations, standing_deployments, triggers_of

    found = [each for wanted in automations() for each in client.read_automations_by_name(wanted.name)]
    # Those of a deployment that was deleted may be left, and start nothing.
    found += [
        each
        for one in standing_deployments(client, prefect_server.DEPLOYMENTS).values()
        for each in triggers_of(client, one)
    ]
    is_on = {each.name: each.enabled for each in found}
    off = [name for name in AUTOMATIONS if not is_on.get(name, True)]
    return (
        finding("fault", f"not there: {'; '.join(missing)}", "`tapir deploy` makes what is missing")
        if (missing := [f"{name!r}, so that {undone}" for name, undone in AUTOMATIONS.items() if name not in is_on])
        else finding("warning", "; ".join(paused), "resume it in the UI")
        if (paused := [f"{name!r} is paused, so that {AUTOMATIONS[name]}" for name in off if name not in OFF_AT_FIRST])
        else finding("ok", ", ".join(f"{name} (off)" if name in off else name for name in AUTOMATIONS))
    )


def _make(root: str) -> str:
    return f"`tapir {'up' if _is_own(root) else 'deploy'}` makes what is missing"
