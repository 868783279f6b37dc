"""What stages and their shards take and give, and what a stage may go on without. Plain values; knows no Prefect.

A stage goes on within a share of rows that are missing for now, and of requests that failed for good. One that is lost
is given up while it is asked for, so that the rest is not paid in vain: what is in flight comes in and is stored, and
nothing more is asked of who failed. What failed once fails again from the store, so that each message says what to
change.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from tapir_core.config import RunConfig
from tapir_core.data.dataset import Part
from tapir_core.errors import ConfigError, IncompleteBatch, TooMuchMissing
from tapir_core.stages import StageAt, asked_endpoints


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


@dataclass(frozen=True, slots=True)
class Worked:
    """Rows that a stage or shard made, and what it counted."""

    rows: pl.DataFrame
    counts: dict[str, float] = field(default_factory=dict)
    missing: dict[str, int] = field(default_factory=dict)
    """Kind of retryable failure → rows without an outcome; an empty one means whole."""
    failed: dict[str, int] = field(default_factory=dict)
    """Kind of terminal failure → rows that will never have an answer."""
    asked: int = 0
    """Rows that a model was asked for: what ``failed`` is a part of."""
    samples: tuple[Sample, ...] = ()
    """Some of the missing and failed rows, of every kind."""


@dataclass(frozen=True, slots=True)
class Piece:
    """What one shard works on: rows ``start`` to ``stop`` of its stage's plan."""

    index: int
    of: int
    start: int = 0
    stop: int = 0


@dataclass(frozen=True, slots=True)
class ShardOutcome:
    """What one shard wrote."""

    index: int
    part: Part
    counts: dict[str, float] = field(default_factory=dict)
    missing: dict[str, int] = field(default_factory=dict)
    failed: dict[str, int] = field(default_factory=dict)
    asked: int = 0
    samples: tuple[Sample, ...] = ()


class ShardIncomplete(IncompleteBatch):
    """Raised when a shard has retryable outcomes left; what it has is written and goes along."""

    def __init__(self, at: StageAt, outcome: ShardOutcome) -> None:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(outcome.missing.items()))
        super().__init__(
            f"{at}, shard {outcome.index}: {kinds}; everything received is stored, the same command asks only these"
        )
        self.at = at
        self.outcome = outcome

    def __reduce__(self) -> tuple[Any, ...]:
        return ShardIncomplete, (self.at, self.outcome)


FEWEST_ASKED = 20
"""With fewer requests, a share that failed says nothing about the rest."""

_LOG_RARITY = math.log(1e4)
"""Of Hoeffding's bound: so many failures come once in 10,000 looks at rows of a stage that has the accepted share."""

_DECLINED = ("refused", "bad_reply")
"""Do not count in a wave: the task type stays short, and the shortfall is reported."""


def check_missing(at: StageAt, outcomes: Sequence[ShardOutcome], accepted_share: float) -> None:
    """Refuse to go on when more is missing than accepted.

    Raises:
        TooMuchMissing: with counts by kind, what was said of one that is missing, and how to resume.
    """
    missing = sum((Counter(outcome.missing) for outcome in outcomes), Counter[str]())
    lacking, rows = missing.total(), sum(outcome.part.rows for outcome in outcomes)
    share = lacking / (rows + lacking) if lacking else 0.0
    if share > accepted_share:
        raise TooMuchMissing(
            f"{at}: {lacking} of {rows + lacking} rows are missing ({share:.1%}; {_by_kind(missing)}), more than "
            f"calls.max_missing_share = {accepted_share:g} accepts. {_said(outcomes, missing)} What was received is "
            "stored. Correct what is at fault and run the same command again: it asks only for the missing rows. Or "
            "raise calls.max_missing_share."
        )


def check_failed(at: StageAt, outcomes: list[ShardOutcome], config: RunConfig) -> None:
    """Refuse to go on when more ended in terminal failures than accepted: what is paid next would be in vain.

    Raises:
        ConfigError: with counts by kind, what the provider said to one of them, and the ways on.
    """
    failed = _counted(at, sum((Counter(outcome.failed) for outcome in outcomes), Counter[str]()))
    asked, accepted = sum(outcome.asked for outcome in outcomes), config.calls.max_failed_share
    if not _is_checked(at, asked) or failed.total() <= accepted * asked:
        return
    said = _said(outcomes, failed)
    raise ConfigError(f"{at}: {_told(failed, asked, accepted)}. {said} {_ways_on(at, failed, config)}")


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
    failed, accepted = _counted(at, Counter(so_far)), config.calls.max_failed_share
    if not (_is_checked(at, asked) and can_be_given_up(at, config)):
        return ""
    if failed.total() / asked - accepted <= math.sqrt(_LOG_RARITY / (2 * asked)):
        return ""
    return (
        f"{at}: {_told(failed, asked, accepted)}, so that no more is asked. One came to {said!r}. "
        f"{_ways_on(at, failed, config)}"
    )


def _is_checked(at: StageAt, asked: int) -> bool:
    """A benchmark has a limit of its own; of a stage that asks in several roles gates reject what it did not get."""
    return at.benchmark is None and len(at.stage.roles) == 1 and asked >= FEWEST_ASKED


def _counted(at: StageAt, failed: Counter[str]) -> Counter[str]:
    """The failures that count against the accepted share."""
    return Counter({kind: count for kind, count in failed.items() if at.wave is None or kind not in _DECLINED})


def _told(failed: Counter[str], asked: int, accepted: float) -> str:
    return (
        f"{failed.total()} of {asked} requests failed for good ({failed.total() / asked:.1%}; {_by_kind(failed)}), "
        f"more than calls.max_failed_share = {accepted:g} accepts"
    )


def _said(outcomes: Sequence[ShardOutcome], counts: Counter[str]) -> str:
    """What came in place of one row of the kind that most are of."""
    [(most, _)] = counts.most_common(1)
    sample = next((each for outcome in outcomes for each in outcome.samples if each.kind == most), None)
    return f"To {sample.instruction_id} came {sample.said!r}." if sample else ""


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
            f"If the judge itself was at fault and is mended, `tapir retry-judge {config.run.name} {root} --also "
            "terminal` asks it again for what it failed."
        )
    elif chosen := _prunable(at, failed):
        store = f"--store {config.calls.store_url}" if config.calls.store_url else root
        ways.append(
            f"If the server was at fault and is mended, forget its failures with `tapir store prune {store} --role "
            f"{at.stage.roles[0]} {chosen} --yes` and run the same command: it asks for these again."
        )
    ways.append("If so much is to be expected, raise calls.max_failed_share.")
    return " ".join(ways)


def _prunable(at: StageAt, failed: Counter[str]) -> str:
    """What selects the failures in the store; a reply that was of no use is an answer there."""
    kinds = sorted(set(failed) - {"bad_reply"})
    if kinds:
        return " ".join(f"--status {kind}" for kind in kinds)
    return "--finish-reason length" if at.stage.roles[0] in ("teach", "refine") else ""
