"""Text: canonical JSON, digests, and a reply that does not hold what was asked for."""

import hashlib
import json
import unicodedata
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import islice
from json.encoder import encode_basestring_ascii
from typing import Any


def normalise(text: str) -> str:
    """The normal form that identity is taken of: NFC, trimmed, lone surrogates replaced."""
    return (text if text.isascii() else unicodedata.normalize("NFC", encodable(text))).strip()


def encodable(text: str) -> str:
    """The text with ``?`` for lone surrogates, which JSON can hold and neither a table nor a request can."""
    return text.encode("utf-8", "replace").decode("utf-8")


def instruction_id(instruction: str, system: str | None = None, earlier: Sequence[tuple[str, str]] = ()) -> str:
    """First 16 hex digits of sha256 over the normalised system text and instruction (method.md, Identity).

    Earlier turns (role, text) are in it where there are any.
    """
    # `digest` of a list; texts by themselves are encoded three times as fast.
    texts = f"{encode_basestring_ascii(normalise(system or ''))},{encode_basestring_ascii(normalise(instruction))}"
    turns = f",{canonical_json([[role, normalise(text)] for role, text in earlier])}" if earlier else ""
    return hashlib.sha256(f"[{texts}{turns}]".encode()).hexdigest()[:16]


_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def canonical_json(value: Any) -> str:
    """One spelling for one value: sorted keys, no blanks, no NaN.

    Raises:
        ValueError: a float is not finite.
        TypeError: the value is not JSON.
    """
    return _CANONICAL.encode(value)


def digest(value: Any) -> str:
    """sha256 (hex) of ``canonical_json(value)``."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def shorten(text: str, characters: int) -> str:
    """The text on one line; of a longer one so many characters, and "…"."""
    line = " ".join(text.split())
    return line if len(line) <= characters else f"{line[:characters]}…"


def first_few(names: Collection[str], most: int) -> str:
    """At most so many of the names, separated by commas; "…" stands for those left out."""
    return ", ".join([*islice(names, most), *["…"] * (len(names) > most)])


@dataclass(frozen=True, slots=True)
class Unparsed:
    """What every parser of a teacher's or judge's reply returns when it finds nothing usable."""

    reason: str
    """A short, countable reason without the reply's own words: `no verdict`, `score outside 1-10`."""


MISSING = (
    "What was asked for cannot be read from this reply. Write it now, in exactly the form that was asked for, and "
    "nothing else."
)
"""What is said to such a reply when it is shown to who gave it."""
