"""Templates of plain text: the assumptions of an estimate and the lines of `tapir store`."""

from functools import cached_property
from inspect import getmembers, isfunction
from pathlib import Path
from types import ModuleType

import jinja2


class Sentences:
    """The templates of a folder. A field that one lacks is an error."""

    def __init__(self, folder: Path, functions: ModuleType | None = None) -> None:
        """Nothing is read yet; the templates have the ``functions`` of a module, and its `NOTHING`."""
        self._folder, self._functions = folder, functions

    def say(self, template: str, macro: str, **facts: object) -> str:
        """What a macro makes of its arguments, without blanks around it."""
        return str(getattr(self._environment.get_template(template).module, macro)(**facts)).strip()

    def paragraphs(self, template: str, **facts: object) -> list[str]:
        """What a template says: its paragraphs, each on one line; empty ones are left out."""
        said = self._environment.get_template(template).render(**facts)
        return [" ".join(each.split()) for each in said.split("\n\n") if each.strip()]

    @cached_property
    def _environment(self) -> jinja2.Environment:
        loader = jinja2.FileSystemLoader(self._folder)
        made = jinja2.Environment(loader=loader, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
        if self._functions is not None:
            made.globals.update(getmembers(self._functions, isfunction), NOTHING=self._functions.NOTHING)
        return made
