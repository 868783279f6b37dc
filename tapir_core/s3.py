"""S3 as this project asks for it: nothing remembered, every request tried again within a bound, errors in words.

Endpoint and credentials come from the environment, as for every AWS tool: `AWS_ENDPOINT_URL_S3` or `AWS_ENDPOINT_URL`,
`AWS_ACCESS_KEY_ID` with `AWS_SECRET_ACCESS_KEY`, or `AWS_PROFILE`. No message holds a key.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit

from tapir_core.errors import ConfigError, MissingPrerequisite, TapirError

__all__ = ["PIECE_BYTES", "Patience", "ask", "client_settings", "open_s3"]

Result = TypeVar("Result")

PIECE_BYTES = 32 * 2**20
"""A file of twice that is sent in pieces; four are in flight."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long one request may take: with these numbers a server that hangs is an error after about four minutes."""

    connect_seconds: float = 10.0
    silent_seconds: float = 30.0
    """An attempt ends when nothing came for so long."""
    attempts: int = 7
    """Of one request that meets throttling, a 5xx or a broken connection; waits between them double, from 0–1 s on."""


def open_s3(patience: Patience) -> Any:
    """The S3 file system of this process; connects at its first request."""
    from s3fs import S3FileSystem

    remote = S3FileSystem(endpoint_url=_endpoint(), **client_settings(patience))
    # The client below tries again already, also after 429 and 500; attempts of both would multiply.
    remote.retries = 1
    return remote


def client_settings(patience: Patience) -> dict[str, Any]:
    """Arguments of s3fs, as plain JSON; no endpoint and no key."""
    return {
        # A listing of a minute ago would hide what another worker wrote since.
        "use_listings_cache": False,
        "max_concurrency": 4,
        "config_kwargs": {
            "connect_timeout": patience.connect_seconds,
            "read_timeout": patience.silent_seconds,
            "retries": {"mode": "legacy", "total_max_attempts": patience.attempts},
        },
    }


def ask(url: str, request: Callable[[], Result], patience: Patience) -> Result:
    """The request's result. It must be one that may be made twice: an answer that breaks off is asked for again.

    Raises:
        FileNotFoundError: there is no such file.
        ConfigError: there is no such bucket, or the endpoint's address is none.
        MissingPrerequisite: credentials are missing or refused, or the server does not answer.
        TapirError: it answers with an error, still after all attempts.
    """
    from aiohttp import ClientError as ConnectionFault
    from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError
    from botocore.parsers import ResponseParserError

    # The client makes requests again, but not for their answers' bodies, which come after its last look.
    deadline, pause_seconds = time.monotonic() + 2 * patience.silent_seconds, 0.1
    while True:
        try:
            return request()
        except FileNotFoundError as exc:
            if _lacks_bucket(exc):
                raise ConfigError(f"{url}: {_server()} has no such bucket; make it there, or name another") from exc
            raise
        except (ConnectionFault, ResponseParserError, HTTPClientError) as exc:
            if time.monotonic() > deadline:
                raise MissingPrerequisite(
                    f"{url}: {_server()} does not answer, or not as S3 does ({type(exc).__name__}); start it, or set "
                    "AWS_ENDPOINT_URL to the one that is meant; then the same command goes on"
                ) from exc
            time.sleep(pause_seconds)
            pause_seconds *= 2
        except (OSError, ValueError, BotoCoreError, ClientError) as exc:
            raise _in_words(url, exc) from exc


def _in_words(url: str, exc: Exception) -> TapirError:
    """What cannot be mended by trying again. Texts of the client and of the server may hold keys: none is shown."""
    from botocore import exceptions as boto

    code = _code(exc)
    credentials = (
        boto.NoCredentialsError,
        boto.PartialCredentialsError,
        boto.CredentialRetrievalError,
        boto.ProfileNotFound,
    )
    if isinstance(exc, credentials):
        return MissingPrerequisite(
            f"{url}: no credentials for {_server()} ({code}); set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or "
            "AWS_PROFILE"
        )
    if isinstance(exc, PermissionError):
        return MissingPrerequisite(
            f"{url}: {_server()} refuses this ({code}); check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or "
            "AWS_PROFILE), and that they may list, read, write and delete there"
        )
    if isinstance(exc, ValueError | boto.BotoCoreError):
        return ConfigError(
            f"{url}: the S3 client takes no such address ({code}); write s3://BUCKET/FOLDER with a bucket's name in "
            f"small letters, and AWS_ENDPOINT_URL=https://HOST:PORT (now {_server()})"
        )
    return TapirError(
        f"{url}: {_server()} answers with an error, still after all attempts ({code}); when it is well again, the "
        "same command goes on"
    )


def _lacks_bucket(exc: FileNotFoundError) -> bool:
    """Whether a missing file is missing because its bucket is; a bucket that is asked for itself gives no code."""
    cause = exc.__cause__
    return _code(exc) == "NoSuchBucket" or getattr(cause, "operation_name", "") == "HeadBucket"


def _code(exc: Exception) -> str:
    """The server's own word for the error."""
    for each in (exc, exc.__cause__):
        response = getattr(each, "response", None)
        if isinstance(response, dict):
            return str(response.get("Error", {}).get("Code", ""))
    return type(exc).__name__


def _endpoint() -> str | None:
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or None


def _server() -> str:
    """The server's address, without a password that somebody wrote into it."""
    endpoint = _endpoint()
    if endpoint is None:
        return "Amazon S3 (AWS_ENDPOINT_URL is not set)"
    parts = urlsplit(endpoint)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
