"""What a stage may go on without: rows that are missing for now, requests that failed for good.

A stage that is lost stops while it is asked for, so that the rest is not paid in vain. What failed once fails again
from the store, so that each message says what to change.
"""

import math
from collections import Counter
from collections.abc import Mapping

from tapir_core.config import RunConfig
from tapir_core.errors import ConfigError, TooMuchMissing
from tapir_core.stages import StageAt
from tasks.outcomes import ShardOutcome

__all__ = ["FEWEST_ASKED", "check_failed", "check_failing", "check_missing", "role_of"]

FEWEST_ASKED = 20
"""With fewer requests, a share that failed says nothing about the rest."""

_LOG_ODDS = math.log(1e4)
"""Of Hoeffding's bound: a stage whose share of failures is accepted is stopped before its end once in 10,000 looks."""

_OTHER_ROLES = {
    **dict.fromkeys(("answer_heldout", "benchmark_answers"), "answer"),
    "wave_candidates": "expand",
    "benchmark_replies": "benchmark",
}
"""Role of a stage's calls, where the stage is not named as the role."""

_DECLINED = ("refused", "bad_reply")
"""Waves ask for the task types that are short: what a teacher declines of them stays short, and is reported as that."""


_UNCHECKED = "wave_examined"
"""Asks in several roles; what it does not get its gates reject and report."""


def role_of(at: StageAt) -> str:
    """The role of a stage's calls, as the store and the budget name it."""
    return _OTHER_ROLES.get(at.name, at.name)


def check_missing(at: StageAt, missing: Counter[str], rows: int, accepted_share: float) -> None:
    """Refuse to go on when more is missing than accepted.

    Raises:
        TooMuchMissing: with counts by kind and how to resume.
    """
    lacking = missing.total()
    share = lacking / (rows + lacking) if lacking else 0.0
    if share > accepted_share:
        raise TooMuchMissing(
            f"{at}: {lacking} of {rows + lacking} rows are missing ({share:.1%}; {_by_kind(missing)}), more than "
            f"calls.max_missing_share = {accepted_share:g} accepts. What was received is stored. Mend the endpoint and "
            f"run the same command again: it asks only for the missing rows. Or raise calls.max_missing_share."
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
    [(most, _)] = failed.most_common(1)
    sample = next(each for outcome in outcomes for each in outcome.samples if each.kind == most)
    said = f"To {sample.instruction_id} came {sample.said!r}."
    raise ConfigError(f"{at}: {_told(failed, asked, accepted)}. {said} {_ways_on(at, failed, config)}")


def check_failing(at: StageAt, so_far: Mapping[str, int], asked: int, said: str, config: RunConfig) -> None:
    """The same while a stage is asked for, when it is all but sure that it will fail so; ``said`` is one failure.

    Raises:
        ConfigError: the rest is not asked for.
    """
    failed, accepted = _counted(at, Counter(so_far)), config.calls.max_failed_share
    if _is_checked(at, asked) and failed.total() / asked - accepted > math.sqrt(_LOG_ODDS / (2 * asked)):
        raise ConfigError(
            f"{at}: {_told(failed, asked, accepted)}, so that no more is asked. One came to {said!r}. "
            f"{_ways_on(at, failed, config)}"
        )


def _is_checked(at: StageAt, asked: int) -> bool:
    """A benchmark has a limit of its own."""
    return at.benchmark is None and at.name != _UNCHECKED and asked >= FEWEST_ASKED


def _counted(at: StageAt, failed: Counter[str]) -> Counter[str]:
    """The failures that count against the accepted share."""
    return Counter({kind: count for kind, count in failed.items() if at.wave is None or kind not in _DECLINED})


def _told(failed: Counter[str], asked: int, accepted: float) -> str:
    return (
        f"{failed.total()} of {asked} requests failed for good ({failed.total() / asked:.1%}; {_by_kind(failed)}), "
        f"more than calls.max_failed_share = {accepted:g} accepts"
    )


def _by_kind(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in counts.most_common())


def _ways_on(at: StageAt, failed: Counter[str], config: RunConfig) -> str:
    """What a user can do about terminal failures: they are stored, so the same question gets the same outcome."""
    role = role_of(at)
    asked = {"answer": "student", "judge": "judge"}.get(role, "teacher")
    ways = [
        f"If the model, its sampling or the prompt is at fault, change it ([{asked}] of the configuration) and run the "
        "same command with --amend: what is asked in another way is asked anew."
    ]
    kinds = sorted(set(failed) - {"bad_reply"})
    if role == "judge":
        ways.append(
            f"If the judge itself was at fault and is mended, `tapir retry-judge {config.run.name} --also terminal` "
            "asks it again for what it failed."
        )
    elif kinds:
        store = f"--store {config.calls.store_url}" if config.calls.store_url else f"--root {config.run.root}"
        statuses = " ".join(f"--status {kind}" for kind in kinds)
        ways.append(
            f"If the server was at fault and is mended, forget its failures with `tapir store prune {store} --role "
            f"{role} {statuses} --yes` and run the same command: it asks for these again."
        )
    ways.append("If so much is to be expected, raise calls.max_failed_share.")
    return " ".join(ways)
