"""Endpoints of others: their keys, read from the environment when needed, and whether anything answers there."""

import os
import socket
import time
from urllib.parse import urlsplit
from urllib.request import getproxies

from tapir_core.errors import MissingPrerequisite

__all__ = ["api_key", "check_reachable"]

_TRIES = 3
_PAUSE_SECONDS = 1.0


def check_reachable(base_url: str, field: str) -> None:
    """Look once whether a server listens, so that a wrong address is one clear error and no thousand failures.

    Raises:
        MissingPrerequisite: nothing listens there. Behind a proxy nothing is looked at.
    """
    address = urlsplit(base_url)
    if getproxies().get(address.scheme):
        return
    port = address.port or (443 if address.scheme == "https" else 80)
    for attempt in range(_TRIES):
        try:
            with socket.create_connection((address.hostname or "", port), timeout=10):
                return
        except OSError as exc:
            if attempt + 1 == _TRIES:
                raise MissingPrerequisite(
                    f"{field}.base_url = {base_url!r}: nothing answers there ({exc}); start that server or correct the "
                    "address, then run the same command again"
                ) from exc
            time.sleep(_PAUSE_SECONDS)


def api_key(variable: str | None, field: str) -> str | None:
    """The key that an environment variable holds; nothing where none is named.

    Raises:
        MissingPrerequisite: the variable is named and not set.

    """
    if not variable:
        return None
    key = os.environ.get(variable)
    if not key:
        raise MissingPrerequisite(
            f"{field} names the environment variable {variable!r}, which is not set; "
            f'run `export {variable}=…`, or set the field to "" for a server without keys'
        )
    return key
