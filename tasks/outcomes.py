"""What stages and their shards give, how far they are, and what a stage may go on without. Plain; knows no Prefect.

A stage goes on within a share of rows that are missing for now, and of requests that failed for good. One that is lost
is given up while it is asked for (`tasks.asking`), so that the rest is not paid in vain: what is in flight comes in and
is stored, and nothing more is asked of who failed. What failed once fails again from the store, so that each message
says what to change.

`Progress` counts what a run is doing now; the terminal and the flow run show it. Thread-safe, knows no display.
"""

import logging
import math
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any, Generic, TypeVar

import polars as pl

from tapir_core.config import RunConfig
from tapir_core.data.dataset import Part
from tapir_core.errors import ConfigError, IncompleteBatch, TooMuchMissing
from tapir_core.stages import StageAt, asked_endpoints

logger = logging.getLogger(__name__)

Rows = TypeVar("Rows")


@dataclass(frozen=True, slots=True)
class Sample:
    """One row that has no answer, and why: for who looks at a shard or stage that failed."""

    instruction_id: str
    kind: str
    attempts: int
    said: str
    """What the provider said, shortened."""
    instruction: str
    """Its beginning."""


@dataclass(frozen=True)  # without slots: Python 3.11 cannot make a frozen one of its aliases with them
class Made(Generic[Rows]):
    """Rows that a stage or shard made, or the parts that they were written to, and what it counted."""

    rows: Rows
    counts: dict[str, float] = field(default_factory=dict)
    missing: dict[str, int] = field(default_factory=dict)
    """Kind of retryable failure → rows without an outcome; an empty one means whole."""
    failed: dict[str, int] = field(default_factory=dict)
    """Kind of terminal failure → rows that will never have an answer."""
    asked: int = 0
    """Rows that a model was asked for: what ``failed`` is a part of."""
    samples: tuple[Sample, ...] = ()
    """Some of the missing and failed rows, of every kind."""


Worked = Made[pl.DataFrame]
"""What the work of a stage or shard makes."""
ShardOutcome = Made[Part]
"""What one shard wrote."""
StageOutcome = Made[list[Part]]
"""What all shards of a stage wrote, in their order."""


def total(shards: Sequence[ShardOutcome]) -> StageOutcome:
    """The shards of a stage taken together."""
    return made_of([each.rows for each in shards], shards)


def made_of(rows: Rows, parts: Sequence[Made[Any]]) -> Made[Rows]:
    """What was made of several parts: its own rows, and what was counted of all of them."""
    return Made(
        rows,
        _added(each.counts for each in parts),
        _added(each.missing for each in parts),
        _added(each.failed for each in parts),
        sum(each.asked for each in parts),
        tuple(chain.from_iterable(each.samples for each in parts)),
    )


def _added(counts: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    return dict(sum(map(Counter, counts), Counter[str]()))


@dataclass(frozen=True, slots=True)
class Piece:
    """What one shard works on: rows ``start`` to ``stop`` of its stage's plan."""

    index: int
    of: int
    start: int = 0
    stop: int = 0


class ShardIncomplete(IncompleteBatch):
    """Raised when a shard has retryable outcomes left; what it has is written and goes along."""

    def __init__(self, at: StageAt, index: int, outcome: ShardOutcome) -> None:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(outcome.missing.items()))
        super().__init__(
            f"{at}, shard {index}: {kinds}; everything received is stored, the same command asks only these"
        )
        self.at, self.index, self.outcome = at, index, outcome

    def __reduce__(self) -> tuple[Any, ...]:
        return ShardIncomplete, (self.at, self.index, self.outcome)


FEWEST_ASKED = 20
"""With fewer requests, a share that failed says nothing about the rest."""

_LOG_RARITY = math.log(1e4)
"""Of Hoeffding's bound: so many failures come once in 10,000 looks at rows of a stage that has the accepted share."""

_DECLINED = ("refused", "bad_reply")
"""Do not count in a wave: the task type stays short, and the shortfall is reported."""


def check_missing(at: StageAt, made: StageOutcome, accepted_share: float) -> None:
    """Refuse to go on when more is missing than accepted.

    Raises:
        TooMuchMissing: with counts by kind, what was said of one that is missing, and how to resume.
    """
    missing = Counter(made.missing)
    lacking = missing.total()
    received = sum(part.rows for part in made.rows)
    # A row may be there without all of its answers, and a row that nobody had to be asked for is no answer.
    rows = max(received, made.asked) if made.asked else received + lacking
    if lacking > accepted_share * rows:
        raise TooMuchMissing(
            f"{at}: {lacking} of {rows} rows are missing ({lacking / rows:.1%}; {_by_kind(missing)}), more than "
            f"calls.max_missing_share = {accepted_share:g} accepts. {_said(made, missing)} What was received is "
            "stored. Correct what is at fault and run the same command again: it asks only for the missing rows. Or "
            "raise calls.max_missing_share."
        )


