"""Many runs, one after another: the arms of a comparison, or one curriculum for the backbones of a list.

The command line and the deployments differ only in what they do with one run, ``drive`` and ``distil``. What is
finished is not run again; a run that fails is noted, and the next one that does not need it starts. Of a comparison the
reference of a run seed comes first, for the others are matched to it. What two runs of a sweep both need (labels, plain
answers, equal verdicts) comes from the store, and one budget holds for all of them (`budget.shared`). A backbone that
another process is at work on is left to it, so that several workers can take one list.
"""

import json
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from statistics import fmean

from flows.driver import check_settings, read_config
from flows.whole_run import Distil, drive, is_finished
from tapir_core import errors, paths, run_state
from tapir_core.calls import AnswerStore, store_url
from tapir_core.comparison import baseline, figures, matching, trial
from tapir_core.comparison.outcome import ArmOutcome, ResultsFolder, read_outcome, shipped_versions
from tapir_core.comparison.plan import Arm, ComparisonPlan, PlannedRun, open_comparison
from tapir_core.config import RunConfig, load, presets
from tapir_core.estimate.run import Estimate, estimate_run
from tapir_core.reporting import arms_report, sentences, side_by_side
from tapir_core.run_folder import RunFolder, RunRef
from tapir_core.stages import STAGES
from tapir_core.summary import formats, require_figures, summarise
from tasks.input_files import Say, gather_files

_OTHER_CODE = (
    "remove it to run it again, give another folder of results or another root, or go on with the version of tapir "
    "that made it"
)
"""What to do about a run that other code made than would run now."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a person asks for, checked whole."""

    plan: ComparisonPlan
    chosen: tuple[PlannedRun, ...]
    """The runs that are wanted."""
    results: ResultsFolder | None
    """Of runs made anywhere."""


def read_asked(
    spec: str | Path,
    overrides: Sequence[str],
    *,
    only: str,
    run_seeds: str,
    results: str | Path | None,
    show: bool = False,
) -> Asked:
    """Read what is compared, and find everything that is wrong with it before the first arm starts.

    Args:
        spec: TOML file that says what is compared.
        overrides: settings for all arms.
        only: arms that are wanted, with commas between; all of them if empty.
        run_seeds: run seeds that are wanted, with commas between; all of them if empty.
        results: folder for what finished runs came to.
        show: no run is wanted, so that nothing has to be there but what finished ones left.

    Raises:
        ConfigError: the comparison, the configuration of an arm, an arm or a run seed is wrong, or runs are chosen
            where none is wanted.
        MissingPrerequisite: a key, an engine environment or a package is not there.
    """
    if show and (only or run_seeds):
        raise errors.ConfigError("--show runs nothing, so --only and --run-seeds choose nothing: leave them out")
    plan = open_comparison(spec, overrides)
    arms, seeds = ([each.strip() for each in text.split(",") if each.strip()] for text in (only, run_seeds))
    if not all(each.isdecimal() for each in seeds):
        raise errors.ConfigError(f"--run-seeds {run_seeds}: write numbers with commas between, such as 1,2")
    chosen = () if show else plan.choose(arms, [int(each) for each in seeds])
    for arm in () if show else plan.arms:
        check_settings(_trains(plan.config(plan.run(arm.name, plan.comparison.run_seeds[0]))), source=f"arm {arm.name}")
    return Asked(plan, chosen, ResultsFolder(Path(results), plan, gather_files) if results else None)


def _trains(config: RunConfig) -> RunConfig:
    """The configuration, of which a run has a student at its end that can be compared."""
    if config.curriculum.task_types == "discover":
        raise errors.ConfigError(
            'curriculum.task_types = "discover" ends a run before its first student; give the configuration to '
            f"`tapir run` first, then name the file that the types come into: RUN/{paths.TASK_TYPES}"
        )
    return config


