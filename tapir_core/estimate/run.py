"""The estimate of one run: from its configuration, a sample of its pool, the store and earlier runs. Asks nobody.

A line is one piece of the run's work with who is asked, the tokens of a call and the time of all of them. The lines of
every scenario are summed by stage, by role and in all. What they rest on is said in words: there is a paragraph of
assumptions.txt.jinja2 for each thing that could turn out otherwise.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from tapir_core import paths, prices, randomness, sentences
from tapir_core.calls import Role, store_url
from tapir_core.config import (
    EndpointConfig,
    ModelIdentity,
    RunConfig,
    Sampling,
    StandinEndpoint,
)
from tapir_core.config.checks import check_config, may_have_baseline
from tapir_core.curriculum import RoundSize
from tapir_core.errors import ConfigError
from tapir_core.estimate import evidence
from tapir_core.estimate.sizes import settle_sizes
from tapir_core.estimate.workload import Pool, Scenario, Work, is_repeated, priors_of, scenarios, workload
from tapir_core.prompts import PROMPT_NAMES, load_prompt
from tapir_core.run_folder import RunFolder
from tapir_core.speeds import known_speeds
from tapir_core.stages import EXPAND, TEACH, Asked, asked_in_roles, lines, lines_of_evaluation
from tapir_core.summary.formats import student_name

SAMPLE = 200
"""Instructions that are put into the real prompts."""

_BACKBONE_SHARE = 0.75
"""Of the student's `max_tokens` that an untouched backbone uses on average: it has not learnt to stop."""

_KNOWN_POWER = 0.4
"""What the store or an earlier run shows is less open: its factor counts to this power."""

_STANDIN_SECONDS = 0.004
"""The stand-in's work for one reply; it works at one at a time."""

_CHEAP = 0.1
"""Share of the whole under which a run has a baseline without being told."""

FIRST_TOKEN_SECONDS = {"teacher": 0.7, "judge": 0.7, "student": 0.5}
TOKENS_PER_SECOND = {"teacher": 60.0, "judge": 60.0, "student": 40.0}
"""Of one reply among as many as the configuration keeps in flight."""


@dataclass(frozen=True, slots=True)
class Span:
    """A figure that is not known yet: at least ``low``, at most ``high``, as far as the assumptions hold."""

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
    """Nothing where a price is unknown."""


@dataclass(frozen=True, slots=True)
class Figures:
    """One stage, one role, or the whole run."""

    name: str
    asks: str
    """teacher, judge or student; empty for what asks nobody, or several."""
    needed: Load
    """Every answer that it needs, wherever it comes from."""
    paid: Load
    """The answers that neither the store nor an equal request before gives: what the run still has to ask for."""
    hours: Span | None
    """Of the paid calls; nothing where it is unknown."""
    steps: Span | None = None
    """Optimizer steps, of training."""


@dataclass(frozen=True, slots=True)
class BenchmarkFigures:
    """One benchmark of each round, by student: backbone, S_0 and so on, and last `all` of them together."""

    name: str
    judge: str
    """Model that judges it, or what marks its answers and asks nobody."""
    questions: int
    answers: tuple[Figures, ...]
    """What the student is asked, every turn counted."""
    judgments: tuple[Figures, ...]
    """What the judge is asked, in the same order."""


