"""The order in which a run does its stages, and what follows of it: the plan, the lines of reports, who is asked."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, product

from tapir_core.config import EndpointConfig, Role, RunConfig
from tapir_core.stages import evaluation, pool
from tapir_core.stages.stage import STAGES, Asked, Compared, Stage, StageAt, planned
from tapir_core.stages.students import AVERAGE, ROUND, making

ONCE = [
    *(
        pool.HELDOUT,
        pool.QUESTIONS,
        pool.CONTAMINATED,
        evaluation.BENCHMARK_ITEMS,
        pool.POOL,
        pool.DISCOVER,
        pool.LABEL,
        pool.TEACH,
        pool.VERIFY,
    ),
    *(pool.JUDGED_HELDOUT, pool.HELDOUT_OVERLAP),
]
"""What a run does once, in this order; the items of each benchmark that is asked in each round."""

EVALUATION = [evaluation.ANSWER_HELDOUT, evaluation.JUDGE_HELDOUT, evaluation.VERIFY_HELDOUT, evaluation.EVALUATE]
"""What follows for each student; then, for each benchmark that is asked in each round, `BENCHMARK`."""

BENCHMARK = [evaluation.BENCHMARK_ANSWERS, evaluation.BENCHMARK_REPLIES, evaluation.BENCHMARK_SCORES]


def plan(config: RunConfig) -> Iterator[StageAt]:
    """Every stage of a run, in the order in which it is done: inputs come first.

    A run that discovers its task types ends there: it goes on once they are in its configuration.
    """
    for number in (None, *config.students):
        for at in stages_of(config, number):
            yield at
            if at.stage.ends_run:
                return


def stages_of(config: RunConfig, number: int | None) -> Iterator[StageAt]:
    """The part of the plan that is done once (None), or makes and scores a student (of `RunConfig.students`)."""
    asked = config.evaluation.each_round
    if number is None:
        names: dict[str, Sequence[str | None]] = {evaluation.BENCHMARK_ITEMS.name: asked}
        found = [each.at(benchmark=name) for each in ONCE for name in names.get(each.name, [None])]
    else:
        found = [each.at(number) for each in [*making(number), *EVALUATION]]
        found += [at for name in asked for at in benchmark_stages(name, number)]
    yield from _planned(config, found)


def benchmark_stages(name: str, who: Compared) -> list[StageAt]:
    """What a student or a model of a file takes on a benchmark, in order; its own files are read before all of them."""
    of_round, model = (who, None) if isinstance(who, int) else (None, who)
    return [stage.at(of_round, benchmark=name, model=model) for stage in BENCHMARK]


def asked_apart(config: RunConfig) -> Iterator[StageAt]:
    """Every stage that `tapir evaluate --benchmark` may do beside the plan.

    Those of benchmarks that are not asked in each round, and of models of files.
    """
    apart = [name for name in config.evaluation.asked if name not in config.evaluation.each_round]
    yield from (evaluation.BENCHMARK_ITEMS.at(benchmark=name) for name in apart)
    compared: list[tuple[str, Compared]] = [*product(apart, config.students)]
    compared += [(name, model) for name, judged in config.evaluation.judged.items() for model in judged.outputs]
    for name, who in compared:
        yield from benchmark_stages(name, who)


def lines(*parts: Sequence[Stage]) -> dict[str, Stage]:
    """Each line that reports have for these parts of the order (none: for all), with the stage whose rows it shows."""
    done = [*chain(*(parts or (ONCE, ROUND, [AVERAGE], EVALUATION, BENCHMARK)))]
    asking = {each.line: each for each in reversed(done) if each.asks and not each.step_of}
    return {each.line: asking.get(each.line, STAGES[each.line]) for each in done if each.line}


def asked_in_roles() -> dict[Role, Asked]:
    """Role of calls → who is asked, in the order of a run."""
    return {stage.roles[0]: stage.asks for stage in (*ONCE, *ROUND, *EVALUATION, *BENCHMARK) if stage.asks}


def asked_endpoints(config: RunConfig, at: StageAt) -> list[EndpointConfig]:
    """Where those are asked whom a stage asks and pays."""
    match at.stage.asks:
        case "teacher":
            return [config.teacher.endpoint]
        case "judge" if at.benchmark is None:
            return list(config.judge.endpoints.values())
        case "judge":
            judged = config.evaluation.judged.get(at.benchmark_name)
            return [config.judge_of(judged)] if judged else []
        case _:
            return []


def served_in_turn(config: RunConfig, at: StageAt) -> Asked:
    """Which of the models a stage asks that have a machine in turn; nobody where others serve it anyway."""
    if at.stage.asks == "student":
        return "" if config.student.engine.served_by == "others" else "student"
    return "teacher" if any(each.takes_turns for each in asked_endpoints(config, at)) else ""


def with_steps(config: RunConfig, at: StageAt, waves: Iterable[int] | None = None) -> list[StageAt]:
    """A stage after all its steps, inputs first: of its waves those of ``waves`` (None: all that it may have)."""
    numbers = (config.waves(at.number) if at.stage.wave_steps else ()) if waves is None else waves
    steps = [step.at(at.round, wave) for wave in numbers for step in at.stage.wave_steps]
    return [*steps, *_planned(config, [step.at(at.round) for step in at.stage.last_steps]), at]


def whole_plan(config: RunConfig) -> Iterator[StageAt]:
    """The plan; before each stage its steps, and what is made only for stages that read it."""
    for at in plan(config):
        yield from (*inner_stages(config, at), *with_steps(config, at))


def inner_stages(config: RunConfig, at: StageAt) -> list[StageAt]:
    """Of what a stage reads, those that stand in no plan and are made only for it and others that read them."""
    return [each for each in at.stage.all_reads(config, at) if each.stage.inner]


def used_files(config: RunConfig, files: Mapping[str, str]) -> dict[str, str]:
    """Of ``files`` (name → digest) those that go into a stage which the run plans."""
    used = {name for at in plan(config) for name in at.stage.files(config, at)}
    return {name: files[name] for name in files if name in used}


def _planned(config: RunConfig, stages: Iterable[StageAt]) -> list[StageAt]:
    return [at for at in planned(config, *stages) if not at.stage.inner]
