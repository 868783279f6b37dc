"""One run of a comparison, from what is planned to its last student: sized round by round before each training.

The mixture of a round is made, its tokens are counted, and it is made anew with another number of examples until they
fit the reference's; only then it is trained on. The sizes that were found stand in the run's own configuration, so that
the same command goes on from there. What another run of the run seed has made just so is taken over.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from flows.driver import Say, check_settings, hold_run, is_done
from tapir_core import run_files, stages, summary, sweep
from tapir_core.comparison import matching
from tapir_core.comparison.matching import Size
from tapir_core.comparison.outcome import Training, read_training, read_trainings
from tapir_core.comparison.plan import ComparisonPlan, PlannedRun
from tapir_core.errors import TapirError
from tapir_core.run_folder import RunFolder
from tasks.input_files import gather_files

Distil = Callable[[RunFolder, str | None], object]
"""Distils an opened run to the end, or until a stage holds."""
Count = Callable[[RunFolder, int], Training]
"""What the training of a round of an opened run will come to, once its mixture holds."""


def drive_run(plan: ComparisonPlan, planned: PlannedRun, distil: Distil, count: Count, *, say: Say) -> None:
    """Distil one run of a comparison, when those that it needs are finished; raises as `drive_matched`."""
    drive_matched(matching.match_run(plan, planned), distil, count, say=say)


def drive_matched(
    matched: matching.MatchedRun, distil: Distil, count: Count, *, say: Say, follows: bool = False
) -> None:
    """Distil a run that is matched to others, when those are finished.

    With ``follows`` it goes by a run whose configuration it has: its endpoints were probed for that one, and what has
    changed since, as was allowed there, is amended.

    Raises:
        TapirError: it cannot be matched, or as `distill`.
    """
    drive = _Drive(matched, distil, count, say, follows)
    check_settings(matched.config, source=f"arm {matched.arm.name}")
    sizes = matched.sizes
    if matched.bought:
        say(f"{matched.ref.name}: {matched.bought}")
        drive.make_pool(sizes)
    for number, target in matched.targets.items():
        sizes = drive.match_round(number, target, sizes)
    with drive.open(sizes) as run:
        if not is_done(run, None):
            distil(run, None)


def find_finished(plan: ComparisonPlan) -> list[PlannedRun]:
    """The runs for which nothing is left to do: done, as they are planned, and matched. Reads folders only."""
    finished: list[PlannedRun] = []
    for each in plan.runs:
        if all(needed in finished for needed in plan.needs(each)) and is_finished(matching.match_run(plan, each)):
            finished.append(each)
    return finished


def is_finished(matched: matching.MatchedRun) -> bool:
    """Whether nothing is left to do for a run whose needed ones are finished. Reads its folder only."""
    if not matched.kept:
        return False
    config = matching.with_sizes(matched.config, matched.sizes)
    if sweep.lacks_run(config, gather_files(config)):
        return False
    return matching.is_matched(matched.targets, read_trainings(RunFolder(matched.ref)))


@dataclass(frozen=True, slots=True)
class _Drive:
    """One run, with all that its steps need."""

    matched: matching.MatchedRun
    distil: Distil
    count: Count
    say: Say
    follows: bool

    @contextmanager
    def open(self, sizes: Mapping[int, Size]) -> Iterator[RunFolder]:
        """Hold the run with these sizes; what it was opened with before is amended where only they differ.

        Raises:
            RunChanged: something else has changed since, a prompt that was edited meanwhile for one.
        """
        config, kept, say = self.matched.config, self.matched.kept, self.say
        resized = any(kept[number] != size for number, size in sizes.items() if number in kept)
        if resized and not self.follows:
            with hold_run(matching.with_sizes(config, kept), say=say):
                pass
        probe, amend = not self.follows, resized or self.follows
        with hold_run(matching.with_sizes(config, sizes), say=say, amend=amend, probe=probe) as run:
            for source in self.matched.earlier:
                if taken := run_files.take_over(source, run):
                    say(f"{len(taken)} finished stages taken over from {source.ref.name}, up to {taken[-1]}")
            yield run

    def make_pool(self, sizes: Mapping[int, Size]) -> None:
        """Refuse a pool that lacks what is bought, before a call is made for it."""
        with self.open(sizes) as run:
            if run.holds(stages.POOL.at()) is None:
                self.distil(run, "pool")
            self.matched.check_pool(run.rows(stages.POOL.at()).height)

    def match_round(self, number: int, target: Training, sizes: dict[int, Size]) -> dict[int, Size]:
        """Make the mixture of a round until it fits; the sizes with which it does."""
        name, usual = self.matched.ref.name, self.matched.config.batch_size(number)
        for tries in range(1, matching.MOST_TRIES + 1):
            asked = sizes[number].examples
            made, kept = self._make_round(number, sizes)
            tokens = f"{name}, round {number}: {made.tokens:,} tokens for {target.tokens:,}"
            if matching.is_match(target, made, tries=matching.MOST_TRIES if kept else tries):
                self.say(f"{tokens} of the reference")
                return sizes | {
                    number: Size(asked, matching.suited_batch_size(target, made.examples, made.epochs, usual))
                }
            if tries < matching.MOST_TRIES:
                examples = matching.next_examples(target, made, asked)
                self.say(f"{tokens}; {examples:,} examples in place of {asked:,}")
                sizes = sizes | {
                    number: Size(examples, matching.suited_batch_size(target, examples, made.epochs, usual))
                }
        raise matching.unmatched(f"round {number} of {name}", target, made, asked)

    def _make_round(self, number: int, sizes: Mapping[int, Size]) -> tuple[Training, bool]:
        """What a round's mixture comes to, and whether an earlier start made it.

        That one may have begun to train on it: a mixture that may be trained on is not given up.
        """
        at = stages.MIX.at(number)
        with self.open(sizes) as run:
            if run.holds(stages.TRAIN.at(number)) is not None:
                return read_training(run, number), True
            kept = run.holds(at) is not None
            if not kept:
                self.distil(run, f"mix@{number}")
            if run.holds(at) is None:
                why = summary.summarise(run).stopped or "it ended without"
                raise TapirError(f"run {run.ref.name!r} has no {at}: {why}; arms are compared over equally many rounds")
            return self.count(run, number), kept
