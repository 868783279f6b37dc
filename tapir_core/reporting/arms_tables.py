"""The tables of a comparison of arms, as text cells: scores, differences, what each arm took, dev figures, task types.

Scores are in per cent, differences in percentage points.
"""

from collections.abc import Callable, Sequence

from tapir_core.comparison.figures import ComparedArms, Figures
from tapir_core.evaluation.bootstrap import Resampled
from tapir_core.reporting.formats import NOTHING, count, duration, number, percent
from tapir_core.reporting.tables import Table
from tapir_core.task_types import TASK_TYPES

__all__ = ["arms_table", "arms_tables", "costs_table", "scores_table"]

_Column = tuple[str, Callable[[Figures], str]]


def arms_table(compared: ComparedArms) -> Table:
    """Scores and costs of each arm in one table."""
    return _table("Arms", compared, [*_SCORES, *_COSTS], f"{_SCORE_NOTE} {_cost_note(compared)}")


def scores_table(compared: ComparedArms) -> Table:
    """Scores and differences alone."""
    return _table("Scores on the test split", compared, _SCORES, _SCORE_NOTE)


def costs_table(compared: ComparedArms) -> Table:
    """What each arm took, alone."""
    return _table("What each arm took", compared, _COSTS, _cost_note(compared))


def arms_tables(compared: ComparedArms) -> dict[str, Table]:
    """`arms`, `dev` and `task_types`."""
    dev = _table(
        "Dev split",
        compared,
        [
            ("Run seeds", _seeds),
            ("Dev, %", lambda row: _score(row.dev)),
            ("95 % interval", lambda row: _low95(row.dev)),
        ],
        "Read by the stop rule and by who tunes, so it may flatter; no verdict reads it.",
    )
    return {"arms": arms_table(compared), "dev": dev, "task_types": _task_types(compared)}


def _table(title: str, compared: ComparedArms, columns: Sequence[_Column], note: str) -> Table:
    rows = tuple((_name(row), *(cell(row) for _, cell in columns)) for row in compared.rows)
    return Table(title, ("Arm", *(name for name, _ in columns)), rows, note=note)


def _task_types(compared: ComparedArms) -> Table:
    rows = [
        (name, *(percent(row.task_types.get(name)) for row in compared.rows))
        for name in TASK_TYPES
        if any(name in row.task_types for row in compared.rows)
    ]
    columns = ("Task type", *(_name(row) for row in compared.rows))
    return Table("Test split by task type", columns, tuple(rows), note="Means over run seeds of the last students.")


def _name(row: Figures) -> str:
    return f"{row.label} (exploratory)" if row.exploratory else row.label


def _seeds(row: Figures) -> str:
    return str(len(row.run_seeds))


def _score(found: Resampled | None) -> str:
    return NOTHING if found is None else f"{100 * found.value:.1f}"


def _low95(found: Resampled | None) -> str:
    return NOTHING if found is None else f"{100 * found.low95:.1f} to {100 * found.high95:.1f}"


def _points(found: Resampled | None) -> str:
    return NOTHING if found is None else f"{100 * found.value:+.1f}"


def _interval(found: Resampled | None, *, level: int) -> str:
    if found is None:
        return NOTHING
    low, high = (found.low90, found.high90) if level == 90 else (found.low95, found.high95)
    return f"{100 * low:+.1f} to {100 * high:+.1f}"


def _ratio(value: float | None) -> str:
    return NOTHING if value is None else f"× {value:.3f}"


_SCORES: list[_Column] = [
    ("Run seeds", _seeds),
    ("Items", lambda row: count(row.test.items if row.test else None)),
    ("Test, %", lambda row: row.why or _score(row.test)),
    ("95 % interval", lambda row: _low95(row.test)),
    ("− random", lambda row: _points(row.to_random)),
    ("90 %", lambda row: _interval(row.to_random, level=90)),
    ("95 %", lambda row: _interval(row.to_random, level=95)),
    ("p", lambda row: NOTHING if row.to_random is None else f"{row.to_random.p:.4f}"),
]

_COSTS: list[_Column] = [
    ("Tokens", lambda row: count(row.costs.tokens if row.costs else None)),
    ("to reference", lambda row: _ratio(row.costs.tokens_ratio if row.costs else None)),
    ("Steps", lambda row: count(row.costs.steps if row.costs else None)),
    ("to reference", lambda row: _ratio(row.costs.steps_ratio if row.costs else None)),
    ("Tokens with loss", lambda row: count(row.costs.loss_tokens if row.costs else None)),
    ("Teacher calls", lambda row: count(row.costs.teacher_answers if row.costs else None)),
    ("Judge calls", lambda row: count(row.costs.judge_answers if row.costs else None)),
    ("USD", lambda row: number(row.costs.usd if row.costs else None, 4)),
    ("Shared", lambda row: percent(row.costs.stored_share if row.costs else None)),
    ("Sent", lambda row: count(row.costs.paid_requests if row.costs else None)),
    ("USD sent", lambda row: number(row.costs.paid_usd if row.costs else None, 4)),
    ("Time", lambda row: duration(row.costs.seconds if row.costs else None)),
]

_SCORE_NOTE = (
    "Test: per cent of held-out instructions with the right final result, mean over run seeds; − random: paired "
    "difference in points over the same instructions and run seeds, with its intervals."
)


def _cost_note(compared: ComparedArms) -> str:
    return (
        "Tokens and steps: of all rounds after S_0, mean over run seeds. Calls and USD: what the arm takes, as if it "
        f"stood alone; USD {compared.prices}. Shared: of its calls, those that another run, or an earlier start, had "
        "made. Sent: requests that its own runs sent, repeated attempts and mixtures that were made anew included."
    )
