"""What runs need: the machine, the root of all runs, and what one configuration asks for.

Of the machine: both environments with the versions of their engines, accelerators, memory. Of a configuration: itself,
its endpoints and their prices, the backbone and its chat template. Nothing heavy is loaded, and no root and no store is
made. Limits: of accelerators only NVIDIA's are seen, as `nvidia-smi` shows them; of GPU workers only process workers
(`--type process`) that were started in this folder, where they look for the student's environment.
"""

import asyncio
import difflib
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from importlib import metadata
from pathlib import Path

import psutil
from sqlalchemy import func, select

from flows.commands.diagnosis import Check, Finding, fault, ok, told, warning
from flows.prefect_server.caretaker import GPU_POOL
from tapir_core.calls import Endpoint, Failure, root_store_url
from tapir_core.calls.client import Client
from tapir_core.calls.store_tables import answers, meta, shown_url
from tapir_core.config import (
    EMBEDDED_STUDENT,
    EndpointConfig,
    OpenAIEndpoint,
    RunConfig,
    StudentConfig,
    StudentEngine,
    VllmEngine,
)
from tapir_core.config.load import check_config, load_config, missing_prerequisites
from tapir_core.errors import ConfigError, MissingPrerequisite
from tapir_core.evaluation.benchmark import benchmark_of
from tapir_core.paths import BACKBONE, backbone_cache, probe_file
from tapir_core.prices import UnknownPrice, missing_prices, price_of
from tapir_core.storage import Storage, on_this_machine
from tapir_core.store_admin.rows import is_there, open_existing, reading
from tasks.engines.backbone import find_backbone, render_chat
from tasks.engines.keys import api_key
from tasks.engines.student_server import Installed, Student
from tasks.engines.students import serving
from tasks.engines.supervisor import ScriptRunner

_PACKAGES = ("prefect", "openai", "torch", "transformers", "trl", "deepspeed")
_GIB = 2**30
_MEMORY_GIB = 6
"""A student server and a training of the quickstart's size, one after the other, with the driver beside them."""

_LITTLE_GB = 10
"""The quickstart's environments and its run take about this."""

_TOO_LITTLE_GB = 1
_PROBE = b"tapir doctor"
_REPLY_SECONDS = 10.0
_TEMPLATE_SECONDS = 60.0


def machine_checks(engine: StudentEngine | None) -> list[Check]:
    """Checks of this machine; ``engine`` is a configuration's, which may want no student's environment here."""
    # A cold disk takes long to give what the Python of an environment imports.
    student = Check(
        "student environment", lambda: _look_at_student(engine), "`make student-env` builds it anew", limit_seconds=60
    )
    return [
        Check("environment", _look_at_environment, "`make setup` builds it"),
        *([student] if engine is None or engine.served_by != "others" else []),
        Check("accelerators", lambda: _look_at_accelerators(engine), "look at `nvidia-smi`; a driver may hang"),
        Check("memory", _look_at_memory, "look at /proc/meminfo"),
    ]


def root_checks(root: str, store_url: str | None) -> list[Check]:
    """Checks of a root; ``store_url`` is a configuration's, if one names a store of its own."""
    is_remote = "://" in root
    disk = Check("disk", lambda: _look_at_disk(root), "look whether the file system of the root answers")
    return [
        Check(
            "storage",
            partial(_try_remote if is_remote else _try_folder, root),
            "correct the root's address, or its credentials in the environment",
        ),
        *([] if is_remote else [disk]),
        Check(
            "store",
            lambda: _look_at_store(root, store_url),
            "`tapir store verify` looks for what is damaged; docs/store.md says how to save what is left",
            limit_seconds=30,
        ),
    ]


def _look_at_environment() -> Finding:
    versions = {name: _version(name) for name in _PACKAGES}
    missing = [name for name, version in versions.items() if version is None]
    where = f"Python {sys.version.split()[0]} in {sys.prefix}"
    if missing:
        return fault(f"{where} lacks {', '.join(missing)}", "`make setup` builds the environment .venv")
    return ok(f"{where}: {', '.join(f'{name} {version}' for name, version in versions.items())}")