@dataclass(frozen=True, slots=True)
class PlainAnswers:
    """What else the money buys: more plain answers of the same teacher, to fine-tune on without a curriculum."""

    usd: Span
    """What the curriculum asks for: verdicts on the pools of the rounds, expansion, refinement."""
    answers: Span
    """As many plain answers cost the same."""
    prompt_usd: Span | None = None
    """What a new instruction costs beyond its plain answer: a prompt of your own that costs less is the better buy.
    Nothing where no new ones are likely."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a run will take, as far as it can be known before it starts."""

    run: str
    stages: tuple[Figures, ...]
    """In the order of the method, with the names that reports use."""
    roles: tuple[Figures, ...]
    """By what calls are for, as the store counts them."""
    charged: Figures
    """Of teacher and judge together: what money can be asked for."""
    total: Figures
    """Of teacher, judge and student; hours of training are in it where they are known."""
    unknown_prices: tuple[str, ...]
    """Who has no price, why, and what to set."""
    assumptions: tuple[str, ...]
    """In plain words, for the reader of the table."""
    benchmarks: tuple[BenchmarkFigures, ...] = ()
    """Those of each round; they are in stages, roles and totals."""
    baseline: Figures | None = None
    """What a baseline takes: all rounds' trainings once more, and the scoring of one more student."""
    with_baseline: bool = False
    """Whether the run has one; then it is in the totals."""
    pool_rows: int = 0
    instead: PlainAnswers | None = None
    """Nothing where the curriculum costs nothing, or a price is unknown."""
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
        raise ConfigError(f"{paths.ESTIMATE} cannot be read ({exc.error_count()} problems); remove it") from exc


def estimate_run(config: RunConfig, *, source: str, sample: int = SAMPLE) -> Estimate:
    """What the run will take; ``source`` names the configuration in errors.

    Raises:
        ConfigError: the configuration is wrong, or a file of the pool or of a benchmark is not there or wrong.
    """
    if problems := check_config(config):
        raise ConfigError(problems, source=source)
    config, sized = settle_sizes(config)
    prompts, url = {name: load_prompt(name, config.run.prompts) for name in PROMPT_NAMES}, store_url(config)
    rows, pool = evidence.read_pool(config, prompts["label"], url)
    sampled = randomness.derive_rng(config.run.seed, "estimate").sample(rows, min(sample, len(rows)))
    versions = {name: [prompts[each].version for each in of.prompts] for name, of in config.evaluation.judged.items()}
    asked = [(role, each.identity, name) for (role, name), models in asked_by_role(config).items() for each in models]
    found = evidence.Evidence(
        prompts=evidence.measure_prompts(config, prompts, sampled, pool.natural_shares),
        instruction=evidence.mean_tokens(each["instruction"] for each in sampled),
        sampled=len(sampled),
        lengths=evidence.stored_lengths(url, {each: versions.get(each[-1], []) for each in asked}),
        benchmarks=evidence.measure_benchmarks(config, prompts),
        seconds=evidence.past_seconds(config),
        speeds=known_speeds(config.run.root),
        verified=evidence.past_verified(config),
    )
    found_out = forecast(config, pool, found)
    return replace(found_out, assumptions=(*sized, *found_out.assumptions))


def save_estimate(run: RunFolder) -> tuple[str, ...]:
    """Keep in the run's folder what is expected of it, for the report; what was expected first stays. Its notes."""
    if run.storage.exists(paths.ESTIMATE):
        return ()
    estimate = estimate_run(run.kept_config, source=run.ref.name)
    run.storage.write_bytes(paths.ESTIMATE, estimate_json(estimate).encode())
    return estimate.notes


def forecast(config: RunConfig, pool: Pool, found: evidence.Evidence) -> Estimate:
    """What the run will take.

    Args:
        config: the run.
        pool: what is known of its pool.
        found: what was measured on a sample and on benchmarks, or found in the store.
    """
    costs = _Costs(config, found)
    known = _likely_verified(pool, found)
    runs = [list(costs.lines(pool, each)) for each in scenarios(priors_of(config.teacher.endpoint), known)]
    beside = [[line for line in lines if is_repeated(config, line.work)] for lines in runs]
    with_baseline = _has_baseline(config, runs, beside)
    whole = [[*lines, *more] for lines, more in zip(runs, beside, strict=True)] if with_baseline else runs
    stages = [_figures(name, asks, _chosen(runs, "stage", name)) for name, asks in _stages().items()]
    roles = [_figures(role, asks, _chosen(runs, "role", role)) for role, asks in asked_in_roles().items()]
    models = dict.fromkeys(each for models in costs.asked.values() for each in models)
    return Estimate(
        run=config.run.name,
        stages=tuple(each for each in stages if each.needed.calls.high or each.steps is not None),
        roles=tuple(each for each in roles if each.needed.calls.high),
        charged=_charged(whole),
        total=_figures("all", "", whole),
        unknown_prices=tuple(
            f"{each.field}: {each.price.reason}; {each.price.remedy}"
            for each in models
            if isinstance(each.price, prices.UnknownPrice)
        ),
        assumptions=_in_words(pool, costs, _reduced(runs), has_baseline=with_baseline),
        benchmarks=tuple(_benchmark(costs, runs, name) for name in found.benchmarks),
        baseline=_figures("baseline", "", beside),
        with_baseline=with_baseline,
        pool_rows=pool.rows,
        instead=_instead(runs),
        notes=pool.notes,
    )


