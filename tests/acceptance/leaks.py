"""Searching everything that a run leaves behind for keys, in every spelling that files commonly hide text in."""

import gzip
import json
import sqlite3
import threading
import zlib
from base64 import b64encode
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

import polars as pl
import psutil

__all__ = ["ArgumentWatch", "find_leaks", "spellings"]


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


class ArgumentWatch:
    """Collects the arguments of this process's descendants while the ``with`` block runs."""

    def __init__(self) -> None:
        self.seen: set[tuple[str, ...]] = set()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, name="argument-watch")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def find_leaks(self, keys: Sequence[str]) -> list[tuple[str, ...]]:
        """Arguments that show one of ``keys``."""
        wanted = [spelling for key in keys for spelling in spellings(key)]
        return [words for words in self.seen if any(each in "\0".join(words).encode() for each in wanted)]

    def _look(self) -> None:
        this = psutil.Process()
        while not self._ended.wait(0.05):
            for process in this.children(recursive=True):
                try:
                    self.seen.add(tuple(process.cmdline()))
                except psutil.Error:
                    continue  # It ended meanwhile.
