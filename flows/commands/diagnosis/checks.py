"""What runs need: the machine, the root of all runs, a Prefect server, and what one configuration asks for.

Of the machine: both environments with the versions of their engines, accelerators, memory. Of a configuration: itself,
its endpoints and their prices, the backbone and its chat template. Nothing heavy is loaded, and no root and no store is
made. Limits: of accelerators only NVIDIA's are seen, as `nvidia-smi` shows them; of GPU workers only process workers
(`--type process`) that were started in this folder.

Imports no Prefect before a server is looked at: its settings must stand in the environment before.
"""

import asyncio
import difflib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import sqlalchemy as sa

from flows import prefect_server
from flows.commands.diagnosis import Check, Finding, fault_of, finding
from flows.commands.store import opened
from flows.prefect_server.caretaker import GPU_POOL, POOLS
from tapir_core.calls import Endpoint, Failure, root_store_url, store_tables
from tapir_core.calls.client import Client
from tapir_core.calls.types import is_local
from tapir_core.config import (
    EMBEDDED_STUDENT,
    OpenAIEndpoint,
    RunConfig,
    StudentConfig,
    StudentEngine,
    VerifierConfig,
    VllmEndpoint,
    VllmEngine,
)
from tapir_core.config.checks import check_config, missing_prerequisites
from tapir_core.config.load import load_config
from tapir_core.errors import ConfigError, MissingPrerequisite
from tapir_core.estimate.sizes import settle_sizes
from tapir_core.evaluation.benchmark import benchmark_of
from tapir_core.installation import STUDENT_SETUP, gpu_setup, package_setup
from tapir_core.judging import show_instruction
from tapir_core.paths import BACKBONE, SERVER_RECORD, backbone_cache, probe_file, worker_log
from tapir_core.prices import UnknownPrice, missing_prices, price_of
from tapir_core.proxies import proxy_before
from tapir_core.sources import clean_pool
from tapir_core.storage import Storage, on_this_machine
from tapir_core.store_admin.rows import is_there, reading
from tapir_core.text import shorten
from tasks.engines import backbone, keys, machine, student_server, students, supervisor, vllm
from tasks.engines.endpoints import as_configured
from tasks.engines.training import memory, prerequisites, trainer
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

Look = Callable[["SyncPrefectClient", str], Finding]
"""Of a server and the root whose server it is."""