def _likely_verified(pool: Pool, found: evidence.Evidence) -> Scenario:
    """What a verifier scores: as in earlier runs, else what has a reference, which new instructions have not."""
    return {"verified_share": pool.references / max(1, pool.rows), "verified_new_share": 0.0, **found.verified}


@dataclass(frozen=True, slots=True)
class PricedModel:
    """A teacher or judge that is asked at an endpoint, and may charge for it."""

    asks: Asked
    name: str
    """In words: `teacher`, `judge`, of a panel `judge NAME`, `judge of BENCHMARK`."""
    field: str
    """Of the configuration."""
    endpoint: EndpointConfig
    identity: ModelIdentity
    price: prices.Price | prices.UnknownPrice
    """In the mode in which it is asked."""


def asked_by_role(config: RunConfig) -> dict[tuple[Role, str], list[PricedModel]]:
    """Role, and of judgments the benchmark of each round → who is asked: first the teacher, then the judges."""
    teacher = _priced("teacher", "teacher", "teacher.endpoint", config.teacher.endpoint)
    names = [f"judge {name}" for name in config.judge.names] if config.judge.panel else ["judge"]
    # Without a judge's endpoint, a verifier scores alone.
    judges = [_priced("judge", name, *of) for name, of in zip(names, config.judge.endpoints.items(), strict=False)]
    asked = {(role, ""): [teacher] for role, asks in asked_in_roles().items() if asks == "teacher"}
    asked["judge", ""] = judges
    for name in config.evaluation.each_round:
        if judged := config.evaluation.judged.get(name):
            field = f"evaluation.benchmarks.{name}.judge"
            own = _priced("judge", f"judge of {name}", field, judged.judge) if judged.judge else judges[0]
            asked["benchmark", name] = [own]
    return asked


def _priced(asks: Asked, name: str, field: str, endpoint: EndpointConfig) -> PricedModel:
    price = prices.price_of(endpoint)
    if isinstance(price, prices.Price):
        price = price.in_mode("batch" if endpoint.in_batches else "live")
    return PricedModel(asks, name, field, endpoint, endpoint.answers_as(asks), price)


@dataclass(frozen=True, slots=True)
class Line:
    """One piece of work of one who is asked, with the tokens of a call and the time of all its paid calls."""

    work: Work
    model: PricedModel | None = None
    """Nothing for the student, whose answers cost time and no money, and for training."""
    prompt_tokens: float = 0.0
    completion_tokens: float = 0.0
    seconds: float | None = None

    @property
    def usd(self) -> float:
        """Price of one call; 0 where it is unknown."""
        price = self.model.price if self.model else None
        return price.usd(self.prompt_tokens, self.completion_tokens) if isinstance(price, prices.Price) else 0.0


