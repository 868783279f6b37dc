"""What reports are made of: sections of a table, a plot and a note; as HTML pages, and as Markdown.

A section is data. Pages stand in templates beside this module, all of which are filled in here. A page
extends ``page.html.jinja2``: a head of its own, then sections, with no script and no network. All text is escaped; only
a plot's SVG, which `draw` made, enters as it is. In Markdown, text that may hold data (names of models, categories,
judges) goes through `markdown_text`, so that it is shown as it is written.

A plot is inline SVG that takes its text colour from the page, or an image of its own. matplotlib costs about a second
to import, so it is imported when the first plot is drawn. Colours are Okabe and Ito's, which colour-blind readers can
tell apart; what matters is told by shape or label as well.
"""

import base64
import io
import logging
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from inspect import getmembers, isfunction
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jinja2
import numpy as np
from markupsafe import Markup, escape
from numpy.typing import NDArray

from tapir_core import statistics, task_types
from tapir_core.reporting import sentences
from tapir_core.summary import formats

logger = logging.getLogger(__name__)

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7", "#F0E442")
GREY = "#8a8f98"

INK = "#010203"
"""Stands for the page's text colour until the SVG is written; nothing else in a plot may have it."""

_STYLE = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial"],
    "font.size": 9,
    # Names and categories are data: a dollar sign in one is a dollar sign and begins no formula.
    "text.parse_math": False,
    "axes.labelsize": 9,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.alpha": 0.18,
    "grid.linewidth": 0.6,
    "axes.linewidth": 0.7,
    "hatch.linewidth": 0.5,
    "svg.fonttype": "none",
    "svg.hashsalt": "tapir",
    "figure.constrained_layout.use": True,
    **dict.fromkeys(
        ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color", "grid.color"), INK
    ),
}
_WIDTH_INCHES = 5.2
_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What no XML document may hold, not even escaped."""

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


def section_of(table: Table | None, *, folded: bool = False) -> Section:
    """A table under its own title; without one there is nothing to show."""
    return Section(table.title if table else "", table, folded=folded)


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


def anchor(title: str) -> str:
    """What a link to the section of this title names."""
    return re.sub(r"\W+", "-", title.lower()).strip("-")


def coded(text: str) -> Markup:
    """The text, escaped; what it has between backticks as code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def render(template: str, **fields: object) -> str:
    """``template``, a file beside this module, filled in; a field that it lacks is an error."""
    return _environment().get_template(template).render(**fields)


@lru_cache(maxsize=1)
def _environment() -> jinja2.Environment:
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=jinja2.select_autoescape(("html.jinja2",), default_for_string=False),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals.update(
        getmembers(formats, isfunction), NOTHING=formats.NOTHING, sentences=sentences, markdown_table=markdown_table
    )
    made.filters.update(markdown_text=markdown_text, image_address=image_address, anchor=anchor, coded=coded)
    return made


def draw(title: str, height_inches: float, fill: Callable[[Any], None], *, legend: int = 0, **panels: Any) -> Markup:
    """An SVG element of a figure whose axes ``fill`` draws into; ``title`` is what a screen reader says.

    ``legend`` is how many columns a legend above the plot has; none without. ``panels`` are matplotlib's for several.

    The same data give the same text. A plot that cannot be drawn says so in its place and in the log: a report and the
    end of a run must not fail for a picture of what its tables hold.
    """
    try:
        svg = _figure_svg(height_inches, fill, legend, panels)
    except Exception as error:
        reason = type(error).__name__
        logger.warning("the plot %r could not be drawn: %s: %s", title, reason, error)
        svg = _NOT_DRAWN.format(reason=reason)
    # The element alone: sized by the page, labelled, and in the page's text colour.
    element = svg[svg.index("<svg") :].replace(INK, "currentColor")
    labelled = f'<svg role="img" aria-label="{escape(title)}" '
    sized = re.sub(r'^<svg (.*?)width="[^"]*" ?', lambda found: labelled + found[1], element, count=1, flags=re.S)
    return Markup(_NO_XML.sub("\ufffd", sized))


def image_address(svg: Markup) -> str:
    """A `data:` address of what `draw` made."""
    return f"data:image/svg+xml;base64,{base64.b64encode(standalone(svg).encode()).decode()}"


def standalone(svg: Markup) -> str:
    """What `draw` made as an image of its own, dark on white: it takes no colour from the page that shows it."""
    return str(svg).replace("<svg ", '<svg style="color: #1f2328; background: #fff" ', 1)


