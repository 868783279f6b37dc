"""What a configuration may hold, in a user's words: docs/configuration.md, and what is wrong with a file.

Both are read off the models, so they cannot disagree: every section and field with type, default and meaning; every
validation error with field, value and remedy. Values that may be secrets (error type `secret`) are never repeated.
Write the document again with ``python -m tapir_core.config.reference > docs/configuration.md``.
"""

import difflib
import json
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import jinja2
from pydantic import Tag
from pydantic.fields import FieldInfo

from tapir_core.config._base import Kind, Section, is_family
from tapir_core.config.run import RunConfig

SectionType = type[Section]

_NAMES = {Any: "anything", str: "text", int: "integer", float: "number", bool: "true or false"}

_BOUNDS = {"gt": "> {}", "ge": "≥ {}", "lt": "< {}", "le": "≤ {}", "min_length": "(not empty)"}

_LONGEST_VALUE = 60
"""Characters of an offending value that a message repeats."""


@dataclass(frozen=True, slots=True)
class Table:
    """A table that a configuration may have."""

    path: str
    type: str
    """The kind, empty where there is only one."""
    section: SectionType
    default: Section | None
    """What the table holds when it is left out; nothing where that is another kind, nothing, or an error."""

    def default_of(self, name: str) -> Any:
        """What the field of this table holds when it is left out."""
        if self.default is not None:
            return getattr(self.default, name)
        return self.section.model_fields[name].get_default(call_default_factory=True, validated_data={})

    def default_in_words(self, name: str) -> str:
        """What the field holds when it is left out."""
        default = self.default_of(name)
        if isinstance(default, Section):
            kind = getattr(default, "type", None)
            return f'`type = "{kind}"`' if kind else f"as `[{self.path}.{name}]` says"
        return "nothing" if default is None else f"`{_value_in_words(default)}`"

    def differing(self, other: "Table") -> list[str]:
        """Fields that hold something else than in another table of the section when they are left out."""
        return [name for name in self.section.model_fields if self.default_of(name) != other.default_of(name)]


@dataclass(frozen=True, slots=True)
class _Place:
    """Where an error lies."""

    path: str
    """The field as a user writes it."""
    section: SectionType
    """The section that holds the field; the root where there is none."""
    meaning: str
    """What is written under the field in the models; empty for an unknown field, and inside a table or list."""
    kind: Any
    """Annotation of what stands at the end of the path; nothing for an unknown field."""

    @property
    def in_words(self) -> str:
        """What belongs there, and what it means: the remedy for a missing or wrong value."""
        return _in_words(self.kind) + (f" ({self.meaning})" if self.meaning else "")


def render_reference() -> str:
    """The whole reference as Markdown."""
    tables = list(walk_tables(RunConfig))
    written = {table.section: table for table in reversed(tables)}  # where a section stands first
    template = Path(__file__).with_name("reference.md.jinja2").read_text(encoding="utf-8")
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
    return environment.from_string(template).render(tables=tables, written=written, in_words=_in_words)


def walk_tables(root: SectionType, path: str = "") -> Iterator[Table]:
    """Every table below the root, outer before inner."""
    for name, field in root.model_fields.items():
        below, kind = f"{path}.{name}" if path else name, field.annotation
        if get_origin(kind) is dict:
            below, kind = f"{below}.N", _item_of(kind)
        default = field.get_default()
        for tag, section in _sections_of(kind).items():
            yield Table(below, tag, section, default if isinstance(default, section) else None)
            yield from walk_tables(section, below)


def _sections_of(kind: Any) -> dict[str, SectionType]:
    """The sections that a field may hold, by their `type`."""
    bare = [_unwrap(option)[0] for option in _options(kind)]
    found = [option for option in bare if isinstance(option, type) and issubclass(option, Section)]
    return {str(section.model_fields["type"].default) if len(found) > 1 else "": section for section in found}


def explain(item: Mapping[str, Any], overridden: Collection[str] = (), root: SectionType = RunConfig) -> str:
    """What is wrong, in one line.

    Args:
        item: one of a `ValidationError`'s errors.
        overridden: paths that `--set` or `--name` gave, so that the user looks in the right place.
        root: the whole of which the error speaks.
    """
    place = _locate(root, item["loc"])
    origin = _origin(place.path, overridden)
    match item["type"]:
        case "extra_forbidden":
            return f"{place.path}: unknown field{origin}; {_known_fields(place, root)}"
        case "missing":
            return f"{place.path}: missing; expected {place.in_words}"
        case "union_tag_not_found":
            return f"{place.path}.type: missing; {_tags(place)}"
        case "union_tag_invalid":
            tag = item["ctx"]["tag"]
            return f"{place.path}.type: value {_value_in_words(tag)}{origin}: unknown; {_tags(place, str(tag))}"
        case "secret":
            return f"{place.path}{origin}: {item['msg']}"
        case "value_error" if item["loc"][-1] == "[key]":
            return f"{place.path}{origin}: {item['ctx']['error']}"
    wrong = item["ctx"]["error"] if item["type"] == "value_error" else f"expected {place.in_words}"
    words = _value_in_words(item["input"])
    shown = words if len(words) <= _LONGEST_VALUE else words[: _LONGEST_VALUE - 1] + "…"
    return f"{place.path}: value {shown}{origin}: {wrong}"