def _look_at_student(engine: StudentEngine | None) -> Finding:
    """A fault where this machine is to serve; one that drives runs whose student others serve needs no vLLM."""
    try:
        found = _installed(engine)
        return ok(found.in_words if found else "nothing is needed here")
    except MissingPrerequisite as error:
        if engine is not None and engine.served_by == "driver":
            raise
        why, _, remedy = str(error).partition("; ")
    if _has_worker(GPU_POOL):
        return fault(f"{why}, and a worker of {GPU_POOL} that works here can serve no student", remedy)
    if engine is not None:
        return ok(f"{why}; none is needed here: workers of {GPU_POOL} elsewhere serve the student")
    return warning(
        f'{why}: this machine serves no student, and drives runs with student.engine.type = "replicas" or "endpoint"',
        "`make student-env` builds it for others; `tapir doctor CONFIG` says whether a run needs it",
    )


def _installed(engine: StudentEngine | None) -> Installed | None:
    here = engine or VllmEngine()
    return serving(here).installed(here)


def _has_worker(pool: str) -> bool:
    """Whether a process worker of ``pool`` works in this folder."""
    wanted, here = {"worker", "start", "process", pool}, os.getcwd()
    seen = psutil.process_iter(["cmdline", "cwd"])
    return any(wanted <= set(each.info["cmdline"] or ()) and each.info["cwd"] == here for each in seen)


def _look_at_accelerators(engine: StudentEngine | None) -> Finding:
    program = shutil.which("nvidia-smi")
    if program is None:
        return ok("no NVIDIA GPU (no nvidia-smi): student and training use the CPU")
    done = subprocess.run(
        [program, "--query-gpu=name,memory.total,memory.used,driver_version", "--format=csv,noheader"],
        capture_output=True,
        text=True,
        timeout=10,
        check=False,
    )
    if done.returncode:
        said = (done.stdout + done.stderr).strip().splitlines()
        return fault(
            f"nvidia-smi: {said[0] if said else done.returncode}", "mend the driver, or reboot after an update"
        )
    gpus = [map(str.strip, line.split(",")) for line in done.stdout.splitlines() if line.strip()]
    if not gpus:
        return ok("no NVIDIA GPU: student and training use the CPU")
    shown = "; ".join("{}, {}, {} in use, driver {}".format(*gpu) for gpu in gpus)
    if (_version("torch") or "").endswith("+cpu"):
        return warning(f"{shown}, and the torch of this environment is a CPU build", "remove .venv, then `make setup`")
    # That an environment is missing has a check of its own.
    with suppress(MissingPrerequisite):
        if (found := _installed(engine)) is not None and found.device == "cpu":
            return warning(
                f"{shown}, and the student's environment is a CPU build",
                "remove .venv-vllm, then `make student-env STUDENT=vllm-cuda`",
            )
    return ok(shown)


def _look_at_memory() -> Finding:
    memory = psutil.virtual_memory()
    shown = f"{memory.available / _GIB:.1f} of {memory.total / _GIB:.1f} GiB available"
    if memory.available < _MEMORY_GIB * _GIB:
        return warning(
            shown, "end other programs; student.engine.cpu_kv_cache_gib and training.micro_batch_size lower the need"
        )
    return ok(shown)


def _try_folder(root: str) -> Finding:
    folder = _nearest(root)
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(_PROBE)
    except OSError as exc:
        return fault(f"{folder} cannot be written ({exc.strerror})", "allow it, or name another root with --root")
    return ok(f"{Path(root).absolute()} can be written" + ("" if folder == Path(root) else "; the first run makes it"))