def find_finished(plan: ComparisonPlan) -> list[PlannedRun]:
    """The runs for which nothing is left to do: done, as they are planned, and matched. Reads folders only."""
    finished: list[PlannedRun] = []
    for each in plan.runs:
        if all(needed in finished for needed in plan.needs(each)) and is_finished(matching.match_run(plan, each)):
            finished.append(each)
    return finished


def run_comparison(
    plan: ComparisonPlan,
    chosen: Sequence[PlannedRun],
    drive: Callable[[matching.MatchedRun], object],
    *,
    say: Say,
    results: ResultsFolder | None = None,
) -> dict[str, errors.TapirError]:
    """Finish these runs, each after what it needs; gives those that failed, and why.

    Args:
        plan: what is compared.
        chosen: the runs that are wanted.
        drive: finishes a run when those that it needs are finished.
        say: told how it gets on.
        results: of runs made anywhere; what stands there is not run again, and what is finished is put there.

    Raises:
        ConfigError: a result there is of another configuration, or runs are left to do and other versions of the stages
            or of the stand-in made a result or a finished run.
    """
    finished = find_finished(plan)
    here = {each.ref.name for each in finished}
    brought = {each.run: each for each in results.read()} if results else {}
    wanted = [each for each in chosen if each.ref.name not in brought]
    wanted += [needed for each in wanted for needed in plan.needs(each)]
    left = [each for each in plan.runs if each in wanted and each not in finished]
    if left:
        elsewhere = {each.source: each.stages for name, each in brought.items() if name not in here}
        _check_goes_on(elsewhere | {f"run {each.ref.name}": RunFolder(each.ref).stage_versions for each in finished})
        for each in brought.values():
            now = plan.config(left[0])
            _check_shipped(each, shipped_versions(now, gather_files(now)), "what is run now")
    took = [(each.arm, summarise(RunFolder(each.ref)).busy_seconds) for each in finished]
    failed: dict[str, errors.TapirError] = {}
    ended = len(here | brought.keys())
    say(f"comparison {plan.comparison.name}: {len(plan.runs)} runs, {ended} finished, {len(left)} to do now")
    for place, planned in enumerate(left):
        name, began = planned.ref.name, time.monotonic()
        say(f"run {place + 1} of {len(left)}: {name} ({planned.arm.label}); {_time_left(left[place:], took)}")
        # Looked at anew: what was finished may have been taken up again since, by retry-judge for one.
        lacking = [each.ref.name for each in plan.needs(planned) if not is_finished(matching.match_run(plan, each))]
        try:
            if lacking:
                raise errors.TapirError(f"it is matched to {' and '.join(lacking)}, which is not finished")
            drive(matching.match_run(plan, planned))
            took.append((planned.arm, time.monotonic() - began))
        except Exception as error:  # told, and the comparison ends as failed; the other runs do not wait for it
            failed[name] = _told(error)
        # What does not fit, or was only made for others to be matched to, is for the end to refuse or to replace.
        if results and name not in {*failed, *brought} and _fits(plan, made := _read(plan, planned), brought.values()):
            results.write(made)
        say(f"{name}: {'failed' if name in failed else 'finished'} after {formats.duration(time.monotonic() - began)}")
    return failed


def _told(error: Exception) -> errors.TapirError:
    """The error to report: one of TAPIR as it is, any other one with its whole traceback."""
    return (
        error if isinstance(error, errors.TapirError) else errors.TapirError("".join(traceback.format_exception(error)))
    )


