"""Keys are read here, from the environment or a file, and kept out of child processes and logs.

Driver and worker derive the key of a replica from the fleet's secret, so it is never sent. The secret is
``TAPIR_FLEET_SECRET``, the same on every machine of a fleet, or else a file of this machine, made when first needed. It
is in no argument, log or database, and in no engine's environment.
"""

import contextlib
import hmac
import os
import re
import secrets
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tapir_core import errors, paths, storage
from tapir_core.config import environment_name

SECRET_VARIABLE = "TAPIR_FLEET_SECRET"

_SECRET = re.compile(
    r"""(?:^|_)                                # a whole word of the name, with a number or none
        (?:(?:API)?KEYS?|TOKEN(?!_THRESHOLD)|SECRETS?|PASSWORDS?|PASSWD|PASSPHRASE|PASS|PAT|(?<=_)PWD|CREDENTIALS?
        |CREDS|AUTH|AUTHORIZATION|COOKIES?)\d*(?:_|$)
        |(?:KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS)$  # PGPASSWORD, OPENAI_APIKEY""",
    re.IGNORECASE | re.VERBOSE,
)
"""Names of variables that hold secrets. TOKEN_THRESHOLD is vLLM's, and PWD alone is the working folder."""
_UNNEEDED = re.compile(r"^(AWS|PREFECT)_")
"""Families of variables that no engine needs."""
_PASSWORD = re.compile(r"://[^/@\s]*:[^/@\s]*@")
"""An address with a password in it, of a database, a proxy or a store."""
_named: set[str] = set()
"""Variables that a configuration names as holding a key, whatever they are called."""


def keyless_environment() -> dict[str, str]:
    """The environment for a child: ours without keys, tokens and passwords, which no engine needs."""
    return {
        name: value
        for name, value in os.environ.items()
        if not (name in _named or _SECRET.search(name) or _UNNEEDED.match(name) or _PASSWORD.search(value))
    }


def offline_environment() -> dict[str, str]:
    """The environment for a child that loads models: without keys, model hub and telemetry."""
    return keyless_environment() | {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1"}


def hide_keys(text: str) -> str:
    """``text`` without the keys, tokens and passwords that our environment holds."""
    # Not at the top: it takes the library of the calls along, and every process that starts another one loads this.
    from tapir_core.calls.client import hide_key

    for name, value in os.environ.items():
        text = hide_key(text, value) if _SECRET.search(name) or name in _named else text
    return text


def api_key(variable: str | None, field: str, *, file: str | None = None) -> str | None:
    """The key in a file, or in an environment variable; None if neither is named.

    Raises:
        MissingPrerequisite: the variable is not set, or the file cannot be read or is empty.
    """
    if file is None:
        remedy = ', or set the field to "" for a server without keys'
        return _held_by(variable, f"{field}.api_key_env", remedy) if variable else None
    try:
        key = Path(file).read_text().strip()
    except (OSError, UnicodeDecodeError) as exc:
        raise errors.MissingPrerequisite(f"{field}.api_key_file = {file!r} cannot be read: {exc}") from exc
    if not key:
        raise errors.MissingPrerequisite(f"{field}.api_key_file = {file!r} is empty; write the key into it")
    return key


def with_environment(value: Any, field: str, found: list[str]) -> Any:
    """``value`` with each ``{ env = "NAME" }`` replaced by the variable's text, which is also added to ``found``.

    Raises:
        MissingPrerequisite: a variable is not set.
    """
    if (variable := environment_name(value)) is not None:
        found.append(_held_by(variable, field))
        return found[-1]
    if isinstance(value, Mapping):
        return {name: with_environment(each, f"{field}.{name}", found) for name, each in value.items()}
    return [with_environment(each, field, found) for each in value] if isinstance(value, list | tuple) else value


def _held_by(variable: str, field: str, otherwise: str = "") -> str:
    """The text of the environment variable that ``field`` names; from now on no child gets it."""
    _named.add(variable)
    if not (text := os.environ.get(variable)):
        raise errors.MissingPrerequisite(
            f"{field} names the environment variable {variable!r}, which is not set; "
            f"run `export {variable}=…`{otherwise}"
        )
    return text


def replica_key(root: str, run_id: str, replica: str) -> str:
    """The key with which the run asks its replica: HMAC-SHA256 of both ids, in hex.

    Raises:
        MissingPrerequisite: the secret's file cannot be read or is empty.
    """
    return hmac.new(_secret(root).encode(), f"{run_id} {replica}".encode(), "sha256").hexdigest()


def _secret(root: str) -> str:
    """The fleet's secret, from the environment or a file of this machine, which is written if it is not there."""
    if given := os.environ.get(SECRET_VARIABLE, "").strip():
        return given
    file = storage.on_this_machine(root).local(paths.FLEET_SECRET)
    try:
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            # Only its owner can read a file of this kind. It is complete before it gets its name, and of two processes
            # the first one wins.
            with tempfile.NamedTemporaryFile("w", dir=file.parent) as unnamed:
                unnamed.write(secrets.token_hex(32))
                unnamed.flush()
                os.fsync(unnamed.fileno())
                with contextlib.suppress(FileExistsError):
                    os.link(unnamed.name, file)
        kept = file.read_text().strip()
    except OSError as exc:
        raise errors.MissingPrerequisite(
            f"{file}: {exc.strerror}; make it readable, or export {SECRET_VARIABLE}=…"
        ) from exc
    if not kept:
        raise errors.MissingPrerequisite(f"{file} is empty; remove it, or export {SECRET_VARIABLE}=…")
    return kept
