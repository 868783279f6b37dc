"""A comparison of arms in tables and pictures."""

import math
import textwrap
from collections.abc import Callable, Sequence
from typing import Any

from tapir_core.comparison.figures import ArmRow, ComparedArms
from tapir_core.evaluation.statistics import MAX_FAILED_SHARE, Resampled
from tapir_core.reporting.figure import COLOURS, GREY, INK, draw
from tapir_core.reporting.tables import Table
from tapir_core.summary.formats import NOTHING, count, duration, number, percent
from tapir_core.task_types import TASK_TYPES

__all__ = [
    "arms_table",
    "arms_tables",
    "brief_table",
    "narrow_tables",
    "plot_curves",
    "plot_differences",
    "plot_task_types",
]

_Column = tuple[str, Callable[[ArmRow], str]]


def arms_table(compared: ComparedArms) -> Table:
    """Scores and costs of each arm in one table."""
    note = " ".join([_TEST_NOTE, _AGAINST_NOTE, _TRAINING_NOTE, _calls_note(compared)])
    return _table("Arms", compared, [*_TEST, *_AGAINST, *_PAIRED, *_TRAINING, *_CALLS], note)


def brief_table(compared: ComparedArms) -> Table:
    """What a reader of a Markdown page wants of each arm: score, difference, training and calls with their ratios."""
    return _table(
        "Arms", compared, _BRIEF, " ".join([_TEST_NOTE, _AGAINST_NOTE, _BRIEF_NOTE, f"USD {compared.prices}."])
    )


def narrow_tables(compared: ComparedArms) -> list[Table]:
    """Scores and costs of each arm in tables that fit a terminal, with the arms' short names."""
    parts = [
        ("Scores on the test split", _TEST, _TEST_NOTE),
        ("Against random", _AGAINST, _AGAINST_NOTE),
        ("Training", _TRAINING, _TRAINING_NOTE),
        ("Calls", _CALLS, _calls_note(compared)),
    ]
    return [_table(title, compared, columns, note, name=_short_name) for title, columns, note in parts]


def arms_tables(compared: ComparedArms) -> dict[str, Table]:
    """`arms`, `dev` and `task_types`."""
    note = "Read by the stop rule and by who tunes, so it may flatter; no verdict reads it."
    dev = _table("Dev split", compared, _DEV, note)
    return {"arms": arms_table(compared), "dev": dev, "task_types": _task_types(compared)}


def _table(
    title: str,
    compared: ComparedArms,
    columns: Sequence[_Column],
    note: str,
    *,
    name: Callable[[ArmRow], str] | None = None,
) -> Table:
    rows = tuple(((name or _name)(row), *(cell(row) for _, cell in columns)) for row in compared.rows)
    return Table(title, ("Arm", *(column for column, _ in columns)), rows, note=note)


def _task_types(compared: ComparedArms) -> Table:
    rows = [
        (name, *(_with_interval(_score(found), _share_interval(found)) for found in _of_type(compared, name)))
        for name in TASK_TYPES
        if any(name in row.task_types for row in compared.rows)
    ]
    columns = ("Task type", *(_name(row) for row in compared.rows))
    note = (
        "Test, %, with its 95 % interval: means over run seeds of the last students. No figure of a task type of which "
        f"more than {MAX_FAILED_SHARE:.0%} of the answers are missing with a run seed."
    )
    return Table("Test split by task type", columns, tuple(rows), note=note)


def _of_type(compared: ComparedArms, name: str) -> list[Resampled | None]:
    return [row.task_types.get(name) for row in compared.rows]


def _name(row: ArmRow) -> str:
    return f"{row.label} (exploratory)" if row.exploratory else row.label


def _short_name(row: ArmRow) -> str:
    return f"{row.name} *" if row.exploratory else row.name


def _seeds(row: ArmRow) -> str:
    return str(len(row.run_seeds))


def _missing(row: ArmRow) -> str:
    return count(row.missing)


def _score(found: Resampled | None) -> str:
    return NOTHING if found is None else f"{100 * found.value:.1f}"


def _share_interval(found: Resampled | None) -> str:
    return NOTHING if found is None else f"{100 * found.low95:.1f} to {100 * found.high95:.1f}"


def _points(found: Resampled | None) -> str:
    return NOTHING if found is None else f"{100 * found.value:+.1f}"


