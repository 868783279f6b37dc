"""Searching everything that a run leaves behind for keys, in every spelling that files commonly hide text in."""

import gzip
import json
import sqlite3
import zlib
from base64 import b64encode
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

import polars as pl

__all__ = ["arguments_with", "find_leaks", "spellings"]


def spellings(key: str) -> list[bytes]:
    """``key`` as it is, in JSON, in addresses, in UTF-16 and, wherever it begins, in base64."""
    escaped = "".join(f"\\u{ord(each):04x}" for each in key)
    texts = {key, json.dumps(key)[1:-1], key.replace("/", "\\/"), escaped, quote(key), quote(key, safe="")}
    # Of a group of three bytes that the key fills in part only, the four digits depend on its neighbours.
    coded = [b64encode(b"\0" * shift + key.encode())[4 if shift else 0 : -4] for shift in range(3)]
    return [*(text.encode() for text in sorted(texts)), key.encode("utf-16-le"), *coded]


def find_leaks(folder: Path, keys: Sequence[str]) -> list[str]:
    """Each file below ``folder``, by content or name, that shows one of ``keys``."""
    wanted = [spelling for key in keys for spelling in spellings(key)]
    return [
        f"{path.relative_to(folder)}: {spelling!r}"
        for path in sorted(folder.rglob("*"))
        for content in _contents(path)
        for spelling in wanted
        if spelling in content
    ]


def arguments_with(seen: Iterable[Sequence[str]], keys: Sequence[str]) -> list[Sequence[str]]:
    """The commands, by their arguments, that show one of ``keys``."""
    wanted = [spelling for key in keys for spelling in spellings(key)]
    return [words for words in seen if any(each in "\0".join(words).encode() for each in wanted)]


def _contents(path: Path) -> Iterator[bytes]:
    """A file's name, its bytes, and what a packed file holds unpacked."""
    yield str(path).encode()
    if not path.is_file():
        return
    content = path.read_bytes()
    yield content
    if path.suffix == ".parquet":
        yield pl.read_parquet(path).write_ndjson().encode()
    elif content.startswith(b"SQLite format 3\0"):
        # Long values lie in pieces on several pages.
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
            yield "\n".join(connection.iterdump()).encode()
    elif content.startswith(b"\x1f\x8b"):
        yield gzip.decompress(content)
    elif content.startswith((b"\x78\x01", b"\x78\x9c", b"\x78\xda")):
        yield zlib.decompress(content)
