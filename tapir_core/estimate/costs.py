"""What each piece of a run's work takes: tokens, money, and time."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from tapir_core.calls import Role
from tapir_core.calls.prices import Price, UnknownPrice, price_of
from tapir_core.config import EndpointConfig, ModelIdentity, OpenAIEndpoint, RunConfig, StandinEndpoint, by_kind
from tapir_core.estimate.assumptions import (
    BACKBONE_SHARE,
    FIRST_TOKEN_SECONDS,
    KNOWN_POWER,
    STANDIN_SECONDS,
    TOKENS_PER_SECOND,
    Scenario,
    priors_of,
)
from tapir_core.estimate.benchmarks import benchmark_work
from tapir_core.estimate.evidence import Evidence, KnownLength
from tapir_core.estimate.workload import Pool, Work, workload
from tapir_core.paths import BACKBONE
from tapir_core.stages import Asked, asked_in_roles

__all__ = [
    "Charger",
    "Line",
    "benchmark_chargers",
    "call_seconds",
    "chargers_of",
    "cost_lines",
    "seconds_at",
    "training_seconds",
]

_NO_MONEY = Price(0.0, 0.0, source="the student's answers cost time and no money")


@dataclass(frozen=True, slots=True)
class Charger:
    """A teacher or judge that is asked at an endpoint, and may charge for it."""

    asks: Asked
    name: str
    """In words: `teacher`, `judge`, of a panel `judge NAME`, `judge of BENCHMARK`."""
    field: str
    """Of the configuration."""
    endpoint: EndpointConfig
    voice: ModelIdentity
    price: Price | UnknownPrice
    """In the mode in which it is asked."""


def chargers_of(config: RunConfig) -> tuple[Charger, ...]:
    """The teacher, then every judge."""
    judges = config.judge.endpoints
    names = [f"judge {name}" for name in config.judge.names] if config.judge.panel else ["judge"]
    found = [_charger("teacher", "teacher", "teacher.endpoint", config.teacher.endpoint)]
    return (*found, *(_charger("judge", name, *item) for name, item in zip(names, judges.items(), strict=True)))


def benchmark_chargers(config: RunConfig, judge: Charger) -> dict[str, Charger]:
    """Judged benchmark of each round → who judges it: a judge of its own, or ``judge``, the first one of the run."""
    judged = config.evaluation.judged
    asked = {name: judged[name].judge for name in config.evaluation.each_round if name in judged}
    return {
        name: judge
        if own is None
        else _charger("judge", f"judge of {name}", f"evaluation.benchmarks.{name}.judge", own)
        for name, own in asked.items()
    }


def _charger(asks: Asked, name: str, field: str, endpoint: EndpointConfig) -> Charger:
    price = price_of(endpoint)
    if isinstance(price, Price):
        price = price.in_mode("batch" if endpoint.in_batches else "live")
    return Charger(asks, name, field, endpoint, endpoint.answers_as(asks), price)


@dataclass(frozen=True, slots=True)
class Line:
    """One piece of work of one who is asked, with the tokens of a call and the time of all its paid calls."""

    work: Work
    asks: Asked
    charger: Charger | None = None
    """Nothing for the student, and for training."""
    prompt_tokens: float = 0.0
    completion_tokens: float = 0.0
    seconds: float | None = None

    @property
    def price(self) -> Price | None:
        """Nothing where it is unknown, and for training."""
        if self.charger is None:
            return _NO_MONEY if self.asks == "student" else None
        return self.charger.price if isinstance(self.charger.price, Price) else None

    @property
    def usd(self) -> float:
        """Price of one call; 0 where it is unknown."""
        return self.price.usd(self.prompt_tokens, self.completion_tokens) if self.price is not None else 0.0


def cost_lines(
    config: RunConfig, pool: Pool, evidence: Evidence, scenario: Scenario, chargers: Sequence[Charger]
) -> list[Line]:
    """The whole run under one scenario; of ``chargers`` the first is the teacher, the others are all asked to judge."""
    teacher, *judges = chargers
    asked: dict[Asked, list[Charger | None]] = {"teacher": [teacher], "judge": [*judges], "student": [None]}
    longest = config.student.sampling.max_tokens
    shown: dict[Role, float] = {
        "teach": _length(config, evidence, scenario, "teach", teacher),
        "answer": _answer_length(evidence, scenario, teacher, None, longest),
    }
    lines, asks = [], asked_in_roles()
    for work in workload(config, pool, scenario, shown["answer"]):
        if work.role is None:
            lines.append(Line(work, "", seconds=training_seconds(work, evidence, scenario)))
            continue
        prompt = evidence.prompts.of(work.role, shown)
        for charger in asked[asks[work.role]]:
            if charger is None:
                completion = _answer_length(evidence, scenario, teacher, work.round, longest)
            else:
                completion = _length(config, evidence, scenario, work.role, charger)
            line = Line(work, asks[work.role], charger, prompt, completion)
            lines.append(replace(line, seconds=call_seconds(config, line, evidence, scenario)))
    return [*lines, *_benchmark_lines(config, evidence, scenario, chargers)]


def _benchmark_lines(
    config: RunConfig, evidence: Evidence, scenario: Scenario, chargers: Sequence[Charger]
) -> Iterator[Line]:
    """Answers to the benchmarks of each round, and the judgments on them."""
    teacher, judge, *_ = chargers
    judges = benchmark_chargers(config, judge)
    for work in benchmark_work(config, evidence.benchmarks, scenario):
        assert work.benchmark is not None
        size, settings = evidence.benchmarks[work.benchmark], config.evaluation.asked[work.benchmark]
        longest = settings.drawn(config.student.sampling).max_tokens
        answer = _answer_length(evidence, scenario, teacher, work.round, longest)
        if work.role == "answer":
            prompt = size.answer_prompt_tokens + size.earlier_answers * answer
            line = Line(work, "student", None, prompt, answer)
        else:
            judged = config.evaluation.judged[work.benchmark]
            charger, known = judges[work.benchmark], evidence.judgments.get(work.benchmark)
            reply = _tokens(known, priors_of(charger.endpoint).completion_tokens["benchmark"], scenario)
            prompt = size.judge_prompt_tokens + size.judged_answers * answer
            line = Line(work, "judge", charger, prompt, min(float(judged.sampling.max_tokens), reply))
        yield replace(line, seconds=call_seconds(config, line, evidence, scenario))


def _length(config: RunConfig, evidence: Evidence, scenario: Scenario, role: Role, charger: Charger) -> float:
    """Completion tokens of one reply, at most what the configuration allows."""
    most: dict[Role, int] = {
        "label": config.teacher.labelling.max_tokens,
        "teach": config.teacher.answering.max_tokens,
        "judge": config.judge.sampling.max_tokens,
        "expand": config.teacher.expanding.max_tokens,
        "refine": config.teacher.refining.max_tokens,
    }
    prior = priors_of(charger.endpoint).completion_tokens[role]
    assumed = prior + (evidence.prompts.instruction if role == "expand" else 0.0)
    return min(float(most[role]), _tokens(evidence.lengths.get((role, charger.voice)), assumed, scenario))


def _answer_length(
    evidence: Evidence, scenario: Scenario, teacher: Charger, number: int | None, max_tokens: int
) -> float:
    """Completion tokens of one answer of the student after round ``number``, at most ``max_tokens``."""
    if number == BACKBONE:
        return BACKBONE_SHARE * max_tokens
    # S_0 learns to answer as the teacher does, so the student's answers are as long as the teacher's.
    known = evidence.lengths.get(("teach", teacher.voice))
    return min(float(max_tokens), _tokens(known, priors_of(teacher.endpoint).completion_tokens["answer"], scenario))


def _tokens(known: KnownLength | None, assumed: float, scenario: Scenario) -> float:
    return known.tokens * scenario.length**KNOWN_POWER if known else assumed * scenario.length


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
