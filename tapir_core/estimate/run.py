"""The estimate of one run: from its configuration, a sample of its pool, the store and earlier runs. Asks nobody.

A line is one piece of the run's likely work with who is asked, the tokens of a call and the time of all of them. The
lines are summed by stage and in all; `CALLS`, `TOKENS` and `HOURS` are the range around them. What the figures
rest on stands in `_assumptions`, a sentence for each thing that could turn out otherwise.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple, dataclass, replace

from pydantic import TypeAdapter, ValidationError

from tapir_core import errors, paths, prices, randomness, sources
from tapir_core.calls import Role, store_url
from tapir_core.config import EndpointConfig, ModelIdentity, RunConfig, Sampling
from tapir_core.config.checks import check_config, may_have_baseline
from tapir_core.curriculum.sizes import priors_of
from tapir_core.estimate import evidence
from tapir_core.estimate.workload import REPLY_TOKENS, Pool, Work, is_repeated, workload
from tapir_core.prompts import PROMPT_NAMES, load_prompt
from tapir_core.run_folder import RunFolder
from tapir_core.speeds import EndpointSpeed, known_speeds
from tapir_core.stages import BENCHMARK, EVALUATION, TEACH, asked_in_roles, lines

SAMPLE = 200
"""Instructions that are put into the real prompts."""

Ends = tuple[float, float]
"""The range around a likely figure, as factors: low, high."""

CALLS: Ends = (0.6, 1.5)
"""Of calls whose number the models' answers decide; others are counted."""
TOKENS, KNOWN_TOKENS = (0.5, 2.0), (0.7, 1.4)
"""Of an assumed length of a reply; of one that the store knows, and of prompts."""
HOURS, KNOWN_HOURS, BATCH_HOURS = (0.3, 3.0), (0.5, 2.0), (0.1, 12.0)
"""Of a rough speed; of one that was measured; of the two hours that a batch takes: providers promise 24."""

_BATCH_SECONDS, _START_SECONDS = 7200.0, 30.0
"""Of a batch; of a server's start, and of a training's."""

_OTHERS, _STUDENT, _STANDIN = EndpointSpeed(0.7, 1 / 60), EndpointSpeed(0.5, 1 / 40), EndpointSpeed(0.004, 0.0, 1.0)
"""Of one reply among as many as the configuration keeps in flight, where nobody measured."""
_OPERATIONS = {"CPU": 2e11, "GPU": 1e14}
"""Floating-point operations a second of a device; a token takes 2 a weight, and 6 in training."""

_BACKBONE_SHARE = 0.75
"""Of the student's `max_tokens` that an untouched backbone uses on average: it has not learnt to stop."""

_CHEAP = 0.1
"""Share of the whole under which a run has a baseline without being told."""


@dataclass(frozen=True, slots=True)
class Span:
    """A likely figure and its range."""

    low: float
    likely: float
    high: float


@dataclass(frozen=True, slots=True)
class Load:
    """Answers, and what they cost."""

    calls: Span
    prompt_tokens: Span
    completion_tokens: Span
    usd: Span | None
    """None where a price is unknown."""


@dataclass(frozen=True, slots=True)
class Figures:
    """One stage, or the whole run."""

    name: str
    asks: str
    """teacher, judge or student; empty for what asks nobody, or several."""
    needed: Load
    """Every answer that it needs, wherever it comes from."""
    paid: Load
    """The answers that the run still has to ask for."""
    hours: Span | None
    """Of the paid calls, of trainings and of starts; None where all of them are unknown."""
    steps: Span | None = None
    """Optimizer steps, of training."""


