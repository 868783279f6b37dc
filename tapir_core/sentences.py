"""What is said to people stands in jinja templates beside the modules that say it, so that it is read as text.

Templates have the functions of `tapir_core.formats`. A field that one lacks is an error.
"""

from functools import cache
from inspect import getmembers, isfunction
from pathlib import Path

import jinja2

from tapir_core import formats


def say(template: Path, macro: str, *values: object, **facts: object) -> str:
    """What a macro of a template makes of its arguments, without blanks around it."""
    return str(getattr(_read(template).module, macro)(*values, **facts)).strip()


def paragraphs(template: Path, **facts: object) -> list[str]:
    """What a template says: its paragraphs, each on one line; empty ones are left out."""
    return [" ".join(said.split()) for said in _read(template).render(**facts).split("\n\n") if said.strip()]


@cache
def _read(template: Path) -> jinja2.Template:
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.globals.update(getmembers(formats, isfunction), NOTHING=formats.NOTHING)
    environment.filters["repr"] = repr
    return environment.from_string(template.read_text(encoding="utf-8"))
