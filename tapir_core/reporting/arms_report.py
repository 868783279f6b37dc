"""A comparison of arms: tables and plots, on one page that needs nothing else, as JSON, and in Markdown."""

import json
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from tapir_core.comparison.figures import BASIC, ArmRow, ComparedArms
from tapir_core.comparison.verdict import covers_sentence, verdicts
from tapir_core.evaluation.bootstrap import Resampled
from tapir_core.evaluation.statistics import MAX_FAILED_SHARE
from tapir_core.judging.estimates import Estimate
from tapir_core.paths import comparison_file
from tapir_core.reporting.conditions import conditions_lines, conditions_table
from tapir_core.reporting.figure import (
    COLOURS,
    GREY,
    INK,
    Plot,
    draw,
    draw_task_types,
    name_rows,
    points_with_intervals,
)
from tapir_core.reporting.page import Section, render_page
from tapir_core.reporting.run_card import markdown_table, markdown_text, plots_card
from tapir_core.reporting.tables import Table
from tapir_core.storage import Storage
from tapir_core.summary.formats import NOTHING, count, duration, number, percent
from tapir_core.task_types import TASK_TYPES

__all__ = [
    "arms_card",
    "arms_json",
    "arms_plots_card",
    "arms_table",
    "arms_tables",
    "brief_table",
    "narrow_tables",
    "render_arms",
    "write_arms",
]

_MARKERS = ("D", "o", "s", "^", "v", "P", "X", "*", "<", ">")
_LABEL_LETTERS = 30
"""Where the name of an arm is broken beside its row."""
_APART = 0.012
"""Between the points of arms that trained on as much, as a share of that."""

_Column = tuple[str, Callable[[ArmRow], str]]


def write_arms(compared: ComparedArms, root: str) -> str:
    """Write page and JSON below the root and say where the page is."""
    storage, page = Storage(root), comparison_file(compared.name, "html")
    storage.write_bytes(comparison_file(compared.name, "json"), arms_json(compared).encode())
    storage.write_bytes(page, render_arms(compared).encode())
    return f"{root}/{page}"


def arms_card(compared: ComparedArms) -> str:
    """Table, conditions, verdicts and what the intervals cover, in Markdown."""
    table = brief_table(compared)
    conditions = "\n".join(map(markdown_text, conditions_lines(compared.conditions)))
    said = "\n".join(f"- {markdown_text(sentence)}" for sentence in verdicts(compared))
    notes = map(markdown_text, (table.note, covers_sentence(compared)))
    parts = [markdown_table(table), conditions, said, *notes]
    return "\n\n".join(filter(None, parts)) + "\n"


def arms_plots_card(compared: ComparedArms) -> str:
    """The plots of the page in Markdown; nothing where there is no plot."""
    return plots_card(filter(None, _plots(compared)))


def arms_json(compared: ComparedArms) -> str:
    """Every figure; shares are 0-1, a difference is keyed `ONE - OTHER`."""
    differences = {f"{one} - {other}": asdict(found) for (one, other), found in compared.differences.items()}
    table = {
        "name": compared.name,
        "reference": compared.reference,
        "rows": [asdict(row) for row in compared.rows],
        "differences": differences,
        "unfinished": list(compared.unfinished),
        "verdicts": verdicts(compared),
        "intervals": covers_sentence(compared),
        "usd": compared.prices,
        "conditions": dict(compared.conditions),
    }
    return json.dumps(table, indent=1, ensure_ascii=False) + "\n"


def render_arms(compared: ComparedArms) -> str:
    """The page. Everything that is text is escaped."""
    tables, (differences, curves, task_types) = arms_tables(compared), _plots(compared)
    as_table = Section("The same as a table, with all arms", [tables["task_types"]])
    sections = [
        Section("", [tables["arms"], conditions_table(compared.conditions)]),
        Section("Difference to random", [differences]),
        Section("By training tokens", [curves]),
        Section("By task type", [task_types, as_table] if task_types is not None else []),
        Section(tables["dev"].title, [tables["dev"]]),
    ]
    return render_page(
        "comparison.html.jinja2",
        sections,
        name=compared.name,
        arms=len([row for row in compared.rows if row.costs]),
        unfinished=compared.unfinished,
        verdicts=verdicts(compared),
        covers=covers_sentence(compared),
    )


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
        (name, *(_share_with_interval(row.task_types.get(name)) for row in compared.rows))
        for name in TASK_TYPES
        if any(name in row.task_types for row in compared.rows)
    ]
    columns = ("Task type", *(_name(row) for row in compared.rows))
    note = (
        "Test, %, with its 95 % interval: means over run seeds of the last students. No figure of a task type of which "
        f"more than {MAX_FAILED_SHARE:.0%} of the answers are missing with a run seed."
    )
    return Table("Test split by task type", columns, tuple(rows), note=note)


def _name(row: ArmRow) -> str:
    return f"{row.label} (exploratory)" if row.exploratory else row.label


