"""The run card: a run in Markdown, for an artifact or a terminal that shows plain text.

Its plots are a card of their own, which a terminal cannot show. Text that may hold data (names of models, categories,
judges) goes through `markdown_text`, so that it is shown as it is written.
"""

import re
from collections.abc import Iterable, Mapping

from tapir_core.reporting.benchmarks import benchmark_names, benchmark_tables
from tapir_core.reporting.figure import Plot, image_address
from tapir_core.reporting.sentences import (
    gain_sentence,
    report_sentence,
    standin_sentence,
    state_sentence,
    ui_sentence,
)
from tapir_core.reporting.tables import (
    Table,
    accuracy_table,
    decontamination_table,
    left_out_table,
    rounds_table,
    seconds_table,
    spend_table,
)
from tapir_core.summary.formats import moment
from tapir_core.summary.types import RunSummary

__all__ = ["markdown_table", "markdown_text", "plots_card", "run_card", "table_section"]

_SPECIAL = re.compile(
    r"""[\\`*<>\[\]|~$]
        |(?<![^\W_])_|_(?![^\W_])          # not within a word: S_0 begins nothing
        |&(?=\#?\w+;)                      # an entity
        |(?:(?<=\s)|^)\#                   # a heading, or the end of one
        |^[-+](?=[-+\s]|$)                 # a list or a rule""",
    re.VERBOSE,
)
_NUMBERED = re.compile(r"^(\d+)(?=[.)](?:\s|$))")


def run_card(summary: RunSummary, pages: Mapping[str, Mapping[str, str]] | None = None) -> str:
    """What the run is, its state, its rounds, and where to read more.

    Args:
        summary: The run.
        pages: Where more of it is shown, where this card is: the run or a round, then title, then address. Without it
            the card says how to get there.
    """
    what = (
        f"{summary.backbone} taught by {summary.teacher}, judged by {summary.judge}; created {moment(summary.created)}."
    )
    said = [what, state_sentence(summary), gain_sentence(summary), standin_sentence(summary)]
    tables = [rounds_table, accuracy_table, left_out_table, seconds_table, spend_table]
    benchmarks = benchmark_tables(summary, summary.compared, benchmark_names(summary))
    made = [*(make(summary) for make in tables), *benchmarks, decontamination_table(summary.decontamination)]
    links = [report_sentence(summary), ui_sentence(summary) if pages is None else _links(pages)]
    parts = [f"# {summary.name}", *map(markdown_text, said), *map(table_section, filter(None, made)), *links]
    return "\n\n".join(filter(None, parts)) + "\n"


def plots_card(plots: Iterable[Plot]) -> str:
    """Plots with their captions, each an image within the Markdown; nothing where there is no plot."""
    # As text: what is put into markup would be escaped.
    images = ((markdown_text(plot.title), image_address(str(plot.svg)), markdown_text(plot.caption)) for plot in plots)
    return "\n".join(f"## {title}\n\n![{title}]({image})\n\n{caption}\n" for title, image, caption in images)


def markdown_table(table: Table) -> str:
    """A table in Markdown; figures line up at the right."""
    head, *rows = ([*map(markdown_text, row)] for row in (table.columns, *table.rows))
    rules = [":--" if place < table.text_columns else "--:" for place in range(len(table.columns))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rules, *rows))


def table_section(table: Table) -> str:
    """A table in Markdown below its title and above its note."""
    note = f"\n\n{markdown_text(table.note)}" if table.note else ""
    return f"## {markdown_text(table.title)}\n\n{markdown_table(table)}{note}"


def markdown_text(text: str) -> str:
    """The text on one line as Markdown that shows it as it is written."""
    return _NUMBERED.sub(r"\1\\", _SPECIAL.sub(r"\\\g<0>", " ".join(text.split())))


def _links(pages: Mapping[str, Mapping[str, str]]) -> str:
    lines = (
        f"- {place}: " + " · ".join(f"[{title}]({address})" for title, address in of_place.items())
        for place, of_place in pages.items()
    )
    return "\n".join(lines)