def _try_remote(root: str) -> Finding:
    storage, probe = Storage(root), probe_file(secrets.token_hex(4))
    storage.write_bytes(probe, _PROBE)
    try:
        read = storage.read_bytes(probe)
    finally:
        storage.remove(probe)
    if read != _PROBE:
        return fault(f"{root} gave back other bytes than were written", "look at the store's versioning and caches")
    return ok(f"{root}: written, read and removed a file")


def _look_at_disk(root: str) -> Finding:
    gigabytes = shutil.disk_usage(_nearest(root)).free / 10**9
    shown = f"{gigabytes:.1f} GB free at {_nearest(root).absolute()}"
    if gigabytes < _LITTLE_GB:
        level = fault if gigabytes < _TOO_LITTLE_GB else warning
        return level(shown, "free some, or name a root on another disk with --root; old runs may go, answers stay")
    return ok(shown)


def _look_at_store(root: str, url: str | None) -> Finding:
    try:
        url = url or root_store_url(root)
    except ConfigError as error:
        return warning(str(error).partition("; ")[0], "name a configuration, and its store is looked at")
    if not is_there(url):
        return warning(
            f"there is none at {shown_url(url)}", "the first run makes it; or name the right root with --root"
        )
    engine = open_existing(url)
    try:
        with reading(engine) as connection:
            rows = connection.scalar(select(func.count()).select_from(answers))
            version = connection.scalar(select(meta.c.value).where(meta.c.name == "schema_version"))
    finally:
        engine.dispose()
    return ok(f"{shown_url(url)}: {rows:,} answers, schema {version}; `tapir store verify` reads each of them")


def _nearest(root: str) -> Path:
    """The root, or the nearest folder above it that is there."""
    return next(folder for folder in (Path(root), *Path(root).parents) if folder.exists())


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def read_run(config: str | Path, overrides: Sequence[str] = ()) -> tuple[RunConfig | None, list[Finding]]:
    """The configuration if it can be read, and what is wrong with it, a finding each."""
    part = "configuration"
    try:
        read = load_config(config, overrides)
    except ConfigError as error:
        return None, [replace(told(problem, "see docs/configuration.md"), part=part) for problem in error.problems]
    problems = [*check_config(read), *missing_prerequisites(read, os.environ)]
    found = [told(each) for each in problems] or [ok(f"{config}: {read.run.rounds} rounds of {read.student.backbone}")]
    return read, [replace(each, part=part) for each in found]


def run_checks(config: RunConfig, root: str) -> list[Check]:
    """Checks of what ``config`` needs beside the machine and the root."""
    paid = {field: each for field, each in _endpoints(config).items() if isinstance(each, OpenAIEndpoint)}
    return [
        *(_endpoint_check(field, endpoint) for field, endpoint in paid.items()),
        *([_student_check(config.student)] if config.student.engine.served_by == "others" else []),
        *(_benchmark_check(config, name) for name, each in config.evaluation.asked.items() if each.remedy),
        Check("prices", lambda: _look_at_prices(config), "set the prices beside each model"),
        Check(
            "backbone",
            lambda: _look_at_backbone(config, root),
            "name a model folder, a hub id or a chat template that can be read",
            limit_seconds=_TEMPLATE_SECONDS + 10,
        ),
    ]


def _endpoints(config: RunConfig) -> dict[str, EndpointConfig]:
    """Who is paid, by the field that names it."""
    return {"teacher.endpoint": config.teacher.endpoint, **config.judge.endpoints, **config.evaluation.judges}


def _endpoint_check(field: str, endpoint: OpenAIEndpoint) -> Check:
    def look() -> Finding:
        key = api_key(endpoint.api_key_env, field, file=endpoint.api_key_file)
        found = [
            _ask(
                Endpoint(address, 1, key, api_key_env=endpoint.api_key_env, api_key_file=endpoint.api_key_file),
                endpoint.model,
            )
            for address in endpoint.base_urls
        ]
        return max(found, key=lambda each: ("ok", "warning", "fault").index(each.level))

    return Check(
        field,
        look,
        f"start that server, or correct {field}.base_url",
        limit_seconds=_REPLY_SECONDS * len(endpoint.base_urls) + 5,
    )


