"""What each piece of a run's work takes: tokens, money, and time."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from tapir_core.calls import Role
from tapir_core.config import EndpointConfig, ModelIdentity, OpenAIEndpoint, RunConfig, StandinEndpoint, by_kind
from tapir_core.estimate.evidence import Evidence, KnownLength
from tapir_core.estimate.workload import Pool, Scenario, Work, priors_of, workload
from tapir_core.paths import BACKBONE
from tapir_core.prices import Price, UnknownPrice, price_of
from tapir_core.stages import Asked, asked_in_roles

_BACKBONE_SHARE = 0.75
"""Of the student's `max_tokens` that an untouched backbone uses on average: it has not learnt to stop."""

_KNOWN_POWER = 0.4
"""What the store or an earlier run shows is less open: its factor counts to this power."""

_STANDIN_SECONDS = 0.004
"""The stand-in's work for one reply; it works at one at a time."""

FIRST_TOKEN_SECONDS = {"teacher": 0.7, "judge": 0.7, "student": 0.5}
TOKENS_PER_SECOND = {"teacher": 60.0, "judge": 60.0, "student": 40.0}
"""Of one reply among as many as the configuration keeps in flight."""

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

    def assumed_tokens(self, role: Role) -> float:
        """Completion tokens of one of its replies, where the store has no history of it."""
        return priors_of(self.endpoint).completion_tokens[role]


def chargers_of(config: RunConfig) -> tuple[Charger, ...]:
    """The teacher, then every judge."""
    names = [f"judge {name}" for name in config.judge.names] if config.judge.panel else ["judge"]
    judges = zip(names, config.judge.endpoints.items(), strict=True)
    teacher = _charger("teacher", "teacher", "teacher.endpoint", config.teacher.endpoint)
    return (teacher, *(_charger("judge", name, *item) for name, item in judges))


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
    costs = _Costs(config, evidence, scenario, chargers)
    works = workload(config, pool, scenario, costs.answer_tokens(None), evidence.benchmarks)
    return [replace(line, seconds=costs.seconds(line)) for work in works for line in costs.lines(work)]


