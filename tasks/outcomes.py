"""What stages and their shards give, and what a stage may go on without. Plain; knows no Prefect.

A stage goes on within a share of rows that are missing for now, and of requests that failed for good. One that is lost
is given up while it is asked for (`tasks.asking`), so that the rest is not paid in vain: what is in flight comes in and
is stored, and nothing more is asked of who failed. What failed once fails again from the store, so that each message
says what to change.
"""

import logging
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
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
        told = f"{failed.total()} of {made.asked}: {_by_kind(failed)}. {_said(made, failed)}"
        logger.warning("%s goes on without %s", at, told)


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
    limits = {"max_unanswered_share": failed.total() - failed["bad_reply"], "max_failed_share": failed.total()}
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
    again = ""
    if asked == "judge":
        again = (
            f"If the judge itself was at fault and is fixed, `tapir retry-judge {config.run.name} {root} --also "
            "terminal` asks it again for what it failed. "
        )
    elif chosen := _prunable(at, failed):
        store = f"--store {config.calls.store_url}" if config.calls.store_url else root
        again = (
            f"If the server was at fault and is fixed, forget its failures with `tapir store prune {store} --role "
            f"{at.stage.roles[0]} {chosen} --yes` and run the same command: it asks for these again. "
        )
    return (
        f"If the model, its sampling or the prompt is at fault, change it ([{asked}] of the configuration) and run the "
        f"same command with --amend: what is asked in another way is asked anew. {again}If so much is to be expected, "
        "raise that share."
    )


def _prunable(at: StageAt, failed: Counter[str]) -> str:
    """What selects the failures in the store; a reply that was of no use is an answer there."""
    if "bad_reply" in failed and at.stage.roles[0] in ("teach", "refine"):
        return "--unusable"
    return " ".join(f"--status {kind}" for kind in sorted(set(failed) - {"bad_reply"}))
