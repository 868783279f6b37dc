"""What is done with one run, by a command, a form or a comparison: distil it, ask its judge again, score students.

The baseline (`tapir_core.comparison.baseline`) comes after the last round, also after an early stop, as a run of its
own. While it is not finished the run itself is done, and the same command goes on with it.

A run that is matched to others, a baseline or an arm of a comparison, is sized round by round before each training. The
mixture of a round is made, its tokens are counted, and it is made anew with another number of examples until they fit
the reference's; only then it is trained on. The sizes that were found stand in the run's own configuration, so that the
same command goes on from there. What another run of the run seed has made just so is taken over.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeAlias, TypeVar

from flows.driver import check_settings, hold_known_run, hold_run, is_done
from tapir_core import errors, paths, run_files, run_state
from tapir_core.comparison import baseline, matching
from tapir_core.comparison.outcome import Training, read_training, read_trainings
from tapir_core.config import RunConfig
from tapir_core.estimate.run import save_estimate
from tapir_core.reporting import report, sentences
from tapir_core.run_folder import RunFolder, RunRef
from tapir_core.stages import MIX, POOL, TRAIN, Compared
from tapir_core.summary import require_figures, summarise, types
from tasks.engines import machine
from tasks.input_files import Say, gather_files

T = TypeVar("T")
Work: TypeAlias = Literal["distil", "judge", "evaluate", "show"]
"""On an opened run; `show` where all scores stand, and it is only to show them."""
Do: TypeAlias = Callable[..., Any]
"""Does a work on a run, with what its flow takes beside: as a command, or as a part of a form's flow run."""
Distil: TypeAlias = Callable[[RunFolder, str | None], object]
"""Distils an opened run to the end, or until a stage holds."""


def drive(
    config: RunConfig,
    distil: Distil,
    *,
    say: Say,
    until: str | None = None,
    amend: bool = False,
) -> types.RunSummary:
    """Hold a run and ``distil`` it where something is left to do, then its baseline; what the run has come to.

    Raises:
        RunBusy: another process drives the run.
        RunChanged: finished stages would be made otherwise now, and `amend` is not set.
        TapirError: the baseline cannot be matched, or as `distill`.
    """
    with hold_run(config, say=say, amend=amend) as run:
        if not is_done(run, until):
            for note in save_estimate(run, len(machine.gpu_memory())):
                say(f"data.pool: {note}")
            distil(run, until)
        else:
            say(f"run {run.ref.name} has nothing left to do")
            if not run.storage.exists(paths.REPORT):
                say(f"report: {report.write_report(run)}")
    if until is None:
        drive_baseline(run, distil, say=say)
    return baseline.with_baseline(summarise(run), run)


def drive_baseline(run: RunFolder, distil: Distil, *, say: Say) -> None:
    """Finish the baseline of a finished run that nobody holds, where it is to have one.

    Raises:
        TapirError: it cannot be matched, or as `distil`.
    """
    name = run.ref.name
    for equal, matched in zip(run.config.baselines, baseline.match_baselines(run), strict=False):
        if is_finished(matched):
            continue
        as_much = sentences.AS_MUCH[equal]
        say(f"baseline of {name}: plain fine-tuning {as_much} as all its rounds, as run {matched.ref.name}")
        try:
            drive_matched(matched, distil, say=say, follows=True)
        except BaseException:
            say(
                f"run {name} is done, its baseline {matched.ref.name} is not: the same command goes on with it, and "
                'evaluation.baseline = "none" leaves it out'
            )
            raise


def retry_run(
    ref: RunRef,
    number: int | None,
    do: Do,
    tell: Callable[[str], object],
    *,
    say: Say,
    also_terminal: bool,
    go_on: bool,
) -> types.RunSummary:
    """Ask the judge again for the verdicts that a run went on without; what the run has come to.

    Args:
        ref: the run.
        number: one round; nothing: all that are judged.
        do: does the work.
        tell: gets the result, one sentence at a time.
        say: told how it gets on.
        also_terminal: forget the replies of unscored verdicts too, and ask for them anew.
        go_on: redo the stages that the new verdicts change, and go on to the end, of the baseline too.

    Raises:
        ConfigError: nothing of round ``number`` is judged.
        NoFigure: it went on, and a student has no figure on a benchmark of each round.
    """
    distil = partial(do, "distil")
    with hold_known_run(ref, say=say) as run:
        again = run_state.stages_to_retry(run, number, also_terminal=also_terminal)
        for each in do("judge", run, again, also_terminal, go_on) if again else ():
            tell(
                f"{each['stage']}: {each['missing_before']} verdicts missing before, {each['missing_after']} now; "
                f"{each['unscored_before']} unscored before, {each['unscored_after']} now."
            )
        changed = run_state.changed_stages(run)
        if go_on and (changed or not is_done(run, None)):
            say(
                "going on with the run; if it is interrupted, go on without --also terminal, which would pay again"
                if also_terminal and again
                else "going on with the run"
            )
            distil(run, None)
        nothing = sentences.nothing_to_retry(also_terminal=also_terminal)
        tell(sentences.changes(changed, redone=go_on) if again or changed else nothing)
        if changed and not go_on:
            tell(
                f"Redo them with `tapir retry-judge {ref.name} --root {ref.root} --continue` (in the UI: Continue the "
                "run), or with the run's own command."
            )
    if go_on:
        drive_baseline(run, distil, say=say)
    summary = baseline.with_baseline(summarise(run), run)
    if added := sentences.added(*summary.baselines):
        tell(added)
    if go_on:
        require_figures(summary)
    return summary


