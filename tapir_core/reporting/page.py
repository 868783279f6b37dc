"""Every HTML page of ours: a head of its own, then sections of plots and tables, with no script and no network.

Pages extend ``page.html.jinja2``. All text is escaped; only a plot's SVG, which `tapir_core.reporting.figure` made,
enters as it is.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from tapir_core.reporting.figure import Plot
from tapir_core.reporting.sentences import render
from tapir_core.reporting.tables import Table

__all__ = ["Section", "render_page"]


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
