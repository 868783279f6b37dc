"""What one configuration asks for beside the machine: itself, its endpoints and their prices, benchmarks, the backbone.

No token is paid for, and nothing is fetched.
"""

import asyncio
import difflib
import os
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from flows.commands.diagnosis.checks import Check, Finding, fault_of, finding
from tapir_core import config as cfg
from tapir_core import errors, prices, proxies, sources, text, turns
from tapir_core.calls import Endpoint, Failure, client, types
from tapir_core.config.checks import check_config, missing_prerequisites
from tapir_core.evaluation.benchmark import benchmark_of
from tapir_core.paths import BACKBONE
from tasks.engines import backbone, endpoints, machine, student_server, supervisor, vllm
from tasks.engines.training import launch, prerequisites
from tasks.engines.training.pair import compare_pair
from tasks.engines.verifier import check_verifier

_SHOWN = 80
"""Characters of an instruction."""
_REPLY_SECONDS = 10.0
_TEMPLATE_SECONDS = 60.0


def read_run(config: str | Path, overrides: Sequence[str] = ()) -> tuple[cfg.RunConfig | None, list[Finding]]:
    """The configuration if it can be read, and what is wrong with it, a finding each."""
    read = None
    try:
        read = cfg.load.load_config(config, overrides)
        problems = [*check_config(read), *missing_prerequisites(read, os.environ)]
    except errors.ConfigError as error:
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
    except errors.ConfigError as error:
        return [fault_of(each, "see docs/own-data.md") for each in error.problems]


def run_checks(config: cfg.RunConfig, root: str) -> list[Check]:
    """Checks of what ``config`` needs beside the machine and the root."""
    serving = partial(_look_at_serving, config.student), "start that server, or correct student.engine.base_url"
    training = partial(_look_at_training, config, root), "take a smaller student.backbone, or set [training.lora]"
    return [
        Check("data.pool", lambda: _look_at_pool(config), "see docs/own-data.md", limit_seconds=60),
        # Those asked over the network, then those that the run serves.
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
        *([Check("student.engine", *serving)] if config.student.engine.served_by == "others" else []),
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
        *([] if config.training.runs_on == "worker" else [Check("training", *training)]),
    ]


def pair_findings(teacher: str, student: str, chat_template: str | None, root: str) -> list[Finding]:
    """What two models have in common, and what not, for a teacher that scores what a student samples.

    Raises:
        ConfigError: one of them is no checkpoint, or not on this machine.
    """
    folders = list[Path]()
    for name in (teacher, student):
        settings = cfg.StudentConfig(backbone=name, chat_template=chat_template)
        if (folder := backbone.find_backbone(settings, backbone.cache_of(root), field="--pair")) is None:
            raise errors.ConfigError(f"--pair {name}: it is not on this machine; give a folder that holds it")
        folders.append(folder)
    return [
        Finding(each.part, "fault" if each.remedy else "ok", each.found, each.remedy)
        for each in compare_pair(folders[0], folders[1], settings.template)
    ]


def _look_at_pool(config: cfg.RunConfig) -> Finding:
    """The pool's size, what its first conversation begins with, and the rows that are skipped or merged."""
    pool = sources.clean_pool(config)
    first = text.shorten(turns.user_texts(pool.rows.row(0, named=True))[0], _SHOWN)
    said = "; ".join([f'{pool.rows.height:,} instructions, the first begins "{first}"', *pool.notes])
    if not pool.lost:
        return finding("ok", said)
    lost = fault_of(pool.lost)
    return replace(lost, level="warning", found=f"{said}; {lost.found}")


def _judge_check(config: cfg.RunConfig) -> list[Check]:
    """A warning where a teacher that may be small, as it answers here, judges its own answers."""
    endpoint = config.teacher.endpoint
    is_here = isinstance(endpoint, cfg.VllmEndpoint) or (
        isinstance(endpoint, cfg.OpenAIEndpoint) and types.is_local(endpoint.base_urls[0])
    )
    found = f"{endpoint.model_for('judge')} judges its own answers, and runs here"
    remedy = "test it with `tapir judge-check CONFIG --pairs 4`; half a billion parameters are too few for a judge"
    return [Check("judge", lambda: finding("warning", found, remedy), "")] if is_here and config.judges_itself else []


def _look_at_endpoint(field: str, endpoint: cfg.OpenAIEndpoint) -> Finding:
    """The worst of its addresses."""
    configured = endpoints.endpoint_of(endpoint, field, concurrency=1)
    found = [_ask(replace(configured, base_url=address), endpoint.model) for address in endpoint.base_urls]
    return max(found, key=lambda each: ("ok", "warning", "fault").index(each.level))


def _look_at_model(field: str, endpoint: cfg.VllmEndpoint, root: str) -> Finding:
    """Whether the run can serve it, and whether it is here already."""
    found = vllm.VllmServer.installed(endpoint.as_vllm, field)
    folder = backbone.find_backbone(endpoint.as_student, backbone.cache_of(root), field=f"{field}.model")
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
    return finding("ok", benchmark_of(config, name, supervisor.ScriptRunner()).look())


def _ask(endpoint: Endpoint, model: str | None) -> Finding:
    """Whether an address answers, takes the key and has the model: asks for its list of models, which costs nothing."""
    got, where = asyncio.run(_list_models(endpoint)), endpoint.base_url
    if isinstance(got, Failure):
        return _no_models(endpoint, got)
    near = ", ".join(difflib.get_close_matches(model or "", got or (), n=3) or [*(got or ())][:3]) or "none"
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
            "warning",
            f"{where}: {model} is there until {ends}",
            "let the run end before that day, or name the model that its provider has in its place",
        )
        if (ends := got.get(model or ""))
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


async def _list_models(endpoint: Endpoint) -> dict[str, str] | Failure | None:
    asking = client.Client(endpoint, timeout_seconds=_REPLY_SECONDS)
    try:
        return await asking.list_models()
    finally:
        await asking.close()


def _look_at_prices(config: cfg.RunConfig) -> Finding:
    if missing := prices.missing_prices(config):
        return fault_of("\n".join(missing))
    found = {field: prices.price_of(endpoint) for field, endpoint in config.endpoints.items()}
    unknown = [
        finding("warning", f"{field}: {price.reason}, so its calls count as free", price.remedy)
        for field, price in found.items()
        if isinstance(price, prices.UnknownPrice)
    ]
    known = [
        f"{field} {price.usd_per_million_prompt_tokens:g} in, {price.usd_per_million_completion_tokens:g} out "
        f"({price.source})"
        for field, price in found.items()
        if isinstance(price, prices.Price)
    ]
    return unknown[0] if unknown else finding("ok", f"USD per million tokens: {'; '.join(known)}")


def _look_at_backbone(config: cfg.RunConfig, root: str) -> Finding:
    name = config.student.backbone
    folder = backbone.find_backbone(config.student, backbone.cache_of(root))
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
    folder = backbone.find_backbone(config.student, backbone.cache_of(root))
    ahead = prerequisites.look_ahead(config, folder) if folder else []
    unknown = "not told by the backbone's files, or the driver" if folder else "known once the backbone is here"
    return (
        replace(fault_of(ahead[1]), level="warning")
        if len(ahead) > 1
        else finding("ok", ahead[0] if ahead else f"how much memory training takes is {unknown}")
    )
