"""The estimate of one run: from its configuration, a sample of its pool, the store and earlier runs. Asks nobody.

The lines of every scenario are summed by stage, by role and in all. What they rest on is said in words: there is a
paragraph of assumptions.txt.jinja2 for each thing that could turn out otherwise.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
from pydantic import TypeAdapter, ValidationError

from tapir_core.calls import Role, store_url
from tapir_core.config import RunConfig
from tapir_core.config.load import check_config
from tapir_core.errors import ConfigError
from tapir_core.estimate.costs import (
    FIRST_TOKEN_SECONDS,
    TOKENS_PER_SECOND,
    Charger,
    Line,
    benchmark_chargers,
    chargers_of,
    cost_lines,
)
from tapir_core.estimate.evidence import (
    Evidence,
    measure_benchmarks,
    measure_prompts,
    past_seconds,
    read_pool,
    stored_lengths,
)
from tapir_core.estimate.workload import BenchmarkSize, Pool, Priors, priors_of, scenarios
from tapir_core.paths import ESTIMATE
from tapir_core.prices import Price, UnknownPrice
from tapir_core.prompts import PROMPT_NAMES, load_prompt
from tapir_core.randomness import derive_rng
from tapir_core.run_folder import RunFolder
from tapir_core.stages import Asked, asked_in_roles, lines
from tapir_core.summary.formats import student_name

SAMPLE = 200
"""Instructions that are put into the real prompts."""


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
        raise ConfigError(f"{ESTIMATE} cannot be read ({exc.error_count()} problems); remove it") from exc


def estimate_run(config: RunConfig, *, source: str, sample: int = SAMPLE) -> Estimate:
    """What the run will take; ``source`` names the configuration in errors.

    Raises:
        ConfigError: the configuration is wrong, or a file of the pool or of a benchmark is not there or wrong.
    """
    if problems := check_config(config):
        raise ConfigError(problems, source=source)
    prompts = {name: load_prompt(name, config.run.prompts) for name in PROMPT_NAMES}
    url, chargers, roles = store_url(config), chargers_of(config), asked_in_roles().items()
    instructions, pool = read_pool(config, prompts["label"], url)
    sampled = derive_rng(config.run.seed, "estimate").sample(instructions, min(sample, len(instructions)))
    asked = [(role, each.voice) for each in chargers for role, asks in roles if asks == each.asks]
    judges = benchmark_chargers(config, chargers[1])
    versions = {name: [prompts[each].version for each in config.evaluation.judged[name].prompts] for name in judges}
    evidence = Evidence(
        prompts=measure_prompts(config, prompts, sampled, pool.natural_shares),
        sampled=len(sampled),
        lengths=stored_lengths(url, {each: (*each, ()) for each in asked}),
        benchmarks=measure_benchmarks(config, prompts),
        judgments=stored_lengths(
            url, {name: ("benchmark", each.voice, versions[name]) for name, each in judges.items()}
        ),
        seconds=past_seconds(config),
    )
    return forecast(config, pool, evidence)


def save_estimate(run: RunFolder) -> None:
    """Keep in the run's folder what is expected of it, for the report; what was expected first stays."""
    if not run.storage.exists(ESTIMATE):
        run.storage.write_bytes(ESTIMATE, estimate_json(estimate_run(run.kept_config, source=run.ref.name)).encode())


def forecast(config: RunConfig, pool: Pool, evidence: Evidence) -> Estimate:
    """What the run will take.

    Args:
        config: the run.
        pool: what is known of its pool.
        evidence: what was measured on a sample and on benchmarks, or found in the store.
    """
    chargers, priors = chargers_of(config), priors_of(config.teacher.endpoint)
    judges = benchmark_chargers(config, chargers[1])
    runs = [cost_lines(config, pool, evidence, scenario, chargers) for scenario in scenarios(priors)]
    stages = [
        _figures(name, asks, _chosen(runs, lambda line: line.work.stage, name)) for name, asks in _stages().items()
    ]
    roles = [
        _figures(role, asks, _chosen(runs, lambda line: line.work.role, role))
        for role, asks in asked_in_roles().items()
    ]
    unknown = [
        f"{each.field}: {each.price.reason}; {each.price.remedy}"
        for each in dict.fromkeys([*chargers, *judges.values()])
        if isinstance(each.price, UnknownPrice)
    ]
    return Estimate(
        run=config.run.name,
        stages=tuple(each for each in stages if each.needed.calls.high or each.steps is not None),
        roles=tuple(each for each in roles if each.needed.calls.high),
        charged=_figures("teacher and judge", "", [[line for line in lines if line.charger] for lines in runs]),
        total=_figures("all", "", runs),
        unknown_prices=tuple(unknown),
        assumptions=_in_words(config, pool, evidence, priors, chargers, judges),
        benchmarks=tuple(_benchmark(config, runs, name, size, judges) for name, size in evidence.benchmarks.items()),
    )


