"""The estimate of a run: the lines of every scenario, summed by stage, role and in all, and what it rests on in words.

Pure. There is a sentence for each thing that could turn out otherwise.
"""

from collections.abc import Callable, Mapping, Sequence

from tapir_core.calls import Role
from tapir_core.calls.prices import Price, UnknownPrice
from tapir_core.config import RunConfig
from tapir_core.estimate.assumptions import FIRST_TOKEN_SECONDS, TOKENS_PER_SECOND, Priors, Range, priors_of, scenarios
from tapir_core.estimate.costs import Charger, Line, benchmark_chargers, chargers_of, cost_lines
from tapir_core.estimate.evidence import Evidence
from tapir_core.estimate.types import BenchmarkFigures, Estimate, Figures, Load, Span
from tapir_core.estimate.workload import BenchmarkSize, Pool
from tapir_core.stages import Asked, asked_in_roles, lines
from tapir_core.summary.formats import student_name

__all__ = ["forecast"]


def forecast(config: RunConfig, pool: Pool, evidence: Evidence) -> Estimate:
    """What the run will take.

    Args:
        config: the run.
        pool: what is known of its pool.
        evidence: what was measured on a sample and on benchmarks, or found in the store.
    """
    chargers, priors = chargers_of(config), priors_of(config.teacher.endpoint)
    judges = benchmark_chargers(config, chargers[1])
    everybody = tuple(dict.fromkeys([*chargers, *judges.values()]))
    runs = [cost_lines(config, pool, evidence, scenario, chargers) for scenario in scenarios(priors)]
    asked = asked_in_roles().items()
    known = _stages().items()
    stages = [_figures(name, asks, _chosen(runs, lambda line: line.work.stage, name)) for name, asks in known]
    roles = [_figures(role, asks, _chosen(runs, lambda line: line.work.role, role)) for role, asks in asked]
    unknown = [
        f"{each.field}: {each.price.reason}; {each.price.remedy}"
        for each in everybody
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
        benchmarks=tuple(_benchmark(runs, name, judges.get(name), size) for name, size in evidence.benchmarks.items()),
    )


def _benchmark(
    runs: Sequence[Sequence[Line]], name: str, judge: Charger | None, size: BenchmarkSize
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
    judged_by = size.marker if judge is None else judge.voice.model
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
    everybody = dict.fromkeys([*chargers, *benchmark_judges.values()])
    said = [
        f"Prompts: {evidence.sampled:,} of {pool.rows:,} instructions were put into the real prompts; tokens are "
        "counted by characters, which is right within about 20 % for English and code.",
        _lengths(evidence, priors, chargers),
        f"The store holds {pool.stored_labels:,} of the labels and {pool.stored_answers:,} of the plain answers "
        "already. What it may hold for later stages is not known yet.",
        _hard(config, priors),
        _unjudged(config),
        _expansion(config, pool, priors),
        f"{_percent(priors.usable_share)} of the teacher's answers are usable; {_percent(priors.reask_share)} of "
        "labels, expansions and verdicts are asked again because they cannot be parsed.",
        *_repeats(config, priors),
        f"All {config.run.rounds} rounds are run; the stop rule may end sooner.",
        *_benchmarks(config, evidence, benchmark_judges),
        _hours(evidence),
        *(f"Price of the {each.name}: {each.price.source}." for each in everybody if isinstance(each.price, Price)),
    ]
    return tuple(filter(None, said))


def _lengths(evidence: Evidence, priors: Priors, chargers: Sequence[Charger]) -> str:
    teacher, *judges = chargers
    roles: tuple[Role, ...] = ("label", "teach", "expand", "refine")
    asked: list[tuple[str, Role, Charger]] = [
        *((role, role, teacher) for role in roles),
        *((judge.name, "judge", judge) for judge in judges),
    ]
    seen, assumed = [], []
    for name, role, charger in asked:
        known = evidence.lengths.get((role, charger.voice))
        if known:
            seen.append(f"{name} {known.tokens:.0f} (of {known.answers:,} stored)")
        elif role != "expand":
            assumed.append(f"{name} {priors_of(charger.endpoint).completion_tokens[role]:.0f}")
    parts = [f"tokens of a reply are known of earlier ones: {', '.join(seen)}"] if seen else []
    if assumed:
        factor = priors.length
        parts.append(
            f"tokens of a reply are assumed, × {factor.few:g} to {factor.many:g}: {', '.join(assumed)}, an expansion "
            "as an instruction, the student as the teacher"
        )
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}."