class _Costs:
    """Who is asked in a run, and the tokens and the time of each piece of its work."""

    def __init__(self, config: RunConfig, found: evidence.Evidence) -> None:
        self.config, self.found, self.asked = config, found, asked_by_role(config)
        self.teacher = self.asked["teach", ""][0]

    def lines(self, pool: Pool, scenario: Scenario) -> Iterator[Line]:
        """The whole run under one scenario: a line for each piece of work and each who is asked."""
        length = scenario["length"]
        answer = self._reply_tokens("answer", Work("answer", "answer"), None, length)
        for work in workload(self.config, pool, scenario, answer, self.found.benchmarks):
            for line in self._asked_lines(work.role, work, length) if work.role else [Line(work)]:
                yield replace(line, seconds=self._seconds(line, scenario))

    def _asked_lines(self, role: Role, work: Work, length: float) -> Iterator[Line]:
        prompts = (self.found.benchmarks[work.benchmark].asks if work.benchmark else self.found.prompts)[role]
        prompt = prompts.tokens
        for shown, count in prompts.shows.items():
            prompt += count * self._reply_tokens(shown, work, self.teacher if shown == "teach" else None, length)
        models: Sequence[PricedModel | None] = self.asked.get((role, work.benchmark)) or [None]
        for model in models:
            yield Line(work, model, prompt, self._reply_tokens(role, work, model, length))

    def _reply_tokens(self, role: Role, work: Work, model: PricedModel | None, length: float) -> float:
        """Completion tokens of one reply, at most what the configuration allows; ``length`` is an open factor."""
        longest = float(self._sampling(role, work.benchmark).max_tokens)
        if model is None and work.round == paths.BACKBONE:
            return _BACKBONE_SHARE * longest
        # S_0 learns to answer as the teacher does, so the student's answers are as long as the teacher's.
        key: evidence.Asked = (role, model.identity, work.benchmark) if model else ("teach", self.teacher.identity, "")
        if known := self.found.lengths.get(key):
            return min(longest, known.tokens * float(length**_KNOWN_POWER))
        assumed = priors_of((model or self.teacher).endpoint).completion_tokens[role]
        return min(longest, (assumed + (self.found.instruction if role == "expand" else 0.0)) * length)

    def _sampling(self, role: Role, benchmark: str) -> Sampling:
        teacher, student, evaluation = self.config.teacher, self.config.student.sampling, self.config.evaluation
        if role == "benchmark":
            return evaluation.judged[benchmark].sampling
        sampling: dict[Role, Sampling] = {
            "label": teacher.labelling,
            "teach": teacher.answering,
            "answer": evaluation.asked[benchmark].drawn(student) if benchmark else student,
            "judge": self.config.judge.sampling,
            "expand": teacher.expanding,
            "refine": teacher.refining,
        }
        return sampling[role]

    def _seconds(self, line: Line, scenario: Scenario) -> float | None:
        """Of its paid calls, as many at once as the configuration keeps in flight; of a training where it is known."""
        calls, endpoint = line.work.paid, line.model.endpoint if line.model else None
        if endpoint is not None and endpoint.in_batches:
            return scenario["batch_hours"] * 3600 if calls else 0.0
        known = self.found.seconds.get(line.work.stage)
        if known is not None:
            return (calls or line.work.examples) * known * float(scenario["pace"] ** _KNOWN_POWER)
        return self._seconds_asked(line, endpoint, scenario["pace"]) if line.work.role else None

    def _seconds_asked(self, line: Line, endpoint: EndpointConfig | None, pace: float) -> float:
        """Of paid calls of which no earlier run tells; no less than the limits of the configuration allow."""
        calls, tokens = line.work.paid, line.prompt_tokens + line.completion_tokens
        asks = line.model.asks if line.model else "student"
        # A teacher that the run serves is asked more at once, and each reply then takes longer.
        concurrency = self.config.calls.concurrency if endpoint else self.config.student.engine.concurrency
        if isinstance(endpoint, StandinEndpoint):
            return calls * (_STANDIN_SECONDS * pace + endpoint.latency_ms / 1000 / max(1.0, min(concurrency, calls)))
        servers = max(1, len(endpoint.base_urls)) if endpoint else 1
        at_once = float(concurrency * servers)
        if endpoint and (speed := self.found.speeds.get(endpoint.place)):
            one = speed.seconds(line.completion_tokens) * float(pace**_KNOWN_POWER)
            at_once = min(at_once, speed.at_once or at_once)
        else:
            one = (FIRST_TOKEN_SECONDS[asks] + line.completion_tokens / TOKENS_PER_SECOND[asks]) * pace
        limits = {"requests_per_minute": 1.0, "tokens_per_minute": tokens}
        limited: list[tuple[int | None, float]] = [(getattr(endpoint, name, None), of) for name, of in limits.items()]
        allowed = [60 * calls * size / limit / servers for limit, size in limited if limit]
        return max([calls * one / max(1.0, min(at_once, calls)), *allowed])


