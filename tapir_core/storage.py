"""Files of a run root, on a local disk or behind any fsspec URL (`s3://bucket/prefix`).

A write is whole or absent: locally a temporary file, fsync and rename; remotely one PUT, or an upload in pieces that
is invisible until its last request. Paths are relative to the root and use `/`.

S3: nothing is cached, every request is retried within a bound, and errors have plain messages. Endpoint and credentials
come from the environment, as for every AWS tool: `AWS_ENDPOINT_URL_S3` or `AWS_ENDPOINT_URL`, `AWS_ACCESS_KEY_ID` with
`AWS_SECRET_ACCESS_KEY`, or `AWS_PROFILE`. No message holds a key.
"""

import contextlib
import glob
import hashlib
import io
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from tapir_core import errors, paths

Result = TypeVar("Result")

PIECE_BYTES = 32 * 2**20
"""Size of a piece. Files of twice that size are sent in pieces, four at a time."""
_CONNECT_SECONDS, _READ_SECONDS = 10, 60
"""Longest wait for a web server to take a connection, and for its next bytes."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long one request may take. By default a server that hangs is an error after about four minutes."""

    connect_seconds: float = 10.0
    silent_seconds: float = 30.0
    """An attempt ends if nothing was received for so long."""
    attempts: int = 7
    """For a request that meets throttling, a 5xx or a broken connection; waits double, beginning with 0–1 s."""


class Storage:
    """Reads and writes whole files below one root.

    Raises:
        FileNotFoundError: in reading, there is no such file.
        ConfigError: the file cannot be written; on S3 there is no such bucket, or the endpoint's address is invalid.
        MissingPrerequisite: on S3, credentials are missing or refused, or the server does not answer.
        TapirError: S3 answers with an error after all attempts.
    """

    def __init__(self, root: str | Path, timeouts: Timeouts | None = None) -> None:
        import fsspec  # takes a tenth of a second, so it is imported when it is needed

        self.url = self.root = str(root).rstrip("/")
        self.is_local = "://" not in self.url
        """Whether the root is a folder of this machine."""
        self._timeouts = timeouts or Timeouts()
        self._is_s3 = str(root).startswith("s3://")
        if self._is_s3:
            self.root = str(root).removeprefix("s3://").rstrip("/")
            if not self.root.partition("/")[0]:
                raise errors.ConfigError(f"{root} names no bucket; write s3://BUCKET/FOLDER")
            self._files: Any = _open_s3(self._timeouts)
        elif self.is_local:
            self._files = fsspec.filesystem("file")
        else:
            self._files, self.root = fsspec.url_to_fs(self.url)
        self._base = os.path.abspath(self.root) if self.is_local else self.root

    def read_bytes(self, path: str, start: int | None = None, end: int | None = None) -> bytes:
        """The file's content, or the bytes from ``start`` to ``end`` of it."""
        # With more than one connection s3fs asks for the size first, which makes two requests for a small file.
        alone = {"max_concurrency": 1} if self._is_s3 else {}
        return bytes(self._ask(lambda: self._files.cat_file(self._full(path), start=start, end=end, **alone)))

    def write_bytes(self, path: str, content: bytes) -> None:
        """Write the whole file in one step; readers see the old content or the new one."""
        if self.is_local:
            with _replacing(self.local(path)) as temporary:
                temporary.write_bytes(content)
        else:
            self._ask(lambda: self._files.pipe_file(self._full(path), content, chunksize=PIECE_BYTES))

    def send(self, path: str, target: "Storage") -> None:
        """Copy a file to the same path in another root, whole, without holding it in memory."""
        if target.is_local:
            with _replacing(target.local(path)) as temporary, temporary.open("wb") as output:
                output.writelines(self._pieces(path))
        elif self.is_local:
            ours, theirs = str(self.local(path)), target._full(path)
            target._ask(lambda: target._files.put_file(ours, theirs, chunksize=PIECE_BYTES))
        else:
            with tempfile.TemporaryDirectory() as folder:
                between = Storage(folder)
                self.send(path, between)
                between.send(path, target)

    def sha256(self, path: str) -> str:
        """Digest of a file's content, read now."""
        digest = hashlib.sha256()
        for piece in self._pieces(path):
            digest.update(piece)
        return digest.hexdigest()

    def exists(self, path: str) -> bool:
        """Whether the file or folder exists."""
        return self._info(path) is not None

    def remove(self, path: str) -> None:
        """Remove a file, or a folder with its content, if there is one.

        Raises:
            TapirError: some of it remains.
        """
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            if self.is_local and os.path.isdir(self._full(path)):
                # fsspec refuses the folder in which this process works, and `rmtree` a link to one.
                shutil.rmtree(os.path.realpath(self._full(path)))
            else:
                self._ask(lambda: self._files.rm(glob.escape(self._full(path)), recursive=True))
        # The reply to a removal of many files names those that remain, but s3fs does not read it.
        if self.exists(path):
            raise errors.TapirError(f"{self.url}/{path} could not be removed; allow it there, and try again")

    def names(self, folder: str) -> list[str]:
        """Sorted names in a folder; empty if there is no folder."""
        try:
            found: list[str] = self._ask(lambda: self._files.ls(self._full(folder), detail=False))
        except (FileNotFoundError, NotADirectoryError):
            return []
        # S3 lists an explicitly made folder as an entry of itself.
        return sorted({Path(each).name for each in found if each.rstrip("/") != self._full(folder)})

    def files(self, folder: str = "") -> dict[str, int]:
        """Path → size of every file in a folder and its subfolders, sorted; empty if there is no folder."""
        if self.is_local:
            sizes = self._local_files(self._full(folder))
        else:
            found = self._ask(lambda: self._files.find(self._full(folder), detail=True))
            sizes = {name.removeprefix(f"{self._base}/"): int(each["size"]) for name, each in found.items()}
        return {path: sizes[path] for path in sorted(sizes) if path and not path.endswith("/")}

    def local(self, path: str) -> Path:
        """The file's path on this machine, for engines that read and write folders themselves.

        Raises:
            ConfigError: the root is not a local folder.
        """
        if not self.is_local:
            raise errors.ConfigError(f"run.root {self.url!r} is not on this machine; engines need a local root")
        return Path(self.root, path)

    def _local_files(self, folder: str) -> dict[str, int]:
        """As `files`. A folder that cannot be listed is an error, because a copy would miss its files."""

        def fail(error: OSError) -> None:
            if not isinstance(error, (FileNotFoundError, NotADirectoryError)):
                raise error

        # Links are followed, for a stage may have been moved to another disk.
        below = (Path(at, name) for at, _, names in os.walk(folder, onerror=fail, followlinks=True) for name in names)
        return {each.relative_to(self._base).as_posix(): each.stat().st_size for each in below if each.is_file()}

    def _pieces(self, path: str) -> Iterator[bytes]:
        info = self._info(path)
        if info is None:
            raise FileNotFoundError(f"{self.url}/{path}")
        for start in range(0, info["size"], PIECE_BYTES):
            yield self.read_bytes(path, start, min(start + PIECE_BYTES, info["size"]))

    def _info(self, path: str) -> dict[str, Any] | None:
        try:
            return dict(self._ask(lambda: self._files.info(self._full(path))))
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            return None

    def _ask(self, request: Callable[[], Result]) -> Result:
        return _ask_s3(self.url, request, self._timeouts) if self._is_s3 else request()

    def _full(self, path: str) -> str:
        return f"{self._base}/{path}" if path else self._base