def draw_categories(
    title: str,
    x_label: str,
    series: Sequence[tuple[str, str, Mapping[str, statistics.Estimate]]],
    *,
    legend_columns: int = 1,
    scale: float = 100,
    most: float | None = 100,
) -> Markup | None:
    """Bars with intervals for each category that some of ``series`` have: label, colour, category → figure.

    Figures are drawn times ``scale``, on an axis from 0 to ``most``. None where there is no figure.
    """
    if not _has_figure(each for _, _, figures in series for each in figures.values()):
        return None
    names = task_types.in_order(name for _, _, figures in series for name in figures)
    thickness = 0.8 / max(1, len(series))

    def fill(axes: Any) -> None:
        for offset, (label, colour, figures) in enumerate(series):
            values, errors = interval_bars([figures.get(name) for name in names], scale)
            axes.barh(
                [place + thickness * (offset - (len(series) - 1) / 2) for place in range(len(names))],
                values,
                thickness * 0.92,
                xerr=errors,
                color=colour,
                label=label,
                error_kw={"elinewidth": 0.8, "capsize": 1.5, "ecolor": INK, "alpha": 0.8},
            )
        name_rows(axes, names)
        axes.set(xlim=(0, most), xlabel=x_label)

    height = 0.7 + 0.2 * math.ceil(len(series) / legend_columns) + (0.12 + 0.08 * len(series)) * len(names)
    return draw(title, height, fill, legend=legend_columns)


def interval_bars(
    figures: Sequence[statistics.Estimate | None], scale: float = 1.0
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Values times ``scale``, and how far below and above each its interval reaches; NaN is drawn as nothing."""
    lows, values, highs = (
        scale * np.array([getattr(each, end, None) for each in figures], float) for end in ("low", "value", "high")
    )
    # A resampled interval may leave its value out.
    return values, np.maximum([values - lows, highs - values], 0.0)


def points_with_intervals(
    axes: Any,
    points: Iterable[tuple[float, statistics.Estimate | None]],
    *,
    scale: float = 1.0,
    sideways: bool = False,
    **style: Any,
) -> None:
    """A line of points (place, figure) with intervals, less those without a figure.

    ``style`` is matplotlib's: colour, marker, label. ``sideways``: places go up, not across, and no line joins them.
    """
    found = [(place, each) for place, each in points if each is not None and each.value is not None]
    places = [place for place, _ in found]
    values, errors = interval_bars([each for _, each in found], scale)
    known = {"markersize": 5, "capsize": 3, "linewidth": 1.4, **style}
    if sideways:
        axes.errorbar(values, places, xerr=errors, linestyle="none", **known)
    else:
        axes.errorbar(places, values, yerr=errors, **known)


def _has_figure(figures: Iterable[statistics.Estimate | None]) -> bool:
    return any(each is not None and each.value is not None for each in figures)


class Series(NamedTuple):
    """Figures with intervals that are drawn alike."""

    label: str
    colour: str
    marker: str
    points: Sequence[tuple[float, statistics.Estimate | None]]
    """Place and figure."""


def draw_points(
    title: str,
    height_inches: float,
    series: Iterable[Series],
    *,
    scale: float = 1.0,
    names: Sequence[str] = (),
    legend: int = 0,
    legend_inside: str = "",
    **settings: Any,
) -> Markup | None:
    """Points with intervals: one above the other where rows have ``names``, else joined by a line from left to right.

    Series without a figure are left out; None where there is none. ``settings`` are matplotlib's for the axes.
    """
    shown = [each for each in series if _has_figure(figure for _, figure in each.points)]
    if not shown:
        return None

    def fill(axes: Any) -> None:
        for each in shown:
            points_with_intervals(
                axes,
                each.points,
                scale=scale,
                sideways=bool(names),
                color=each.colour,
                marker=each.marker,
                label=each.label,
            )
        if names:
            name_rows(axes, names)
        axes.set(**settings)
        if legend_inside:
            axes.legend(loc=legend_inside)

    return draw(title, height_inches, fill, legend=legend)


def draw_stacked(
    title: str,
    names: Sequence[str],
    series: Sequence[tuple[str, str, Sequence[float]]],
    x_label: str,
    *,
    legend: int = 0,
) -> Markup:
    """A bar for each name, made of what each of ``series`` (label, colour, widths) has of it."""

    def fill(axes: Any) -> None:
        left = [0.0] * len(names)
        for label, colour, widths in series:
            axes.barh(range(len(names)), widths, 0.62, left=left, color=colour, label=label)
            left = [start + width for start, width in zip(left, widths, strict=True)]
        name_rows(axes, names)
        axes.set_xlabel(x_label)

    return draw(
        title,
        0.7 + (0.2 * math.ceil(len(series) / legend) if legend else 0.0) + 0.3 * len(names),
        fill,
        legend=legend,
    )


def name_rows(axes: Any, names: Sequence[str], *, lines: bool = False) -> None:
    """Rows with names, from the top down."""
    axes.set(yticks=range(len(names)), yticklabels=names, ylim=(len(names) - 0.5, -0.5))
    axes.grid(axis="y", visible=lines)


def _figure_svg(height_inches: float, fill: Callable[[Any], None], legend: int, panels: dict[str, Any]) -> str:
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(_WIDTH_INCHES, height_inches))
        fill(figure.subplots(**panels))
        if legend and any(axes.get_legend_handles_labels()[1] for axes in figure.axes):
            figure.legend(loc="outside upper center", ncols=legend)
        buffer = io.StringIO()
        no_metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=no_metadata)
    return buffer.getvalue()


_NOT_DRAWN = (
    '<svg width="400" viewBox="0 0 400 40" xmlns="http://www.w3.org/2000/svg"><text x="4" y="24" font-size="11" '
    f'font-family="sans-serif" fill="{INK}">This plot could not be drawn ({{reason}}); the log says why.</text></svg>'
)
