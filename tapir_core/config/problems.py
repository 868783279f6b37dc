"""Validation errors in a user's words: the field as it is written, the value, what is wrong, the remedy.

Values that may be secrets (error type `secret`) are never repeated.
"""

import difflib
from collections.abc import Collection, Mapping
from typing import Any

from pydantic import ValidationError

from tapir_core.config._base import Section
from tapir_core.config.run import RunConfig
from tapir_core.config.shape import Place, in_words, locate, sections_of, value_in_words, walk_tables

__all__ = ["explain"]

LONGEST_VALUE = 60
"""Characters of an offending value that a message repeats."""


def explain(error: ValidationError, overridden: Collection[str] = (), *, root: type[Section] = RunConfig) -> list[str]:
    """One line for each problem, in the order of the sections.

    Args:
        error: what ``root`` found.
        overridden: paths that `--set` or `--name` gave, so that the user looks in the right place.
        root: the whole of which the error speaks.
    """
    return [_explain(item, overridden, root) for item in error.errors(include_url=False)]


def _explain(item: Mapping[str, Any], overridden: Collection[str], root: type[Section]) -> str:
    place = locate(root, item["loc"])
    origin = _origin(place.path, overridden)
    match item["type"]:
        case "extra_forbidden":
            return f"{place.path}: unknown field{origin}; {_known_fields(place, root)}"
        case "missing":
            return f"{place.path}: missing; expected {_what_belongs_there(place)}"
        case "union_tag_not_found":
            return f"{place.path}.type: missing; {_tags(place)}"
        case "union_tag_invalid":
            tag = item["ctx"]["tag"]
            return f"{place.path}.type: value {value_in_words(tag)}{origin}: unknown; {_tags(place, str(tag))}"
        case "secret":
            return f"{place.path}{origin}: {item['msg']}"
        case "value_error" if item["loc"][-1] == "[key]":
            return f"{place.path}{origin}: {item['ctx']['error']}"
        case "value_error":
            return f"{place.path}: {_value(item)}{origin}: {item['ctx']['error']}"
        case _:
            return f"{place.path}: {_value(item)}{origin}: expected {_what_belongs_there(place)}"


def _origin(path: str, overridden: Collection[str]) -> str:
    """Names the override that wrote the field, something in it, or the table it stands in."""
    for given in overridden:
        if f"{path}.".startswith(f"{given}.") or given.startswith(f"{path}."):
            return f" (from the command line: {given})"
    return ""


def _value(item: Mapping[str, Any]) -> str:
    words = value_in_words(item["input"])
    return f"value {words if len(words) <= LONGEST_VALUE else words[: LONGEST_VALUE - 1] + '…'}"


def _what_belongs_there(place: Place) -> str:
    """The field's own documentation, which is the remedy for a missing or wrong value."""
    kind = in_words(place.kind)
    meaning = (place.field.description or "").rstrip(".") if place.field else ""
    return f"{kind} ({meaning})" if meaning else kind


def _tags(place: Place, wrong: str = "") -> str:
    tags = list(sections_of(place.kind))
    near = difflib.get_close_matches(wrong, tags, 1)
    hint = f"did you mean {value_in_words(near[0])}? " if near else ""
    return f"{hint}write " + " or ".join(f"type = {value_in_words(tag)}" for tag in tags)


def _known_fields(place: Place, root: type[Section]) -> str:
    """The nearest known field, where else the name is at home, and all fields of the section."""
    name = place.path.rpartition(".")[2]
    section = place.section or root
    others = [tag for tag, variant in place.variants.items() if variant is not section and name in variant.model_fields]
    if others:
        return f"it belongs to type = {value_in_words(others[0])}; this table has: {', '.join(section.model_fields)}"
    near = difflib.get_close_matches(name, section.model_fields, 1)
    homes = dict.fromkeys(table.path for table in walk_tables(root) if name in table.section.model_fields)
    hint = f"did you mean `{near[0]}`? " if near else f"it belongs to [{'], ['.join(homes)}]; " if homes else ""
    return f"{hint}known here: {', '.join(section.model_fields)}"