def _locate(root: SectionType, location: tuple[str | int, ...]) -> _Place:
    """Follow an error's location, in which the `type`, or a tag, stands after each field that has several kinds."""
    path: list[str] = []
    section, meaning = root, ""
    kind: Any = root
    for step in map(str, location):
        if step == "[key]":
            continue
        choice: dict[str, Any] = {**_sections_of(kind), **_tagged(kind)}
        holder = choice.pop("", None)
        if step in choice:
            kind = choice[step]
            continue
        path.append(step)
        if holder is None:
            kind, meaning = _item_of(kind), ""
        else:
            section, field = holder, holder.model_fields.get(step)
            kind, meaning = (field.rebuild_annotation(), field.description or "") if field else (None, "")
    return _Place(".".join(path), section, meaning.rstrip("."), kind)


def _origin(path: str, overridden: Collection[str]) -> str:
    """Names the override that wrote the field, something in it, or the table it stands in."""
    wrote = (given for given in overridden if f"{path}.".startswith(f"{given}.") or given.startswith(f"{path}."))
    given = next(wrote, None)
    return "" if given is None else f" (from the command line: {given})"


def _tags(place: _Place, wrong: str = "") -> str:
    tags = list(_sections_of(place.kind))
    near = difflib.get_close_matches(wrong, tags, 1)
    hint = f"did you mean {_value_in_words(near[0])}? " if near else ""
    return f"{hint}write " + " or ".join(f"type = {_value_in_words(tag)}" for tag in tags)


def _known_fields(place: _Place, root: SectionType) -> str:
    """The nearest known field, where else the name is at home, and all fields of the section."""
    name, section, fields = place.path.rpartition(".")[2], place.section, place.section.model_fields
    kinds = section.kinds() if issubclass(section, Kind) else {}
    if others := [tag for tag, kind in kinds.items() if name in kind.model_fields]:
        return f"it belongs to type = {_value_in_words(others[0])}; this table has: {', '.join(fields)}"
    near = difflib.get_close_matches(name, fields, 1)
    homes = dict.fromkeys(table.path for table in walk_tables(root) if name in table.section.model_fields)
    hint = f"did you mean `{near[0]}`? " if near else f"it belongs to [{'], ['.join(homes)}]; " if homes else ""
    return f"{hint}known here: {', '.join(fields)}"


def _in_words(kind: Any) -> str:
    """What a field may hold: `integer ≥ 1`, `"stop" or "skip"`, `text, or nothing`."""
    options = _options(kind)
    tags = [tag for tag in _sections_of(kind) if tag]
    tables = [f"table with type = {_alternatives(tags)}"] if tags else []
    words = tables or [_option_in_words(option) for option in options if option is not NoneType]
    return " or ".join(words) + (", or nothing" if NoneType in options else "")


def _value_in_words(value: Any) -> str:
    """A value as TOML writes it, on one line."""
    if value is None:
        return "nothing"
    if isinstance(value, bool | str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_key_in_words(name)} = {_value_in_words(item)}" for name, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_value_in_words, value)) + "]"
    return str(value)


def _key_in_words(key: Any) -> str:
    return str(key) if re.fullmatch(r"[A-Za-z0-9_-]+", str(key)) else _value_in_words(str(key))


def _option_in_words(kind: Any) -> str:
    bare, metadata = _unwrap(kind)
    origin = get_origin(bare)
    if origin is Literal:
        return _alternatives(get_args(bare))
    if origin is tuple:
        return f"list of {_in_words(get_args(bare)[0])}"
    if origin is dict:
        return f"table of {_in_words(get_args(bare)[1])}"
    if isinstance(bare, type) and issubclass(bare, Section):
        return "table"
    bounds = [
        words.format(getattr(part, bound))
        for part in metadata
        for bound, words in _BOUNDS.items()
        if hasattr(part, bound)
    ]
    return f"{_NAMES[bare]} {' and '.join(bounds)}".rstrip().replace("integer > 0", "integer ≥ 1")


def _alternatives(values: Any) -> str:
    return " or ".join(map(_value_in_words, values))


def _options(kind: Any) -> list[Any]:
    """The alternatives of a union, those of inner unions included, or the kinds of a family; else itself alone."""
    bare, _ = _unwrap(kind)
    if is_family(bare):
        return list(bare.kinds().values())
    if get_origin(bare) in (Union, UnionType):
        return [option for alternative in get_args(bare) for option in _options(alternative)]
    return [kind]


def _unwrap(kind: Any) -> tuple[Any, list[Any]]:
    """The type inside `Annotated`, and what is annotated."""
    if get_origin(kind) is not Annotated:
        return kind, []
    bare, *parts = get_args(kind)
    return bare, [bound for part in parts for bound in (part.metadata if isinstance(part, FieldInfo) else [part])]


def _tagged(kind: Any) -> dict[str, Any]:
    """The alternatives that are told apart by a tag, which no user writes."""
    return {part.tag: each for each in _options(kind) for part in _unwrap(each)[1] if isinstance(part, Tag)}


def _item_of(kind: Any) -> Any:
    """What a table or a list holds; nothing for a value without items."""
    bare, _ = _unwrap(kind)
    arguments = get_args(bare)
    if get_origin(bare) is dict:
        return arguments[1]
    return arguments[0] if get_origin(bare) is tuple else None


if __name__ == "__main__":
    print(render_reference(), end="")
