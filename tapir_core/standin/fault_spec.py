"""Reading fault scripts: a spec such as `429=0.1,hang@10-40,seed=7`, or a TOML or JSON file of the same content.

Limits: a text that ends in `.toml` or `.json` is a file's path; everything else is a spec.
"""

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tapir_core.errors import ConfigError
from tapir_core.standin.faults import FAULT_KINDS, FaultKind, Faults, Window

__all__ = ["read_faults"]

_NUMBERS = ("retry_after_seconds", "slow_seconds")
_OPTIONS = (*_NUMBERS, "retry_after_as", "seed")
_FORMS = ("seconds", "date")
_WINDOW_FIELDS = ("fault", "from_seconds", "to_seconds", "share")


def read_faults(text: str) -> Faults:
    """The fault script that a spec or a file describes; an empty spec strikes nothing.

    Raises:
        ConfigError: the file cannot be read, or names and values are wrong; all problems are named.
    """
    reader = _Reader()
    if Path(text).suffix in {".toml", ".json"}:
        reader.read_mapping(_load(Path(text)))
        return reader.finish(source=text)
    reader.read_spec(text)
    return reader.finish(source=f"the faults {text!r}")


def _load(path: Path) -> Mapping[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
        value = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except (OSError, ValueError) as exc:
        raise ConfigError(f"the faults file {path} cannot be read: {exc}; name a readable TOML or JSON file") from exc
    if not isinstance(value, dict):
        raise ConfigError(f"the faults file {path} holds {value!r}: write an object with 'shares' and 'windows'")
    return value


class _Reader:
    """Collects what is right and says what is wrong."""

    def __init__(self) -> None:
        self._shares: dict[FaultKind, float] = {}
        self._windows: list[Window] = []
        self._options: dict[str, Any] = {}
        self._problems: list[str] = []

    def finish(self, source: str) -> Faults:
        """The script, or every problem at once."""
        try:
            faults = Faults(self._shares, tuple(self._windows), **self._options)
        except ConfigError as exc:
            raise ConfigError([*self._problems, *exc.problems], source=source) from exc
        if self._problems:
            raise ConfigError(self._problems, source=source)
        return faults

    def read_spec(self, text: str) -> None:
        """Words with commas between them: NAME=SHARE, NAME@FROM-TO, NAME@FROM-TO=SHARE, OPTION=VALUE."""
        for word in filter(None, map(str.strip, text.split(","))):
            name, equals, value = (part.strip() for part in word.partition("="))
            kind, at, span = name.partition("@")
            if at:
                self._read_span(word, kind, span, value if equals else "1")
            elif not equals:
                self._problems.append(f"{word!r} has no value: write NAME=SHARE, NAME@FROM-TO or OPTION=VALUE")
            elif name in _OPTIONS:
                self._add_option(name, _number_or_text(value))
            else:
                self._add_share(name, _number_or_text(value))

    def read_mapping(self, values: Mapping[str, Any]) -> None:
        """The content of a file: `shares`, `windows` and options."""
        for name, value in values.items():
            if name == "shares" and isinstance(value, dict):
                for kind, share in value.items():
                    self._add_share(kind, share)
            elif name == "windows" and isinstance(value, list):
                for window in value:
                    self._add_window(window)
            elif name in _OPTIONS:
                self._add_option(name, value)
            else:
                known = ", ".join(("shares (a table)", "windows (a list of tables)", *_OPTIONS))
                self._problems.append(f"{name!r} = {value!r} is not known here: there are {known}")

    def _read_span(self, word: str, kind: str, span: str, share: str) -> None:
        begin, dash, end = span.partition("-")
        if not dash:
            self._problems.append(f"{word!r} has no end: write {kind}@FROM-TO, or {kind}@FROM- for one that never ends")
            return
        window = {"fault": kind, "from_seconds": _number_or_text(begin), "share": _number_or_text(share)}
        self._add_window({**window, "to_seconds": _number_or_text(end)} if end else window)

    def _add_window(self, window: Any) -> None:
        if not isinstance(window, dict) or not {"fault", "from_seconds"} <= set(window) <= set(_WINDOW_FIELDS):
            fields = ", ".join(_WINDOW_FIELDS)
            self._problems.append(f"the window {window!r} is wrong: give it {fields} (the last two may be left out)")
            return
        numbers = {name: value for name, value in window.items() if name != "fault"}
        right = [self._is_number(f"{name} of the window of {window['fault']!r}", numbers[name]) for name in numbers]
        if self._is_fault(window["fault"]) and all(right):
            self._windows.append(Window(window["fault"], **numbers))

    def _add_share(self, kind: Any, share: Any) -> None:
        if not self._is_fault(kind) or not self._is_number(f"the share of {kind!r}", share):
            return
        if kind in self._shares:
            self._problems.append(
                f"the share of {kind!r} is given twice, {self._shares[kind]:g} and {share:g}: keep one"
            )
        self._shares[kind] = share

    def _add_option(self, name: str, value: Any) -> None:
        if name in _NUMBERS and not self._is_number(name, value):
            return
        if name == "retry_after_as" and value not in _FORMS:
            self._problems.append(f"retry_after_as is {value!r}: choose 'seconds' or 'date'")
        elif name == "seed" and (not isinstance(value, int) or isinstance(value, bool)):
            self._problems.append(f"seed is {value!r}: give an integer")
        else:
            self._options[name] = value

    def _is_fault(self, kind: Any) -> bool:
        if kind not in FAULT_KINDS:
            options = ", ".join(_OPTIONS)
            self._problems.append(f"no fault {kind!r}: there are {', '.join(FAULT_KINDS)}; options are {options}")
        return kind in FAULT_KINDS

    def _is_number(self, name: str, value: Any) -> bool:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number:
            self._problems.append(f"{name} is {value!r}: give a number")
        return is_number


def _number_or_text(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