def _has_baseline(config: RunConfig, runs: Sequence[Sequence[Line]], beside: Sequence[Sequence[Line]]) -> bool:
    """As the configuration says, else whether it costs under a tenth of the whole, in USD and in hours."""
    said = config.evaluation.baseline
    if said is not None or config.data.heldout is None or not may_have_baseline(config):
        return said == "sft"
    more, of_all = (_charged(each).needed.usd for each in (beside, runs))
    is_dear = more is not None and of_all is not None and of_all.likely and more.likely >= _CHEAP * of_all.likely
    if is_dear or any(line.seconds is None for line in beside[0]):
        return False
    seconds, whole = (sum(line.seconds or 0.0 for line in each[0]) for each in (beside, runs))
    return seconds < _CHEAP * whole


def _instead(runs: Sequence[Sequence[Line]]) -> PlainAnswers | None:
    scoring = lines_of_evaluation()
    of_rounds = [[each for each in lines if each.model and each.work.round is not None] for lines in runs]
    curriculum = [[each for each in lines if each.work.stage not in scoring] for lines in of_rounds]
    plain = [next((line.usd for line in each if line.work.stage == TEACH.line), 0.0) for each in runs]
    usd = _load(curriculum, lambda line: line.work.paid).usd
    if usd is None or not usd.likely or not all(plain):
        return None
    spent = (sum(line.work.paid * line.usd for line in lines) for lines in curriculum)
    answers = _span([each / price for each, price in zip(spent, plain, strict=True)])
    beyond = [each - price for each, price in zip(map(_usd_of_new, runs), plain, strict=True) if each]
    return PlainAnswers(usd, answers, _span(beyond) if len(beyond) == len(runs) else None)


def _usd_of_new(lines: Sequence[Line]) -> float:
    """What one new instruction costs with its label and its plain answer, and what the gates take; 0 without any."""
    of_expansion = [line for line in lines if line.work.stage == EXPAND.line and line.model]
    new = sum(line.work.needed for line in of_expansion if line.work.role == "teach")
    return sum(line.work.needed * line.usd for line in of_expansion) / new if new else 0.0


def _charged(runs: Sequence[Sequence[Line]]) -> Figures:
    return _figures("teacher and judge", "", [[line for line in lines if line.model] for lines in runs])


def _benchmark(costs: _Costs, runs: Sequence[Sequence[Line]], benchmark: str) -> BenchmarkFigures:
    found = _chosen(runs, "benchmark", benchmark)
    numbers = dict.fromkeys(line.work.round for line in found[0] if line.work.round is not None)
    students = {student_name(number): _chosen(found, "round", number) for number in numbers} | {"all": found}
    answers, judgments = (
        tuple(_figures(name, asks, _chosen(lines, "stage", stage)) for name, lines in students.items())
        for stage, asks in _stages().items()
        if stage in ("benchmark_answers", "benchmark_replies")
    )
    judges = costs.asked.get(("benchmark", benchmark))
    judged_by = judges[0].identity.model if judges else costs.config.evaluation.marked[benchmark].marker
    return BenchmarkFigures(benchmark, judged_by, costs.found.benchmarks[benchmark].questions, answers, judgments)


def _stages() -> dict[str, Asked]:
    """Stages that take calls or steps, with the names that reports use, and whom they ask."""
    return {name: line.asks for name, line in lines().items() if line.asks or line.trains}