def check_failed(at: StageAt, made: StageOutcome, config: RunConfig) -> None:
    """Refuse to go on when more ended in terminal failures than accepted: what is paid next would be in vain.

    Raises:
        ConfigError: with counts by kind, what the provider said to one of them, and the ways on.
    """
    failed = _counted(at, made.failed)
    if told := _too_much(at, failed, made.asked, config):
        raise ConfigError(f"{told}. {_said(made, failed)} {_ways_on(at, failed, config)}")
    if failed:
        text = "%s goes on without %d of %d: %s. %s"
        logger.warning(text, at, failed.total(), made.asked, _by_kind(failed), _said(made, failed))


def can_be_given_up(at: StageAt, config: RunConfig) -> bool:
    """Whether the first rows of a stage say what becomes of it; of the others only the seal knows what share failed.

    Batches of a Batch API are paid whole. One judge of a panel may fail throughout, and be the faster one.
    """
    of = asked_endpoints(config, at)
    return len(of) <= 1 and not any(each.in_batches for each in of)


def why_lost(at: StageAt, so_far: Mapping[str, int], asked: int, said: str, config: RunConfig) -> str:
    """Why nothing more of a stage is to be asked; empty unless it is all but sure that its seal will be refused.

    Args:
        at: a stage under way.
        so_far: kind of terminal failure → rows.
        asked: requests that these rows are a part of.
        said: what came in place of one.
        config: of its run.
    """
    failed, doubt = _counted(at, so_far), math.sqrt(_LOG_RARITY / (2 * max(1, asked)))
    told = _too_much(at, failed, asked, config, doubt) if can_be_given_up(at, config) else ""
    return told and f"{told}, so that no more is asked. One came to {said!r}. {_ways_on(at, failed, config)}"


def _counted(at: StageAt, failed: Mapping[str, int]) -> Counter[str]:
    """The failures that count against the accepted share."""
    return Counter({kind: count for kind, count in failed.items() if at.wave is None or kind not in _DECLINED})


def _too_much(at: StageAt, failed: Counter[str], asked: int, config: RunConfig, doubt: float = 0.0) -> str:
    """That more failed than is accepted, if it did by more than ``doubt``, a share.

    A benchmark has a limit of its own; of a stage that asks in several roles gates reject what it did not get.
    """
    if at.benchmark is not None or len(at.stage.roles) != 1 or asked < FEWEST_ASKED:
        return ""
    unanswered = failed.total() - failed["bad_reply"]
    limits = {"max_unanswered_share": unanswered, "max_failed_share": failed.total()}
    for name, count in limits.items():
        if count > ((accepted := getattr(config.calls, name)) + doubt) * asked:
            return (
                f"{at}: {count} of {asked} requests failed for good ({count / asked:.1%}; {_by_kind(failed)}), more "
                f"than calls.{name} = {accepted:g} accepts"
            )
    return ""


def _said(made: StageOutcome, counts: Counter[str]) -> str:
    """What came in place of one row of the kind that most are of."""
    [(most, _)] = counts.most_common(1)
    return next((f"To {each.instruction_id} came {each.said!r}." for each in made.samples if each.kind == most), "")


def _by_kind(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in counts.most_common())


def _ways_on(at: StageAt, failed: Counter[str], config: RunConfig) -> str:
    """What a user can do about terminal failures: they are stored, so the same question gets the same outcome."""
    asked, root = at.stage.asks, f"--root {config.run.root}"
    ways = [
        f"If the model, its sampling or the prompt is at fault, change it ([{asked}] of the configuration) and run the "
        "same command with --amend: what is asked in another way is asked anew."
    ]
    if asked == "judge":
        ways.append(
            f"If the judge itself was at fault and is fixed, `tapir retry-judge {config.run.name} {root} --also "
            "terminal` asks it again for what it failed."
        )
    elif chosen := _prunable(at, failed):
        store = f"--store {config.calls.store_url}" if config.calls.store_url else root
        ways.append(
            f"If the server was at fault and is fixed, forget its failures with `tapir store prune {store} --role "
            f"{at.stage.roles[0]} {chosen} --yes` and run the same command: it asks for these again."
        )
    ways.append("If so much is to be expected, raise that share.")
    return " ".join(ways)