@dataclass(frozen=True, slots=True)
class PlainAnswers:
    """What else the money buys: more plain answers of the same teacher, to fine-tune on without a curriculum."""

    usd: Span
    """What the curriculum asks for: verdicts on the pools of the rounds, expansion, refinement."""
    answers: Span
    """As many plain answers cost the same."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a run will take, as far as it can be known before it starts."""

    run: str
    stages: tuple[Figures, ...]
    """In the order of the method, with the names that reports use."""
    charged: Figures
    """Of teacher and judge together: what money can be asked for."""
    total: Figures
    """Of teacher, judge, student and training."""
    unknown_prices: tuple[str, ...]
    """Who has no price, why, and what to set."""
    assumptions: tuple[str, ...]
    """In plain words, for the reader of the table."""
    baseline: Figures | None = None
    """What the baselines take, each: all rounds' trainings once more, and the scoring of one more student."""
    with_baseline: bool = False
    """Whether the run has one; then it is in the totals."""
    pool_rows: int = 0
    instead: PlainAnswers | None = None
    """None where the curriculum costs nothing, or a price is unknown."""
    notes: tuple[str, ...] = ()
    """Of the pool: what its reading left out, and whether much of it holds evaluation questions."""


_JSON = TypeAdapter(Estimate)


def estimate_json(estimate: Estimate) -> str:
    """The estimate as JSON, for other programs and for the run folder."""
    return _JSON.dump_json(estimate, indent=1).decode() + "\n"


def load_estimate(content: bytes | str) -> Estimate:
    """Read what `estimate_json` wrote.

    Raises:
        ConfigError: it is no estimate.
    """
    try:
        return _JSON.validate_json(content)
    except ValidationError as exc:
        raise errors.ConfigError(f"{paths.ESTIMATE} cannot be read ({exc.error_count()} problems); remove it") from exc


def kept_estimate(run: RunFolder) -> Estimate | None:
    """The estimate that the run's folder keeps; None where it keeps none.

    Raises:
        ConfigError: it is damaged.
    """
    return load_estimate(run.storage.read_bytes(paths.ESTIMATE)) if run.storage.exists(paths.ESTIMATE) else None


def kept_hours(run: RunFolder) -> dict[str, float]:
    """Stage → likely hours of all of it, as far as the run's kept estimate knows them."""
    kept, known = kept_estimate(run), lines()
    return {known[each.name].name: each.hours.likely for each in kept.stages if each.hours} if kept else {}


def estimate_run(config: RunConfig, *, source: str, sample: int = SAMPLE, gpus: int = 0) -> Estimate:
    """What the run will take.

    Args:
        config: the run.
        source: names the configuration in errors.
        sample: instructions that are put into the real prompts.
        gpus: those of this machine; trainings on workers have GPUs in any case.

    Raises:
        ConfigError: the configuration is wrong, or a file of the pool or of a benchmark is missing or wrong.
    """
    if problems := check_config(config):
        raise errors.ConfigError(problems, source=source)
    config, sized = sources.settle_sizes(config)
    prompts, url = {name: load_prompt(name, config.run.prompts) for name in PROMPT_NAMES}, store_url(config)
    rows, pool = evidence.read_pool(config, prompts["label"], url)
    sampled = randomness.derive_rng(config.run.seed, "estimate").sample(rows, min(sample, len(rows)))
    versions = {name: [prompts[each].version for each in of.prompts] for name, of in config.evaluation.judged.items()}
    asked = [
        (role, identity_of(role, endpoint), name)
        for (role, name), of in asked_by_role(config).items()
        for endpoint in of.values()
    ]
    training = config.training
    known = evidence.Evidence(
        prompts=evidence.measure_prompts(config, prompts, sampled, pool.natural_shares),
        instruction=evidence.mean_tokens(each["instruction"] for each in sampled),
        sampled=len(sampled),
        lengths=evidence.stored_lengths(url, {each: versions.get(each[-1], []) for each in asked}),
        benchmarks=evidence.measure_benchmarks(config, prompts),
        seconds=evidence.past_seconds(config),
        speeds=known_speeds(config.run.root),
        weights=evidence.weights_of(config.student.backbone),
        gpus=gpus if training.runs_on == "driver" else training.nodes * (training.processes or 1),
    )
    estimate = forecast(config, pool, known)
    return replace(estimate, assumptions=(*sized, *estimate.assumptions))