def _interval(found: Resampled | None, *, level: int) -> str:
    if found is None:
        return NOTHING
    low, high = (found.low90, found.high90) if level == 90 else (found.low95, found.high95)
    return f"{100 * low:+.1f} to {100 * high:+.1f}"


def _with_interval(value: str, interval: str) -> str:
    return value if interval == NOTHING else f"{value} ({interval})"


def _ratio(value: float | None) -> str:
    return NOTHING if value is None else f"× {value:.3f}"


_TEST: list[_Column] = [
    ("Run seeds", _seeds),
    ("Items", lambda row: count(row.test.items if row.test else None)),
    ("Missing", _missing),
    ("Test, %", lambda row: row.why or _score(row.test)),
    ("95 % interval", lambda row: _share_interval(row.test)),
]

_AGAINST: list[_Column] = [
    ("− random", lambda row: _points(row.to_random)),
    ("90 % interval", lambda row: _interval(row.to_random, level=90)),
    ("95 % interval", lambda row: _interval(row.to_random, level=95)),
    ("p", lambda row: NOTHING if row.to_random is None else f"{row.to_random.p:.4f}"),
    ("seeds", lambda row: count(row.to_random.run_seeds if row.to_random else None)),
]

_PAIRED: list[_Column] = [("of items", lambda row: count(row.to_random.items if row.to_random else None))]

_DEV: list[_Column] = [
    ("Run seeds", _seeds),
    ("Dev, %", lambda row: _score(row.dev)),
    ("95 % interval", lambda row: _share_interval(row.dev)),
]

_TRAINING: list[_Column] = [
    ("Tokens", lambda row: count(row.costs.tokens if row.costs else None)),
    ("ratio", lambda row: _ratio(row.costs.tokens_ratio if row.costs else None)),
    ("Steps", lambda row: count(row.costs.steps if row.costs else None)),
    ("ratio", lambda row: _ratio(row.costs.steps_ratio if row.costs else None)),
    ("With loss", lambda row: count(row.costs.loss_tokens if row.costs else None)),
    ("Time", lambda row: duration(row.costs.seconds if row.costs else None)),
]

_CALLS: list[_Column] = [
    ("Teacher calls", lambda row: count(row.costs.teacher_answers if row.costs else None)),
    ("Judge calls", lambda row: count(row.costs.judge_answers if row.costs else None)),
    ("USD", lambda row: number(row.costs.usd if row.costs else None, 4)),
    ("Shared", lambda row: percent(row.costs.stored_share if row.costs else None)),
    ("Sent", lambda row: count(row.costs.paid_requests if row.costs else None)),
    ("USD sent", lambda row: number(row.costs.paid_usd if row.costs else None, 4)),
]

_BRIEF: list[_Column] = [
    ("Run seeds", _seeds),
    ("Missing", _missing),
    ("Test, % (95 % interval)", lambda row: row.why or _with_interval(_score(row.test), _share_interval(row.test))),
    (
        "− random (90 % interval)",
        lambda row: _with_interval(_points(row.to_random), _interval(row.to_random, level=90)),
    ),
    ("Tokens", lambda row: _ratio(row.costs.tokens_ratio if row.costs else None)),
    ("Steps", lambda row: _ratio(row.costs.steps_ratio if row.costs else None)),
    ("Teacher calls", lambda row: count(row.costs.teacher_answers if row.costs else None)),
    ("Judge calls", lambda row: count(row.costs.judge_answers if row.costs else None)),
    ("USD", lambda row: number(row.costs.usd if row.costs else None, 4)),
]

_TEST_NOTE = (
    "Test: held-out instructions with the right final result, mean over run seeds; exploratory arms: of one. Missing: "
    f"test answers that the students lack; no figure where it is more than {MAX_FAILED_SHARE:.0%} with a run seed."
)

_AGAINST_NOTE = (
    "− random: paired difference in points, over the instructions that both answered with the run seeds that both have."
)

_TRAINING_NOTE = (
    "Tokens and steps: of all rounds after S_0, mean over run seeds, and their ratio to the reference; with loss: of "
    "the tokens, those of answers. Time: at work, without what was taken over."
)

_BRIEF_NOTE = (
    "Tokens and steps: of all rounds after S_0, as ratios to the reference. Calls and USD: what the arm takes, as if "
    "it stood alone."
)


