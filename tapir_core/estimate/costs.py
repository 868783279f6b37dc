"""Who is asked for each piece of a run's work, and the tokens and the time that it takes.

A line is one piece of work with who is asked, the tokens of a call and the time of all of them; `CALLS`, `TOKENS` and
`HOURS` are the range around it.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from tapir_core import paths, prices
from tapir_core.calls import Role
from tapir_core.config import EndpointConfig, ModelIdentity, RunConfig, Sampling
from tapir_core.estimate import evidence
from tapir_core.estimate.workload import REPLY_TOKENS, Pool, Work, workload
from tapir_core.speeds import EndpointSpeed
from tapir_core.stages import asked_in_roles

Ends = tuple[float, float]
"""The range around a likely figure, as factors: low, high."""

CALLS: Ends = (0.6, 1.5)
"""Of calls whose number the models' answers decide; others are counted."""
TOKENS, KNOWN_TOKENS = (0.5, 2.0), (0.7, 1.4)
"""Of an assumed length of a reply; of one that the store knows, and of prompts."""
HOURS, KNOWN_HOURS, BATCH_HOURS = (0.3, 3.0), (0.5, 2.0), (0.1, 12.0)
"""Of a rough speed; of one that was measured; of the two hours that a batch takes: providers promise 24."""

_BATCH_SECONDS, START_SECONDS = 7200.0, 30.0
"""Of a batch; of a server's start, and of a training's."""

_OTHERS, _STUDENT, _STANDIN = EndpointSpeed(0.7, 1 / 60), EndpointSpeed(0.5, 1 / 40), EndpointSpeed(0.004, 0.0, 1.0)
"""Of one reply among as many as the configuration keeps in flight, where nobody measured."""
_OPERATIONS = {"CPU": 2e11, "GPU": 1e14}
"""Floating-point operations a second of a device; a token takes 2 a weight, and 6 in training."""

BACKBONE_SHARE = 0.75
"""Of the student's `max_tokens` that an untouched backbone uses on average: it has not learnt to stop."""

Asking = dict[tuple[Role, str], dict[str, EndpointConfig]]
"""Role, and of judgments the benchmark → who is asked, by the field of the configuration."""


def asked_by_role(config: RunConfig) -> Asking:
    """Teacher and judges, those of the benchmarks of each round included."""
    teacher = {"teacher.endpoint": config.teacher.endpoint}
    asked: Asking = {(role, ""): teacher for role, asks in asked_in_roles().items() if asks == "teacher"}
    asked["judge", ""] = config.judge.endpoints
    for name in config.evaluation.each_round:
        if judged := config.evaluation.judged.get(name):
            own, first = f"evaluation.benchmarks.{name}.judge", dict([*config.judge.endpoints.items()][:1])
            asked["benchmark", name] = {own: judged.judge} if judged.judge else first
    return asked


def identity_of(role: Role, endpoint: EndpointConfig) -> ModelIdentity:
    """Under which an endpoint's answers in a role are stored."""
    return endpoint.answers_as("judge" if role in ("judge", "benchmark") else "teacher")


def charged_price(endpoint: EndpointConfig) -> prices.Price | prices.UnknownPrice:
    """In the mode in which it is asked."""
    price = prices.price_of(endpoint)
    return price.in_mode("batch") if isinstance(price, prices.Price) and endpoint.in_batches else price


@dataclass(frozen=True, slots=True)
class Line:
    """One piece of work of one model, with the tokens of a call and the time of all its paid calls."""

    work: Work
    endpoint: EndpointConfig | None = None
    """None for the student, whose answers cost time and no money, and for training."""
    price: prices.Price | prices.UnknownPrice | None = None
    prompt_tokens: float = 0.0
    completion_tokens: float = 0.0
    longest: float = 0.0
    """Completion tokens that the configuration allows."""
    length: Ends = TOKENS
    seconds: float | None = None
    """None where they are unknown."""
    pace: Ends = HOURS

    @property
    def usd(self) -> float:
        """Price of one call; 0 where it is unknown."""
        return (
            self.price.usd(self.prompt_tokens, self.completion_tokens) if isinstance(self.price, prices.Price) else 0.0
        )

    def at(self, end: int) -> "Line":
        """It at an end of the range: 0 is low, 1 is high."""
        calls = CALLS[end] if self.work.is_open else 1.0
        return replace(
            self,
            work=replace(self.work, needed=self.work.needed * calls, paid=self.work.paid * calls),
            prompt_tokens=self.prompt_tokens * KNOWN_TOKENS[end],
            completion_tokens=min(self.longest, self.completion_tokens * self.length[end]),
            seconds=None if self.seconds is None else self.seconds * self.pace[end],
        )