def checks_of(root: str, config: RunConfig | None = None) -> list[Check]:
    """Checks of this machine, of a root and of the server of it; then of what ``config`` needs beside them."""
    engine, is_remote = config.student.engine if config else None, "://" in root
    # A cold disk takes long to give what the Python of an environment imports.
    student = Check(
        "student environment", lambda: _look_at_student(engine), f"`{STUDENT_SETUP}` builds it anew", limit_seconds=60
    )
    disk = Check("disk", lambda: _look_at_disk(root), "look whether the file system of the root answers")
    return [
        Check("environment", _look_at_environment, f"`{package_setup()}` builds it"),
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
    versions = {name: _version(name) for name in _PACKAGES}
    return finding(
        "environment",
        where=f"Python {sys.version.split()[0]} in {sys.prefix}",
        versions=", ".join(f"{name} {version}" for name, version in versions.items()),
        missing=[name for name, version in versions.items() if version is None],
        remedy=package_setup(),
    )


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _look_at_student(engine: StudentEngine | None) -> Finding:
    """A fault where this machine is to serve; one that drives runs whose student others serve needs no vLLM."""
    try:
        found = _installed(engine)
        return Finding("", "ok", found.in_words if found else "nothing is needed here")
    except MissingPrerequisite as error:
        if engine is not None and engine.served_by == "driver":
            raise
        why, _, remedy = str(error).partition("; ")
    about = {"has_worker": _has_worker(GPU_POOL), "is_configured": engine is not None}
    return finding("no_student", why=why, remedy=remedy, builder=STUDENT_SETUP, pool=GPU_POOL, **about)


def _installed(engine: StudentEngine | None) -> student_server.Installed | None:
    here = engine or VllmEngine()
    return students.serving(here).installed(here)


def _has_worker(pool: str) -> bool:
    """Whether a process worker of ``pool`` works in this folder."""
    wanted, here = {"worker", "start", "process", pool}, os.getcwd()
    seen = psutil.process_iter(["cmdline", "cwd"])
    return any(wanted <= set(each.info["cmdline"] or ()) and each.info["cwd"] == here for each in seen)


def _look_at_accelerators(engine: StudentEngine | None) -> Finding:
    program, student = shutil.which("nvidia-smi"), None
    lines = (
        machine.ask_nvidia("--query-gpu=name,memory.total,memory.used,driver_version") if machine.visible_gpus() else []
    )
    gpus = ["{}, {}, {} in use, driver {}".format(*line.split(", ")) for line in lines]
    torch = _version("torch")
    # That an environment is missing has a check of its own.
    with suppress(MissingPrerequisite):
        student = _installed(engine) if gpus else None
    return finding(
        "accelerators",
        program=program,
        gpus=gpus,
        torch_is_cpu=torch is not None and not machine.cuda_of_torch(),
        torch_remedy=gpu_setup(torch or ""),
        student_is_cpu=student is not None and student.device == "cpu",
        student_remedy=f"{STUDENT_SETUP} --student vllm-cuda",
    )


def _look_at_memory() -> Finding:
    memory = psutil.virtual_memory()
    return finding("memory", available=memory.available / _GIB, total=memory.total / _GIB)


def _try_folder(root: str) -> Finding:
    folder, error = _nearest(root), None
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(_PROBE)
    except OSError as exc:
        error = exc.strerror
    return finding("folder", root=Path(root).absolute(), folder=folder, error=error, is_there=folder == Path(root))


def _try_remote(root: str) -> Finding:
    storage, probe = Storage(root), probe_file(os.urandom(4).hex())
    storage.write_bytes(probe, _PROBE)
    try:
        return finding("remote", root=root, is_same=storage.read_bytes(probe) == _PROBE)
    finally:
        storage.remove(probe)


def _look_at_disk(root: str) -> Finding:
    folder = _nearest(root)
    return finding("disk", free=shutil.disk_usage(folder).free / 10**9, folder=folder.absolute())


def _look_at_store(root: str, config: RunConfig | None) -> Finding:
    named = config.calls.store_url if config else None
    # Before a configuration's first run nothing lacks; a root that somebody typed may be the wrong one.
    is_new = config is not None and named is None and not Path(root).exists()
    try:
        url = named or root_store_url(root)
    except ConfigError as error:
        return finding("unnamed_store", why=str(error).partition("; ")[0])
    shown = store_tables.shown_url(url)
    if not is_there(url):
        return finding("store", url=shown, is_there=False, rows=0, version="", is_new=is_new)
    with opened(url, root) as engine, reading(engine) as connection:
        rows = connection.scalar(sa.select(sa.func.count()).select_from(store_tables.answers))
        noted = sa.select(store_tables.meta.c.value).where(store_tables.meta.c.name == "schema_version")
        version = connection.scalar(noted)
    return finding("store", url=shown, is_there=True, rows=rows, version=version, is_new=False)


def _nearest(root: str) -> Path:
    """The root, or the nearest folder above it that is there."""
    return next(folder for folder in (Path(root), *Path(root).parents) if folder.exists())


def read_run(config: str | Path, overrides: Sequence[str] = ()) -> tuple[RunConfig | None, list[Finding]]:
    """The configuration if it can be read, and what is wrong with it, a finding each."""
    read = None
    try:
        read = load_config(config, overrides)
        problems = [*check_config(read), *missing_prerequisites(read, os.environ)]
    except ConfigError as error:
        problems = [*error.problems]
    found = [fault_of(each, "see docs/configuration.md") for each in problems]
    if read is not None and not found:
        found = [
            Finding(
                "",
                "ok",
                f"{config}: {read.run.rounds} round{'s' if read.run.rounds > 1 else ''} of {read.student.backbone}",
            ),
            *_sizes(read),
        ]
    return read, [replace(each, part="configuration") for each in found]


def _sizes(config: RunConfig) -> list[Finding]:
    """What sizes that are left to the pool become, or why they cannot be told."""
    try:
        return [Finding("", "ok", said) for said in settle_sizes(config)[1]]
    except ConfigError as error:
        return [fault_of(each, "see docs/own-data.md") for each in error.problems]


def run_checks(config: RunConfig, root: str) -> list[Check]:
    """Checks of what ``config`` needs beside the machine and the root."""
    paid = {field: each for field, each in config.endpoints.items() if isinstance(each, OpenAIEndpoint)}
    verifier = config.judge.verifier
    student = Check(
        "student.engine",
        lambda: _look_at_serving(config.student),
        "start that server, or correct student.engine.base_url",
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
            for field, endpoint in paid.items()
        ),
        *(
            Check(field, partial(_look_at_model, field, endpoint, root), "name a model folder or a hub id")
            for field, endpoint in config.endpoints.items()
            if isinstance(endpoint, VllmEndpoint)
        ),
        *(
            [Check("judge", lambda: finding("own_judge", model=config.teacher.endpoint.model_for("judge")), "")]
            if _is_own_judge(config)
            else []
        ),
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
        *([_verifier_check(verifier)] if verifier else []),
        Check("prices", lambda: _look_at_prices(config), "set the prices beside each model"),
        Check(
            "backbone",
            lambda: _look_at_backbone(config, root),
            "name a model folder, a hub id or a chat template that can be read",
            limit_seconds=_TEMPLATE_SECONDS + 10,
        ),
        *([] if config.training.runs_on == "worker" else [_training_check(config, root)]),
    ]