def _chosen(runs: Sequence[Sequence[Line]], what: str, wanted: object) -> list[list[Line]]:
    return [[line for line in lines if getattr(line.work, what) == wanted] for lines in runs]


def _figures(name: str, asks: str, runs: Sequence[Sequence[Line]]) -> Figures:
    """Sums over the lines of each scenario, the likely one first."""
    seconds = [[line.seconds for line in lines if line.seconds is not None] for lines in runs]
    training = any(line.work.steps for line in runs[0])
    return Figures(
        name,
        asks,
        needed=_load(runs, lambda line: line.work.needed),
        paid=_load(runs, lambda line: line.work.paid),
        hours=_span([sum(each) / 3600 for each in seconds]) if seconds[0] else None,
        steps=_sum(runs, lambda line: line.work.steps) if training else None,
    )


def _load(runs: Sequence[Sequence[Line]], calls: Callable[[Line], float]) -> Load:
    unknown = any(line.model and isinstance(line.model.price, prices.UnknownPrice) for line in runs[0] if calls(line))
    return Load(
        _sum(runs, calls),
        _sum(runs, lambda line: calls(line) * line.prompt_tokens),
        _sum(runs, lambda line: calls(line) * line.completion_tokens),
        None if unknown else _sum(runs, lambda line: calls(line) * line.usd),
    )


def _sum(runs: Sequence[Sequence[Line]], value: Callable[[Line], float]) -> Span:
    return _span([sum(value(line) for line in lines) for lines in runs])


def _span(values: Sequence[float]) -> Span:
    return Span(min(values), values[0], max(values))


def _reduced(runs: Sequence[Sequence[Line]]) -> list[tuple[int, Span, RoundSize]]:
    """The rounds that are likely smaller than they are asked to be: examples, and the likely parts."""
    found = [{line.work.round: size for line in lines if (size := line.work.size)} for lines in runs]
    spans = {number: _span([sizes[number].examples for sizes in found]) for number in found[0]}
    return [
        (number, spans[number], size)
        for number, size in found[0].items()
        if number is not None and size.examples < size.asked
    ]


def _in_words(
    pool: Pool, costs: _Costs, reduced: Sequence[tuple[int, Span, RoundSize]], *, has_baseline: bool
) -> tuple[str, ...]:
    """The assumptions of an estimate; a range is its likely value and the two ends."""
    config, evaluation, teacher = costs.config, costs.config.evaluation, costs.teacher
    asked = [(*key, each) for key, models in costs.asked.items() for each in models]
    said = sentences.Sentences(Path(__file__).parent).paragraphs(
        "assumptions.txt.jinja2",
        config=config,
        pool=pool,
        evidence=costs.found,
        open=priors_of(teacher.endpoint).ranges,
        replies=[
            {
                "name": benchmark or (each.name if role == "judge" else role),
                "benchmark": benchmark,
                "known": costs.found.lengths.get((role, each.identity, benchmark)),
                "assumed": priors_of(each.endpoint).completion_tokens[role],
                "longest": evaluation.judged[benchmark].sampling.max_tokens if benchmark else math.inf,
            }
            for role, benchmark, each in asked
        ],
        verified=_likely_verified(pool, costs.found),
        open_shares=any(config.round(number).selection.fixed_share is None for number in config.round_numbers),
        reduced=reduced,
        unjudged=[number for number in config.round_numbers if not config.judges(number)],
        has_baseline=has_baseline,
        priced=[each for each in dict.fromkeys(each for *_, each in asked) if isinstance(each.price, prices.Price)],
        speeds=sorted(
            (each.name, costs.found.speeds[each.endpoint.place].in_words)
            for each in dict.fromkeys(each for *_, each in asked)
            if each.endpoint.place in costs.found.speeds
        ),
        first_token_seconds=FIRST_TOKEN_SECONDS["teacher"],
        tokens_per_second=TOKENS_PER_SECOND["teacher"],
    )
    return tuple(said)