def _short_name(row: ArmRow) -> str:
    return f"{row.name} *" if row.exploratory else row.name


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


def _share_with_interval(found: Resampled | None) -> str:
    return NOTHING if found is None else f"{_score(found)} ({_share_interval(found)})"


def _points_with_interval(found: Resampled | None) -> str:
    return NOTHING if found is None else f"{_points(found)} ({_interval(found, level=90)})"


def _ratio(value: float | None) -> str:
    return NOTHING if value is None else f"× {value:.3f}"


_TEST: list[_Column] = [
    ("Run seeds", lambda row: str(len(row.run_seeds))),
    ("Items", lambda row: count(row.test.items if row.test else None)),
    ("Missing", lambda row: count(row.missing)),
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
    ("Run seeds", lambda row: str(len(row.run_seeds))),
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
    ("Run seeds", lambda row: str(len(row.run_seeds))),
    ("Missing", lambda row: count(row.missing)),
    ("Test, % (95 % interval)", lambda row: row.why or _share_with_interval(row.test)),
    ("− random (90 % interval)", lambda row: _points_with_interval(row.to_random)),
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


def _plots(compared: ComparedArms) -> list[Plot | None]:
    """Difference to random, curves, task types; nothing in place of a plot that has nothing to show."""
    return [_plot_differences(compared.rows), _plot_curves(compared.rows), _plot_task_types(compared.rows)]


def _plot_differences(rows: Sequence[ArmRow]) -> Plot | None:
    """Difference to random of each arm that has one: 90 % interval thick, 95 % thin; exploratory arms grey.

    Backbone and S_0 are no arms: so far below that nobody could tell the others apart.
    """
    shown = [(row, row.to_random) for row in rows if row.costs and row.to_random is not None]
    if not shown:
        return None

    def fill(axes: Any) -> None:
        for place, (row, found) in enumerate(shown):
            colour = GREY if row.exploratory else COLOURS[0]
            axes.hlines(place, 100 * found.low95, 100 * found.high95, color=colour, linewidth=1.2)
            axes.hlines(place, 100 * found.low90, 100 * found.high90, color=colour, linewidth=3.6)
            axes.plot([100 * found.value], [place], "D", color=colour, markersize=6)
        axes.axvline(0, color=INK, linewidth=0.8)
        name_rows(axes, [textwrap.fill(row.label, _LABEL_LETTERS) for row, _ in shown])
        axes.set_xlabel("points ahead of random")

    svg = draw("Difference of each arm to random, with intervals", 0.9 + 0.4 * len(shown), fill)
    caption = "Paired over the same instructions and run seeds. Thick: 90 %, thin: 95 %; grey: exploratory."
    return Plot("Difference to random", svg, caption)


def _plot_curves(rows: Sequence[ArmRow]) -> Plot | None:
    """Test accuracy after each round of the primary arms by the tokens trained on, with 90 % intervals.

    Exploratory arms have fewer run seeds, so their curves begin at another S_0.
    """
    shown = [row for row in rows if len(row.curve) > 1 and not row.exploratory]
    if not shown:
        return None
    apart = _APART * max(row.curve[-1].tokens for row in shown) / 1000

    def fill(axes: Any) -> None:
        for place, row in enumerate(shown):
            beside = apart * (place - (len(shown) - 1) / 2)
            places = [point.tokens / 1000 + beside for point in row.curve]
            tests = [point.test for point in row.curve]
            figures = [Estimate(test.value, test.items, test.low90, test.high90) for test in tests]
            colour, marker = COLOURS[place % len(COLOURS)], _MARKERS[place % len(_MARKERS)]
            style = {"color": colour, "marker": marker, "label": row.label}
            points_with_intervals(axes, places, figures, style, scale=100)
        axes.set(xlabel="thousand training tokens after S_0", ylabel="accuracy on the test split, %")

    svg = draw("Test accuracy by training tokens", 3.0 + 0.2 * len(shown), fill, legend=1)
    caption = "Primary arms: means over run seeds with 90 % intervals, from S_0 on, moved apart to be seen."
    return Plot("By training tokens", svg, caption)


def _plot_task_types(rows: Sequence[ArmRow]) -> Plot | None:
    """Test accuracy of S_0 and the primary arms on each task type."""
    shown = [row for row in rows if row.task_types and (row.name == BASIC or (row.costs and not row.exploratory))]
    if not shown:
        return None
    arms = [row.name for row in shown if row.costs]
    series = [
        (
            row.label,
            COLOURS[arms.index(row.name) % len(COLOURS)] if row.costs else GREY,
            {name: Estimate(found.value, found.items) for name, found in row.task_types.items()},
        )
        for row in shown
    ]
    svg = draw_task_types("Test accuracy of the arms by task type", "accuracy on the test split, %", series)
    caption = "Last students, means over run seeds. A task type with few instructions says little."
    return Plot("By task type", svg, caption)
