"""A comparison of arms: conditions, tables and plots, on one page that needs nothing else, as JSON, and in Markdown.

Conditions are those of the reference, in words. Names of files and folders of a machine stay out of them; digests stand
in their place. Limits: they are what the configuration asks for. What `precision = "auto"` came to on a device, and
which versions of the engines were at work, stands in each run's `training.json` and logs.
"""

import json
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any

from tapir_core import judging, paths, stages, storage, text
from tapir_core.comparison.figures import BASIC, ArmRow, ComparedArms, covers_sentence, verdicts
from tapir_core.config import RunConfig
from tapir_core.config.presets import ComparisonConfig
from tapir_core.reporting import page
from tapir_core.reporting.report import backbone_name
from tapir_core.statistics import MAX_FAILED_SHARE, Estimate, Resampled
from tapir_core.summary.formats import NOTHING, count, duration, number, percent
from tapir_core.task_types import in_order

_MARKERS = ("D", "o", "s", "^", "v", "P", "X", "*", "<", ">")
_LABEL_LETTERS = 30
"""Where the name of an arm is broken beside its row."""
_APART = 0.012
"""Between the points of arms that trained on as much, as a share of that."""

_DIGITS = 12
"""Hex digits of a digest that are shown."""

_KEPT_AS = {"low": "low95", "high": "high95", "n": "items"}
"""Fields of an estimate that the JSON names otherwise."""
_NOT_KEPT = ("failed", "note", "stderr")

_Column = tuple[str, Callable[[ArmRow], str]]


def write_arms(compared: ComparedArms, root: str) -> str:
    """Write page and JSON below the root and say where the page is."""
    folder, place = storage.Storage(root), paths.comparison_file(compared.name, "html")
    folder.write_bytes(paths.comparison_file(compared.name, "json"), arms_json(compared).encode())
    folder.write_bytes(place, render_arms(compared).encode())
    return f"{root}/{place}"


