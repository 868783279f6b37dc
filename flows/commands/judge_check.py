"""`tapir judge-check`: the configured judges, in turn, on pairs with a known better answer, outside any run.

Replies go into the store that the runs of the root share, so the same check again costs nothing; no run folder is read
or written. Both orders are asked whatever `judge.orders` says, because a check that sees one order sees no bias.
"""

import itertools
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from flows.commands.terminal import AsJson, ConfigPath, Overrides, console, print_lines, print_tables, say
from flows.driver import probing_engine
from tapir_core import errors, judging, paths, probing, prompts, randomness, run_folder, stages, statistics, text
from tapir_core.calls import Outcome, Watch, run_key
from tapir_core.config import Order, RunConfig, load
from tapir_core.judging.check import (
    CheckPair,
    Group,
    JudgeCheck,
    PairResult,
    build_pairs,
    in_words,
    score_pair,
    summarise_check,
)
from tapir_core.reporting.page import table_of
from tapir_core.summary.formats import NOTHING, count, minutes
from tasks.asking import ask_judge, counts_of, failures_by_kind, read_verdicts, render_texts
from tasks.runtime import Runtime

_NAME = "judge-check"
_SEED = 1
_ORDERS: tuple[Order, Order] = ("teacher_first", "student_first")


@dataclass(frozen=True, slots=True)
class CheckedJudge:
    """What the check of one judge found, and what it cost."""

    name: str
    judge: dict[str, str]
    """model, identity and mode."""
    check: JudgeCheck
    results: tuple[PairResult, ...]
    cost: dict[str, float]
    """calls, stored, prompt_tokens, completion_tokens, usd; the price of what came from the store included."""

    def to_dict(self) -> dict[str, Any]:
        """Everything, every pair included."""
        return {
            "judge": self.judge,
            "word": self.check.word,
            "objections": [reason for _, reason in self.check.objections],
            **asdict(
                self.check,
                dict_factory=lambda fields: {
                    "why" if name == "note" else name: value for name, value in fields if name not in ("failed", "p")
                },
            ),
            "cost": self.cost,
            "pairs": [
                {
                    "id": result.pair.id,
                    "kind": result.pair.kind,
                    "task_type": result.pair.task_type,
                    "outcome": result.outcome,
                    "gaps": dict(result.gaps),
                }
                for result in self.results
            ],
        }


class _NoRun(run_folder.RunFolder):
    """In the place of a run's folder: the configuration as it was read, and room for logs beside the store.

    What checks for one run name of a root spend with the same judges adds up, so that a cap holds over kills.
    """

    def __init__(self, config: RunConfig) -> None:
        super().__init__(run_folder.RunRef(f"{config.run.root}/{PurePosixPath(paths.STORE).parent}", _NAME))
        self.config = config
        known_by = text.digest([run_key(config), _NAME, stages.judge_fields(config)])[:32]
        self.record = run_folder.RunRecord(known_by, _NAME, datetime.now(UTC).isoformat(), {})


