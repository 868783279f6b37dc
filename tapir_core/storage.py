"""Files of a run root, on a local disk or behind any fsspec URL (`s3://bucket/prefix`).

A write is whole or absent: locally a temporary file, fsync and rename; remotely one PUT, or an upload in pieces that
is nothing until its last request. Paths are relative to the root and use `/`.
"""

import contextlib
import hashlib
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from tapir_core.errors import ConfigError, TapirError
from tapir_core.paths import SCRATCH_VARIABLE
from tapir_core.s3 import PIECE_BYTES, Patience, ask, open_s3

__all__ = ["Storage", "file_sha256", "on_this_machine"]


class Storage:
    """Reads and writes whole files below one root.

    Every method of a root on S3 raises what `tapir_core.s3.ask` raises.
    """

    def __init__(self, root: str | Path, patience: Patience | None = None) -> None:
        self.url = str(root).rstrip("/")
        self.root = self.url
        self._patience = patience or Patience()
        self._remote: Any = None
        self._is_s3 = str(root).startswith("s3://")
        if self._is_s3:
            self.root = str(root).removeprefix("s3://").rstrip("/")
            if not self.root.partition("/")[0]:
                raise ConfigError(f"{root} names no bucket; write s3://BUCKET/FOLDER")
            self._remote = open_s3(self._patience)
        elif "://" in self.url:
            import fsspec  # a local root needs none of it

            self._remote, self.root = fsspec.url_to_fs(self.url)

    @property
    def is_local(self) -> bool:
        """Whether the root is a folder of this machine."""
        return self._remote is None

    def read_bytes(self, path: str) -> bytes:
        """The file's content.

        Raises:
            FileNotFoundError: there is no such file.
        """
        if self._remote is not None:
            return self._read_piece(path)
        return Path(self._full(path)).read_bytes()

    def write_bytes(self, path: str, content: bytes) -> None:
        """Write the whole file in one step; readers see the old content or the new one.

        Raises:
            ConfigError: the place cannot be written.
        """
        if self._remote is not None:
            self._ask(lambda: self._remote.pipe_file(self._full(path), content, chunksize=PIECE_BYTES))
            return
        with _replacing(Path(self._full(path))) as temporary:
            temporary.write_bytes(content)

    def upload(self, file: Path, path: str) -> None:
        """Write a file of this machine to the root, whole, without holding it in memory.

        Raises:
            ConfigError: the place cannot be written.
        """
        if self._remote is not None:
            self._ask(lambda: self._remote.put_file(str(file), self._full(path), chunksize=PIECE_BYTES))
            return
        with _replacing(Path(self._full(path))) as temporary:
            shutil.copyfile(file, temporary)

    def download(self, path: str, file: Path) -> None:
        """Write a file of the root to this machine, whole, without holding it in memory.

        Raises:
            FileNotFoundError: there is no such file.
            ConfigError: the place cannot be written.
        """
        with _replacing(file) as temporary, temporary.open("wb") as output:
            for piece in self._pieces(path):
                output.write(piece)

    def sha256(self, path: str) -> str:
        """Digest of a file's content, read anew.

        Raises:
            FileNotFoundError: there is no such file.
        """
        digest = hashlib.sha256()
        for piece in self._pieces(path):
            digest.update(piece)
        return digest.hexdigest()

    def exists(self, path: str) -> bool:
        """True when the file or folder is there."""
        if self._remote is not None:
            return self._info(path) is not None
        return Path(self._full(path)).exists()

    def remove(self, path: str) -> None:
        """Remove a file or a folder with all it holds; nothing happens where there is none.

        Raises:
            TapirError: the server keeps some of it.
        """
        if self._remote is not None:
            with contextlib.suppress(FileNotFoundError):
                self._ask(lambda: self._remote.rm(self._full(path), recursive=True))
            # An answer to a removal of many files names those that stay, and s3fs does not look.
            if self._info(path) is not None:
                raise TapirError(f"{self.url}/{path} could not be removed; allow it there, and try again")
            return
        target = Path(self._full(path))
        if target.is_dir():
            shutil.rmtree(target)
        else:
            target.unlink(missing_ok=True)

    def names(self, folder: str) -> list[str]:
        """Sorted names in a folder; empty where there is none."""
        if self._remote is None:
            return sorted(os.listdir(self._full(folder))) if self.exists(folder) else []
        try:
            found: list[str] = self._ask(lambda: self._remote.ls(self._full(folder), detail=False))
        except FileNotFoundError:
            return []
        # S3 lists a folder that somebody made as an entry of itself.
        return sorted({Path(each).name for each in found if each.rstrip("/") != self._full(folder)})

    def files(self, folder: str = "") -> dict[str, int]:
        """Path → bytes of every file in a folder and the folders below it, sorted; empty where there is none."""
        start = self._full(folder)
        if self._remote is None:
            here = Path(self.root)
            below = [(each.relative_to(here), each.stat().st_size) for each in Path(start).rglob("*") if each.is_file()]
            return {path.as_posix(): size for path, size in sorted(below)}
        found = self._ask(lambda: self._remote.find(start, detail=True))
        sizes = {name.removeprefix(f"{self.root}/"): int(each["size"]) for name, each in found.items()}
        return {path: sizes[path] for path in sorted(sizes) if path and not path.endswith("/")}

    def local(self, path: str) -> Path:
        """The file's place on this machine, for engines that read and write folders themselves.

        Raises:
            ConfigError: the root is not a local folder.
        """
        if self._remote is not None:
            raise ConfigError(f"run.root {self.url!r} is not on this machine; engines need a local root")
        return Path(self._full(path))

    def _pieces(self, path: str) -> Iterator[bytes]:
        if self._remote is None:
            with Path(self._full(path)).open("rb") as file:
                while piece := file.read(PIECE_BYTES):
                    yield piece
            return
        info = self._info(path)
        if info is None:
            raise FileNotFoundError(f"{self.url}/{path}")
        for start in range(0, info["size"], PIECE_BYTES):
            yield self._read_piece(path, start, min(start + PIECE_BYTES, info["size"]))

    def _read_piece(self, path: str, start: int | None = None, end: int | None = None) -> bytes:
        # With more than one connection s3fs asks for the size first: two requests for a small file.
        alone = {"max_concurrency": 1} if self._is_s3 else {}
        piece: bytes = self._ask(lambda: self._remote.cat_file(self._full(path), start=start, end=end, **alone))
        return piece

    def _info(self, path: str) -> dict[str, Any] | None:
        try:
            info: dict[str, Any] = self._ask(lambda: self._remote.info(self._full(path)))
        except FileNotFoundError:
            return None
        return info

    def _ask(self, request: Callable[[], Any]) -> Any:
        return ask(self.url, request, self._patience) if self._is_s3 else request()

    def _full(self, path: str) -> str:
        return f"{self.root}/{path}" if path else self.root


def on_this_machine(root: str) -> Storage:
    """Where processes of this machine write for the runs of a root: the root, or its place in the scratch folder.

    `TAPIR_SCRATCH` names that folder; `.tapir-scratch` where a process works, when it is not set.
    """
    _, elsewhere, place = root.partition("://")
    return Storage(Path(os.environ.get(SCRATCH_VARIABLE, ".tapir-scratch"), place.strip("/")) if elsewhere else root)


def file_sha256(file: Path) -> str:
    """Digest of a file of this machine; not read again while its size and time of change stay."""
    stat = file.stat()
    return _digest_of_version(file.resolve(), stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=1024)
def _digest_of_version(file: Path, _size: int, _mtime_ns: int) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


@contextlib.contextmanager
def _replacing(target: Path) -> Iterator[Path]:
    """A file to write, which becomes ``target`` when all of it is on the disk.

    Raises:
        ConfigError: the place cannot be written.
    """
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(target)
    except FileNotFoundError:  # of what is copied: the place itself was made
        raise
    except OSError as exc:
        raise ConfigError(
            f"{target} cannot be written ({exc.strerror}); free the place or choose another `run.root`"
        ) from exc
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
