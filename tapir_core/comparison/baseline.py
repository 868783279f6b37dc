"""The baselines of a run: plain fine-tunes on as much as all its rounds, and what the curriculum added to them.

It is the ready arm `random_once` beside one run: teacher answers of instructions drawn at random from the pool, one
round, matched to all rounds of the run in tokens and steps, from the run's own S_0. Where rounds learn from the
student's own answers, a second one has as many tokens as plain fine-tuning, as fast as S_0's was, gets through in the
time that the run's machine took for these: answers, scores and training. Each is a run of its own, named after the
other, which takes over what that has finished: it pays for nothing but the scoring of its student. Where the pool has
fewer instructions than that takes, it goes through them more often.

Limits: it follows the run as it is now; what is done to that later (more rounds, verdicts that were missing) makes it
anew with the run's own command. The interval covers the choice of held-out instructions and what a rerun changes, and
no other run seed.
"""

import json
import math
from dataclasses import replace
from functools import partial

from tapir_core import errors, paths, randomness, run_state, stages, statistics
from tapir_core.comparison import matching, outcome, plan
from tapir_core.config import RunConfig, load
from tapir_core.data.dataset import read_json
from tapir_core.run_folder import RunFolder, RunRef
from tapir_core.summary import RunReader, marks_on_test, max_failed_share, summarise
from tapir_core.summary.types import Baseline, RunSummary

ARM = plan.Arm("sft", "Plain fine-tuning", "whole", exploratory=False)
"""It differs from the run as `random_once` does from its reference."""

_OF_THE_POOL = 0.9
"""Share of the pool that one pass takes at most: tokens are matched by more or fewer of them."""


def baseline_of(run: RunFolder, equal: str = "tokens") -> RunFolder:
    """Where a baseline of a run lies, if it has one."""
    return RunFolder(RunRef(run.ref.root, paths.baseline_run(run.ref.name, equal)))


def is_wanted(run: RunFolder) -> bool:
    """Whether a run is to have a baseline: as it says itself, else as its first estimate decided."""
    said = run.config.evaluation.baseline
    if said is None and run.storage.exists(paths.ESTIMATE):
        # One field of it: estimates need not be known here, and those of before have none.
        return bool(read_json(run.storage, paths.ESTIMATE, "remove it: the run writes it anew").get("with_baseline"))
    return said == "sft"


def run_beside(baseline: RunFolder) -> RunFolder | None:
    """The run that this one is the baseline of; nothing where it is none."""
    name = baseline.ref.name
    for ending in paths.BASELINES.values():
        run = RunFolder(RunRef(baseline.ref.root, name.removesuffix(ending)))
        if name.endswith(ending) and run.storage.exists(paths.RUN_RECORD) and is_wanted(run):
            return run
    return None


def match_baselines(run: RunFolder) -> list[matching.MatchedRun]:
    """The baselines of a finished run, beside that run; none where it trained no round, or is to have none.

    Raises:
        ConfigError: another run has the name of one.
    """
    wanted = run.config.baselines if any(run.trained_rounds) and is_wanted(run) else []
    return [_match(run, each) for each in wanted if not math.isnan(times_of(run, each))]


def _match(run: RunFolder, equal: str) -> matching.MatchedRun:
    beside = baseline_of(run, equal)
    if beside.storage.exists(paths.RUN_RECORD) and not _is_baseline(beside):
        raise errors.ConfigError(
            f"run {beside.ref.name!r} is no baseline, and that of run {run.ref.name!r} would have its name; give one "
            'of the two another name, or set evaluation.baseline = "none"'
        )
    return matching.MatchedRun(
        ARM,
        beside.ref,
        partial(baseline_config, run, equal),
        needed=[run.ref],
        before=[run.ref],
        times=times_of(run, equal),
    )


def times_of(run: RunFolder, equal: str) -> float:
    """As often as the run's rounds a baseline trains on their tokens.

    In as much time of the machine it has as many as plain fine-tuning gets through, as fast as S_0's was; NaN where
    that time is not known.
    """
    if equal == "tokens":
        return 1.0
    basic, trained, look = outcome.read_training(run, 0), outcome.total(_rounds(run)), RunReader(run)
    seconds = sum(map(look.machine_seconds, filter(None, run.trained_rounds)))
    return seconds * basic.tokens / float(look.training(0)["seconds"]) / trained.tokens


def _rounds(run: RunFolder) -> list[outcome.Training]:
    """The trainings after S_0."""
    return [each for number, each in outcome.read_trainings(run).items() if number]


def _is_baseline(run: RunFolder) -> bool:
    """Whether a run that is there was made as one: what baselines say of themselves, and other runs seldom do."""
    return run.config.evaluation.baseline == "none" and run.config.run.rounds == 1