def save_estimate(run: RunFolder, gpus: int = 0) -> tuple[str, ...]:
    """Keep the estimate in the run's folder, for the report; the first one stays. Gives its notes."""
    if run.storage.exists(paths.ESTIMATE):
        return ()
    estimate = estimate_run(run.kept_config, source=run.ref.name, gpus=gpus)
    run.storage.write_bytes(paths.ESTIMATE, estimate_json(estimate).encode())
    return estimate.notes


def forecast(config: RunConfig, pool: Pool, known: evidence.Evidence) -> Estimate:
    """What the run will take.

    Args:
        config: the run.
        pool: what is known of its pool.
        known: what was measured on a sample and on benchmarks, or stands in the store and in earlier runs.
    """
    costs = _Costs(config, known)
    planned = list(costs.lines(pool))
    beside = [line for line in planned if is_repeated(config, line.work)] * len(config.baselines)
    with_baseline = _has_baseline(config, known, planned, beside)
    whole = [*planned, *(beside if with_baseline else ())]
    stages = [
        _figures(name, of.asks, [line for line in planned if line.work.stage == name])
        for name, of in lines().items()
        if of.asks or of.trains
    ]
    return Estimate(
        run=config.run.name,
        stages=tuple(each for each in stages if each.needed.calls.high or each.steps is not None),
        charged=_figures("teacher and judge", "", [line for line in whole if line.endpoint]),
        total=_figures("all", "", whole),
        unknown_prices=tuple(
            f"{field}: {price.reason}; {price.remedy}"
            for field, endpoint in costs.endpoints.items()
            if isinstance(price := _price_of(endpoint), prices.UnknownPrice)
        ),
        assumptions=_assumptions(costs, pool, planned, has_baseline=with_baseline),
        baseline=_figures("baseline", "", beside),
        with_baseline=with_baseline,
        pool_rows=pool.rows,
        instead=_instead(planned),
        notes=pool.notes,
    )


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


def _price_of(endpoint: EndpointConfig) -> prices.Price | prices.UnknownPrice:
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


class _Costs:
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
        prompt = prompts.tokens
        for role, count in prompts.shows.items():
            tokens, *_ = self._reply(replace(work, role=role), self.teacher if role == "teach" else None)
            prompt += count * tokens
        price = _price_of(endpoint) if endpoint else None
        return Line(work, endpoint, price, prompt, *self._reply(work, endpoint))

    def _reply(self, work: Work, endpoint: EndpointConfig | None) -> tuple[float, float, Ends]:
        """Completion tokens of one reply, the most that the configuration allows, and the range of the first."""
        role, longest = work.role or "answer", float(self._sampling(work).max_tokens)
        if endpoint is None and work.round == paths.BACKBONE:
            return _BACKBONE_SHARE * longest, longest, KNOWN_TOKENS
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
        work, starts = line.work, _START_SECONDS * line.work.starts
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
        in_flight = (self.config.calls.concurrency if endpoint else student.concurrency) * servers
        at_once = max(1.0, min(in_flight, calls))
        each_takes = {"requests_per_minute": 1.0, "tokens_per_minute": tokens}
        slowest: list[float] = [
            60 * calls * each / limit / servers
            for name, each in each_takes.items()
            if (limit := getattr(endpoint, name, None))
        ]
        slowest.append(calls * getattr(endpoint, "latency_ms", 0) / 1000 / at_once)
        if endpoint is None and student.served_by != "others":
            slowest.append(calls * tokens * self.token_seconds)
        return max(calls * speed.seconds(line.completion_tokens) / min(at_once, speed.at_once or at_once), *slowest)


def _has_baseline(config: RunConfig, known: evidence.Evidence, planned: Sequence[Line], beside: Sequence[Line]) -> bool:
    """As configured, else whether it costs under a tenth of the whole in USD, and in hours that earlier runs tell."""
    asked = config.evaluation.baseline
    if asked is not None or config.data.heldout is None or not may_have_baseline(config):
        return asked == "sft"
    more, whole = (_figures("", "", lines_of) for lines_of in (beside, planned))
    costs = [(more.hours, whole.hours), (more.needed.usd, whole.needed.usd)]
    is_cheap = all(part.likely < _CHEAP * of.likely for part, of in costs if part and of and of.likely)
    return is_cheap and "train" in known.seconds


