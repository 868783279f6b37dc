"""What a field may hold, read off the models, and validation errors in a user's words: field, value, remedy.

Error messages and the configuration reference both speak from here, so they cannot disagree. Values that may be
secrets (error type `secret`) are never repeated.
"""

import difflib
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types
from pydantic import Tag, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from tapir_core.config._base import Section, is_family
from tapir_core.config.run import RunConfig

__all__ = [
    "Place",
    "Table",
    "default_of",
    "explain",
    "in_words",
    "is_required",
    "kind_of",
    "locate",
    "sections_of",
    "value_in_words",
    "walk_tables",
]

SectionType = type[Section]

_NAMES = {str: "text", int: "integer", float: "number", bool: "true or false"}


@dataclass(frozen=True, slots=True)
class Place:
    """Where an error lies."""

    path: str
    """The field as a user writes it."""
    section: SectionType | None
    """The section that holds the field."""
    variants: Mapping[str, SectionType]
    """The variants, by `type`, that this section was chosen from; empty where there was no choice."""
    field: FieldInfo | None
    """The field, where the models know it and the path does not end inside a table or list."""
    kind: Any
    """Annotation of what stands at the end of the path; nothing for an unknown field."""


@dataclass(frozen=True, slots=True)
class Table:
    """A table that a configuration may have."""

    path: str
    type: str
    """The variant, empty where there is only one."""
    section: SectionType
    default: Section | None
    """What the table holds when it is left out; nothing where that is another variant, nothing, or an error."""


def locate(root: SectionType, location: tuple[str | int, ...]) -> Place:
    """Follow an error's location, in which the `type`, or a tag, stands after each field that has variants."""
    path: list[str] = []
    section: SectionType | None = None
    variants: dict[str, SectionType] = {}
    chosen_from: dict[str, SectionType] = {}
    field: FieldInfo | None = None
    kind: Any = root
    for step in location:
        if step == "[key]":
            continue
        tagged = _tagged(kind)
        if step in tagged:
            kind = tagged[str(step)]
            continue
        choice = sections_of(kind)
        if len(choice) > 1:
            kind, chosen_from = choice[str(step)], choice
        elif choice:
            path.append(str(step))
            section, variants, chosen_from = next(iter(choice.values())), chosen_from, {}
            field = section.model_fields.get(str(step))
            kind = None if field is None else kind_of(field)
        else:
            path.append(str(step))
            field, kind = None, _item_of(kind)
    return Place(".".join(path), section, variants, field, kind)


def walk_tables(root: SectionType, path: str = "") -> Iterator[Table]:
    """Every table below the root, outer before inner."""
    for name, field in root.model_fields.items():
        below, kind = f"{path}.{name}" if path else name, field.annotation
        if get_origin(kind) is dict:
            below, kind = f"{below}.N", _item_of(kind)
        default = field.get_default()
        for tag, section in sections_of(kind).items():
            yield Table(below, tag, section, default if isinstance(default, section) else None)
            yield from walk_tables(section, below)


def sections_of(kind: Any) -> dict[str, SectionType]:
    """The sections that a field may hold, by their `type`."""
    bare = [_unwrap(option)[0] for option in _options(kind)]
    found = [option for option in bare if isinstance(option, type) and issubclass(option, Section)]
    return {str(section.model_fields["type"].default) if len(found) > 1 else "": section for section in found}


def kind_of(field: FieldInfo) -> Any:
    """A field's annotation with its bounds, which pydantic keeps apart from it."""
    kind: Any = field.annotation
    for part in field.metadata:
        kind = Annotated[kind, part]
    return kind


def in_words(kind: Any) -> str:
    """What a field may hold: `integer ≥ 1`, `"stop" or "skip"`, `text, or nothing`."""
    options = _options(kind)
    tags = [tag for tag in sections_of(kind) if tag]
    if tags:
        words = [f"table with type = {_alternatives(tags)}"]
    else:
        words = [_option_in_words(option) for option in options if option is not NoneType]
    return " or ".join(words) + (", or nothing" if NoneType in options else "")


def is_required(field: FieldInfo) -> bool:
    """True when a table without this field is an error."""
    return field.get_default(call_default_factory=True, validated_data={}) is PydanticUndefined


def default_of(table: Table, name: str) -> Any:
    """What the field of this table holds when it is left out."""
    if table.default is not None:
        return getattr(table.default, name)
    return table.section.model_fields[name].get_default(call_default_factory=True, validated_data={})


def value_in_words(value: Any) -> str:
    """A value as TOML writes it, on one line."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
    if isinstance(value, Section):
        return value_in_words(value.model_dump())
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_key_in_words(name)} = {value_in_words(item)}" for name, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(value_in_words, value)) + "]"
    return str(value)


def _key_in_words(key: Any) -> str:
    return str(key) if re.fullmatch(r"[A-Za-z0-9_-]+", str(key)) else value_in_words(str(key))


def _option_in_words(kind: Any) -> str:
    bare, metadata = _unwrap(kind)
    origin = get_origin(bare)
    if origin is Literal:
        return _alternatives(get_args(bare))
    if origin is tuple:
        return f"list of {in_words(get_args(bare)[0])}"
    if origin is dict:
        return f"table of {in_words(get_args(bare)[1])}"
    if isinstance(bare, type) and issubclass(bare, Section):
        return "table"
    bounds = " and ".join(filter(None, (_bound_in_words(part, whole=bare is int) for part in metadata)))
    return f"{_NAMES[bare]} {bounds}".rstrip()


def _bound_in_words(bound: Any, *, whole: bool) -> str:
    match bound:
        case annotated_types.Gt(gt=0) if whole:
            return "≥ 1"
        case annotated_types.Gt(gt=limit):
            return f"> {limit}"
        case annotated_types.Ge(ge=limit):
            return f"≥ {limit}"
        case annotated_types.Lt(lt=limit):
            return f"< {limit}"
        case annotated_types.Le(le=limit):
            return f"≤ {limit}"
        case annotated_types.MinLen(min_length=1):
            return "(not empty)"
        case _:
            return ""


def _alternatives(values: Any) -> str:
    return " or ".join(map(value_in_words, values))


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
