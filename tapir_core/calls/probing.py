"""What an endpoint takes, found out before the first paid row: one short request for each role, as the role asks it.

Models differ in what they refuse: a temperature, `top_p`, a seed, the older name of the longest answer. What is refused
is left out from then on (the longest answer is renamed, for it limits what is spent), and written into the
configuration that the run keeps, so that stage keys and request keys say what was asked. Nothing is left out unsaid.

Limits: a field that a provider takes and ignores looks as if it were obeyed.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from tapir_core.calls.types import Answer, Failure, Message, Outcome, Request, unsupported_remedy
from tapir_core.config import OpenAIEndpoint, RunConfig, Sampling
from tapir_core.config.load import with_changes
from tapir_core.errors import ConfigError
from tapir_core.text import canonical_json, digest

PROMPT = "Reply with the one word: ready"
"""What a probe asks."""
_SAME = {"max_tokens": "tokens_field", "max_completion_tokens": "tokens_field", "top_logprobs": "logprobs"}
"""Field of a request → what the configuration calls it."""

Ask = Callable[[str, OpenAIEndpoint, Request], Outcome]
"""Asks an endpoint, which a field of the configuration names."""


@dataclass(frozen=True, slots=True)
class Settled:
    """What came of one probe; a value of `settled` in `run.json`."""

    asked: str
    """Digest of what was probed: with another model, address or sampling it is probed again."""
    changes: Mapping[str, Any] = field(default_factory=dict)
    """Field of the configuration → its value in this run."""
    said: tuple[str, ...] = ()
    """What the endpoint said to each field that it refused."""


@dataclass(frozen=True, slots=True)
class _Probe:
    """One way in which one endpoint is asked."""

    where: str
    """Field that sets the endpoint."""
    how: str
    """Field that sets the sampling."""
    endpoint: OpenAIEndpoint
    sampling: Sampling
    role: str
    top_logprobs: int = 0

    @property
    def name(self) -> str:
        return f"{self.how} at {self.where}"


def settle(
    config: RunConfig, known: Mapping[str, Settled], ask: Ask, *, of: str = ""
) -> tuple[RunConfig, dict[str, Settled]]:
    """The configuration with what every endpoint takes, and how that was found.

    ``known`` is what an earlier start of the run found: it is not asked again. What cannot be asked now, because
    nothing answers or a cap is reached, is left as it is: the stage says so better. ``of`` limits it to the samplings
    whose field begins so.

    Raises:
        ConfigError: an endpoint refuses something that must not be left out; with its words and the remedy.
    """
    found: dict[str, Settled] = {}
    for name in [each.name for each in _probes(config) if each.how.startswith(of)]:
        # Read anew each time: what one probe found of an endpoint holds for the next one.
        probe = next(each for each in _probes(config) if each.name == name)
        asked = digest([probe.endpoint.model_dump(mode="json"), probe.sampling.model_dump(mode="json")])
        before = known.get(name)
        settled = before if before is not None and before.asked == asked else _settled(probe, asked, ask)
        if settled is not None:
            found[name], config = settled, with_changes(config, settled.changes)
    return config, found


def in_words(found: Mapping[str, Settled]) -> Iterator[str]:
    """What is asked otherwise than the configuration says, a line for each thing that an endpoint said."""
    fields = defaultdict[tuple[str, Any], list[str]](list)
    for each in found.values():
        for (name, value), said in zip(each.changes.items(), each.said, strict=True):
            fields[said, value].append(name)
    for (said, value), names in fields.items():
        yield f"In this run {', '.join(names)} = {json.dumps(value)}, because the endpoint said: {said}"


def _probes(config: RunConfig) -> Iterator[_Probe]:
    """Every sampling of every endpoint that may refuse it."""
    teacher = config.teacher
    roles: list[tuple[str, Any, str, Sampling, str, int]] = [
        ("teacher.endpoint", teacher.endpoint, f"teacher.{name}", getattr(teacher, name), "teacher", 0)
        for name in ("labelling", "answering", "expanding", "refining")
    ]
    for where, endpoint in config.judge.endpoints.items():
        roles.append((where, endpoint, "judge.sampling", config.judge.sampling, "judge", 0))
    for name, benchmark in config.evaluation.judged.items():
        where = "judge.endpoint" if benchmark.judge is None else f"evaluation.benchmarks.{name}.judge"
        how = f"evaluation.benchmarks.{name}.sampling"
        roles.append((where, config.judge_of(benchmark), how, benchmark.sampling, "judge", benchmark.logprobs_asked))
    for where, endpoint, how, sampling, role, top_logprobs in roles:
        if isinstance(endpoint, OpenAIEndpoint):
            yield _Probe(where, how, endpoint, sampling, role, top_logprobs)


def _settled(probe: _Probe, asked: str, ask: Ask) -> Settled | None:
    changes: dict[str, Any] = {}
    said: list[str] = []
    while True:
        outcome = ask(probe.where, probe.endpoint, _request(probe))
        # Who refuses to say a word, or has no room for one, has taken the fields.
        if isinstance(outcome, Answer) or outcome.kind in ("refused", "too_long"):
            return Settled(asked, changes, tuple(said))
        if not outcome.parameter:
            _refuse(probe, outcome)
            return None
        name = _SAME.get(outcome.parameter, outcome.parameter)
        place, value = _without(probe, name, outcome)
        changes[f"{place}.{name}"] = value
        said.append(outcome.said or outcome.message)
        if place == probe.how:
            probe = replace(probe, sampling=probe.sampling.model_copy(update={name: value}))
        else:
            probe = replace(probe, endpoint=probe.endpoint.model_copy(update={name: value}))


def _without(probe: _Probe, name: str, refusal: Failure) -> tuple[str, Any]:
    """Where and to what a field is set that the endpoint refuses.

    Raises:
        ConfigError: it must not be left out, or was left out and is refused all the same.
    """
    if name in ("temperature", "top_p") and getattr(probe.sampling, name) != "provider":
        return probe.how, "provider"
    if name == "seed" and probe.endpoint.seed:
        return probe.where, False
    if name == "tokens_field" and probe.endpoint.tokens_field is None:
        # Renamed and never left out: it is what limits the cost of an answer.
        other = {"max_tokens": "max_completion_tokens", "max_completion_tokens": "max_tokens"}[refusal.parameter]
        return probe.where, other
    remedy = unsupported_remedy(refusal.parameter)
    if name == "logprobs" and probe.top_logprobs:
        remedy = f"Set {probe.how.removesuffix('.sampling')}.top_logprobs = 0, or let another judge judge it"
    raise ConfigError(f"{probe.where}: {probe.endpoint.model} said: {refusal.said or refusal.message}. {remedy}")


def _refuse(probe: _Probe, failure: Failure) -> None:
    """Raise ConfigError where every row would fail as the probe did."""
    if failure.kind == "used_up":
        raise ConfigError(f"{probe.how}.max_tokens: value {probe.sampling.max_tokens}: {failure.message}")
    if failure.kind == "bad_request":
        raise ConfigError(
            f"{probe.where}: {probe.endpoint.model} refuses what {probe.how} asks: {failure.message}. Correct it, or "
            "the endpoint's extra_body"
        )


def _request(probe: _Probe) -> Request:
    endpoint = probe.endpoint
    # What changes no answer changes this one: whether it comes.
    sent = {"tokens_field": endpoint.tokens_field, "seed": endpoint.seed}
    return Request(
        role="probe",
        messages=(Message("user", PROMPT),),
        model=endpoint.model_for(probe.role),
        identity=f"{endpoint.identity_for(probe.role)} {canonical_json(sent)}",
        sampling=probe.sampling,
        # With a seed, as every row that is asked again has one.
        sample_index=1,
        top_logprobs=probe.top_logprobs,
    )
