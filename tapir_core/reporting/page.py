"""What reports are made of: sections of a table, a plot and a note, sentences; as HTML pages, and as Markdown.

A section is data. Pages and sentences stand in templates beside this module, all of which are filled in here. A page
extends ``page.html.jinja2``: a head of its own, then sections, with no script and no network. All text is escaped; only
a plot's SVG, which `tapir_core.reporting.figure` made, enters as it is. In Markdown, text that may hold data (names of
models, categories, judges) goes through `markdown_text`, so that it is shown as it is written.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from inspect import getmembers, isfunction
from pathlib import Path
from typing import TypeVar

import jinja2
from markupsafe import Markup

from tapir_core.paths import REPORT
from tapir_core.reporting.figure import image_address
from tapir_core.summary import formats
from tapir_core.summary.types import RunSummary

_SPECIAL = re.compile(
    r"""[\\`*<>\[\]|~$]
        |(?<![^\W_])_|_(?![^\W_])          # not within a word: S_0 begins nothing
        |&(?=\#?\w+;)                      # an entity
        |(?:(?<=\s)|^)\#                   # a heading, or the end of one
        |^[-+](?=[-+\s]|$)                 # a list or a rule""",
    re.VERBOSE,
)
_NUMBERED = re.compile(r"^(\d+)(?=[.)](?:\s|$))")


_Item = TypeVar("_Item")


@dataclass(frozen=True, slots=True)
class Table:
    """A table ready to be shown."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    text_columns: int = 1
    """How many columns from the left are text; the others are figures and line up at the right."""
    note: str = ""

    def __bool__(self) -> bool:
        """Whether there is a row to show."""
        return bool(self.rows)


def table_of(
    title: str,
    columns: Sequence[tuple[str, Callable[[_Item], str]]],
    items: Iterable[_Item],
    *,
    text_columns: int = 1,
    note: str = "",
) -> Table:
    """A table with a row for each of ``items``; ``columns`` are names with what a cell shows of an item."""
    rows = tuple(tuple(cell(each) for _, cell in columns) for each in items)
    return Table(title, tuple(name for name, _ in columns), rows, text_columns, note)


@dataclass(frozen=True, slots=True)
class Section:
    """A piece of a report under a heading: a plot, a table beside it, and a note on how to read them."""

    title: str
    """Empty where no heading is needed."""
    table: Table | None = None
    plot: Markup | None = None
    note: str = ""
    folded: bool = False
    """Whether a reader opens the table."""

    def __bool__(self) -> bool:
        """Whether there is something to show."""
        return bool(self.table or self.plot)


def section_of(table: Table, *, folded: bool = False) -> Section:
    """A table under its own title."""
    return Section(table.title, table, folded=folded)


def render_page(template: str, sections: Iterable[Section | None], **fields: object) -> str:
    """The page of ``template`` with those of ``sections`` that have something to show."""
    return render(template, sections=[section for section in sections if section], **fields)


def render_markdown(sections: Iterable[Section | None]) -> str:
    """Those of the sections that have something to show; a plot is an image within the Markdown."""
    return render("sections.md.jinja2", sections=[section for section in sections if section])


def markdown_table(table: Table) -> str:
    """A table in Markdown; figures line up at the right."""
    head, *rows = ([*map(markdown_text, row)] for row in (table.columns, *table.rows))
    rules = [":--" if place < table.text_columns else "--:" for place in range(len(table.columns))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rules, *rows))


def markdown_text(text: str) -> str:
    """The text on one line as Markdown that shows it as it is written."""
    return _NUMBERED.sub(r"\1\\", _SPECIAL.sub(r"\\\g<0>", " ".join(text.split())))


def render(template: str, **fields: object) -> str:
    """``template``, a file beside this module, filled in; a field that it lacks is an error."""
    return _environment().get_template(template).render(**fields)


def sentence(name: str, *fields: object) -> str:
    """The sentence ``name`` of ``sentences.jinja2`` as plain text; empty where there is nothing to say."""
    said: str = getattr(_environment().get_template("sentences.jinja2").module, name)(*fields)
    return re.sub(r"\s*\n\s*", " ", said).strip()


def report_path(summary: RunSummary) -> str:
    """Where the report lies."""
    return f"{summary.root}/{summary.name}/{REPORT}"


@lru_cache(maxsize=1)
def _environment() -> jinja2.Environment:
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=jinja2.select_autoescape(("html.jinja2",), default_for_string=False),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals.update(getmembers(formats, isfunction), NOTHING=formats.NOTHING, sentence=sentence)
    made.globals.update(report_path=report_path, markdown_table=markdown_table)
    made.filters.update(markdown_text=markdown_text, image_address=image_address)
    return made