def _instead(planned: Sequence[Line]) -> PlainAnswers | None:
    scoring = lines(EVALUATION, BENCHMARK)
    of_rounds = [line for line in planned if line.work.round is not None and line.work.stage not in scoring]
    usd = _figures("", "", of_rounds).paid.usd
    plain = next((line.usd for line in planned if line.work.stage == TEACH.line), 0.0)
    return PlainAnswers(usd, Span(*(end / plain for end in astuple(usd)))) if usd and usd.likely and plain else None


def _figures(name: str, asks: str, planned: Sequence[Line]) -> Figures:
    """The sums of some lines."""
    runs = ([line.at(0) for line in planned], planned, [line.at(1) for line in planned])
    is_timed = any(line.seconds is not None for line in planned)
    return Figures(
        name,
        asks,
        needed=_load(runs, lambda line: line.work.needed),
        paid=_load(runs, lambda line: line.work.paid),
        hours=_span(runs, lambda line: (line.seconds or 0.0) / 3600) if is_timed else None,
        steps=_span(runs, lambda line: line.work.steps) if any(line.work.steps for line in planned) else None,
    )


def _load(runs: Sequence[Sequence[Line]], calls: Callable[[Line], float]) -> Load:
    unknown = any(isinstance(line.price, prices.UnknownPrice) for line in runs[1] if calls(line))
    return Load(
        _span(runs, calls),
        _span(runs, lambda line: calls(line) * line.prompt_tokens),
        _span(runs, lambda line: calls(line) * line.completion_tokens),
        None if unknown else _span(runs, lambda line: calls(line) * line.usd),
    )


def _span(runs: Sequence[Sequence[Line]], value: Callable[[Line], float]) -> Span:
    """The sum over some lines at their low ends, as they are, and at their high ends."""
    return Span(*(float(sum(map(value, run))) for run in runs))


def _assumptions(costs: _Costs, pool: Pool, planned: Sequence[Line], *, has_baseline: bool) -> tuple[str, ...]:
    """What the figures rest on, a sentence or two for each thing that could turn out otherwise."""
    config, known, priors = costs.config, costs.known, priors_of(costs.teacher)
    evaluation, curriculum, verifier = config.evaluation, config.curriculum, config.judge.verifies("judge")
    unjudged = [str(number) for number in config.round_numbers if not config.judges(number)]
    pairs = [str(number) for number in config.round_numbers if config.objective(number).reads_answers]
    by_threshold = any(config.round(number).selection.fixed_share is None for number in config.round_numbers)
    marked = [name for name in evaluation.each_round if name in evaluation.marked]
    later = [name for name in evaluation.asked if name not in evaluation.each_round]
    replies = {
        f"{line.work.benchmark or line.work.role} {line.completion_tokens:.0f}"
        + " (stored)" * (line.length == KNOWN_TOKENS): True
        for line in planned
        if line.endpoint
    }
    sentences: dict[str, object] = {
        f"Range: calls that the models' answers decide {_factors(CALLS)}; tokens {_factors(TOKENS)}, of prompts and "
        f"known replies {_factors(KNOWN_TOKENS)}; hours {_factors(HOURS)}, measured {_factors(KNOWN_HOURS)}.": True,
        f"{known.sampled:,} of {pool.rows:,} instructions were put into the real prompts; tokens are counted by "
        "characters, which is right within about 20 % for English and code.": True,
        f"Tokens of a reply: {', '.join(replies)}. The student answers as long as the teacher, the backbone "
        f"{_BACKBONE_SHARE:.0%} of the longest answer.": True,
        f"The store holds {pool.stored_labels:,} of the labels and {pool.stored_answers:,} of the plain answers. "
        "What it holds for later stages is not known.": True,
        f"{pool.own_answers:,} instructions bring their plain answer, which is not asked for.": pool.own_answers,
        f"{priors.usable:.0%} of the teacher's answers are usable.": True,
        f"{priors.hard:.0%} of the scored instructions lie above δ; fewer mean more expansions.": by_threshold,
        "The share of seeds is the configured one.": not by_threshold,
        f"No student is asked about the pool and nothing is judged in round {', '.join(unjudged)}.": unjudged,
        f"{priors.easy:.0%} of the scored instructions that are no seeds may be in an easy part: the teacher's answer "
        f"is worth {curriculum.teacher_floor:g} of 10 or more, and the student's is no better.": (
            len(unjudged) < config.run.rounds
        ),
        f"The verifier {verifier and verifier.function} scores the {pool.references:,} instructions with a reference "
        "in the judge's place, and no new ones.": verifier,
        f"Expansion: {priors.passing:.0%} of new instructions pass the gates. The pool's task types are "
        f"{'known' if pool.natural_shares else 'not known, and taken to be those of the mixtures'}.": (
            curriculum.expansion.max_waves
        ),
        f"Every seed of round {', '.join(pairs)} counts as a pair to learn from; some make none.": pairs,
        f"All {config.run.rounds} rounds are counted; a stop rule may end sooner.": config.run.rounds > 1,
        "A baseline follows (evaluation.baseline) and counts in the totals: the steps of all rounds once more, and "
        "one more student to be scored.": has_baseline,
        "The average of the rounds' students (student.average) is one more student to be scored, and one more "
        f"checkpoint on the disk{f', of {2 * known.weights / 1e9:.1f} GB in bf16' if known.weights else ''}.": (
            config.student.average
        ),
        "Benchmarks are asked of backbone, S_0 and the student of every round.": known.benchmarks,
        f"{', '.join(marked)}: marked without a call; the prompts count as the questions.": marked,
        f"Not counted: {', '.join(later)}; `tapir evaluate --benchmark` asks what is not of each round.": later,
        **_of_small_rounds(planned),
        **_of_hours(costs, planned),
        **{
            f"Price of {field}: {price.source}.": True
            for field, endpoint in costs.endpoints.items()
            if isinstance(price := _price_of(endpoint), prices.Price)
        },
    }
    return tuple(sentence for sentence, holds in sentences.items() if holds)


