"""What a benchmark reads: rows of JSON files.

A file is a list or lines; every object in it is read by a function, and every bad one is named at once.
"""

from collections.abc import Callable
from typing import Any

from tapir_core import errors
from tapir_core.data import records
from tapir_core.evaluation.scores import ALL
from tapir_core.text import encodable

_FAILED = "$ERROR$"
"""What FastChat writes where a provider gave no answer."""


def read_rows(path: str, read_one: Callable[[records.Fields], records.T], what: str) -> list[records.T]:
    """What ``read_one`` makes of every object in a file or at a URL; ``what`` names a row in messages.

    Raises:
        ConfigError: the file cannot be read or holds nothing, or ``read_one`` raised `BadRecordError`.
    """
    found, bad = records.read_each(records.read_records(path, tables=False), read_one)
    if bad:
        raise errors.ConfigError(records.first_of(bad), source=path)
    if not found:
        raise errors.ConfigError(f"{path!r} holds no {what}; expected a JSON list or JSON lines, an object a {what}")
    return [row for _, row in found]


def text_of(fields: records.Fields, name: str) -> str:
    """The text in a field, `encodable`.

    Raises:
        BadRecordError: there is none.
    """
    found = fields.get(name)
    if not isinstance(found, str):
        raise records.BadRecordError(f"{name} must be a text, got {found!r}")
    return encodable(found)


def answer_of(found: Any, name: str) -> str | None:
    """The answer that a field holds, `encodable`; nothing where it failed: `null`, or FastChat's mark of it.

    Raises:
        BadRecordError: it is no text.
    """
    if found is not None and not isinstance(found, str):
        raise records.BadRecordError(f"{name} must be a text, or null for an answer that failed; got {found!r}")
    return None if found is None or found.strip() == _FAILED else encodable(found)


def check_category(name: str) -> str:
    """The category.

    Raises:
        BadRecordError: it has the name that the whole has among figures.
    """
    if name == ALL:
        raise records.BadRecordError(f"the category {ALL!r} stands for all questions together; give it another name")
    return name