def read_comparison(
    plan: ComparisonPlan, results: ResultsFolder | None = None, *, keep: bool = False
) -> figures.ComparedArms:
    """What the runs finished here come to, and others of which ``results`` holds what they came to.

    Args:
        plan: what is compared.
        results: of runs made anywhere; a run that is finished here too counts as it is here.
        keep: put what runs finished here came to into that folder, once all are known to fit.

    Raises:
        ConfigError: a result there is of another configuration or was matched to another run of the reference, or
            other versions of the stages or of the stand-in made one run than another; the folder is as it was.
    """
    made = [_read(plan, each) for each in find_finished(plan)]
    here = {each.run for each in made}
    brought = [each for each in results.read() if each.run not in here] if results else []
    outcomes = [*made, *brought]
    for each in brought:
        # What it was matched to was made anew since, or somewhere else.
        if not _fits(plan, each, outcomes):
            raise errors.ConfigError(
                f"{each.source}: its tokens or steps are not those of {plan.reference} with run seed {each.run_seed}, "
                "so it was matched to another run of it; remove the file to run it again"
            )
    _check_versions(outcomes)
    if results and keep:
        for each in made:
            results.write(each)
    missing = [each for each in plan.runs if each.ref.name not in {each.run for each in outcomes}]
    compared = figures.compare_arms(
        plan.comparison.name,
        plan.arms,
        outcomes,
        unfinished=[each.ref.name for each in missing],
        prices="at the comparison's prices" if plan.comparison.prices else "as it was paid",
        concludes=plan.comparison.verdict and all(each.arm.exploratory for each in missing),
    )
    reference = plan.config(plan.run(plan.reference, plan.comparison.run_seeds[0]))
    shipped = outcomes[0].shipped if outcomes else {}
    if "standin" in shipped:
        reference = load.answered_by(reference, shipped["standin"])
    others = {stage: made_by for each in outcomes for stage, made_by in each.stages.items() if made_by != _now(stage)}
    return replace(
        compared,
        conditions=arms_report.conditions_of(
            reference, {**gather_files(reference), **shipped}, plan.comparison, others=others
        ),
    )


def _fits(plan: ComparisonPlan, made: ArmOutcome, outcomes: Iterable[ArmOutcome]) -> bool:
    """Whether a run is matched to the reference of its run seed, where that is among ``outcomes``."""
    return all(
        matching.is_matched(matching.targets_of(made.arm, each.trainings), made.trainings)
        for each in outcomes
        if (each.arm.name, each.run_seed) == (plan.reference, made.run_seed)
    )


def _check_goes_on(made: Mapping[str, Mapping[str, int]]) -> None:
    """Refuse to add runs to those of another code before the first starts: at the end they could not be compared.

    ``made`` is run, or file of its result → stage → version.
    """
    for name, stages in made.items():
        for stage, version in stages.items():
            if version != (now := _now(stage)):
                raise errors.ConfigError(
                    f"{name}: version {version} of stage {stage} made it, and what is run now would be of version "
                    f"{now}; {_OTHER_CODE}"
                )


def _check_versions(outcomes: Sequence[ArmOutcome]) -> None:
    """Refuse to set runs against each other that another code made: stages whose rows changed between them."""
    for one, other in product(outcomes, repeat=2):
        _check_shipped(one, other.shipped, other.source)
        for stage, version in one.stages.items():
            if version < other.stages.get(stage, 0):
                raise errors.ConfigError(
                    f"{one.source}: version {version} of stage {stage} made it, and a later one {other.source}; remove "
                    "it to run it again, or compare them with the version of tapir that made it"
                )


def _check_shipped(made: ArmOutcome, other: Mapping[str, str], whose: str) -> None:
    """Refuse to set a run against one with another stand-in or another shipped prompt."""
    for name, version in made.shipped.items():
        if version != other.get(name, version):
            raise errors.ConfigError(
                f"{made.source}: {name} {version} made it, and {other[name]} {whose}; {_OTHER_CODE}"
            )


def _now(stage: str) -> int | None:
    return STAGES[stage].version if stage in STAGES else None


def _read(plan: ComparisonPlan, planned: PlannedRun) -> ArmOutcome:
    run = RunFolder(planned.ref)
    with AnswerStore(store_url(run.config)) as store:
        paid = store.spend_by_role(run.record.id)
    return read_outcome(run, planned.arm, planned.run_seed, paid=paid, prices=plan.comparison.prices)