def _of_small_rounds(planned: Sequence[Line]) -> dict[str, object]:
    sizes = {line.work.round: line.work.size for line in planned if line.work.size}
    return {
        f"Round {number} takes about {size.examples:,} examples and not the {size.asked:,} that are asked for: some "
        f"{size.easy:,} instructions are easy, which reaches no further at α = {size.hard / size.examples:.2f}.": True
        for number, size in sizes.items()
        if 0 < size.examples < size.asked
    }


def _of_hours(costs: _Costs, planned: Sequence[Line]) -> dict[str, object]:
    known, rate = costs.known, 1 / (3 * costs.token_seconds) if costs.token_seconds else 0.0
    asked: dict[str, EndpointConfig | None] = {**costs.endpoints, "student": None}
    speeds = ((field, *costs.speed_of(endpoint)) for field, endpoint in asked.items())
    words = (f"{field} {speed.in_words}{' (measured)' * measured}" for field, speed, measured in speeds)
    starts = sum(line.work.starts for line in planned if line.work.stage not in known.seconds)
    return {
        f"Hours of {', '.join(sorted(known.seconds))} are those of earlier runs in this root.": known.seconds,
        f"Other hours: {'; '.join(words)}; with the configured requests in flight. Stages that overlap (label and "
        "teach, answer and judge) and judges of a panel count in full. `tapir doctor CONFIG --try` measures.": True,
        f"A student of {(known.weights or 0) / 1e9:.2g} billion weights trains on about {rate:,.0f} tokens a second "
        f"with {f'{known.gpus} GPUs' if known.gpus else 'a CPU'}, and answers on at most three times as many.": rate,
        f"Hours of training are unknown and not in the total: {costs.config.student.backbone!r} does not say how many "
        "weights it has, and no earlier run in this root trained it.": not rate and "train" not in known.seconds,
        f"{starts} starts of servers and trainings take {_START_SECONDS:g} s each.": starts,
    }


def _factors(ends: Ends) -> str:
    return "× {:g} to {:g}".format(*ends)
