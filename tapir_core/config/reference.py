"""What a configuration may hold, in a user's words: docs/configuration.md, and what is wrong with a file.

Both are read off one description, the JSON schema that pydantic makes of the models, so they cannot disagree: every
table and field with type, default and meaning; every validation error with field, value and remedy. Values that may be
secrets (error type `secret`) are never repeated. Write the document again with
``python -m tapir_core.config.reference > docs/configuration.md``.
"""

import difflib
import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
from pydantic import ValidationError
from pydantic_core import ErrorDetails, PydanticUndefined

from tapir_core.config import Kind, RunConfig, Section

Schema = dict[str, Any]

_NAMES = {
    "string": "text",
    "integer": "integer",
    "number": "number",
    "boolean": "true or false",
    "object": "table",
    None: "anything",
}

_BOUNDS = {
    "exclusiveMinimum": "> {}",
    "minimum": "≥ {}",
    "exclusiveMaximum": "< {}",
    "maximum": "≤ {}",
    "minLength": "(not empty)",
}

_LONGEST_VALUE = 60
"""Characters of an offending value that a message repeats."""


class Table(NamedTuple):
    """A table that a configuration may have."""

    path: str
    type: str
    """The kind, empty where there is only one."""
    section: Schema
    fields: Schema
    """Its fields but `type`; the default of one is what it holds when it is left out of this table."""


class Description:
    """All that a section may hold, as its JSON schema says, tables below it included."""

    def __init__(self, root: type[Section]) -> None:
        self.root = root.model_json_schema()

    def options(self, field: Schema) -> list[Schema]:
        """What the field may hold: each kind or form of it."""
        if "$ref" in field:
            return [self.root["$defs"][field["$ref"].rpartition("/")[2]]]
        return [option for each in field.get("anyOf") or field.get("oneOf") or [] for option in self.options(each)] or [
            field
        ]

    def kinds(self, field: Schema) -> dict[str, Schema]:
        """The kinds that the field may be, by their `type`."""
        return {_kind_of(option): option for option in self.options(field) if _kind_of(option) and option is not field}

    def tables(self, section: Schema | None = None, above: str = "") -> Iterator[Table]:
        """Every table of the section, outer before inner."""
        for name, field in (section or self.root)["properties"].items():
            path, options = f"{above}{name}", self.options(field)
            if isinstance(named := options[0].get("additionalProperties"), dict):
                path, options = f"{path}.N", self.options(named)
            for option in options:
                if "properties" in option:
                    yield Table(path, _kind_of(option), option, _fields(option, field.get("default")))
                    yield from self.tables(option, f"{path}.")

    def in_words(self, field: Schema) -> str:
        """What a field may hold: `integer ≥ 1`, `"stop" or "skip"`, `text, or unset`."""
        options, kinds = self.options(field), self.kinds(field)
        held = [option for option in options if option.get("type") != "null"]
        words = [f"table with type = {_either(kinds)}"] if kinds else map(self._option_in_words, held)
        return " or ".join(words) + (", or unset" if len(held) < len(options) else "")

    def _option_in_words(self, option: Schema) -> str:
        if "const" in option or "enum" in option:
            return _either(option.get("enum") or [option["const"]])
        if "items" in option:
            return f"list of {self.in_words(option['items'])}" + (" (not empty)" if "minItems" in option else "")
        if item := option.get("additionalProperties"):
            return f"table of {self.in_words({} if item is True else item)}"
        bounds = " and ".join(words.format(option[bound]) for bound, words in _BOUNDS.items() if bound in option)
        return f"{_NAMES[option.get('type')]} {bounds}".rstrip().replace("integer > 0", "integer ≥ 1")

    def locate(self, location: Iterable[str | int]) -> tuple[str, Schema]:
        """Path of an error's field as a user writes it, and what may stand there; empty for an unknown field.

        In the location a field is followed by its kind, where it has several, or by its form, such as `(text)`.
        """
        path, field = list[str](), self.root
        for step in map(str, location):
            options = [option for option in self.options(field) if option is not field]
            chosen = next(
                (
                    each
                    for each in options
                    if step in (_kind_of(each), "(text)" if each.get("type") == "string" else "(other)")
                ),
                None,
            )
            if chosen is not None:
                field = {**chosen, "description": field.get("description", "")}
            elif step != "[key]":
                path.append(step)
                field = self._below(field, step)
        return ".".join(path), field

    def _below(self, field: Schema, step: str) -> Schema:
        """The field of a table; or what a list holds, or a table whose names are the user's."""
        held = [
            option.get("properties", {}).get(step) or option.get("items") or option.get("additionalProperties")
            for option in self.options(field)
        ]
        return next((each for each in held if isinstance(each, dict)), {})


def _kind_of(option: Schema) -> str:
    """The `type` of a kind; empty of anything else."""
    return str(option.get("properties", {}).get("type", {}).get("const", ""))