def _time_left(left: Sequence[PlannedRun], took: Sequence[tuple[Arm, float]]) -> str:
    """From what finished runs of the same arm took, or of any arm."""
    if not took:
        return "how long it takes is known after the first run"
    of_any = fmean(seconds for _, seconds in took)
    of_arms = [[seconds for arm, seconds in took if arm == each.arm] for each in left]
    return f"about {formats.duration(sum(fmean(seconds or [of_any]) for seconds in of_arms))} left"


def finish_comparison(
    asked: Asked,
    drive: Callable[[matching.MatchedRun], object],
    show: Callable[[figures.ComparedArms, str], str],
    *,
    say: Say,
    keep: bool = True,
) -> str:
    """Finish the runs that are wanted, then ``show`` what all finished ones came to, and where their page is.

    Gives what ``show`` returns, and the empty text where no run is finished. ``drive`` and ``say`` are as in
    `run_comparison`, ``keep`` as in `read_comparison`.

    Raises:
        TapirError: runs failed, or `BudgetReached` where a cap ended one; what is finished is shown first.
    """
    failed = run_comparison(asked.plan, asked.chosen, drive, say=say, results=asked.results)
    compared = read_comparison(asked.plan, asked.results, keep=keep)
    shown = show(compared, arms_report.write_arms(compared, asked.plan.root)) if compared.rows else ""
    if failed:
        raise (errors.BudgetReached if errors.BudgetReached in map(type, failed.values()) else errors.TapirError)(
            "\n".join([f"{len(failed)} runs are not finished:", *(f"{run}: {error}" for run, error in failed.items())])
        )
    return shown


def open_sweep(backbones: str | Path, config: str | Path | None, overrides: Sequence[str]) -> run_state.Sweep:
    """Read the list and its curriculum; ``config`` stands in for the one that the list names.

    Raises:
        ConfigError: one of the two is wrong; nothing has started.
    """
    listed = presets.load_backbones(backbones)
    source = str(config or listed.config)
    curriculum = _trains(load.load_config(source, overrides))
    shared = [] if curriculum.budget.shared else [f"budget.shared={json.dumps(curriculum.run.name)}"]
    return run_state.Sweep(
        source, (*shared, *overrides), RunRef(curriculum.run.root, curriculum.run.name), listed.backbones
    )


def _config_of(sweep: run_state.Sweep, entry: presets.BackboneEntry, say: Say = lambda _: None) -> RunConfig:
    """The configuration of a backbone's run."""
    return read_config(
        sweep.source, [*sweep.overrides, *presets.settings_of(entry)], f"{sweep.curriculum.name}-{entry.name}", say=say
    )


def estimate_sweep(sweep: run_state.Sweep, gpus: int) -> dict[str, Estimate]:
    """What the run of every backbone will take, by its name: labels and plain answers count in the first one alone.

    Raises:
        ConfigError: a configuration or a file is wrong.
    """
    return {
        entry.name: estimate_run(_config_of(sweep, entry), source=entry.name, gpus=gpus, is_first=place == 0)
        for place, entry in enumerate(sweep.entries)
    }


def finish_sweep(
    sweep: run_state.Sweep, distil: Distil, show: Callable[[side_by_side.SideBySide, str], object], *, say: Say
) -> list[run_state.Swept]:
    """Distil every backbone without a finished run; returns the result of each, in the order of the list.

    Then ``show`` gets all finished runs side by side, and the path of their page.
    """
    swept = []
    for entry in sweep.entries:
        say(f"backbone {entry.name}")
        swept.append(_sweep_backbone(sweep, entry, distil, say))
        say(f"backbone {entry.name}: {swept[-1].outcome}")
        if swept[-1].outcome == "stopped by a cap":  # which holds for all of them
            break
    if (written := side_by_side.write_sweep_report(sweep.curriculum, swept)) is not None:
        show(*written)
        if others := {each.ref.name for each in run_state.finished_runs(swept)} - {
            each.name for each in written[0].runs
        }:
            say(f"not beside them, for the teacher's answers made another held-out set: {', '.join(sorted(others))}")
    return swept


