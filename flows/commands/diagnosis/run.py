"""What one configuration needs: itself, its endpoints and their prices, the backbone and its chat template."""

import asyncio
import difflib
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from flows.commands.diagnosis import Check, Finding, fault, ok, told, warning
from tapir_core.calls import Endpoint, Failure
from tapir_core.calls.client import Client
from tapir_core.calls.prices import UnknownPrice, missing_prices, price_of
from tapir_core.config import (
    EMBEDDED_STUDENT,
    EndpointConfig,
    OpenAIEndpoint,
    RunConfig,
    StudentConfig,
)
from tapir_core.config.load import check_config, load_config, missing_prerequisites
from tapir_core.errors import ConfigError
from tapir_core.evaluation.benchmark import benchmark_of
from tapir_core.paths import BACKBONE, backbone_cache
from tapir_core.storage import on_this_machine
from tasks.engines.backbone import find_backbone, render_chat
from tasks.engines.keys import api_key
from tasks.engines.scripts import ScriptRunner
from tasks.engines.student_server import Student
from tasks.engines.students import serving

_REPLY_SECONDS = 10.0
_TEMPLATE_SECONDS = 60.0


def read_run(config: str | Path, overrides: Sequence[str] = ()) -> tuple[RunConfig | None, list[Finding]]:
    """The configuration if it can be read, and what is wrong with it, a finding each."""
    part = "configuration"
    try:
        read = load_config(config, overrides)
    except ConfigError as error:
        return None, [replace(told(problem, "see docs/configuration.md"), part=part) for problem in error.problems]
    problems = [*check_config(read), *missing_prerequisites(read, os.environ)]
    good = ok(f"{config}: {read.run.rounds} rounds of {read.student.backbone}")
    return read, [replace(each, part=part) for each in map(told, problems)] or [replace(good, part=part)]


def run_checks(config: RunConfig, root: str) -> list[Check]:
    """Checks of what ``config`` needs beside the machine and the root."""
    checks = [
        _endpoint_check(field, endpoint)
        for field, endpoint in _endpoints(config).items()
        if isinstance(endpoint, OpenAIEndpoint)
    ]
    if config.student.engine.served_by == "others":
        checks.append(_student_check(config.student))
    checks += [_benchmark_check(config, name) for name, each in config.evaluation.asked.items() if each.remedy]
    prices = Check("prices", lambda: _look_at_prices(config), "set the prices beside each model")
    backbone = Check(
        "backbone",
        lambda: _look_at_backbone(config, root),
        "name a model folder, a hub id or a chat template that can be read",
        limit_seconds=_TEMPLATE_SECONDS + 10,
    )
    return [*checks, prices, backbone]


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
        return _worst(found)

    limit = _REPLY_SECONDS * len(endpoint.base_urls) + 5
    return Check(field, look, f"start that server, or correct {field}.base_url", limit_seconds=limit)


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


def _worst(found: Sequence[Finding]) -> Finding:
    return max(found, key=lambda each: ("ok", "warning", "fault").index(each.level))


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
        remedy = "the first run fetches it; a gated model wants HF_TOKEN"
        return warning(f"{student.backbone} is not here yet, so that its chat template stays unproved", remedy)
    template = Path(student.chat_template) if student.chat_template else None
    chat = render_chat(folder, template, timeout_seconds=_TEMPLATE_SECONDS)
    system = "" if chat.takes_system else "; it takes no system message, so rows with a `system` text cannot be asked"
    return ok(f"{folder}: its chat template renders {len(chat.text)} characters of a conversation{system}")