def _look_at_pool(config: RunConfig) -> Finding:
    """The pool's size, its first instruction, and the rows that are skipped or merged."""
    pool = clean_pool(config)
    first = shorten(show_instruction(pool.rows.row(0, named=True)), _SHOWN)
    said = "; ".join([f'{pool.rows.height:,} instructions, the first is "{first}"', *pool.notes])
    if not pool.lost:
        return Finding("", "ok", said)
    lost = fault_of(pool.lost)
    return replace(lost, level="warning", found=f"{said}; {lost.found}")


def _is_own_judge(config: RunConfig) -> bool:
    """Whether a teacher that may be small, as it answers here, judges its own answers."""
    endpoint = config.teacher.endpoint
    is_here = isinstance(endpoint, VllmEndpoint) or (
        isinstance(endpoint, OpenAIEndpoint) and is_local(endpoint.base_urls[0])
    )
    return is_here and config.judges_itself


def _look_at_endpoint(field: str, endpoint: OpenAIEndpoint) -> Finding:
    """The worst of its addresses."""
    key = keys.api_key(endpoint.api_key_env, field, file=endpoint.api_key_file)
    configured = as_configured(endpoint, field)
    found = [_ask(Endpoint(address, 1, key, **configured), endpoint.model) for address in endpoint.base_urls]
    return max(found, key=lambda each: ("ok", "warning", "fault").index(each.level))


def _look_at_model(field: str, endpoint: VllmEndpoint, root: str) -> Finding:
    """Whether the run can serve it, and whether it is here already."""
    found = vllm.VllmServer.installed(endpoint.as_vllm, field)
    cache = on_this_machine(root).local(backbone_cache())
    folder = backbone.find_backbone(endpoint.as_student, cache, field=f"{field}.model")
    where = f"is here ({folder})" if folder else "is fetched from the model hub when a run begins"
    return Finding("", "ok", f"{endpoint.model} {where}; {found.in_words}")


def _look_at_serving(student: StudentConfig) -> Finding:
    served = students.serving(student.engine)(student, Path(os.devnull), lambda _line: None)
    # The model's name, where it is the same for every checkpoint.
    name, other = (student.engine.model_name(Path(each)) for each in ("one", "another"))
    return _ask(served.source(student_server.Student(BACKBONE, Path(), ""))(), name if name == other else None)


def _verifier_check(verifier: VerifierConfig) -> Check:
    def look() -> Finding:
        check_verifier(verifier)
        return Finding("", "ok", f"{verifier.function} ({verifier.source or 'shipped'})")

    return Check("judge.verifier", look, "correct it (docs/verifiers.md)", limit_seconds=90)


