"""Endpoints of others: their keys, from the environment or a file, and whether anything answers there."""

import os
import re
import socket
import time
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies

from tapir_core.errors import MissingPrerequisite

__all__ = ["api_key", "hide_keys", "keyless_environment", "look_for"]

_SECRET = re.compile(
    r"""(?:^|_)                                # a whole word of the name, with a number or none
        (?:(?:API)?KEYS?|TOKEN(?!_THRESHOLD)|SECRETS?|PASSWORDS?|PASSWD|PASSPHRASE|PASS|PAT|(?<=_)PWD|CREDENTIALS?
        |CREDS|AUTH|AUTHORIZATION|COOKIES?)\d*(?:_|$)
        |(?:KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS)$  # PGPASSWORD, OPENAI_APIKEY""",
    re.IGNORECASE | re.VERBOSE,
)
"""Names of variables that hold secrets. TOKEN_THRESHOLD is vLLM's, and PWD alone is the working folder."""
_UNNEEDED = re.compile(r"^(AWS|PREFECT)_")
"""Families of variables of which an engine needs none."""
_PASSWORD = re.compile(r"://[^/@\s]*:[^/@\s]*@")
"""An address with a password in it, of a database, a proxy or a store."""
_named: set[str] = set()
"""Variables that this process was told to read a key from, whatever they are called."""

_TRIES = 3
_PAUSE_SECONDS = 1.0


def look_for(base_url: str, field: str) -> MissingPrerequisite | None:
    """Why nothing can be asked at an address, if nothing listens there; behind a proxy nothing is looked at.

    Makes a wrong address one clear error and not a thousand failures.
    """
    address = urlsplit(base_url)
    if getproxies().get(address.scheme):
        return None
    port = address.port or (443 if address.scheme == "https" else 80)
    reason = ""
    for attempt in range(_TRIES):
        time.sleep(_PAUSE_SECONDS if attempt else 0)
        try:
            with socket.create_connection((address.hostname or "", port), timeout=10):
                return None
        except OSError as exc:
            reason = str(exc)
    return MissingPrerequisite(
        f"{field}.base_url = {base_url!r}: nothing answers there ({reason}); start that server or correct the address, "
        "then run the same command again"
    )


def keyless_environment() -> dict[str, str]:
    """The environment for a child: ours without keys, tokens and passwords, which no engine needs."""
    return {
        name: value
        for name, value in os.environ.items()
        if not (name in _named or _SECRET.search(name) or _UNNEEDED.match(name) or _PASSWORD.search(value))
    }


def hide_keys(text: str) -> str:
    """``text`` without the keys, tokens and passwords that our environment holds."""
    # Not at the top: it takes the library of the calls along, and every process that starts another one loads this.
    from tapir_core.calls.endpoints.client import hide_key

    for name, value in os.environ.items():
        text = hide_key(text, value) if _SECRET.search(name) or name in _named else text
    return text


def api_key(variable: str | None, field: str, *, file: str | None = None) -> str | None:
    """The key that a file holds, or else an environment variable; nothing where none is named.

    Raises:
        MissingPrerequisite: the variable is named and not set, or the file cannot be read or is empty.
    """
    if file is not None:
        return _key_in(Path(file), field)
    if not variable:
        return None
    _named.add(variable)
    key = os.environ.get(variable)
    if not key:
        raise MissingPrerequisite(
            f"{field}.api_key_env names the environment variable {variable!r}, which is not set; "
            f'run `export {variable}=…`, or set the field to "" for a server without keys'
        )
    return key


def _key_in(file: Path, field: str) -> str:
    try:
        key = file.read_text().strip()
    except (OSError, UnicodeDecodeError) as exc:
        raise MissingPrerequisite(f"{field}.api_key_file = {str(file)!r} cannot be read: {exc}") from exc
    if not key:
        raise MissingPrerequisite(f"{field}.api_key_file = {str(file)!r} is empty; write the key into it")
    return key