def on_this_machine(root: str) -> Storage:
    """Where processes of this machine write for the runs of a root: the root itself, or a part of the scratch folder.

    `TAPIR_SCRATCH` names that folder; by default it is `.tapir-scratch` in the working directory.
    """
    _, elsewhere, place = root.partition("://")
    return Storage(
        Path(os.environ.get(paths.SCRATCH_VARIABLE, ".tapir-scratch"), place.strip("/")) if elsewhere else root
    )


def file_sha256(file: Path) -> str:
    """Digest of a file of this machine; cached while its size and modification time stay the same."""
    stat = file.stat()
    return _digest_of_version(file.resolve(), stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=1024)
def _digest_of_version(file: Path, _size: int, _mtime_ns: int) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


@contextlib.contextmanager
def _replacing(target: Path) -> Iterator[Path]:
    """A temporary file, which becomes ``target`` once all of it is on the disk.

    Raises:
        ConfigError: the file cannot be written.
    """
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(target)
    except FileNotFoundError:  # of the file that is copied: the target's folder was made
        raise
    except OSError as exc:
        raise errors.ConfigError(
            f"{target} cannot be written ({exc.strerror}); free the place or choose another `run.root`"
        ) from exc
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _open_s3(timeouts: Timeouts) -> Any:
    """An S3 file system; it connects at its first request."""
    from s3fs import S3FileSystem

    remote = S3FileSystem(endpoint_url=_endpoint(), **client_settings(timeouts))
    # The client below already retries, also after 429 and 500; attempts of both would multiply.
    remote.retries = 1
    return remote


def client_settings(timeouts: Timeouts) -> dict[str, Any]:
    """Arguments of s3fs as plain JSON, without endpoint and key."""
    return {
        # A listing of a minute ago would hide what another worker wrote since.
        "use_listings_cache": False,
        "max_concurrency": 4,
        "config_kwargs": {
            "connect_timeout": timeouts.connect_seconds,
            "read_timeout": timeouts.silent_seconds,
            "retries": {"mode": "legacy", "total_max_attempts": timeouts.attempts},
        },
    }