def judge_check(
    config: ConfigPath,
    pairs: Annotated[
        int, typer.Option(min=1, help="Pairs of each kind; from 20 on every hostile text has one, below as many fewer.")
    ] = 20,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """`tapir judge-check`."""
    found = check_judges(load.load_config(config, overrides or []), pairs=pairs, say=say)
    if as_json:
        typer.echo(json.dumps({"judges": [each.to_dict() for each in found]}, indent=2, ensure_ascii=False))
    else:
        print_check(console, found)
    raise typer.Exit(exit_code(found))


def exit_code(found: Sequence[CheckedJudge]) -> int:
    """0 when every judge can be trusted, with care or without; 1 when one cannot."""
    return int(any(each.check.word == "do not trust" for each in found))


def check_judges(config: RunConfig, *, pairs: int, say: Callable[[str], None]) -> list[CheckedJudge]:
    """Ask every judge of ``config`` about ``pairs`` pairs of each kind, and about hostile cases (`build_pairs`).

    Raises:
        ConfigError: no judge is asked.
        MissingPrerequisite: a key is not set, or nothing answers at an address.
        BudgetReached: a cap was reached first.
        IncompleteBatch: more replies of a judge are missing than `calls.max_missing_share` accepts.
    """
    if not config.judge.endpoints:
        raise errors.ConfigError(
            "judge.verifier.only: value true: no judge is asked; leave it out to check judge.endpoint"
        )
    drawn = build_pairs(pairs, randomness.derive_rng(_SEED, _NAME))
    balanced = judging.mode_of(config.judge).is_balanced()
    checked = _NoRun(_as_checked(config))
    with probing_engine(checked, config.run.root, say) as ask:
        settled, found = probing.settle(checked.config, {}, ask, of="judge.")
    for line in probing.in_words(found):
        say(line)
    with closing(Runtime(_NoRun(settled), root=config.run.root)) as runtime:
        return [_check(runtime, name, drawn, balanced=balanced, say=say) for name in runtime.judges]


def print_check(console: Console, found: Sequence[CheckedJudge]) -> None:
    """The check of each judge in tables and sentences."""
    for each in found:
        if len(found) > 1:
            console.rule(Text(each.name))
        print_tables(
            console,
            table_of("By kind of pair", _COLUMNS, each.check.kinds),
            table_of("By task type (pairs with a better answer)", _COLUMNS, each.check.task_types),
        )
        print_lines(console, *_lines(each))


def _as_checked(config: RunConfig) -> RunConfig:
    """The configuration in both orders, and without Batch APIs: who checks a judge waits for the result, not a day."""
    endpoint, *panel = (each.live for each in config.judge.endpoints.values())
    changes = {"endpoint": endpoint, "panel": tuple(panel), "orders": _ORDERS}
    return config.model_copy(update={"judge": config.judge.model_copy(update=changes)})


def _check(
    runtime: Runtime, name: str, pairs: Sequence[CheckPair], *, balanced: bool, say: Callable[[str], None]
) -> CheckedJudge:
    settings, role = runtime.config.judge, runtime.judges[name]
    say(f"asking {name} about {len(pairs)} pairs")
    prompt = prompts.load_prompt(settings.asked_as.prompt, runtime.config.run.prompts)
    rows: Iterator[dict[str, Any]] = (
        # A pair as a round's judge sees one: the better answer in the teacher's place.
        {
            "instruction_id": pair.id,
            "instruction": pair.instruction,
            "system": None,
            "reference": None,
            "teacher": pair.better,
            "student": pair.other,
        }
        for pair in pairs
    )
    texts = render_texts(settings, prompt, rows)
    replies = ask_judge(runtime, role, prompt, texts, _saying(say, len(texts)))
    _refuse_gaps(runtime.config, [each.outcome for each in replies.values()])
    found = read_verdicts(judging.mode_of(settings), replies, name, missing=True)
    verdicts = statistics.grouped((each.instruction_id, each) for each in found)
    results = tuple(score_pair(pair, verdicts[pair.id]) for pair in pairs)
    judge = {"model": role.identity.model, "identity": role.identity.identity, "mode": settings.mode}
    check = summarise_check(results, balanced=balanced)
    return CheckedJudge(name, judge, check, results, counts_of(list(replies.values())))


def _saying(say: Callable[[str], None], texts: int) -> Watch:
    """Says how far it is, twenty times, and how long the rest takes at this pace."""
    done, began = itertools.count(1), time.monotonic()

    def on_outcome(_: int, __: Outcome) -> None:
        number = next(done)
        if number % max(1, texts // 20) == 0:
            left = (time.monotonic() - began) * (texts - number) / number
            say(f"{number} of {texts} replies{f', about {minutes(left)} left' if left >= 60 else ''}")

    return Watch(on_outcome)


def _refuse_gaps(config: RunConfig, outcomes: Sequence[Outcome]) -> None:
    missing = failures_by_kind(outcomes, retryable=True)
    if sum(missing.values()) <= config.calls.max_missing_share * len(outcomes):
        return
    kinds = ", ".join(f"{rows} {kind}" for kind, rows in sorted(missing.items()))
    said = f"{sum(missing.values())} of {len(outcomes)} replies did not come ({kinds})"
    if "budget" in missing:
        raise errors.BudgetReached(f"{said}: a cap of [budget] is reached; raise it and give the same command again")
    raise errors.IncompleteBatch(f"{said}; the same command asks for those only")


def _lines(found: CheckedJudge) -> list[str]:
    check, cost = found.check, found.cost
    reasons = "".join(f" · {count(rows)} {reason}" for reason, rows in check.reasons.items())
    return [
        f"order gap: {NOTHING}, for no pair was scored in both orders"
        if check.order_gap.value is None
        else f"order gap: {in_words(check.order_gap, '+.2f', 'points')}; the winner changes with the order in "
        f"{in_words(check.flipped, '.0%')}",
        f"hostile texts that moved it: {', '.join(check.moved) or 'none'}",
        f"unscored verdicts: {in_words(check.unscored, '.1%')}{reasons}",
        f"calls {count(cost['calls'])} · from the store {count(cost['stored'])} · tokens "
        f"{count(cost['prompt_tokens'])} in, {count(cost['completion_tokens'])} out · {cost['usd']:.2f} USD",
        "",
        f"{found.name}: {check.word}",
        *(f"  - {reason}" for _, reason in check.objections),
    ]


_COLUMNS: tuple[tuple[str, Callable[[Group], str]], ...] = (
    ("", lambda group: group.name),
    ("pairs", lambda group: count(group.right.n + group.unscored)),
    ("right", lambda group: NOTHING if group.right.value is None else f"{group.right.value:.0%}"),
    ("95 % interval", lambda group: group.right.span("{:.0%}".format) or NOTHING),
    ("ties", lambda group: count(group.ties)),
    ("unscored", lambda group: count(group.unscored)),
)
