"""Where a replica listens: at one address of its worker's machine, at which its driver asks it.

Nothing listens beyond 127.0.0.1 unless the worker's environment says so.
"""

import ipaddress
import os
import socket
from urllib.parse import urlsplit

from tapir_core.errors import ConfigError
from tasks.engines.vllm_command import HOST

__all__ = ["HOST_VARIABLE", "replica_host"]

HOST_VARIABLE = "TAPIR_REPLICA_HOST"
"""Environment variable of a worker: the name or address of its machine at which drivers reach its replicas; `auto` is
the one from which it reaches the Prefect server, for containers, which know theirs only when they run."""


def replica_host() -> str:
    """The address of this worker's replicas.

    Raises:
        ConfigError: the environment names none that a driver could ask.
    """
    host = os.environ.get(HOST_VARIABLE) or HOST
    if host == "auto":
        return _address_towards(urlsplit(os.environ.get("PREFECT_API_URL", "")).hostname or HOST)
    try:
        unspecified = ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return host  # a name
    if unspecified:
        raise ConfigError(f"{HOST_VARIABLE} = {host!r} is no address that a driver can ask; name this machine's own")
    return host


def _address_towards(other: str) -> str:
    """This machine's address on the way to another one; nothing is sent."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((other, 9))
            address: str = probe.getsockname()[0]
            return address
    except OSError as exc:
        raise ConfigError(
            f"{HOST_VARIABLE} = 'auto': no way to {other!r} ({exc}); name this machine's address"
        ) from exc