def _calls_note(compared: ComparedArms) -> str:
    return (
        f"Calls and USD: what the arm takes, as if it stood alone; USD {compared.prices}. Shared: of its calls, those "
        "that another run, or an earlier start, had made. Sent: requests that its own runs sent, repeated attempts and "
        "mixtures that were made anew included."
    )


_MARKERS = ("D", "o", "s", "^", "v", "P", "X", "*", "<", ">")


_LABEL_LETTERS = 30
"""Where the name of an arm is broken beside its row."""
_APART = 0.012
"""Between the points of arms that trained on as much, as a share of that."""


def plot_differences(rows: Sequence[ArmRow]) -> str:
    """Difference to random of each arm that has one: 90 % interval thick, 95 % thin; exploratory arms grey.

    Backbone and S_0 are no arms: so far below that nobody could tell the others apart.
    """
    shown = [(row, row.to_random) for row in rows if row.costs and row.to_random is not None]

    def fill(figure: Any) -> None:
        axes = figure.subplots()
        for place, (row, found) in enumerate(shown):
            colour = GREY if row.exploratory else COLOURS[0]
            axes.hlines(place, 100 * found.low95, 100 * found.high95, color=colour, linewidth=1.2)
            axes.hlines(place, 100 * found.low90, 100 * found.high90, color=colour, linewidth=3.6)
            axes.plot([100 * found.value], [place], "D", color=colour, markersize=6)
        axes.axvline(0, color=INK, linewidth=0.8)
        axes.set_yticks(range(len(shown)), [textwrap.fill(row.label, _LABEL_LETTERS) for row, _ in shown])
        axes.set_ylim(len(shown) - 0.5, -0.5)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("points ahead of random")

    return draw("Difference of each arm to random, with intervals", 0.9 + 0.4 * len(shown), fill)


def plot_curves(rows: Sequence[ArmRow]) -> str:
    """Test accuracy after each round of the primary arms by the tokens trained on, with 90 % intervals.

    Exploratory arms have fewer run seeds, so their curves begin at another S_0.
    """
    shown = [row for row in rows if len(row.curve) > 1 and not row.exploratory]
    apart = _APART * max((row.curve[-1].tokens for row in shown), default=0) / 1000

    def fill(figure: Any) -> None:
        axes = figure.subplots()
        for place, row in enumerate(shown):
            beside = apart * (place - (len(shown) - 1) / 2)
            middle = [100 * point.test.value for point in row.curve]
            below = [100 * (point.test.value - point.test.low90) for point in row.curve]
            above = [100 * (point.test.high90 - point.test.value) for point in row.curve]
            axes.errorbar(
                [point.tokens / 1000 + beside for point in row.curve],
                middle,
                yerr=[[max(0.0, each) for each in below], [max(0.0, each) for each in above]],
                color=COLOURS[place % len(COLOURS)],
                marker=_MARKERS[place % len(_MARKERS)],
                markersize=5,
                capsize=2,
                linewidth=1.3,
                label=row.label,
            )
        axes.set_xlabel("thousand training tokens after S_0")
        axes.set_ylabel("accuracy on the test split, %")
        figure.legend(loc="outside upper center", ncols=1)

    return draw("Test accuracy by training tokens", 3.0 + 0.2 * len(shown), fill)


def plot_task_types(rows: Sequence[ArmRow]) -> str:
    """Test accuracy of each row on each task type, as bars."""
    names = [name for name in TASK_TYPES if any(name in row.task_types for row in rows)]
    arms = [row.name for row in rows if row.costs]
    thickness = 0.84 / max(1, len(rows))

    def fill(figure: Any) -> None:
        axes = figure.subplots()
        for offset, row in enumerate(rows):
            axes.barh(
                [place + thickness * (offset - (len(rows) - 1) / 2) for place in range(len(names))],
                [100 * row.task_types[name].value if name in row.task_types else math.nan for name in names],
                thickness * 0.92,
                color=COLOURS[arms.index(row.name) % len(COLOURS)] if row.costs else GREY,
                label=row.label,
            )
        axes.set_yticks(range(len(names)), names)
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.grid(axis="y", visible=False)
        axes.set_xlim(0, 100)
        axes.set_xlabel("accuracy on the test split, %")
        figure.legend(loc="outside upper center", ncols=1)

    height = 0.9 + 0.2 * len(rows) + (0.12 + 0.09 * len(rows)) * len(names)
    return draw("Test accuracy of the arms by task type", height, fill)