def plan_trial(config: RunConfig, rows: int) -> tuple[dict[str, RunConfig], dict[str, str]]:
    """The trial of every method that the configuration takes, that on most rows first; and why others cannot be.

    Raises:
        ConfigError: plain answers cannot be configured, or the held-out set has no or too few references.
    """
    planned, lacking = dict[str, RunConfig](), dict[str, str]()
    for method in sorted(trial.METHODS, key=lambda each: each != trial.MORE):
        try:
            trial.method_config(_trains(config), method)
        except errors.ConfigError as refused:
            if method in (trial.PLAIN, trial.MORE):
                raise
            lacking[method] = refused.problems[0]
        else:
            planned[method] = trial.trial_config(config, method, rows)
    return planned, lacking


_HOLD_FOR_ALL = (errors.BudgetReached, errors.RunBusy, errors.RunChanged, errors.MissingPrerequisite)
"""What stops a trial, whichever method it met."""


def finish_trial(planned: Mapping[str, RunConfig], usd: float, distil: Distil, *, say: Say) -> list[trial.Gain]:
    """Finish the trial of every method.

    ``usd`` caps all of them together where the configuration has no cap: that of the first start stays. 0: no price is
    known.

    A method that fails is left out, and said; without plain answers there is nothing to compare with.

    Raises:
        MissingPrerequisite: a key, an engine environment or a package is not there; nothing has started.
    """
    for method, config in planned.items():
        check_settings(config, source=f"method {method}")
    runs = {method: RunFolder(RunRef(each.run.root, each.run.name)) for method, each in planned.items()}
    begun = [run.config.budget.usd for run in runs.values() if run.storage.exists(paths.RUN_RECORD)]
    for method, config in planned.items():
        say(f"method {method}: {trial.METHODS[method][0]}")
        cap = config.budget.usd or (begun[0] if begun else usd)
        try:
            drive(load.replace_values(config, [f"budget.usd={cap}"] if cap else []), distil, say=say)
        except errors.TapirError as failed:
            if method == trial.PLAIN or isinstance(failed, _HOLD_FOR_ALL):
                raise
            say(f"method {method} is left out: {failed}. The same command tries it again.")
            del runs[method]
    return trial.gains_of(trial.read_tried(runs), next(iter(planned.values())).run.name)


_ENDS: dict[type[Exception], run_state.Outcome] = {
    errors.RunBusy: "at work elsewhere",
    errors.BudgetReached: "stopped by a cap",
    errors.NoFigure: "without a figure",
}
"""What became of a backbone by the error that its run ended with; any other one is a failure."""


def _sweep_backbone(sweep: run_state.Sweep, entry: presets.BackboneEntry, distil: Distil, say: Say) -> run_state.Swept:
    """What became of a backbone, with what its run came to or what is wrong with it."""
    run = RunRef(sweep.curriculum.root, f"{sweep.curriculum.name}-{entry.name}")
    outcome: run_state.Outcome = "finished before"
    try:
        config = _config_of(sweep, entry, say)
        if run_state.lacks_run(config, gather_files(config)) or not all(
            map(is_finished, baseline.match_baselines(RunFolder(run)))
        ):
            drive(config, distil, say=say)
            outcome = "finished"
        summary = summarise(RunFolder(run))
        require_figures(summary)
    except Exception as error:  # told, and the sweep ends as failed; the other backbones do not wait for it
        return run_state.Swept(entry.name, run, _ENDS.get(type(error), "failed"), str(_told(error)))
    return run_state.Swept(entry.name, run, outcome, sentences.gain(summary))