class Costs:
    """Who is asked in a run, and the tokens and the time of each piece of its work."""

    def __init__(self, config: RunConfig, known: evidence.Evidence) -> None:
        self.config, self.known, self.asked = config, known, asked_by_role(config)
        self.teacher = config.teacher.endpoint
        self.endpoints = {field: endpoint for of in self.asked.values() for field, endpoint in of.items()}
        """Field of the configuration → who is asked there."""
        operations = _OPERATIONS["GPU" if known.gpus else "CPU"] * max(1, known.gpus)
        self.token_seconds = 2 * known.weights / operations if known.weights else 0.0
        """Of the student for a token that it reads or writes, when it is as busy as can be; 0 where it is unknown."""
        plain, *_ = self._reply(Work("", role="teach"), self.teacher)
        self.example_tokens = known.prompts["teach"].tokens + plain

    def lines(self, pool: Pool) -> Iterator[Line]:
        """The likely run: a line for each piece of work and each model that is asked."""
        for work in workload(self.config, pool, self.known.benchmarks):
            asked = self.asked.get((work.role, work.benchmark), {}) if work.role else {}
            for endpoint in asked.values() or [None]:
                line = self._line(work, endpoint)
                seconds, pace = self._seconds(line)
                yield replace(line, seconds=seconds, pace=pace)

    def _line(self, work: Work, endpoint: EndpointConfig | None) -> Line:
        if work.role is None:
            return Line(work)
        prompts = (self.known.benchmarks[work.benchmark] if work.benchmark else self.known.prompts)[work.role]
        shown = (
            count * self._reply(replace(work, role=role), self.teacher if role == "teach" else None)[0]
            for role, count in prompts.shows.items()
        )
        prompt = sum(shown, start=prompts.tokens)
        return Line(work, endpoint, charged_price(endpoint) if endpoint else None, prompt, *self._reply(work, endpoint))

    def _reply(self, work: Work, endpoint: EndpointConfig | None) -> tuple[float, float, Ends]:
        """Completion tokens of one reply, the most that the configuration allows, and the range of the first."""
        role, longest = work.role or "answer", float(self._sampling(work).max_tokens)
        if endpoint is None and work.round == paths.BACKBONE:
            return BACKBONE_SHARE * longest, longest, KNOWN_TOKENS
        # S_0 learns to answer as the teacher does, so the student's answers are as long as the teacher's.
        stored_as: Role = role if endpoint else "teach"
        key = stored_as, identity_of(stored_as, endpoint or self.teacher), work.benchmark if endpoint else ""
        if (stored := self.known.lengths.get(key)) is not None:
            return min(longest, stored), longest, KNOWN_TOKENS
        tokens = REPLY_TOKENS[(endpoint or self.teacher).is_standin][role]
        return min(longest, tokens + (self.known.instruction if role == "expand" else 0.0)), longest, TOKENS

    def _sampling(self, work: Work) -> Sampling:
        teacher, student, evaluation = self.config.teacher, self.config.student.sampling, self.config.evaluation
        if work.role == "benchmark":
            return evaluation.judged[work.benchmark].sampling
        if work.benchmark:
            return evaluation.asked[work.benchmark].drawn(student)
        sampling = {
            "label": teacher.labelling,
            "teach": teacher.answering,
            "judge": self.config.judge.sampling,
            "expand": teacher.expanding,
            "refine": teacher.refining,
            "score": Sampling(max_tokens=1),
        }
        return sampling.get(work.role or "", student)

    def speed_of(self, endpoint: EndpointConfig | None) -> tuple[EndpointSpeed, bool]:
        """Of one reply from an endpoint, or of the student, and whether it was measured."""
        measured = self.known.speeds.get(endpoint.place) if endpoint else None
        assumed = _STUDENT if endpoint is None else _STANDIN if endpoint.is_standin else _OTHERS
        return measured or assumed, measured is not None

    def _seconds(self, line: Line) -> tuple[float | None, Ends]:
        """Of paid calls or of a training, with the starts, and their range; None where they are unknown."""
        work, starts = line.work, START_SECONDS * line.work.starts
        if line.endpoint and line.endpoint.in_batches:
            return _BATCH_SECONDS if work.paid else 0.0, BATCH_HOURS
        if (measured := self.known.seconds.get(work.stage)) is not None:
            return (work.paid or work.examples) * measured, KNOWN_HOURS
        if work.role is None:
            training = 3 * work.examples * self.example_tokens * self.token_seconds
            return training + starts if self.token_seconds else None, HOURS
        speed, is_measured = self.speed_of(line.endpoint)
        return starts + self._asked_seconds(line, speed), KNOWN_HOURS if is_measured else HOURS

    def _asked_seconds(self, line: Line, speed: EndpointSpeed) -> float:
        """As many calls at once as the configuration keeps in flight and the server works at."""
        calls, tokens = line.work.paid, line.prompt_tokens + line.completion_tokens
        endpoint, student = line.endpoint, self.config.student.engine
        servers = max(1, len(endpoint.base_urls)) if endpoint else 1
        at_once = max(1.0, min((self.config.calls.concurrency if endpoint else student.concurrency) * servers, calls))
        each_takes = {"requests_per_minute": 1.0, "tokens_per_minute": tokens}
        is_ours = endpoint is None and student.served_by != "others"
        slowest: list[float] = [
            *(
                60 * calls * each / limit / servers
                for name, each in each_takes.items()
                if (limit := getattr(endpoint, name, None))
            ),
            calls * getattr(endpoint, "latency_ms", 0) / 1000 / at_once,
            calls * tokens * self.token_seconds if is_ours else 0.0,
        ]
        return max(calls * speed.seconds(line.completion_tokens) / min(at_once, speed.at_once or at_once), *slowest)