def _hard(config: RunConfig, priors: Priors) -> str:
    if all(config.round(number).selection.fixed_share is not None for number in config.round_numbers):
        return "The share of seeds is the configured one."
    return f"{_percent(priors.hard_share)} of the scored instructions lie above δ; fewer mean more expansions."


def _unjudged(config: RunConfig) -> str:
    quiet = [str(number) for number in config.round_numbers if not config.judges(number)]
    if not quiet:
        return ""
    return f"No student is asked about the pool and nothing is judged in the rounds {', '.join(quiet)}."


def _expansion(config: RunConfig, pool: Pool, priors: Priors) -> str:
    if not config.curriculum.expansion.max_waves:
        return ""
    spread = (
        "the pool's task types are known"
        if pool.natural_shares is not None
        else "the pool's task types are not known, and taken as few frequent and many rare ones"
    )
    return (
        f"Expansion: {spread}; a task type may have {_percent(priors.unevenness)} more or fewer seeds than its share; "
        f"{_percent(priors.passes_share)} of new instructions pass the text gates, of these "
        f"{_percent(priors.keeps_type_share)} get the wanted label."
    )


def _repeats(config: RunConfig, priors: Priors) -> list[str]:
    if config.student.sampling.temperature or not any(map(config.judges, config.round_numbers)):
        return []
    half = priors.repeat_half_tokens.likely
    return [
        "A verdict is paid once for equal answers: of greedy answers a share stays the same from round to round, which "
        f"halves with every {half:g} tokens of length."
    ]


def _benchmarks(config: RunConfig, evidence: Evidence, judges: Mapping[str, Charger]) -> list[str]:
    later = [name for name in config.evaluation.asked if name not in config.evaluation.each_round]
    said = []
    if judges:
        lengths = []
        for name, judge in judges.items():
            known, most = evidence.judgments.get(name), config.evaluation.judged[name].sampling.max_tokens
            assumed = min(most, priors_of(judge.endpoint).completion_tokens["benchmark"])
            lengths.append(
                f"{name} {known.tokens:.0f} (of {known.answers:,} stored)" if known else f"{name} {assumed:g}"
            )
        said.append(
            "Benchmarks are asked of backbone, S_0 and the student of every round, counted in their files; tokens of a "
            f"judgment: {', '.join(lengths)}. No answer is taken to equal another student's or the baseline's, which "
            "would save its judgment."
        )
    marked: dict[str, list[str]] = {}
    for name in config.evaluation.each_round:
        if name in config.evaluation.marked:
            marked.setdefault(config.evaluation.marked[name].marker, []).append(name)
    said += (
        f"{marker} marks {', '.join(names)} without a call; its prompts count as the questions."
        for marker, names in marked.items()
    )
    if later:
        said.append(f"Not counted: {', '.join(later)}; `tapir evaluate --benchmark` asks what is not of each round.")
    return said


def _hours(evidence: Evidence) -> str:
    known = sorted(set(evidence.seconds) - {"train"})
    seen = f"Hours of {', '.join(known)} are those of earlier runs in this root; else " if known else "Hours: "
    training = (
        "training as in an earlier run" if "train" in evidence.seconds else "training is not in them, its steps are"
    )
    return (
        f"{seen}{FIRST_TOKEN_SECONDS['teacher']:g} s and 1/{TOKENS_PER_SECOND['teacher']:g} s a token for a reply, "
        f"with the configured requests in flight; {training}. Stages that overlap (label and teach, answer and judge) "
        "and judges of a panel count in full; the start of servers does not count."
    )


def _percent(share: Range) -> str:
    low, high = sorted((share.few, share.many))
    return f"{100 * share.likely:.0f} % ({100 * low:.0f}–{100 * high:.0f} %)"
