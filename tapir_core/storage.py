"""Files of a run root, on a local disk or behind any fsspec URL (`s3://bucket/prefix`).

A write is whole or absent: locally a temporary file, fsync and rename; remotely one PUT.
Paths are relative to the root and use `/`.
"""

import contextlib
import os
import secrets
import shutil
from pathlib import Path
from typing import Any

from tapir_core.errors import ConfigError

__all__ = ["Storage"]


class Storage:
    """Reads and writes whole files below one root."""

    def __init__(self, root: str | Path) -> None:
        self.root = str(root).rstrip("/")
        self._remote: Any = None
        if "://" in self.root:
            import fsspec  # a local root needs none of it

            self._remote, self.root = fsspec.url_to_fs(self.root)

    def read_bytes(self, path: str) -> bytes:
        """The file's content.

        Raises:
            FileNotFoundError: there is no such file.
        """
        if self._remote is not None:
            content: bytes = self._remote.cat_file(self._full(path))
            return content
        return Path(self._full(path)).read_bytes()

    def write_bytes(self, path: str, content: bytes) -> None:
        """Write the whole file in one step; readers see the old content or the new one.

        Raises:
            ConfigError: the place cannot be written.
        """
        if self._remote is not None:
            self._remote.pipe_file(self._full(path), content)
            return
        target = Path(self._full(path))
        temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(target)
        except OSError as exc:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise ConfigError(
                f"{target} cannot be written ({exc.strerror}); free the place or choose another `run.root`"
            ) from exc

    def exists(self, path: str) -> bool:
        """True when the file or folder is there."""
        if self._remote is not None:
            return bool(self._remote.exists(self._full(path)))
        return Path(self._full(path)).exists()

    def remove(self, path: str) -> None:
        """Remove a file or a folder with all it holds; nothing happens where there is none."""
        if self._remote is not None:
            if self._remote.exists(self._full(path)):
                self._remote.rm(self._full(path), recursive=True)
            return
        target = Path(self._full(path))
        if target.is_dir():
            shutil.rmtree(target)
        else:
            target.unlink(missing_ok=True)

    def names(self, folder: str) -> list[str]:
        """Sorted names in a folder; empty where there is none."""
        if not self.exists(folder):
            return []
        if self._remote is not None:
            return sorted(Path(path).name for path in self._remote.ls(self._full(folder), detail=False))
        return sorted(os.listdir(self._full(folder)))

    def local(self, path: str) -> Path:
        """The file's place on this machine, for engines that read and write folders themselves.

        Raises:
            ConfigError: the root is not a local folder.
        """
        if self._remote is not None:
            raise ConfigError(f"run.root {self.root!r} is not on this machine; engines need a local root")
        return Path(self._full(path))

    def _full(self, path: str) -> str:
        return f"{self.root}/{path}" if path else self.root