def evaluate_run(
    ref: RunRef,
    which: str,
    names: str,
    do: Do,
    show: Callable[[RunFolder, types.RunSummary, list[Compared], list[str]], T],
    *,
    say: Say,
    also_terminal: bool,
) -> T:
    """Score students of a run, finished or not, where their scores do not stand; gives what ``show`` returns.

    Args:
        ref: the run.
        which: students and models of files, as `find_students` takes them.
        names: benchmarks, as `find_benchmarks` takes them.
        do: does the work.
        show: shows their scores.
        say: told how it gets on.
        also_terminal: judges of benchmarks are asked anew where they failed for good.

    Raises:
        ConfigError: there is no such student or benchmark.
        NoFigure: too many judgments failed for a figure; what there is is shown first.
    """
    with hold_known_run(ref, say=say, any_version=True) as run:
        benchmarks = run_state.find_benchmarks(run, names)
        compared = run_state.find_students(run, which, benchmarks)
        unscored = run_state.unscored_students(run, compared, benchmarks, also_terminal=also_terminal)
        do("evaluate" if unscored else "show", run, compared, benchmarks, also_terminal)
        summary = summarise(run)
        shown = show(run, summary, compared, benchmarks)
        require_figures(summary, compared, benchmarks)
        return shown


def drive_matched(matched: matching.MatchedRun, distil: Distil, *, say: Say, follows: bool = False) -> None:
    """Distil a run that is matched to others, when those are finished.

    With ``follows`` it goes by a run whose configuration it has: its endpoints were probed for that one, and what has
    changed since, as was allowed there, is amended.

    Raises:
        TapirError: it cannot be matched, or as `distill`.
    """

    def estimated(run: RunFolder, until: str | None) -> None:
        if not follows:
            save_estimate(run, len(machine.gpu_memory()))
        distil(run, until)

    drive = _Drive(matched, estimated, say, follows)
    check_settings(matched.config, source=f"arm {matched.arm.name}")
    sizes = matched.sizes
    if matched.bought:
        say(f"{matched.ref.name}: {matched.bought}")
        # Refused before any call for it: a pool with fewer instructions than this run buys answers to.
        with drive.open(sizes) as run:
            if run.holds(POOL.at()) is None:
                estimated(run, "pool")
            matched.check_pool(run.rows(POOL.at()).height)
    for number, target in matched.targets.items():
        sizes = drive.match_round(number, target, sizes)
    with drive.open(sizes) as run:
        if not is_done(run, None):
            estimated(run, None)


def is_finished(matched: matching.MatchedRun) -> bool:
    """Whether nothing is left to do for a run whose needed ones are finished. Reads its folder only."""
    if not matched.kept:
        return False
    config = matching.with_sizes(matched.config, matched.sizes)
    return not run_state.lacks_run(config, gather_files(config)) and matching.is_matched(
        matched.targets, read_trainings(RunFolder(matched.ref))
    )


@dataclass(frozen=True, slots=True)
class _Drive:
    """One run, with all that its steps need."""

    matched: matching.MatchedRun
    distil: Distil
    say: Say
    follows: bool

    @contextmanager
    def open(self, sizes: Mapping[int, matching.Size]) -> Iterator[RunFolder]:
        """Hold the run with these sizes; what it was opened with before is amended where only they differ.

        Raises:
            RunChanged: something else has changed since, a prompt that was edited meanwhile for one.
        """
        config, kept, say = self.matched.config, self.matched.kept, self.say
        resized = any(kept[number] != size for number, size in sizes.items() if number in kept)
        if resized and not self.follows:
            with hold_run(matching.with_sizes(config, kept), say=say):
                pass
        with hold_run(
            matching.with_sizes(config, sizes), say=say, amend=resized or self.follows, probe=not self.follows
        ) as run:
            for source in self.matched.earlier:
                if taken := run_files.take_over(source, run):
                    say(f"{len(taken)} finished stages taken over from {source.ref.name}, up to {taken[-1]}")
            yield run

    def match_round(self, number: int, target: Training, sizes: dict[int, matching.Size]) -> dict[int, matching.Size]:
        """Make the mixture of a round until it fits; the sizes with which it does."""
        name, usual = self.matched.ref.name, self.matched.config.batch_size(number)
        for tries in range(1, matching.MOST_TRIES + 1):
            asked = sizes[number].examples
            made, kept = self._make_round(number, sizes)
            tokens = f"{name}, round {number}: {made.tokens:,} tokens for {target.tokens:,}"
            fits = matching.is_match(target, made, tries=matching.MOST_TRIES if kept else tries)
            examples = asked if fits else matching.next_examples(target, made, asked)
            batch_size = matching.suited_batch_size(target, made.examples if fits else examples, made.epochs, usual)
            sizes = sizes | {number: matching.Size(examples, batch_size)}
            if fits:
                self.say(f"{tokens} of the reference")
                return sizes
            if tries < matching.MOST_TRIES:
                self.say(f"{tokens}; {examples:,} examples in place of {asked:,}")
        raise matching.unmatched(f"round {number} of {name}", target, made, asked)

    def _make_round(self, number: int, sizes: Mapping[int, matching.Size]) -> tuple[Training, bool]:
        """What a round's mixture comes to, and whether an earlier start made it.

        That one may have begun to train on it: a mixture that may be trained on is not given up.
        """
        at = MIX.at(number)
        with self.open(sizes) as run:
            if run.holds(TRAIN.at(number)) is not None:
                return read_training(run, number), True
            kept = run.holds(at) is not None
            if not kept:
                self.distil(run, f"mix@{number}")
            if run.holds(at) is None:
                why = summarise(run).stopped or "it ended without"
                raise errors.TapirError(
                    f"run {run.ref.name!r} has no {at}: {why}; arms are compared over equally many rounds"
                )
            # Not before: Prefect reads its settings when it is imported.
            from tasks import train

            return train.count_round(run, number), kept