def _ask_s3(url: str, request: Callable[[], Result], timeouts: Timeouts) -> Result:
    """The result of a request that is safe to repeat: it is made again if its reply breaks off.

    Raises:
        FileNotFoundError: there is no such file.
        ConfigError: there is no such bucket, or the endpoint's address is invalid.
        MissingPrerequisite: credentials are missing or refused, or the server does not answer.
        TapirError: it answers with an error after all attempts.
    """
    from aiohttp import ClientError as ConnectionFault
    from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError
    from botocore.parsers import ResponseParserError
    from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_exponential

    # The client retries requests, but not for errors in the body of a reply.
    broken_off = (ConnectionFault, ResponseParserError, HTTPClientError)
    again = Retrying(
        retry=retry_if_exception_type(broken_off),
        stop=stop_after_delay(2 * timeouts.silent_seconds),
        wait=wait_exponential(multiplier=0.1),
        reraise=True,
    )
    try:
        return again(request)
    except FileNotFoundError as exc:
        # For a request about a bucket itself the error has no code.
        if _code(exc) == "NoSuchBucket" or getattr(exc.__cause__, "operation_name", "") == "HeadBucket":
            raise errors.ConfigError(f"{url}: {_server()} has no such bucket; make it there, or name another") from exc
        raise
    except broken_off as exc:
        raise errors.MissingPrerequisite(
            f"{url}: {_server()} does not answer, or not as S3 does ({type(exc).__name__}); start it, or set "
            "AWS_ENDPOINT_URL to the one that is meant; then the same command goes on"
        ) from exc
    except (OSError, ValueError, BotoCoreError, ClientError) as exc:
        raise _in_words(url, exc) from exc


def _in_words(url: str, exc: Exception) -> errors.TapirError:
    """The message of an error that a retry cannot fix. Texts of client and server may contain keys: none is shown."""
    from botocore import exceptions as boto

    code, server = _code(exc), _server()
    keys = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    no_keys = boto.NoCredentialsError, boto.PartialCredentialsError, boto.CredentialRetrievalError
    words: tuple[tuple[tuple[type[Exception], ...], type[errors.TapirError], str], ...] = (
        (
            (*no_keys, boto.ProfileNotFound),
            errors.MissingPrerequisite,
            f"no credentials for {server} ({code}); set {keys}, or AWS_PROFILE",
        ),
        (
            (PermissionError,),
            errors.MissingPrerequisite,
            f"{server} refuses this ({code}); check {keys} (or AWS_PROFILE), and that they may list, read, write and "
            "delete there",
        ),
        (
            (ValueError, boto.BotoCoreError),
            errors.ConfigError,
            f"the S3 client takes no such address ({code}); write s3://BUCKET/FOLDER with a bucket's name in small "
            f"letters, and AWS_ENDPOINT_URL=https://HOST:PORT (now {server})",
        ),
        (
            (Exception,),
            errors.TapirError,
            f"{server} answers with an error, still after all attempts ({code}); when it is well again, the same "
            "command goes on",
        ),
    )
    return next(error(f"{url}: {said}") for kinds, error, said in words if isinstance(exc, kinds))


def _code(exc: Exception) -> str:
    """The server's code of the error."""
    responses = (getattr(each, "response", None) for each in (exc, exc.__cause__))
    told = next((each for each in responses if isinstance(each, dict)), None)
    return type(exc).__name__ if told is None else str(told.get("Error", {}).get("Code", ""))


def _endpoint() -> str | None:
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or None


def _server() -> str:
    """The server's address, without a password in it."""
    endpoint = _endpoint()
    if endpoint is None:
        return "Amazon S3 (AWS_ENDPOINT_URL is not set)"
    parts = urlsplit(endpoint)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def read_content(path: str) -> bytes:
    """Bytes of a file or URL.

    Raises:
        ConfigError: it is not there or cannot be read.
    """
    with open_content(path) as file:
        return file.read()


@contextlib.contextmanager
def open_content(path: str) -> Iterator[io.RawIOBase | io.BytesIO]:
    """A file or URL, to be read from its start; what has an address is fetched whole.

    Raises:
        ConfigError: it is not there or cannot be read.
    """
    if "://" in path:
        yield io.BytesIO(_read_remote(path))
        return
    try:
        with Path(path).open("rb", buffering=0) as file:
            yield file
    except FileNotFoundError as exc:
        raise errors.ConfigError(f"there is no file {path!r}; check the path and the folder you start in") from exc
    except OSError as exc:
        raise errors.ConfigError(f"{path!r} cannot be read: {exc.strerror or exc}") from exc


def _read_remote(url: str) -> bytes:
    import aiohttp  # a local file needs neither
    import fsspec

    # A query may be a signature.
    public = re.sub(r"(?<=://)[^/]*@|[?#].*", "", url)
    patience = aiohttp.ClientTimeout(sock_connect=_CONNECT_SECONDS, sock_read=_READ_SECONDS)
    of_http = {"client_kwargs": {"timeout": patience, "trust_env": True}} if url.startswith("http") else {}
    try:
        files, path = fsspec.url_to_fs(url, **of_http)
        return bytes(files.cat_file(path))
    except OSError as exc:
        why = "" if isinstance(exc, FileNotFoundError) else f": {exc.strerror or exc}".replace(url, public)
        raise errors.ConfigError(f"nothing can be read at {public!r}; check the address and the network{why}") from exc
    except Exception as exc:  # each file system of fsspec has errors of its own
        raise errors.ConfigError(f"{public!r} cannot be read: {str(exc).replace(url, public)}") from exc