def _benchmark(
    config: RunConfig, runs: Sequence[Sequence[Line]], name: str, size: BenchmarkSize, judges: Mapping[str, Charger]
) -> BenchmarkFigures:
    found = _chosen(runs, lambda line: line.work.benchmark, name)
    numbers = dict.fromkeys(line.work.round for line in found[0] if line.work.round is not None)
    students = {student_name(number): _chosen(found, lambda line: line.work.round, number) for number in numbers}
    sides = {
        stage: tuple(
            _figures(student, _stages()[stage], _chosen(lines, lambda line: line.work.stage, stage))
            for student, lines in {**students, "all": found}.items()
        )
        for stage in ("benchmark_answers", "benchmark_replies")
    }
    judged_by = judges[name].voice.model if name in judges else config.evaluation.marked[name].marker
    return BenchmarkFigures(name, judged_by, size.questions, sides["benchmark_answers"], sides["benchmark_replies"])


def _stages() -> dict[str, Asked]:
    """Stages that take calls or steps, with the names that reports use, and whom they ask."""
    return {name: line.asks for name, line in lines().items() if line.asks or line.trains}


def _chosen(runs: Sequence[Sequence[Line]], name_of: Callable[[Line], object], name: object) -> list[list[Line]]:
    return [[line for line in lines if name_of(line) == name] for lines in runs]


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
    all_priced = all(line.price is not None for line in runs[0] if calls(line))
    return Load(
        _sum(runs, calls),
        _sum(runs, lambda line: calls(line) * line.prompt_tokens),
        _sum(runs, lambda line: calls(line) * line.completion_tokens),
        _sum(runs, lambda line: calls(line) * line.usd) if all_priced else None,
    )


def _sum(runs: Sequence[Sequence[Line]], value: Callable[[Line], float]) -> Span:
    return _span([sum(value(line) for line in lines) for lines in runs])


def _span(values: Sequence[float]) -> Span:
    return Span(min(values), values[0], max(values))


def _in_words(
    config: RunConfig,
    pool: Pool,
    evidence: Evidence,
    priors: Priors,
    chargers: Sequence[Charger],
    benchmark_judges: Mapping[str, Charger],
) -> tuple[str, ...]:
    """The assumptions of an estimate; a range is its likely value and the two ends."""
    teacher, *judges = chargers
    asked: list[tuple[str, Role, Charger]] = [
        ("label", "label", teacher),
        ("teach", "teach", teacher),
        ("expand", "expand", teacher),
        ("refine", "refine", teacher),
        *((judge.name, "judge", judge) for judge in judges),
    ]
    evaluation = config.evaluation
    marker_of = {name: evaluation.marked[name].marker for name in evaluation.each_round if name in evaluation.marked}
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = Path(__file__).with_name("assumptions.txt.jinja2").read_text(encoding="utf-8")
    text = environment.from_string(template).render(
        config=config,
        pool=pool,
        evidence=evidence,
        priors=priors,
        replies=[
            {"name": name, "known": evidence.lengths.get((role, each.voice)), "assumed": each.assumed_tokens(role)}
            for name, role, each in asked
        ],
        judgments=[
            {
                "name": name,
                "known": evidence.judgments.get(name),
                "assumed": min(evaluation.judged[name].sampling.max_tokens, judge.assumed_tokens("benchmark")),
            }
            for name, judge in benchmark_judges.items()
        ],
        marked={marker: [name for name in marker_of if marker_of[name] == marker] for marker in marker_of.values()},
        open_shares=any(config.round(number).selection.fixed_share is None for number in config.round_numbers),
        unjudged=[number for number in config.round_numbers if not config.judges(number)],
        priced=[
            each for each in dict.fromkeys([*chargers, *benchmark_judges.values()]) if isinstance(each.price, Price)
        ],
        first_token_seconds=FIRST_TOKEN_SECONDS["teacher"],
        tokens_per_second=TOKENS_PER_SECOND["teacher"],
    )
    return tuple(" ".join(said.split()) for said in text.split("\n\n") if said.strip())
