"""What `tapir judge-check` says: tables and sentences for a terminal, one JSON object for a program."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.text import Text

from flows.commands.lines import print_line
from flows.commands.tables import print_table
from tapir_core.judging.check import Group, JudgeCheck, PairResult, Trust
from tapir_core.judging.estimates import Estimate
from tapir_core.reporting.formats import NOTHING, count
from tapir_core.reporting.tables import Table

__all__ = ["CheckedJudge", "CheckedPanel", "print_check"]


@dataclass(frozen=True, slots=True)
class CheckedJudge:
    """What the check of one judge found, and what it cost."""

    name: str
    model: str
    identity: str
    mode: str
    check: JudgeCheck
    trust: Trust
    results: tuple[PairResult, ...]
    cost: dict[str, float]
    """calls, stored, prompt_tokens, completion_tokens, usd; the price of what came from the store included."""

    def to_dict(self) -> dict[str, Any]:
        """Everything, every pair included."""
        pairs = [
            {
                "id": result.pair.id,
                "kind": result.pair.kind,
                "task_type": result.pair.task_type,
                "outcome": result.outcome,
                "gaps": dict(result.gaps),
            }
            for result in self.results
        ]
        judge = {"model": self.model, "identity": self.identity, "mode": self.mode}
        return {"judge": judge, **asdict(self.trust), **asdict(self.check), "cost": self.cost, "pairs": pairs}


@dataclass(frozen=True, slots=True)
class CheckedPanel:
    """What the check of every judge found."""

    judges: tuple[CheckedJudge, ...]

    @property
    def exit_code(self) -> int:
        """0 when every judge can be trusted, with care or without; 1 when one cannot."""
        return 1 if any(each.trust.word == "do not trust" for each in self.judges) else 0

    def to_json(self) -> str:
        """Every judge under `judges`, as one JSON object."""
        return json.dumps({"judges": [each.to_dict() for each in self.judges]}, indent=2, ensure_ascii=False)


def print_check(console: Console, found: CheckedPanel) -> None:
    """The check of each judge in tables and sentences."""
    for each in found.judges:
        if len(found.judges) > 1:
            console.rule(Text(each.name))
        _print_judge(console, each)


def _print_judge(console: Console, found: CheckedJudge) -> None:
    check, cost = found.check, found.cost
    print_table(console, _table("By kind of pair", check.kinds))
    print_table(console, _table("By task type (pairs with a better answer)", check.task_types))
    lines = [
        _order_line(check),
        f"hostile texts that moved it: {', '.join(check.moved) or 'none'}",
        f"unscored verdicts: {_figure(check.unscored, '.1%')}"
        + "".join(f" · {count(rows)} {reason}" for reason, rows in check.reasons.items()),
        f"calls {count(cost['calls'])} · from the store {count(cost['stored'])} · tokens "
        f"{count(cost['prompt_tokens'])} in, {count(cost['completion_tokens'])} out · {cost['usd']:.2f} USD",
        "",
        f"{found.name}: {found.trust.word}",
        *(f"  - {reason}" for reason in found.trust.reasons),
    ]
    for line in lines:
        print_line(console, line)


def _table(title: str, groups: Sequence[Group]) -> Table:
    return Table(title, ("", "pairs", "right", "95 % interval", "ties", "unscored"), tuple(map(_row, groups)))


def _row(group: Group) -> tuple[str, ...]:
    right = group.right
    share = NOTHING if right.value is None else f"{right.value:.0%}"
    interval = NOTHING if right.low is None or right.high is None else f"{right.low:.0%} to {right.high:.0%}"
    return group.name, count(right.n + group.unscored), share, interval, count(group.ties), count(group.unscored)


def _order_line(check: JudgeCheck) -> str:
    if check.order_gap.value is None:
        return f"order gap: {NOTHING}, for no pair was scored in both orders"
    flipped = _figure(check.flipped, ".0%")
    return f"order gap: {_figure(check.order_gap, '+.2f')} points; the winner changes with the order in {flipped}"


def _figure(estimate: Estimate, form: str) -> str:
    if estimate.value is None:
        return NOTHING
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:{form}}"
    return f"{estimate.value:{form}} ({estimate.low:{form}} to {estimate.high:{form}})"
