"""What every HTML page of ours is made with: one template environment, one look, no script and no network.

Pages extend ``page.html.jinja2`` and take facts, tables and plots from ``parts.html.jinja2``. All text is escaped; only
a plot's SVG, which `tapir_core.reporting.figure` made, enters as it is.
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import jinja2
from markupsafe import Markup

__all__ = ["Fact", "Plot", "render_page"]


@dataclass(frozen=True, slots=True)
class Fact:
    """A figure at the top of a page."""

    label: str
    value: str
    note: str = ""
    """Its interval and n, in small print."""


@dataclass(frozen=True, slots=True)
class Plot:
    """A plot with the sentence that says how to read it."""

    title: str
    svg: Markup
    caption: str


def render_page(template: str, **fields: object) -> str:
    """The page of ``template``, a file beside this module; a field that it lacks is an error."""
    return _environment().get_template(template).render(**fields)


@lru_cache(maxsize=1)
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