def _prunable(at: StageAt, failed: Counter[str]) -> str:
    """What selects the failures in the store; a reply that was of no use is an answer there."""
    if "bad_reply" in failed and at.stage.roles[0] in ("teach", "refine"):
        return "--unusable"
    return " ".join(f"--status {kind}" for kind in sorted(set(failed) - {"bad_reply"}))


_SHARD: ContextVar[int | None] = ContextVar("shard", default=None)
"""Index of the shard that this thread works on."""


@dataclass(frozen=True, slots=True)
class StageProgress:
    """One stage under way."""

    at: StageAt
    shards: int
    shards_done: int = 0
    rows: int = 0
    rows_done: int = 0
    missing: int = 0
    note: str = ""
    started: float = 0.0
    ended: float | None = None

    @property
    def seconds(self) -> float:
        """Seconds since the stage began, until it ended."""
        return (self.ended or time.monotonic()) - self.started


@dataclass(slots=True)
class Tally:
    """Rows of one shard, as its last attempt counts them, in whatever thread."""

    lock: threading.RLock
    done: int = 0
    missing: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    """Kind of terminal failure → rows, which are done."""
    reached: int = 0
    """Rows up to the last one that is done."""
    is_whole: bool = False

    def __call__(self, *, missing: bool = False, place: int = -1, failed: str = "") -> None:
        """Count a row: it is done, or ``missing`` for now; one that is done may have failed for good, as that kind.

        ``place`` is where it stands in the list that its shard asks.
        """
        with self.lock:
            self.done += not missing
            self.missing += missing
            self.reached = max(self.reached, place + 1)
            self.failed.update([failed] if failed else [])


class Progress:
    """Stages in the order in which they began."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._stages: dict[StageAt, StageProgress] = {}
        self._tallies: dict[StageAt, dict[int | None, Tally]] = defaultdict(lambda: defaultdict(self._tally))
        self.given_up: dict[str, str] = {}
        """Who is asked no more in this process → why."""

    @contextmanager
    def stage(self, at: StageAt, *, shards: int, rows: int = 0) -> Iterator[None]:
        """A stage that begins now and ends with the block."""
        self.begin(at, shards=shards, rows=rows)
        try:
            yield
        finally:
            self.end(at)

    def begin(self, at: StageAt, *, shards: int, rows: int = 0) -> None:
        """A stage begins."""
        with self._lock:
            self._stages[at] = StageProgress(at, shards, rows=rows, started=time.monotonic())
            self._tallies.pop(at, None)

    def end(self, at: StageAt) -> None:
        """A stage ended."""
        with self._lock:
            self._stages[at] = replace(self._stages[at], ended=time.monotonic())

    @contextmanager
    def attempt(self, at: StageAt, shard: int) -> Iterator[None]:
        """One attempt at a shard, in this thread: what an attempt before it counted is counted anew."""
        with self._lock:
            tally = self._tallies[at][shard] = self._tally()
        token = _SHARD.set(shard)
        try:
            yield
            tally.is_whole = True
        finally:
            _SHARD.reset(token)

    def row_counter(self, at: StageAt) -> Tally:
        """Counts rows of the shard that this thread works on; for any thread."""
        with self._lock:
            return self._tallies[at][_SHARD.get()]

    def failed(self, at: StageAt) -> tuple[Counter[str], int]:
        """Of the rows that the shards of a stage have reached in this process: how many failed for good, of how many.

        Rows are asked in order, and one that fails is done sooner than one that is answered: those that are in flight
        count as not failed.
        """
        with self._lock:
            tallies = self._tallies[at].values()
            return sum((tally.failed for tally in tallies), Counter()), sum(tally.reached for tally in tallies)

    def note(self, at: StageAt, text: str) -> None:
        """What a stage is waiting for or doing, in words."""
        with self._lock:
            self._stages[at] = replace(self._stages[at], note=text)

    def note_current(self, text: str) -> None:
        """Note on the stage that began last and still works, for an engine that serves no one stage."""
        if working := [stage.at for stage in self.stages() if stage.ended is None]:
            self.note(working[-1], text)

    def stages(self) -> list[StageProgress]:
        """A snapshot, oldest first."""
        with self._lock:
            return [self._counted(stage) for stage in self._stages.values()]

    def _counted(self, stage: StageProgress) -> StageProgress:
        tallies = self._tallies[stage.at].values()
        return replace(
            stage,
            shards_done=sum(tally.is_whole for tally in tallies),
            # A candidate is labelled and answered: two outcomes of one row.
            rows_done=min(sum(tally.done for tally in tallies), stage.rows or sys.maxsize),
            missing=sum(tally.missing for tally in tallies),
        )

    def _tally(self) -> Tally:
        return Tally(self._lock)
