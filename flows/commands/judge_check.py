"""`tapir judge-check`: the configured judges, in turn, on pairs with a known better answer, outside any run.

Replies go into the store that the runs of the root share, so the same check again costs nothing; no run folder is read
or written. Both orders are asked whatever `judge.orders` says, because a check that sees one order sees no bias.
"""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Any

from flows.commands.judge_check_report import CheckedJudge, CheckedPanel
from tapir_core.calls import OnOutcome, Outcome, Parsed
from tapir_core.calls.store.address import run_key
from tapir_core.config import Order, RunConfig
from tapir_core.errors import BudgetReached, IncompleteBatch
from tapir_core.judging import Verdict, mode_of
from tapir_core.judging.check import score_pair, summarise_check
from tapir_core.judging.check_pairs import CheckPair, build_pairs
from tapir_core.judging.check_trust import weigh_check
from tapir_core.paths import STORE
from tapir_core.prompts import load_prompt
from tapir_core.randomness import derive_rng
from tapir_core.run_folder import RunFolder, RunRecord, RunRef
from tapir_core.stage_fields import judge_fields
from tapir_core.text import digest
from tasks.asking import counts_of, missing_by_kind
from tasks.asking_judges import ask_judge, read_verdicts, render_texts
from tasks.runtime import Runtime

__all__ = ["check_judge"]

_NAME = "judge-check"
_SEED = 1
_ORDERS: tuple[Order, Order] = ("teacher_first", "student_first")


class _NoRun(RunFolder):
    """In the place of a run's folder: the configuration as it was read, and room for logs beside the store.

    What checks for one run name of a root spend with the same judges adds up, so that a cap holds over kills.
    """

    def __init__(self, config: RunConfig) -> None:
        super().__init__(RunRef(f"{config.run.root}/{PurePosixPath(STORE).parent}", _NAME))
        self.config = config
        known_by = digest([run_key(config), _NAME, judge_fields(config)])[:32]
        self.record = RunRecord(known_by, _NAME, datetime.now(UTC).isoformat(), {})


def check_judge(config: RunConfig, *, pairs: int, say: Callable[[str], None]) -> CheckedPanel:
    """Ask every judge of ``config`` about ``pairs`` pairs of each kind, and about every hostile case.

    Raises:
        MissingPrerequisite: a key is not set, or nothing answers at an address.
        BudgetReached: a cap was reached first.
        IncompleteBatch: more replies of a judge are missing than `calls.max_missing_share` accepts.
    """
    drawn = build_pairs(pairs, derive_rng(_SEED, _NAME))
    balanced = mode_of(config.judge).is_balanced(config.judge)
    runtime = Runtime(_NoRun(_as_checked(config)))
    try:
        checked = [_check(runtime, name, drawn, balanced=balanced, say=say) for name in runtime.judges]
    finally:
        runtime.close()
    return CheckedPanel(tuple(checked))


def _as_checked(config: RunConfig) -> RunConfig:
    """The configuration in both orders, and without Batch APIs: who checks a judge waits for the result, not a day."""
    endpoint, *panel = (each.model_copy(update={"mode": "live"}) for each in config.judge.endpoints.values())
    changes = {"endpoint": endpoint, "panel": tuple(panel), "orders": _ORDERS}
    return config.model_copy(update={"judge": config.judge.model_copy(update=changes)})


def _check(
    runtime: Runtime, name: str, pairs: Sequence[CheckPair], *, balanced: bool, say: Callable[[str], None]
) -> CheckedJudge:
    settings, role = runtime.config.judge, runtime.judges[name]
    say(f"asking {name} about {len(pairs)} pairs")
    prompt = load_prompt(settings.prompt, runtime.config.run.prompts)
    texts = render_texts(settings, prompt, map(_as_row, pairs))
    replies = ask_judge(runtime, role, prompt, texts, on_outcome=_saying(say, len(texts)))
    asked = list(replies.values())
    _refuse_gaps(runtime.config, asked)
    verdicts: dict[str, list[Verdict]] = {}
    for each in read_verdicts(mode_of(settings), replies, name):
        verdicts.setdefault(each.verdict.instruction_id, []).append(each.verdict)
    results = tuple(score_pair(pair, verdicts[pair.id]) for pair in pairs)
    check = summarise_check(results)
    trust = weigh_check(check, both_orders=balanced)
    voice = role.voice
    return CheckedJudge(name, voice.model, voice.identity, settings.mode, check, trust, results, counts_of(asked))


def _as_row(pair: CheckPair) -> dict[str, Any]:
    """A pair as a round's judge sees one: the better answer in the teacher's place."""
    shown = {"instruction_id": pair.id, "instruction": pair.instruction, "system": None, "reference": None}
    return {**shown, "teacher": pair.better, "student": pair.other}


def _saying(say: Callable[[str], None], texts: int) -> OnOutcome:
    """Says how far it is, four times."""
    done, step = 0, max(1, texts // 4)

    def on_outcome(_: int, __: Outcome) -> None:
        nonlocal done
        done += 1
        if done % step == 0:
            say(f"{done} of {texts} replies")

    return on_outcome


def _refuse_gaps(config: RunConfig, asked: Sequence[Parsed[Any]]) -> None:
    missing = missing_by_kind([each.outcome for each in asked])
    if sum(missing.values()) <= config.calls.max_missing_share * len(asked):
        return
    kinds = ", ".join(f"{rows} {kind}" for kind, rows in sorted(missing.items()))
    said = f"{sum(missing.values())} of {len(asked)} replies did not come ({kinds})"
    if "budget" in missing:
        raise BudgetReached(f"{said}: a cap of [budget] is reached; raise it and give the same command again")
    raise IncompleteBatch(f"{said}; the same command asks for those only")
