"""`tapir doctor CONFIG --try`: one real request in each role: what is sent, what comes, what is read of it, its price.

The first instruction of the pool is labelled, answered, expanded and refined, and every judge scores the teacher's
answer against an empty-handed one. A few requests, paid like those of a run; nothing of them is kept.
"""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tapir_core.calls import Answer, AnswerStore, CallEngine, Message, Outcome, Request, Role
from tapir_core.calls.wire import request_body
from tapir_core.config import EndpointConfig, RunConfig, Sampling
from tapir_core.curriculum import (
    Labelling,
    parse_expansion,
    refinement_prompt_name,
    render_expansion,
    render_refinement,
    unusable_reason,
)
from tapir_core.judging import mode_of
from tapir_core.probing import in_words, settle
from tapir_core.prompts import load_prompt
from tapir_core.sources import read_pool_of
from tapir_core.text import Unparsed, shorten
from tasks.asking import chat
from tasks.engines.endpoints import Endpoints, endpoint_source

_LONGEST = 400
"""Characters of a prompt or reply that are shown."""
_NO_ANSWER = "I do not know."
"""Of the student, whom nobody asks here."""
_TASK_TYPE = "Others"
"""Where the teacher names none."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One request in one role."""

    role: Role
    field: str
    """That sets the endpoint."""
    shown: dict[str, str]
    """What was sent, what came and what is read of it, in words; `fault` says why nothing can be made of it."""
    read: str = ""
    """What the stage makes of the reply, whole."""


def try_roles(config: RunConfig, *, say: Callable[[str], None]) -> Iterator[Trial]:
    """Ask teacher and judges as a run does; what they refuse is left out, and said, as a run does it.

    Raises:
        ConfigError: an endpoint refuses what must not be left out, or the pool cannot be read.
        MissingPrerequisite: a key is not there, or nothing answers.
    """
    with TemporaryDirectory() as folder:
        endpoints = Endpoints(config.calls.concurrency, Path(folder, "standin.log"))
        store = AnswerStore(f"sqlite:///{folder}/store.sqlite")
        with CallEngine(store, config.calls, run="doctor", budget=config.budget) as engine:
            try:
                settled, found = settle(config, {}, partial(_ask, engine, endpoints))
                for line in in_words(found):
                    say(line)
                yield from _try_each(settled, partial(_attempt, engine, endpoints))
            finally:
                endpoints.close()


def _try_each(config: RunConfig, attempt: Callable[..., Trial]) -> Iterator[Trial]:
    teacher, prompts = config.teacher, config.run.prompts
    row = next(read_pool_of(config.data.pool, config.data, config.run.seed).rows.iter_rows(named=True))
    text, system, at = row["instruction"], row["system"], ("teacher.endpoint", teacher.endpoint)
    label = Labelling(teacher.label_replies)
    asked = chat(label.render(load_prompt("label", prompts), text))
    yield (labelled := attempt("label", *at, teacher.labelling, asked, label.parse, label.schema))
    yield (taught := attempt("teach", *at, teacher.answering, chat(text, system), str))
    task_type = labelled.read or _TASK_TYPE
    expansion = render_expansion(load_prompt("expand", prompts), text, task_type)
    yield attempt("expand", *at, teacher.expanding, chat(expansion), parse_expansion)
    if config.curriculum.refine:
        prompt = load_prompt(refinement_prompt_name(task_type), prompts)
        refinement = render_refinement(prompt, text, system, taught.read)
        yield attempt("refine", *at, teacher.refining, chat(refinement), str)
    mode, judge = mode_of(config.judge), config.judge
    shown = {**row, "teacher": taught.read, "student": _NO_ANSWER}
    for field, endpoint in judge.endpoints.items():
        asked = chat(mode.render(load_prompt(judge.prompt, prompts), shown, mode.places(judge)[0]))
        yield attempt("judge", field, endpoint, judge.sampling, asked, mode.parse, mode.schema)


def _attempt(
    engine: CallEngine,
    endpoints: Endpoints,
    role: Role,
    field: str,
    endpoint: EndpointConfig,
    sampling: Sampling,
    messages: tuple[Message, ...],
    parse: Callable[[str], Any],
    schema: str = "",
) -> Trial:
    who = endpoint.answers_as("judge" if role == "judge" else "teacher")
    request = Request(role, messages, who.model, who.identity, sampling, schema=schema)
    started = time.monotonic()
    outcome = _ask(engine, endpoints, field, endpoint, request)
    seconds = time.monotonic() - started
    sent = request_body(request, endpoint_source(endpoint, endpoints, field)())
    prompt = sent.pop("messages")[-1]["content"]
    shown = {"sent": json.dumps(sent, ensure_ascii=False), "prompt": shorten(prompt, _LONGEST)}
    if not isinstance(outcome, Answer):
        return Trial(role, field, shown | {"fault": outcome.message})
    tokens = f"{outcome.prompt_tokens} + {outcome.completion_tokens} tokens"
    shown["came"] = shorten(outcome.text, _LONGEST)
    shown["ended"] = f"{outcome.finish_reason}; {tokens}, {outcome.usd:.6f} USD, {seconds:.1f} s"
    value = parse(outcome.text)
    if isinstance(value, Unparsed):
        return Trial(role, field, shown | {"fault": f"cannot be read: {value.reason}"})
    why = unusable_reason(outcome.text, outcome.finish_reason) if role in ("teach", "refine") else None
    shown |= {"read": shorten(str(value), _LONGEST)} | ({"fault": why} if why else {})
    return Trial(role, field, shown, str(value))


def _ask(engine: CallEngine, endpoints: Endpoints, field: str, endpoint: EndpointConfig, request: Request) -> Outcome:
    live = endpoint.model_copy(update={"mode": "live"})
    [outcome] = engine.ask([request], endpoint_source(live, endpoints, field))
    return outcome