class _Costs:
    """Who is asked, the tokens and the time of a piece of work, under one scenario."""

    def __init__(self, config: RunConfig, evidence: Evidence, scenario: Scenario, chargers: Sequence[Charger]) -> None:
        self._config, self._evidence, self._scenario = config, evidence, scenario
        self._teacher, *judges = chargers
        self._asked: dict[Asked, list[Charger | None]] = {
            "teacher": [self._teacher],
            "judge": [*judges],
            "student": [None],
        }
        self._benchmark_judges = benchmark_chargers(config, judges[0])

    def lines(self, work: Work) -> Iterator[Line]:
        """A line for each who is asked, its seconds not counted yet."""
        if work.role is None:
            yield Line(work, "")
        elif work.benchmark is not None:
            yield self._benchmark_line(work, work.benchmark)
        else:
            asks = asked_in_roles()[work.role]
            shown: dict[Role, float] = {
                "teach": self._reply_tokens("teach", self._teacher),
                "answer": self.answer_tokens(None),
            }
            prompt = self._evidence.prompts.of(work.role, shown)
            for charger in self._asked[asks]:
                reply = self._reply_tokens(work.role, charger) if charger else self.answer_tokens(work.round)
                yield Line(work, asks, charger, prompt, reply)

    def answer_tokens(self, number: int | None, benchmark: str | None = None) -> float:
        """Completion tokens of one answer of the student after round ``number``."""
        sampling = self._config.student.sampling
        if benchmark is not None:
            sampling = self._config.evaluation.asked[benchmark].drawn(sampling)
        if number == BACKBONE:
            return _BACKBONE_SHARE * sampling.max_tokens
        # S_0 learns to answer as the teacher does, so the student's answers are as long as the teacher's.
        known = self._evidence.lengths.get(("teach", self._teacher.voice))
        return self._tokens(known, self._teacher.assumed_tokens("answer"), sampling.max_tokens)

    def seconds(self, line: Line) -> float | None:
        """Of its paid calls, as many at once as the configuration keeps in flight; of a training where it is known."""
        calls, endpoint = line.work.paid, line.charger.endpoint if line.charger else None
        if endpoint is not None and endpoint.in_batches:
            return self._scenario.batch_hours * 3600 if calls else 0.0
        known = self._evidence.seconds.get(line.work.stage)
        if known is not None:
            return (calls or line.work.examples) * known * float(self._scenario.pace**_KNOWN_POWER)
        if line.work.role is None:
            return None
        if endpoint is None:
            return _seconds_of_model(line, self._config.student.engine.concurrency, self._scenario)
        return _seconds_at(endpoint, line, self._config.calls.concurrency, self._scenario)

    def _benchmark_line(self, work: Work, name: str) -> Line:
        """Of the answers to a benchmark of each round, or of the judgments on them."""
        size, answer = self._evidence.benchmarks[name], self.answer_tokens(work.round, name)
        if work.role == "answer":
            return Line(work, "student", None, size.answer_prompt_tokens + size.earlier_answers * answer, answer)
        charger, longest = self._benchmark_judges[name], self._config.evaluation.judged[name].sampling.max_tokens
        reply = self._tokens(self._evidence.judgments.get(name), charger.assumed_tokens("benchmark"), longest)
        return Line(work, "judge", charger, size.judge_prompt_tokens + size.judged_answers * answer, reply)

    def _reply_tokens(self, role: Role, charger: Charger) -> float:
        """Completion tokens of one reply, at most what the configuration allows."""
        teacher = self._config.teacher
        sampling = {
            "label": teacher.labelling,
            "teach": teacher.answering,
            "judge": self._config.judge.sampling,
            "expand": teacher.expanding,
            "refine": teacher.refining,
        }[role]
        assumed = charger.assumed_tokens(role) + (self._evidence.prompts.instruction if role == "expand" else 0.0)
        return self._tokens(self._evidence.lengths.get((role, charger.voice)), assumed, sampling.max_tokens)

    def _tokens(self, known: KnownLength | None, assumed: float, longest: int) -> float:
        factor = self._scenario.length
        return min(float(longest), known.tokens * factor**_KNOWN_POWER if known else assumed * factor)


@by_kind(EndpointConfig)
def _seconds_at(endpoint: EndpointConfig, line: Line, concurrency: int, scenario: Scenario) -> float:
    """Seconds of the paid calls of one line at an endpoint of which nothing is known; ``concurrency`` an address."""
    raise NotImplementedError


@_seconds_at.register
def _(endpoint: StandinEndpoint, line: Line, concurrency: int, scenario: Scenario) -> float:
    calls = line.work.paid
    return calls * (_STANDIN_SECONDS * scenario.pace + endpoint.latency_ms / 1000 / _together(concurrency, calls))


@_seconds_at.register
def _(endpoint: OpenAIEndpoint, line: Line, concurrency: int, scenario: Scenario) -> float:
    """No less than the limits of the configuration allow."""
    calls, servers, tokens = line.work.paid, len(endpoint.base_urls), line.prompt_tokens + line.completion_tokens
    limits = ((endpoint.requests_per_minute, 1.0), (endpoint.tokens_per_minute, tokens))
    allowed = [60 * calls * size / limit / servers for limit, size in limits if limit is not None]
    return max([_seconds_of_model(line, concurrency * servers, scenario), *allowed])


def _seconds_of_model(line: Line, concurrency: int, scenario: Scenario) -> float:
    one = (FIRST_TOKEN_SECONDS[line.asks] + line.completion_tokens / TOKENS_PER_SECOND[line.asks]) * scenario.pace
    return line.work.paid * one / _together(concurrency, line.work.paid)


def _together(concurrency: int, calls: float) -> float:
    return max(1.0, min(float(concurrency), calls))
