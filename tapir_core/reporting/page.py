"""Plots and tables as HTML pages, and as Markdown for an artifact or a terminal that shows plain text.

A page extends ``page.html.jinja2``: a head of its own, then sections, with no script and no network. All text is
escaped; only a plot's SVG, which `tapir_core.reporting.figure` made, enters as it is. In Markdown, text that may hold
data (names of models, categories, judges) goes through `markdown_text`, so that it is shown as it is written.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tapir_core.reporting.figure import Plot, image_address
from tapir_core.reporting.sentences import render
from tapir_core.reporting.tables import Table


_SPECIAL = re.compile(
    r"""[\\`*<>\[\]|~$]
        |(?<![^\W_])_|_(?![^\W_])          # not within a word: S_0 begins nothing
        |&(?=\#?\w+;)                      # an entity
        |(?:(?<=\s)|^)\#                   # a heading, or the end of one
        |^[-+](?=[-+\s]|$)                 # a list or a rule""",
    re.VERBOSE,
)
_NUMBERED = re.compile(r"^(\d+)(?=[.)](?:\s|$))")


@dataclass(frozen=True, slots=True)
class Section:
    """Plots and tables under a heading; one within another is folded until a reader opens it."""

    title: str
    """Empty of a section that needs no heading; its tables have none either."""
    parts: "Sequence[Plot | Table | Section | None]"
    note: str = ""

    @property
    def shown(self) -> "list[Plot | Table | Section]":
        """The parts that have something to show."""
        return [part for part in self.parts if part]

    def __bool__(self) -> bool:
        """Whether there is something to show."""
        return bool(self.shown)


def render_page(template: str, sections: Sequence[Section], **fields: object) -> str:
    """The page of ``template`` with those of ``sections`` that have something to show."""
    return render(template, sections=[section for section in sections if section], **fields)


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
