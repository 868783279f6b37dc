"""The estimate of one run: from its configuration, a sample of its pool, the store and earlier runs. Asks nobody.

Its lines (`costs.Line`) are summed by stage and in all, once more for each other objective of the rounds. What the
figures rest on stands in `_assumptions`, a sentence for each thing that could turn out otherwise.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, replace

from pydantic import TypeAdapter, ValidationError

from tapir_core import errors, paths, prices, randomness, sources
from tapir_core.calls import store_url
from tapir_core.config import EndpointConfig, Objective, RunConfig
from tapir_core.config.checks import check_config, may_have_baseline
from tapir_core.config.load import validated
from tapir_core.curriculum.sizes import priors_of
from tapir_core.estimate import evidence
from tapir_core.estimate.costs import (
    BACKBONE_SHARE,
    CALLS,
    HOURS,
    KNOWN_HOURS,
    KNOWN_TOKENS,
    START_SECONDS,
    TOKENS,
    Costs,
    Ends,
    Line,
    asked_by_role,
    charged_price,
    identity_of,
)
from tapir_core.estimate.workload import Pool, is_repeated
from tapir_core.prompts import PROMPT_NAMES, load_prompt
from tapir_core.run_folder import RunFolder
from tapir_core.speeds import known_speeds
from tapir_core.stages import BENCHMARK, EVALUATION, TEACH, lines

SAMPLE = 200
"""Instructions that are put into the real prompts."""

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
class OtherObjective:
    """What the run would take if all its rounds learnt by another objective."""

    objective: str
    usd: Span | None = None
    """Of teacher and judge; None where a price is unknown."""
    hours: Span | None = None
    """Of all; None where they are unknown."""
    lacks: str = ""
    """Why its rounds cannot, as they are configured."""


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
    others: tuple[OtherObjective, ...] = ()
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


def estimate_run(
    config: RunConfig, *, source: str, sample: int = SAMPLE, gpus: int = 0, is_first: bool = True
) -> Estimate:
    """What the run will take.

    Args:
        config: the run.
        source: names the configuration in errors.
        sample: instructions that are put into the real prompts.
        gpus: those of this machine; trainings on workers have GPUs in any case.
        is_first: whether no run before it asks the same teacher for the labels and plain answers of the same pool.

    Raises:
        ConfigError: the configuration is wrong, or a file of the pool or of a benchmark is missing or wrong.
    """
    if problems := check_config(config):
        raise errors.ConfigError(problems, source=source)
    read = sources.read_pool_of(config.data.pool, config.data, config.run.seed)
    config, sized = sources.settle_sizes(config, read)
    prompts, url = {name: load_prompt(name, config.run.prompts) for name in PROMPT_NAMES}, store_url(config)
    rows, pool = evidence.look_at_pool(config, read, prompts["label"], url)
    drawn = randomness.derive_rng(config.run.seed, "estimate").sample(range(rows.height), min(sample, rows.height))
    sampled = rows[drawn].to_dicts()
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
        lengths={
            # A teacher answers about as long as who answered before it; the students learn these answers.
            **(
                {("teach", identity_of("teach", config.teacher.endpoint), ""): evidence.mean_tokens(given)}
                if (given := [answer for each in sampled if (answer := each.get("answer"))])
                else {}
            ),
            **evidence.stored_lengths(url, {each: versions.get(each[-1], []) for each in asked}),
        },
        benchmarks=evidence.measure_benchmarks(config, prompts),
        seconds=evidence.past_seconds(config),
        speeds=known_speeds(config.run.root),
        weights=evidence.weights_of(config.student.backbone),
        gpus=gpus if training.runs_on == "driver" else training.nodes * (training.processes or 1),
    )
    if not is_first:
        answers = (pool.rows - pool.own_answers) * config.teacher.answers_per_prompt
        pool = replace(pool, stored_labels=pool.rows, stored_answers=answers)
    estimate = forecast(config, pool, known)
    return replace(
        estimate,
        assumptions=(*sized, *estimate.assumptions),
        others=tuple(_other_objectives(config, pool, known)),
    )


def _other_objectives(config: RunConfig, pool: Pool, known: evidence.Evidence) -> Iterator[OtherObjective]:
    own = {config.objective(number).type for number in config.round_numbers}
    for name, kind in Objective.kinds().items():
        if own == {name}:
            continue
        table = config.model_dump(mode="json")
        default = table["rounds"].setdefault("default", {})
        for entry in table["rounds"].values():
            entry["objective"] = name
            if kind.reads_answers:  # which has no easy part, and needs verdicts
                entry.pop("alpha", None)
                default.setdefault("selection", {"type": "hard_share"})
                if entry.get("selection", {}).get("type") == "random":
                    entry["selection"] = {"type": "hard_share"}
        try:
            other = validated(RunConfig, table, config.run.name)
            if problems := check_config(other):
                raise errors.ConfigError(problems)
        except errors.ConfigError as refused:
            yield OtherObjective(name, lacks=refused.problems[0])
        else:
            found = forecast(other, pool, known)
            yield OtherObjective(name, found.charged.paid.usd, found.total.hours)


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
    costs = Costs(config, known)
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
            if isinstance(price := charged_price(endpoint), prices.UnknownPrice)
        ),
        assumptions=_assumptions(costs, pool, planned, has_baseline=with_baseline),
        baseline=_figures("baseline", "", beside),
        with_baseline=with_baseline,
        pool_rows=pool.rows,
        instead=_instead(planned),
        notes=pool.notes,
    )


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


def sum_usd(estimates: Mapping[str, Estimate]) -> Span | None:
    """What all of them still have to pay; None where a price is unknown."""
    return span_sum(each.charged.paid.usd for each in estimates.values())


def span_sum(spans: Iterable[Span | None]) -> Span | None:
    """All together; None where one is unknown."""
    known = list(spans)
    return None if None in known else Span(*map(sum, zip(*(astuple(each) for each in known if each), strict=True)))


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


def _assumptions(costs: Costs, pool: Pool, planned: Sequence[Line], *, has_baseline: bool) -> tuple[str, ...]:
    """What the figures rest on, a sentence or two for each thing that could turn out otherwise."""
    config, known, priors = costs.config, costs.known, priors_of(costs.teacher)
    evaluation, curriculum, verifier = config.evaluation, config.curriculum, config.judge.verifies("judge")
    unjudged = [str(number) for number in config.round_numbers if not config.judges(number)]
    pairs = [str(number) for number in config.round_numbers if config.objective(number).reads_answers]
    by_threshold = any(config.round(number).selection.fixed_share is None for number in config.round_numbers)
    marked = [name for name in evaluation.each_round if name not in evaluation.judged]
    later = [name for name in evaluation.asked if name not in evaluation.each_round]
    replies = {
        f"{line.work.benchmark or line.work.role} {line.completion_tokens:.0f}"
        + " (seen)" * (line.length == KNOWN_TOKENS): True
        for line in planned
        if line.endpoint
    }
    sentences: dict[str, object] = {
        f"Range: calls that the models' answers decide {_factors(CALLS)}; tokens {_factors(TOKENS)}, of prompts and "
        f"known replies {_factors(KNOWN_TOKENS)}; hours {_factors(HOURS)}, measured {_factors(KNOWN_HOURS)}.": True,
        f"{known.sampled:,} of {pool.rows:,} instructions were put into the real prompts; tokens are counted by "
        "characters, which is right within about 20 % for English and code.": True,
        f"Tokens of a reply: {', '.join(replies)}. The student answers as long as the teacher, the backbone "
        f"{BACKBONE_SHARE:.0%} of the longest answer.": True,
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
            if isinstance(price := charged_price(endpoint), prices.Price)
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


def _of_hours(costs: Costs, planned: Sequence[Line]) -> dict[str, object]:
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
        f"{starts} starts of servers and trainings take {START_SECONDS:g} s each.": starts,
    }


def _factors(ends: Ends) -> str:
    return "× {:g} to {:g}".format(*ends)