def _student_check(student: StudentConfig) -> Check:
    def look() -> Finding:
        students = serving(student.engine).students(student, Path(os.devnull), lambda _line: None)
        # The model's name, where it is the same for every checkpoint.
        name, other = (student.engine.model_name(Path(each)) for each in ("one", "another"))
        return _ask(students.source(Student(BACKBONE, Path(), ""))(), name if name == other else None)

    return Check("student.engine", look, "start that server, or correct student.engine.base_url")


def _benchmark_check(config: RunConfig, name: str) -> Check:
    scripts = ScriptRunner(lambda _: Path(os.devnull), lambda: None)
    benchmark = benchmark_of(config, name, scripts)
    return Check(benchmark.where, lambda: ok(benchmark.look()), benchmark.settings.remedy, limit_seconds=60)


def _ask(endpoint: Endpoint, model: str | None) -> Finding:
    """Whether an address answers, takes the key and has the model: asks for its list of models, which costs nothing."""
    where, models = endpoint.base_url, asyncio.run(_list_models(endpoint))
    if isinstance(models, Failure):
        if models.kind == "unauthorized":
            return fault(f"{where} refuses the key: {models.message}", endpoint.key_remedy)
        if models.kind in ("connection", "timeout"):
            return fault(models.message, "start that server, or correct base_url")
        return warning(f"{where}: {models.message}", "wait, then look again; calls are tried again by themselves")
    if models is None:
        return warning(
            f"{where} answers and lists no models, so that key and model stay unproved",
            "look whether base_url ends as its provider says, mostly in /v1; `tapir judge-check` asks for real",
        )
    if model is not None and model not in models:
        near = difflib.get_close_matches(model, models, n=3) or models[:3]
        like = f"; it lists {', '.join(near)}" if near else ""
        return warning(f"{where} does not list the model {model!r}{like}", "correct model, unless it is a private one")
    key = "the key is accepted" if endpoint.api_key else "no key is wanted"
    return ok(f"{where}: {key}" + (f", {model} is there" if model else ""))


async def _list_models(endpoint: Endpoint) -> list[str] | Failure | None:
    client = Client(endpoint, timeout_seconds=_REPLY_SECONDS)
    try:
        return await client.list_models()
    finally:
        await client.close()


def _look_at_prices(config: RunConfig) -> Finding:
    missing = missing_prices(config)
    if missing:
        return told("\n".join(missing))
    known = []
    for field, endpoint in _endpoints(config).items():
        price = price_of(endpoint)
        if isinstance(price, UnknownPrice):
            return warning(f"{field}: {price.reason}, so that its calls count as free", price.remedy)
        prompt, completion = price.usd_per_million_prompt_tokens, price.usd_per_million_completion_tokens
        known.append(f"{field} {prompt:g} in, {completion:g} out ({price.source})")
    return ok(f"USD per million tokens: {'; '.join(known)}")


def _look_at_backbone(config: RunConfig, root: str) -> Finding:
    student = config.student
    folder = find_backbone(student, on_this_machine(root).local(backbone_cache()))
    if folder is None and student.backbone == EMBEDDED_STUDENT:
        return ok(f"{student.backbone}: installed; the first run converts it")
    if folder is None:
        return warning(
            f"{student.backbone} is not here yet, so that its chat template stays unproved",
            "the first run fetches it; a gated model wants HF_TOKEN",
        )
    template = Path(student.chat_template) if student.chat_template else None
    chat = render_chat(folder, template, timeout_seconds=_TEMPLATE_SECONDS)
    system = "" if chat.takes_system else "; it takes no system message, so rows with a `system` text cannot be asked"
    return ok(f"{folder}: its chat template renders {len(chat.text)} characters of a conversation{system}")