def _look_at_benchmark(config: RunConfig, name: str) -> Finding:
    scripts = supervisor.ScriptRunner(lambda _: Path(os.devnull), lambda: None)
    return Finding("", "ok", benchmark_of(config, name, scripts).look())


def _ask(endpoint: Endpoint, model: str | None) -> Finding:
    """Whether an address answers, takes the key and has the model: asks for its list of models, which costs nothing."""
    got = asyncio.run(_list_models(endpoint))
    models = None if isinstance(got, Failure) else got
    return finding(
        "endpoint",
        where=endpoint.base_url,
        proxy=proxy_before(endpoint.base_url, endpoint.proxy),
        key_remedy=endpoint.key_remedy,
        has_key=bool(endpoint.api_key),
        model=model,
        failure=got if isinstance(got, Failure) else None,
        models=models,
        near=difflib.get_close_matches(model or "", models or (), n=3) or (models or [])[:3],
    )


async def _list_models(endpoint: Endpoint) -> list[str] | Failure | None:
    asking = Client(endpoint, timeout_seconds=_REPLY_SECONDS)
    try:
        return await asking.list_models()
    finally:
        await asking.close()


def _look_at_prices(config: RunConfig) -> Finding:
    if missing := missing_prices(config):
        return fault_of("\n".join(missing))
    prices = {field: price_of(endpoint) for field, endpoint in config.endpoints.items()}
    unknown = {field: price for field, price in prices.items() if isinstance(price, UnknownPrice)}
    return finding("prices", known=prices, unknown=unknown)


def _look_at_backbone(config: RunConfig, root: str) -> Finding:
    name = config.student.backbone
    folder = backbone.find_backbone(config.student, on_this_machine(root).local(backbone_cache()))
    template = config.student.template
    chat = None if folder is None else trainer.render_chat(folder, template, timeout_seconds=_TEMPLATE_SECONDS)
    return finding("backbone", name=name, is_embedded=name == EMBEDDED_STUDENT, folder=folder, chat=chat)


def _training_check(config: RunConfig, root: str) -> Check:
    def look() -> Finding:
        machine.check_gpu_training()
        prerequisites.check_packages(config.training)
        folder = backbone.find_backbone(config.student, on_this_machine(root).local(backbone_cache()))
        said = memory.look_ahead(config.training, folder) if folder else []
        return finding("training", said=said, is_here=folder is not None)

    return Check("training", look, "take a smaller student.backbone, or set [training.lora]")


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
        return Finding("", "ok", "none stands: `tapir run` brings its own, `tapir up` starts one that stays")
    api = prefect_server.standing_server(root)
    return _ask_server(root, lambda client, _: Finding("", "ok", f"{api}, Prefect {client.api_version()}"))


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
        return finding("foreign", names=foreign, remedy=_make(root))
    return _compare(root, prefect_server.DEPLOYMENTS, {name: each.paused for name, each in standing.items()})


def _compare(root: str, names: Sequence[str], is_paused: Mapping[str, bool]) -> Finding:
    """Whether all that is wanted is among what is there, and at work."""
    missing, paused = [name for name in names if name not in is_paused], [name for name in names if is_paused.get(name)]
    return finding("things", names=names, missing=missing, paused=paused, remedy=_make(root))


def _look_at_workers(client: "SyncPrefectClient", root: str) -> Finding:
    from flows.deploy import online_workers

    # Where there is no such pool, its own check says so.
    online = {pool: online_workers(client, pool) for pool in POOLS}
    lacking = [pool for pool, workers in online.items() if not workers]
    return finding(
        "workers",
        online=[name for workers in online.values() for name in workers],
        lacking=lacking,
        is_own=_is_own(root),
        logs=[*map(worker_log, lacking)],
        start=f"{prefect_server.worker_settings(root)} prefect worker start --type process",
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
    missing, paused = (
        [each for each in AUTOMATIONS if each not in is_on],
        [each for each in off if each not in OFF_AT_FIRST],
    )
    return finding("automations", wanted=AUTOMATIONS, missing=missing, paused=paused, off=off)


def _make(root: str) -> str:
    return f"`tapir {'up' if _is_own(root) else 'deploy'}` makes what is missing"
