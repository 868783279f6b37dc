"""What reports are made of: tables, sentences, HTML pages, and Markdown for an artifact or a terminal.

Words stand in templates beside this module, all of which are filled in here. A page extends ``page.html.jinja2``: a
head of its own, then sections, with no script and no network. All text is escaped; only a plot's SVG, which
`tapir_core.reporting.figure` made, enters as it is. In Markdown, text that may hold data (names of models, categories,
judges) goes through `markdown_text`, so that it is shown as it is written.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from inspect import getmembers, isfunction
from pathlib import Path
from typing import TypeVar

import jinja2

from tapir_core.paths import REPORT
from tapir_core.reporting.figure import Plot, image_address
from tapir_core.summary import formats
from tapir_core.summary.formats import student_name
from tapir_core.summary.types import RunSummary, Score

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


def render(template: str, **fields: object) -> str:
    """``template``, a file beside this module, filled in; a field that it lacks is an error."""
    return _environment().get_template(template).render(**fields)


def say(name: str, *fields: object) -> str:
    """The sentence ``name`` of ``sentences.jinja2`` as plain text; empty where there is nothing to say."""
    sentence: str = getattr(_environment().get_template("sentences.jinja2").module, name)(*fields)
    return re.sub(r"\s*\n\s*", " ", sentence).strip()


def state_sentence(summary: RunSummary) -> str:
    """Whether the run is done, and if not, what comes next."""
    return say("state", summary)


def next_sentence(summary: RunSummary) -> str:
    """How far the run is, and its next stage."""
    return say("next", summary)


def gain_sentence(summary: RunSummary) -> str:
    """What training by curriculum gained over S_0; empty before the first round is evaluated."""
    return say("gain", summary)


def scores_sentence(summary: RunSummary, numbers: Sequence[int]) -> str:
    """Held-out accuracy of these students, on a line."""
    found = [
        (student_name(each.number), split, each.score(split))
        for each in filter(None, map(summary.round, numbers))
        for split in ("dev", "test")
    ]
    return say("scores", [each for each in found if each[2] is not None])


def accuracy_note(scores: Iterable[Score | None]) -> str:
    """What held-out accuracies are, how the answers were drawn, and why some have no figure; empty of none."""
    return say("accuracy_note", [each for each in scores if each is not None])


def caution_sentence(summary: RunSummary) -> str:
    """Says plainly that no LLM taught or judged, that a judge judges its own answers, or varies; empty of none."""
    return say("caution", summary)


def ui_sentence(summary: RunSummary) -> str:
    """How to see the run in Prefect's UI."""
    return say("ui", summary)


def report_sentence(summary: RunSummary) -> str:
    """Where the report lies and how it opens."""
    path = report_path(summary)
    return say("report", summary, path, "" if "://" in path else Path(path).absolute().as_uri())


def report_path(summary: RunSummary) -> str:
    """Where the report lies."""
    return f"{summary.root}/{summary.name}/{REPORT}"


def nothing_sentence(*, also_terminal: bool) -> str:
    """Of a retry of the judge: nothing was missing."""
    return say("nothing", also_terminal)


def retried_sentence(counts: Mapping[str, int]) -> str:
    """What a round lacked before its judge was asked again, and lacks now: ``counts`` as *retry-judge* gives them."""
    return say("retried", counts)


def changes_sentence(stale: Sequence[object], *, redone: bool) -> str:
    """Which stages the verdicts of a retry change."""
    return say("changes", stale, redone)


@lru_cache(maxsize=1)
def _environment() -> jinja2.Environment:
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=jinja2.select_autoescape(("html.jinja2",), default_for_string=False),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals.update(getmembers(formats, isfunction), NOTHING=formats.NOTHING, say=say)
    return made