def _fields(section: Schema, default: Any) -> Schema:
    """The fields of a section in a table whose default this is, unless that is of another kind."""
    fields = {name: field for name, field in section["properties"].items() if name != "type"}
    held = default if isinstance(default, dict) and default.get("type", "") == _kind_of(section) else {}
    # A default that is equal stays the field's own, which has the order of the models.
    others = [name for name in fields.keys() & held.keys() if fields[name].get("default") != held[name]]
    return fields | {name: {**fields[name], "default": held[name]} for name in others}


def describe(root: type[Section] = RunConfig) -> Description:
    """The description with every kind that is registered by now."""
    return _described(root, tuple(kind for family in Kind.__subclasses__() for kind in family.kinds().values()))


@cache
def _described(root: type[Section], _kinds: tuple[type[Kind], ...]) -> Description:
    return Description(root)


def render_reference() -> str:
    """The whole reference as Markdown."""
    tables = list(describe().tables())
    written = {table.section["title"]: table for table in reversed(tables)}  # where a section stands first
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template("reference.md.jinja2").render(
        tables=tables, written=written, in_words=describe().in_words, value_in_words=_value_in_words
    )


def explain(error: ValidationError, overridden: Collection[str] = (), root: type[Section] = RunConfig) -> list[str]:
    """What is wrong, in one line each.

    Args:
        error: what was found wrong.
        overridden: paths that `--set` or `--name` gave, so that the user looks in the right place.
        root: the whole of which the error speaks.
    """
    # A default that is made of another field has no value where that one is wrong, which is said itself.
    return [
        _explain(item, describe(root), overridden)
        for item in error.errors(include_url=False)
        if item["input"] is not PydanticUndefined
    ]


def _explain(item: ErrorDetails, description: Description, overridden: Collection[str]) -> str:
    path, field = description.locate(item["loc"])
    origin, context = _origin(path, overridden), item.get("ctx", {})
    tag, kinds = context.get("tag", ""), description.kinds(field)
    meaning = " ".join(field.get("description", "").rstrip(".").split())
    expected = f"expected {description.in_words(field)}" + (f" ({meaning})" if meaning else "")
    words = _value_in_words(item["input"])
    shown = words if len(words) <= _LONGEST_VALUE else words[: _LONGEST_VALUE - 1] + "…"
    said = {
        "extra_forbidden": f": unknown field{origin}; {_known_fields(item['loc'], description)}",
        "missing": f": missing; {expected}",
        "union_tag_not_found": f".type: missing; {_write(kinds)}",
        "union_tag_invalid": f".type: value {_value_in_words(tag)}{origin}: unknown; {_write(kinds, near=str(tag))}",
        "secret": f"{origin}: {item['msg']}",
        "[key]": f"{origin}: {context.get('error')}",
    }
    of_key = "[key]" in item["loc"] and "error" in context
    otherwise = f": value {shown}{origin}: {context.get('error', expected)}"
    return path + said.get("[key]" if of_key else item["type"], otherwise)


def _origin(path: str, overridden: Collection[str]) -> str:
    """Names the override that wrote the field, something in it, or the table it stands in."""
    wrote = (given for given in overridden if f"{path}.".startswith(f"{given}.") or given.startswith(f"{path}."))
    return next((f" (from the command line: {given})" for given in wrote), "")


def _write(kinds: Collection[str], near: str = "") -> str:
    """Which kinds there are, and the one that may be meant."""
    meant = [f"did you mean {_value_in_words(kind)}? " for kind in difflib.get_close_matches(near, kinds, 1)]
    return "".join([*meant, "write ", " or ".join(f"type = {_value_in_words(kind)}" for kind in kinds)])


def _known_fields(location: tuple[str | int, ...], description: Description) -> str:
    """The nearest known field, where else the name is at home, and all fields of the section."""
    name, holder = "".join(map(str, location[-1:])), description.locate(location[:-1])[1]
    fields: Schema = next(
        (option["properties"] for option in description.options(holder) if "properties" in option), {}
    )
    kinds = description.kinds(description.locate(location[:-2])[1])
    if others := [tag for tag, kind in kinds.items() if name in kind["properties"]]:
        return f"it belongs to type = {_value_in_words(others[0])}; this table has: {', '.join(fields)}"
    near = difflib.get_close_matches(name, fields, 1)
    homes = dict.fromkeys(table.path for table in description.tables() if name in table.fields)
    hint = f"did you mean `{near[0]}`? " if near else f"it belongs to [{'], ['.join(homes)}]; " if homes else ""
    return f"{hint}known here: {', '.join(fields)}"


def _value_in_words(value: Any) -> str:
    """A value as TOML writes it, on one line."""
    if isinstance(value, Mapping):
        names = [
            str(name) if re.fullmatch("[A-Za-z0-9_-]+", str(name)) else _value_in_words(str(name)) for name in value
        ]
        held = [f"{name} = {_value_in_words(item)}" for name, item in zip(names, value.values(), strict=True)]
        return f"{{{', '.join(held)}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value_in_words, value))}]"
    return (
        "unset"
        if value is None
        else json.dumps(value, ensure_ascii=False)
        if isinstance(value, bool | str)
        else str(value)
    )


def _either(values: Iterable[Any]) -> str:
    return " or ".join(map(_value_in_words, values))


if __name__ == "__main__":
    print(render_reference(), end="")