def baseline_config(run: RunFolder, equal: str) -> RunConfig:
    """The configuration of a baseline of a finished run, before its size is matched."""
    config = load.spell_out_rounds(run.config)
    return load.replace_values(
        config,
        [
            *plan.READY["random_once"].settings(config),
            f"run.name={json.dumps(baseline_of(run, equal).ref.name)}",
            'evaluation.baseline="none"',
            f"rounds.1.epochs={_epochs(run, times_of(run, equal))}",
        ],
        source=f"baseline of run {run.ref.name}",
    )


def _epochs(run: RunFolder, times: float) -> float:
    """As many as round 1 has; more where the pool has too few instructions for that.

    S_0's examples are plain answers of the same pool: they say how many tokens one has, and how many fit.
    """
    basic, config = outcome.read_training(run, 0), run.config
    drawn = run.rows(stages.MIX.at(0))["instruction_id"].n_unique()
    fitting = _OF_THE_POOL * run_state.pool_of(run, 0).height * basic.examples / drawn
    per_example = basic.tokens / (basic.examples * basic.epochs)
    needed = times * outcome.total(_rounds(run)).tokens / per_example / fitting
    return max(config.round(1).epochs, math.ceil(100 * needed) / 100)


def read_baselines(run: RunFolder) -> tuple[Baseline, ...]:
    """What came of the baselines of a run, of those that have begun."""
    return tuple(found for each in run.config.baselines if (found := read_baseline(run, each)) is not None)


def read_baseline(run: RunFolder, equal: str = "tokens") -> Baseline | None:
    """What came of a baseline of a run, as far as that has begun; nothing where the run has none."""
    beside = baseline_of(run, equal)
    if is_wanted(run) and any(run.trained_rounds) and math.isnan(times_of(run, equal)):
        return Baseline(
            run=beside.ref.name,
            next_stage=None,
            last=max(run.trained_rounds),
            student=None,
            tokens=0,
            run_tokens=outcome.total(_rounds(run)).tokens,
            equal=equal,
            seconds=math.nan,
            run_seconds=math.nan,
            why="a stage was interrupted, and its last start found most answers in the store, so nobody knows how long "
            "all of them took",
        )
    if not is_wanted(run) or not beside.storage.exists(paths.RUN_RECORD) or not _is_baseline(beside):
        return None
    made, before, after = summarise(beside), outcome.read_trainings(run), outcome.read_trainings(beside)
    found = Baseline(
        run=beside.ref.name,
        next_stage=made.next_stage,
        last=max(before, default=0),
        student=made.round(1),
        tokens=outcome.total(_rounds(beside)).tokens,
        run_tokens=outcome.total(_rounds(run)).tokens,
        equal=equal,
        seconds=sum(map(RunReader(beside).machine_seconds, filter(None, after))),
        run_seconds=sum(map(RunReader(run).machine_seconds, filter(None, before))),
    )
    if made.next_stage is not None:
        return found
    if not matching.is_matched(matching.targets_of(ARM, before, times_of(run, equal)), after):
        return replace(found, why="the run's rounds are others by now; its own command makes the baseline anew")
    return _compared(found, run, beside)


def with_baseline(summary: RunSummary, run: RunFolder) -> RunSummary:
    """The summary of a run with its baselines, whose benchmarks stand beside those of the run's students."""
    found = read_baselines(run)
    beside = {each.run: rows for each in found if each.student and (rows := each.student.benchmarks) is not None}
    return replace(summary, baselines=found, outputs=summary.outputs | beside)


def _compared(found: Baseline, run: RunFolder, beside: RunFolder) -> Baseline:
    """With the difference on the test instructions that both students answered, or why there is none."""
    one, other = marks_on_test(RunReader(run), found.last), marks_on_test(RunReader(beside), 1)
    pairs = {item: (one.get(item), other.get(item)) for item in {*one, *other}}
    differences = {item: a - b for item, (a, b) in pairs.items() if a is not None and b is not None}
    lacking, accepted = len(pairs) - len(differences), max_failed_share(run.config)
    if not pairs:
        return replace(found, why="the run has no held-out set")
    if lacking > accepted * len(pairs):
        return replace(
            found,
            why=f"{lacking} of {len(pairs)} instructions lack an answer or a verdict of one, more than {accepted:.0%}",
        )
    if len(differences) < statistics.FEWEST_ROWS:
        return replace(found, why=f"{len(differences)} instructions are too few for an interval")
    seed = run.config.run.seed
    return replace(
        found,
        difference=statistics.resample(
            {seed: differences}, rng=randomness.derive_rng(seed, "baseline"), rerun=100 * statistics.rerun_sd(2)
        ),
    )
