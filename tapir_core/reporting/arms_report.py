"""A comparison of arms on one page that needs nothing else, as JSON for programs, and in Markdown for a README."""

import json
from dataclasses import asdict

from markupsafe import Markup

from tapir_core.comparison.figures import BASIC, ComparedArms, covers_sentence, verdicts
from tapir_core.paths import comparison_file
from tapir_core.reporting import arms_tables as plots
from tapir_core.reporting.arms_tables import arms_tables, brief_table
from tapir_core.reporting.conditions import conditions_lines, conditions_table
from tapir_core.reporting.page import Plot, render_page
from tapir_core.reporting.run_card import markdown_table, markdown_text, plots_card
from tapir_core.storage import Storage

__all__ = ["arms_card", "arms_json", "arms_plots_card", "render_arms", "write_arms"]


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
    return plots_card(_plots(compared).values())


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
    return render_page(
        "comparison.html.jinja2",
        name=compared.name,
        arms=len([row for row in compared.rows if row.costs]),
        unfinished=compared.unfinished,
        verdicts=verdicts(compared),
        covers=covers_sentence(compared),
        plots=_plots(compared),
        tables=arms_tables(compared) | {"conditions": conditions_table(compared.conditions)},
    )


def _plots(compared: ComparedArms) -> dict[str, Plot]:
    """The plots for which there is something to show."""
    found, rows = {}, compared.rows
    if any(row.to_random for row in rows if row.costs):
        caption = "Paired over the same instructions and run seeds. Thick: 90 %, thin: 95 %; grey: exploratory."
        found["differences"] = Plot("Difference to random", Markup(plots.plot_differences(rows)), caption)
    if any(len(row.curve) > 1 for row in rows if not row.exploratory):
        caption = "Primary arms: means over run seeds with 90 % intervals, from S_0 on, moved apart to be seen."
        found["curves"] = Plot("By training tokens", Markup(plots.plot_curves(rows)), caption)
    bars = [row for row in rows if row.task_types and (row.name == BASIC or (row.costs and not row.exploratory))]
    if bars:
        caption = "Last students, means over run seeds. A task type with few instructions says little."
        found["task_types"] = Plot("By task type", Markup(plots.plot_task_types(bars)), caption)
    return found
