"""One look for every plot: a figure as inline SVG that takes its text colour from the page, or as an image of its own.

matplotlib costs about a second to import, so it is imported when the first plot is drawn. Colours are Okabe and Ito's,
which colour-blind readers can tell apart; what matters is told by shape or label as well.
"""

import base64
import io
import logging
import re
from collections.abc import Callable
from typing import Any

from markupsafe import escape

__all__ = ["COLOURS", "GREY", "INK", "draw", "image_address"]

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
_PAPER = "color: #1f2328; background: #fff"
_NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))
_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What no XML document may hold, not even escaped."""


def draw(title: str, height_inches: float, fill: Callable[[Any], None]) -> str:
    """An SVG element of a figure that ``fill`` draws into; ``title`` is what a screen reader says.

    The same data give the same text. A plot that cannot be drawn says so in its place and in the log: a report and the
    end of a run must not fail for a picture of what its tables hold.
    """
    try:
        svg = _figure_svg(height_inches, fill)
    except Exception as error:
        reason = type(error).__name__
        logger.warning("the plot %r could not be drawn: %s: %s", title, reason, error)
        svg = _NOT_DRAWN.format(reason=reason)
    return _inline(svg, title)


def image_address(svg: str) -> str:
    """A `data:` address of what `draw` made, dark on white: an image takes no colour from the page that shows it."""
    image = svg.replace("<svg ", f'<svg style="{_PAPER}" ', 1)
    return f"data:image/svg+xml;base64,{base64.b64encode(image.encode()).decode()}"


def _figure_svg(height_inches: float, fill: Callable[[Any], None]) -> str:
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(_WIDTH_INCHES, height_inches))
        FigureCanvasSVG(figure)
        fill(figure)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata=_NO_METADATA)
    return buffer.getvalue()


def _inline(svg: str, title: str) -> str:
    """The element alone: sized by the page, labelled, and in the page's text colour."""
    element = svg[svg.index("<svg") :].replace(INK, "currentColor")
    labelled = f'<svg role="img" aria-label="{escape(title)}" '
    sized = re.sub(r'^<svg (.*?)width="[^"]*" ?', lambda found: labelled + found[1], element, count=1, flags=re.S)
    return _NO_XML.sub("\ufffd", sized)


_NOT_DRAWN = (
    '<svg width="400" viewBox="0 0 400 40" xmlns="http://www.w3.org/2000/svg"><text x="4" y="24" font-size="11" '
    f'font-family="sans-serif" fill="{INK}">This plot could not be drawn ({{reason}}); the log says why.</text></svg>'
)
