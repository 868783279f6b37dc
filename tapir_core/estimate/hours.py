"""How long the work of a run takes under one scenario. Pure.

Limits: hours are those of the calls, without the start of servers; pauses that a provider imposes are not known.
"""

from tapir_core.config import EndpointConfig, OpenAIEndpoint, RunConfig, StandinEndpoint, by_kind
from tapir_core.estimate.assumptions import (
    FIRST_TOKEN_SECONDS,
    KNOWN_POWER,
    STANDIN_SECONDS,
    TOKENS_PER_SECOND,
    Scenario,
)
from tapir_core.estimate.evidence import Evidence
from tapir_core.estimate.line import Line
from tapir_core.estimate.workload import Work

__all__ = ["call_seconds", "seconds_at", "training_seconds"]


def call_seconds(config: RunConfig, line: Line, evidence: Evidence, scenario: Scenario) -> float:
    """Seconds of the paid calls of one line, as many at once as the configuration keeps in flight."""
    calls, endpoint = line.work.paid, line.charger.endpoint if line.charger else None
    if endpoint is not None and endpoint.in_batches:
        return scenario.batch_hours * 3600 if calls else 0.0
    if line.work.stage in evidence.seconds:
        return calls * evidence.seconds[line.work.stage] * _narrowed(scenario.pace)
    if endpoint is None:
        return _seconds_of_model(line, config.student.engine.concurrency, scenario)
    return seconds_at(endpoint, line, config.calls.concurrency, scenario)


@by_kind(EndpointConfig)
def seconds_at(endpoint: EndpointConfig, line: Line, concurrency: int, scenario: Scenario) -> float:
    """Seconds of the paid calls of one line at an endpoint of which nothing is known; ``concurrency`` an address."""
    raise NotImplementedError


@seconds_at.register
def _(endpoint: StandinEndpoint, line: Line, concurrency: int, scenario: Scenario) -> float:
    calls = line.work.paid
    return calls * (STANDIN_SECONDS * scenario.pace + endpoint.latency_ms / 1000 / _together(concurrency, calls))


@seconds_at.register
def _(endpoint: OpenAIEndpoint, line: Line, concurrency: int, scenario: Scenario) -> float:
    seconds = _seconds_of_model(line, concurrency * len(endpoint.base_urls), scenario)
    return max(seconds, _allowed_seconds(endpoint, line))


def _seconds_of_model(line: Line, concurrency: int, scenario: Scenario) -> float:
    one = (FIRST_TOKEN_SECONDS[line.asks] + line.completion_tokens / TOKENS_PER_SECOND[line.asks]) * scenario.pace
    return line.work.paid * one / _together(concurrency, line.work.paid)


def training_seconds(work: Work, evidence: Evidence, scenario: Scenario) -> float | None:
    """Seconds of one training; nothing where no earlier run shows how fast it is."""
    an_example = evidence.seconds.get("train")
    return None if an_example is None else work.examples * an_example * _narrowed(scenario.pace)


def _allowed_seconds(endpoint: OpenAIEndpoint, line: Line) -> float:
    """The least that the limits of the configuration allow."""
    tokens = line.prompt_tokens + line.completion_tokens
    limits = ((endpoint.requests_per_minute, 1.0), (endpoint.tokens_per_minute, tokens))
    minutes = [line.work.paid * size / limit / len(endpoint.base_urls) for limit, size in limits if limit is not None]
    return 60 * max(minutes, default=0.0)


def _together(concurrency: int, calls: float) -> float:
    return max(1.0, min(float(concurrency), calls))


def _narrowed(factor: float) -> float:
    return float(factor**KNOWN_POWER)
