"""Sentences of a report that stand in a template: a paragraph each, so that what is said is read as text."""

from pathlib import Path

import jinja2

_ENVIRONMENT = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)


def paragraphs(template: Path, **known: object) -> list[str]:
    """What a template says of ``known``: its paragraphs, each on one line; empty ones are left out."""
    text = _ENVIRONMENT.from_string(template.read_text(encoding="utf-8")).render(**known)
    return [" ".join(said.split()) for said in text.split("\n\n") if said.strip()]
