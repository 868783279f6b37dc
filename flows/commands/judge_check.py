"""`tapir judge-check`: the configured judge on pairs with a known better answer, outside any run.

Replies go into the store that the runs of the root share, so the same check again costs nothing; no run folder is read
or written. Both orders are asked whatever `judge.orders` says, because a check that sees one order sees no bias.
"""

from collections.abc import Callable, Sequence
from itertools import product
from pathlib import PurePosixPath
from typing import Any

from flows.commands.judge_check_report import CheckedJudge
from tapir_core.calls import Outcome, Parsed, Request, ask_parsed
from tapir_core.config import Order, RunConfig
from tapir_core.errors import BudgetReached, IncompleteBatch
from tapir_core.judging import (
    Verdict,
    arrange,
    combine_points,
    pair_verdict,
    parse_pointwise,
    parse_verdict,
    render_pairwise,
    render_pointwise,
)
from tapir_core.judging.check import score_pair, summarise_check
from tapir_core.judging.check_pairs import CheckPair, build_pairs
from tapir_core.judging.check_trust import weigh_check
from tapir_core.paths import STORE
from tapir_core.prompts import Prompt, load_prompt
from tapir_core.randomness import derive_rng
from tapir_core.replies import Unparsed
from tapir_core.run_folder import RunFolder, RunRef
from tasks.asking import chat, counts_of, make_request, missing_by_kind
from tasks.runtime import Runtime

__all__ = ["DEFAULT_PAIRS", "check_judge"]

DEFAULT_PAIRS = 20
"""Pairs of each kind; the hostile kind has one for each case."""

_NAME = "judge-check"
_SEED = 1
_ORDERS: tuple[Order, Order] = ("teacher_first", "student_first")


class _NoRun(RunFolder):
    """In the place of a run's folder: the configuration as it was read, and room for logs beside the store."""

    def __init__(self, config: RunConfig) -> None:
        super().__init__(RunRef(f"{config.run.root}/{PurePosixPath(STORE).parent}", _NAME))
        self.config = config


def check_judge(config: RunConfig, *, pairs: int, say: Callable[[str], None]) -> CheckedJudge:
    """Ask the judge of ``config`` about ``pairs`` pairs of each kind, and about every hostile case.

    Raises:
        MissingPrerequisite: its key is not set, or nothing answers at its address.
        BudgetReached: a cap was reached first.
        IncompleteBatch: more verdicts are missing than `calls.max_missing_share` accepts.
    """
    config = _asking_live(config)
    drawn = build_pairs(pairs, derive_rng(_SEED, _NAME))
    runtime = Runtime(_NoRun(config))
    try:
        voice = runtime.judge.voice
        say(f"asking {voice.model} about {len(drawn)} pairs")
        ask = _ask_pairwise if config.judge.mode == "pairwise" else _ask_pointwise
        verdicts, asked = ask(runtime, drawn, say)
    finally:
        runtime.close()
    _refuse_gaps(config, asked)
    results = tuple(score_pair(pair, said) for pair, said in zip(drawn, verdicts, strict=True))
    check = summarise_check(results)
    balanced = config.judge.mode == "pointwise" or len(config.judge.orders) == len(_ORDERS)
    trust = weigh_check(check, both_orders=balanced)
    return CheckedJudge(voice.model, voice.identity, config.judge.mode, check, trust, results, counts_of(asked))


def _asking_live(config: RunConfig) -> RunConfig:
    """The configuration without its Batch API: who checks a judge waits for the result, not for a day."""
    live = config.judge.endpoint.model_copy(update={"mode": "live"})
    return config.model_copy(update={"judge": config.judge.model_copy(update={"endpoint": live})})


def _ask_pairwise(
    runtime: Runtime, pairs: Sequence[CheckPair], say: Callable[[str], None]
) -> tuple[list[list[Verdict]], list[Parsed[Any]]]:
    """Verdicts in both orders for each pair, and what was asked for them."""
    prompt = load_prompt("judge", runtime.config.run.prompts)
    grid = list(product(pairs, _ORDERS))
    shown = [arrange(order, student=pair.other, teacher=pair.better) for pair, order in grid]
    texts = [
        render_pairwise(prompt, pair.instruction, None, answers.answer_1, answers.answer_2)
        for (pair, _), answers in zip(grid, shown, strict=True)
    ]
    asked = _ask(runtime, texts, prompt, parse_verdict, say)
    verdicts = [
        pair_verdict(pair.id, order, each.value or Unparsed(each.reason), each.raw)
        for (pair, order), each in zip(grid, asked, strict=True)
    ]
    return [verdicts[place : place + len(_ORDERS)] for place in range(0, len(verdicts), len(_ORDERS))], asked


def _ask_pointwise(
    runtime: Runtime, pairs: Sequence[CheckPair], say: Callable[[str], None]
) -> tuple[list[list[Verdict]], list[Parsed[Any]]]:
    """One verdict for each pair, of the scores of its two answers; a right answer is asked about once."""
    prompt = load_prompt("judge_pointwise", runtime.config.run.prompts)
    texts = [
        render_pointwise(prompt, pair.instruction, None, answer)
        for pair in pairs
        for answer in (pair.other, pair.better)
    ]
    asked = _ask(runtime, texts, prompt, parse_pointwise, say)
    verdicts = [
        combine_points(pair.id, other.value or Unparsed(other.reason), better.value or Unparsed(better.reason), None)
        for pair, other, better in zip(pairs, asked[::2], asked[1::2], strict=True)
    ]
    return [[verdict] for verdict in verdicts], asked


def _ask(
    runtime: Runtime,
    texts: Sequence[str],
    prompt: Prompt,
    parse: Callable[[str], Any],
    say: Callable[[str], None],
) -> list[Parsed[Any]]:
    judge, settings = runtime.judge, runtime.config.judge
    requests: list[Request] = [
        make_request(runtime.run, "judge", judge.voice, chat(text), settings.sampling, prompt=prompt) for text in texts
    ]
    done, step = 0, max(1, len(texts) // 4)

    def on_outcome(_: int, __: Outcome) -> None:
        nonlocal done
        done += 1
        if done % step == 0:
            say(f"{done} of {len(texts)} replies")

    return ask_parsed(runtime.calls, requests, judge.source, parse, settings.reasks, on_outcome=on_outcome)


def _refuse_gaps(config: RunConfig, asked: Sequence[Parsed[Any]]) -> None:
    missing = missing_by_kind([each.outcome for each in asked])
    if sum(missing.values()) <= config.calls.max_missing_share * len(asked):
        return
    kinds = ", ".join(f"{rows} {kind}" for kind, rows in sorted(missing.items()))
    said = f"{sum(missing.values())} of {len(asked)} replies did not come ({kinds})"
    if "budget" in missing:
        raise BudgetReached(f"{said}: a cap of [budget] is reached; raise it and give the same command again")
    raise IncompleteBatch(f"{said}; the same command asks for those only")