def arms_card(compared: ComparedArms) -> str:
    """Tables, conditions, verdicts and what the intervals cover, in Markdown."""
    tables = brief_tables(compared)
    conditions = "\n".join(map(page.markdown_text, conditions_lines(compared.conditions)))
    said = "\n".join(f"- {page.markdown_text(sentence)}" for sentence in verdicts(compared))
    parts = [
        *map(page.markdown_table, tables),
        conditions,
        said,
        *map(page.markdown_text, (*(table.note for table in tables), covers_sentence(compared))),
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def arms_plots_card(compared: ComparedArms) -> str:
    """The plots of the page in Markdown; nothing where there is no plot."""
    return page.render_markdown(_plots(compared))


def arms_json(compared: ComparedArms) -> str:
    """Every figure; shares are 0-1, a difference is keyed `ONE - OTHER`."""
    table = {
        "name": compared.name,
        "reference": compared.reference,
        "rows": [asdict(row, dict_factory=_kept) for row in compared.rows],
        "differences": {
            f"{one} - {other}": asdict(found, dict_factory=_kept)
            for (one, other), found in compared.differences.items()
        },
        "unfinished": list(compared.unfinished),
        "verdicts": verdicts(compared),
        "intervals": covers_sentence(compared),
        "usd": compared.prices,
        "conditions": dict(compared.conditions),
    }
    return json.dumps(table, indent=1, ensure_ascii=False) + "\n"


def _kept(fields: list[tuple[str, Any]]) -> dict[str, Any]:
    return {_KEPT_AS.get(name, name): value for name, value in fields if name not in _NOT_KEPT}


def render_arms(compared: ComparedArms) -> str:
    """The page. Everything that is text is escaped."""
    tables, (differences, curves, task_types) = arms_tables(compared), _plots(compared)
    return page.render_page(
        "comparison.html.jinja2",
        [
            *(page.section_of(tables[name]) for name in ("results", "training", "calls")),
            page.section_of(conditions_table(compared.conditions)),
            differences,
            curves,
            replace(task_types, table=tables["task_types"], folded=True) if task_types else None,
            page.section_of(tables["dev"]),
        ],
        name=compared.name,
        arms=len([row for row in compared.rows if row.costs]),
        unfinished=compared.unfinished,
        verdicts=verdicts(compared),
        covers=covers_sentence(compared),
    )


def conditions_of(
    config: RunConfig,
    files: Mapping[str, str],
    comparison: ComparisonConfig,
    *,
    others: Mapping[str, int],
) -> dict[str, str]:
    """What → in words: student, its answers, training, teacher, judge, prompts, sizes, run seeds, settings.

    Args:
        config: of the reference with the first run seed.
        files: name → digest of the prompt and input files that go into it.
        comparison: what is compared.
        others: stage → version of its code that made the figures, where it is not that of this tapir.
    """
    used = sorted(stages.used_files(config, files).items())
    numbers, seeds = config.round_numbers, ", ".join(map(str, comparison.run_seeds))
    settings: list[Any] = [backbone_name(config.student)]
    settings += [[at.name, *stages.settings_of(at, config, files)] for at in stages.plan(config)]
    template, pool, heldout = (files.get(f"file:{name}", "")[:_DIGITS] for name in ("chat_template", "pool", "heldout"))
    epochs = _of_rounds(config.basic_tuning.epochs, [config.round(number).epochs for number in numbers])
    rates = _of_rounds(config.learning_rate(0), [*map(config.learning_rate, numbers)])
    judges = ", ".join(each.in_words("judge") for each in config.judge.endpoints.values())
    versions = ", ".join(f"{stage} {version}" for stage, version in others.items())
    return {
        "Student": f"{settings[0]}{f', chat template {template}' if template else ''}",
        "Answers": f"{config.student.sampling.in_words}, by {config.student.engine.in_words}",
        "Training": f"precision {config.training.precision}, epochs {epochs}, learning rate {rates}, batch size "
        f"{config.training.batch_size}, up to {count(config.training.max_length)} tokens an example",
        "Teacher": config.teacher.endpoint.in_words("teacher"),
        "Judge": f"{f'{judges}; ' if judges else ''}{judging.mode_of(config.judge).in_words()}",
        "Prompts": ", ".join(
            f"{name.removeprefix('prompt:')} {version}" for name, version in used if name.startswith("prompt:")
        ),
        "Sizes": f"{config.data.pool.in_words(pool)}, "
        f"{config.data.heldout.in_words(heldout) if config.data.heldout else 'no held-out'} instructions; S_0 of "
        f"{count(config.examples(0))} examples, {len(numbers)} round{'s' if len(numbers) > 1 else ''} of "
        f"{_alike([count(config.examples(number)) for number in numbers])}",
        "Run seeds": f"{seeds}{f' (exploratory arms {comparison.run_seeds[0]})' if comparison.exploratory else ''}",
        # Of all that can change a row of a stage; where a run lies, and how fast it may ask, cannot.
        "Settings": f"digest {text.digest(settings)[:_DIGITS]}"
        f"{f', made by other versions of stages: {versions}' if versions else ''}",
    }


def _of_rounds(basic: float, values: Sequence[float]) -> str:
    return (
        f"{basic:g}"
        if {*values} == {basic}
        else f"{basic:g} for S_0 and {_alike([*map('{:g}'.format, values)])} for rounds"
    )


def _alike(values: Sequence[str]) -> str:
    """One value where all are equal."""
    return values[0] if len({*values}) == 1 else ", ".join(values)


def conditions_table(conditions: Mapping[str, str]) -> page.Table:
    """A row for each."""
    return page.Table(
        "Conditions",
        ("", "Conditions"),
        tuple(conditions.items()),
        text_columns=2,
        note="Those of the reference, from which an arm departs in what its name says. Digests: 12 hex digits of "
        "SHA-256.",
    )


def conditions_lines(conditions: Mapping[str, str]) -> list[str]:
    """The conditions on three lines of text."""
    lines = (("Student", "Answers", "Training"), ("Teacher", "Judge", "Prompts"), ("Sizes", "Run seeds", "Settings"))
    return [" ".join(f"{name}: {conditions[name]}." for name in line) for line in lines if conditions]


def brief_tables(compared: ComparedArms) -> list[page.Table]:
    """What a reader of a Markdown page wants of each arm: its score and difference, and what it cost."""
    ratios = [_costs("Tokens", "tokens_ratio", _ratio), _costs("Steps", "steps_ratio", _ratio)]
    notes = [
        *(_TEST_NOTE, _AGAINST_NOTE, *_natural_notes(compared)),
        "Tokens and steps: of all rounds after S_0, as ratios to the reference.",
    ]
    return [
        _table("Results", compared, [*_SCORES, *_natural(compared), *ratios], " ".join(notes)),
        _table(
            "Costs",
            _arms(compared),
            [_costs("Tokens", "tokens"), *_IN_ALL, *_CALLS[:3]],
            f"Tokens: of all rounds after S_0. {_IN_ALL_NOTE} {_asked_note(compared)}",
        ),
    ]


def narrow_tables(compared: ComparedArms) -> list[page.Table]:
    """Scores and costs of each arm in tables that fit a terminal, with the arms' short names."""
    arms = _arms(compared)
    natural = [("At natural shares", compared, _natural(compared), note) for note in _natural_notes(compared)]
    parts = [
        ("Scores on the test split", compared, _TEST, _TEST_NOTE),
        ("Against random", compared, _AGAINST, _AGAINST_NOTE),
        *natural,
        ("Training after S_0", arms, [*_TRAINING, _TIME], f"{_TRAINING_NOTE} {_TIME_NOTE}"),
        ("All trainings", arms, _IN_ALL, _IN_ALL_NOTE),
        ("Calls", arms, _CALLS, _calls_note(compared)),
    ]
    return [
        _table(title, of, columns, note, name=lambda row: f"{row.name} *" if row.exploratory else row.name)
        for title, of, columns, note in parts
    ]


def arms_tables(compared: ComparedArms) -> dict[str, page.Table]:
    """`results`, `training` and `calls`: scores and costs of each arm; `dev` and `task_types`."""
    results = " ".join([_TEST_NOTE, _AGAINST_NOTE, *_natural_notes(compared)])
    of_items: _Column = ("of items", lambda row: count(row.to_random.n if row.to_random else None))
    return {
        "results": _table("Results", compared, [*_SCORES, *_AGAINST[2:], of_items, *_natural(compared)], results),
        "training": _table("Training", _arms(compared), [*_TRAINING, *_IN_ALL], f"{_TRAINING_NOTE} {_IN_ALL_NOTE}"),
        "calls": _table("Calls", _arms(compared), [*_CALLS, _TIME], f"{_calls_note(compared)} {_TIME_NOTE}"),
        "dev": _table(
            "Dev split",
            compared,
            [
                _RUN_SEEDS,
                ("Dev, %", lambda row: _percent(row.dev, "{value:.1f}")),
                ("95 % interval", lambda row: _percent(row.dev, "{low:.1f} to {high:.1f}")),
            ],
            "Read by the stop rule and by who tunes, so it may flatter; no verdict reads it.",
        ),
        "task_types": _task_types(compared),
    }


def _arms(compared: ComparedArms) -> ComparedArms:
    """The same without backbone and S_0, whose costs are the arms'."""
    return replace(compared, rows=tuple(row for row in compared.rows if row.costs))


def _table(
    title: str,
    compared: ComparedArms,
    columns: Sequence[_Column],
    note: str,
    *,
    name: Callable[[ArmRow], str] | None = None,
) -> page.Table:
    return page.table_of(title, [("Arm", name or _name), *columns], compared.rows, note=note)


def _task_types(compared: ComparedArms) -> page.Table:
    return page.Table(
        "Test split by task type",
        ("Task type", *map(_name, compared.rows)),
        tuple(
            (name, *(_percent(row.task_types.get(name), _SHARE) for row in compared.rows))
            for name in in_order(name for row in compared.rows for name in row.task_types)
        ),
        note="Test, %, with its 95 % interval: means over run seeds of the last students. No figure of a task type of "
        f"which more than {MAX_FAILED_SHARE:.0%} of the answers are missing with a run seed.",
    )


def _name(row: ArmRow) -> str:
    return f"{row.label} (exploratory)" if row.exploratory else row.label


def _percent(found: Resampled | None, form: str) -> str:
    """A share or a difference in percent, in a form such as `{value:.1f}`."""
    if found is None:
        return NOTHING
    return form.format(**{end: 100 * getattr(found, end) for end in ("value", "low90", "high90", "low", "high")})


def _against(title: str, form: str) -> _Column:
    return title, lambda row: _percent(row.to_random, form)


def _costs(title: str, name: str, in_words: Callable[[float | None], str] = count) -> _Column:
    return title, lambda row: in_words((row.costs or {}).get(name))


def _ratio(value: float | None) -> str:
    return NOTHING if value is None else f"× {value:.3f}"


_SHARE = "{value:.1f} ({low:.1f} to {high:.1f})"

_RUN_SEEDS: _Column = ("Run seeds", lambda row: str(len(row.run_seeds)))
_MISSING: _Column = ("Missing", lambda row: count(row.missing))

_TEST: list[_Column] = [
    _RUN_SEEDS,
    ("Items", lambda row: count(row.test.n if row.test else None)),
    _MISSING,
    ("Test, %", lambda row: row.why or _percent(row.test, "{value:.1f}")),
    ("95 % interval", lambda row: _percent(row.test, "{low:.1f} to {high:.1f}")),
]

_AGAINST: list[_Column] = [
    _against("− random", "{value:+.1f}"),
    _against("90 % interval", "{low90:+.1f} to {high90:+.1f}"),
    _against("95 % interval", "{low:+.1f} to {high:+.1f}"),
    ("p", lambda row: NOTHING if row.to_random is None else f"{row.to_random.p:.4f}"),
    ("seeds", lambda row: count(row.to_random.run_seeds if row.to_random else None)),
]

_SCORES: list[_Column] = [
    _RUN_SEEDS,
    _MISSING,
    ("Test, % (95 % interval)", lambda row: row.why or _percent(row.test, _SHARE)),
    _against("− random (90 % interval)", "{value:+.1f} ({low90:+.1f} to {high90:+.1f})"),
]

_TRAINING: list[_Column] = [
    _costs("Tokens", "tokens"),
    _costs("ratio", "tokens_ratio", _ratio),
    _costs("Steps", "steps"),
    _costs("ratio", "steps_ratio", _ratio),
]

_TIME: _Column = _costs("Time", "seconds", duration)

_IN_ALL: list[_Column] = [
    _costs("All tokens", "all_tokens"),
    _costs("of answers", "answer_tokens"),
    _costs("All steps", "all_steps"),
    _costs("Instructions", "distinct"),
]

_CALLS: list[_Column] = [
    _costs("Teacher calls", "teacher_answers"),
    _costs("Judge calls", "judge_answers"),
    _costs("USD", "usd", partial(number, digits=4)),
    _costs("Shared", "stored_share", percent),
    _costs("Sent", "paid_requests"),
    _costs("USD sent", "paid_usd", partial(number, digits=4)),
]

_TEST_NOTE = (
    "Test: held-out instructions with the right final result, mean over run seeds; exploratory arms: of one. Missing: "
    f"test answers that the students lack; no figure where it is more than {MAX_FAILED_SHARE:.0%} with a run seed."
)

_AGAINST_NOTE = (
    "− random: paired difference in points, over the instructions that both answered with the run seeds that both have."
)

_TRAINING_NOTE = "Tokens and steps: of all rounds after S_0, mean over run seeds, and their ratio to the reference."

_TIME_NOTE = "Time: at work, without what was taken over."

_IN_ALL_NOTE = (
    "All tokens and steps: of all trainings, S_0's among them, prompts included and over all epochs; of answers: of "
    "these tokens, those with a loss. Instructions: trained on, each counted once; – where a run does not say."
)


def _natural(compared: ComparedArms) -> list[_Column]:
    """Columns of what is known at natural shares; none where that is nothing."""
    return (
        [
            ("At natural shares, % (95 % interval)", lambda row: _percent(row.natural, _SHARE)),
            (
                "− random there (90 % interval)",
                lambda row: _percent(row.natural_to_random, "{value:+.1f} ({low90:+.1f} to {high90:+.1f})"),
            ),
        ]
        if any(row.natural for row in compared.rows)
        else []
    )


def _natural_notes(compared: ComparedArms) -> list[str]:
    told = (
        "At natural shares: the same test answers, weighted so that each family of the stand-in has its share of the "
        "pool and not an equal one; no verdict reads it."
    )
    return [told] if _natural(compared) else []


def _asked_note(compared: ComparedArms) -> str:
    return (
        f"Calls and USD: what the arm takes, as if it stood alone, with what the store answered; USD {compared.prices}."
    )


def _calls_note(compared: ComparedArms) -> str:
    return (
        f"{_asked_note(compared)} Shared: of its calls, those that another run, or an earlier start, had made. Sent: "
        "requests that its own runs sent, repeated attempts and mixtures that were made anew included."
    )


def _plots(compared: ComparedArms) -> list[page.Section]:
    """Difference to random, curves, task types; without a plot where there is nothing to show."""
    return [_plot_differences(compared.rows), _plot_curves(compared.rows), _plot_task_types(compared.rows)]


def _plot_differences(rows: Sequence[ArmRow]) -> page.Section:
    """Difference to random of each arm that has one: 90 % interval thick, 95 % thin; exploratory arms grey.

    Backbone and S_0 are no arms: so far below that nobody could tell the others apart.
    """
    shown = [(row, row.to_random) for row in rows if row.costs and row.to_random is not None]

    def fill(axes: Any) -> None:
        for place, (row, found) in enumerate(shown):
            colour = page.GREY if row.exploratory else page.COLOURS[0]
            axes.hlines(place, 100 * found.low, 100 * found.high, color=colour, linewidth=1.2)
            axes.hlines(place, 100 * found.low90, 100 * found.high90, color=colour, linewidth=3.6)
            axes.plot([100 * found.value], [place], "D", color=colour, markersize=6)
        axes.axvline(0, color=page.INK, linewidth=0.8)
        page.name_rows(axes, [textwrap.fill(row.label, _LABEL_LETTERS) for row, _ in shown])
        axes.set_xlabel("points ahead of random")

    return page.Section(
        "Difference to random",
        plot=page.draw("Difference of each arm to random, with intervals", 0.9 + 0.4 * len(shown), fill)
        if shown
        else None,
        note="Paired over the same instructions and run seeds. Thick: 90 %, thin: 95 %; grey: exploratory.",
    )


def _plot_curves(rows: Sequence[ArmRow]) -> page.Section:
    """Test accuracy after each round of the primary arms by the tokens trained on, with 90 % intervals.

    Exploratory arms have fewer run seeds, so their curves begin at another S_0.
    """
    shown = [row for row in rows if len(row.curve) > 1 and not row.exploratory]
    apart = _APART * max((row.curve[-1].tokens for row in shown), default=0) / 1000
    moved = [apart * (place - (len(shown) - 1) / 2) for place in range(len(shown))]
    series = [
        page.Series(
            row.label,
            colour=page.COLOURS[place % len(page.COLOURS)],
            marker=_MARKERS[place % len(_MARKERS)],
            points=[
                (at.tokens / 1000 + moved[place], Estimate(at.test.value, at.test.low90, at.test.high90))
                for at in row.curve
            ],
        )
        for place, row in enumerate(shown)
    ]
    return page.Section(
        "By training tokens",
        plot=page.draw_points(
            "Test accuracy by training tokens",
            3.0 + 0.2 * len(shown),
            series,
            scale=100,
            legend=1,
            xlabel="thousand training tokens after S_0",
            ylabel="accuracy on the test split, %",
        ),
        note="Primary arms: means over run seeds with 90 % intervals, from S_0 on, moved apart to be seen.",
    )


def _plot_task_types(rows: Sequence[ArmRow]) -> page.Section:
    """Test accuracy of S_0 and the primary arms on each task type."""
    shown = [row for row in rows if row.task_types and (row.name == BASIC or (row.costs and not row.exploratory))]
    arms = [row.name for row in shown if row.costs]
    series = [
        (
            row.label,
            page.COLOURS[arms.index(row.name) % len(page.COLOURS)] if row.costs else page.GREY,
            {name: Estimate(found.value) for name, found in row.task_types.items()},
        )
        for row in shown
    ]
    return page.Section(
        "By task type",
        plot=page.draw_categories("Test accuracy of the arms by task type", "accuracy on the test split, %", series),
        note="Last students, means over run seeds. A task type with few instructions says little.",
    )
