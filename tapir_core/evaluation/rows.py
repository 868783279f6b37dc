"""JSON files of benchmarks as rows: a list or lines, every object read by a function, every bad one named at once."""

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from tapir_core.data.readers import read_content
from tapir_core.errors import ConfigError
from tapir_core.evaluation.statistics import ALL

__all__ = ["BadRowError", "answer_of", "check_category", "encodable", "parse_rows", "read_rows", "read_text", "text_of"]

_Row = TypeVar("_Row")
_LISTED = 20
_FAILED = "$ERROR$"
"""What FastChat writes where a provider gave no answer."""


class BadRowError(ValueError):
    """Raised by a function that reads rows: this object is none, and why."""


def read_rows(path: str, read_one: Callable[[Mapping[str, Any]], _Row], what: str) -> list[_Row]:
    """What ``read_one`` makes of every object in a file or at a URL; ``what`` names a row in messages.

    Raises:
        ConfigError: the file cannot be read or holds nothing, or ``read_one`` raised `BadRowError`.
    """
    return parse_rows(read_text(path), path, read_one, what)


def parse_rows(text: str, path: str, read_one: Callable[[Mapping[str, Any]], _Row], what: str) -> list[_Row]:
    """What ``read_one`` makes of every object in ``text``; ``path`` and ``what`` are named in messages.

    Raises:
        ConfigError: ``text`` is damaged or holds nothing, or ``read_one`` raised `BadRowError`.
    """
    rows, problems = [], []
    for number, fields in _objects(text, path):
        try:
            if not isinstance(fields, dict):
                raise BadRowError(f"expected an object with fields, got {type(fields).__name__}")
            rows.append(read_one(fields))
        except BadRowError as error:
            problems.append(f"row {number}: {error}")
    if problems:
        more = [f"… and {len(problems) - _LISTED} more"] if len(problems) > _LISTED else []
        raise ConfigError([*problems[:_LISTED], *more], source=path)
    if not rows:
        raise ConfigError(f"{path!r} holds no {what}; expected a JSON list or JSON lines, an object a {what}")
    return rows


def read_text(path: str) -> str:
    """The text of a file or URL.

    Raises:
        ConfigError: it cannot be read, or is not UTF-8.
    """
    try:
        return read_content(path).decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        raise ConfigError(f"{path!r} is not UTF-8; save it as UTF-8") from exc


def text_of(fields: Mapping[str, Any], name: str) -> str:
    """The text in a field, `encodable`.

    Raises:
        BadRowError: there is none.
    """
    found = fields.get(name)
    if not isinstance(found, str):
        raise BadRowError(f"{name} must be a text, got {found!r}")
    return encodable(found)


def answer_of(found: Any, name: str) -> str | None:
    """The answer that a field holds, `encodable`; nothing where it failed: `null`, or FastChat's mark of it.

    Raises:
        BadRowError: it is no text.
    """
    if found is not None and not isinstance(found, str):
        raise BadRowError(f"{name} must be a text, or null for an answer that failed; got {found!r}")
    return None if found is None or found.strip() == _FAILED else encodable(found)


def check_category(name: str) -> str:
    """The category.

    Raises:
        BadRowError: it has the name that the whole has among figures.
    """
    if name == ALL:
        raise BadRowError(f"the category {ALL!r} stands for all questions together; give it another name")
    return name


def encodable(text: str) -> str:
    """The text with ``?`` for lone surrogates, which JSON can hold and neither a table nor a request can."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _objects(text: str, path: str) -> Iterator[tuple[int, Any]]:
    if text.lstrip()[:1] == "[":
        yield from enumerate(_json(text, repr(path)), start=1)
    else:
        for number, line in enumerate(text.split("\n"), start=1):
            if line.strip():
                yield number, _json(line, f"{path!r}, line {number}")


def _json(text: str, place: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise ConfigError(f"{place} is damaged JSON: {exc}; expected a JSON list or JSON lines") from exc
