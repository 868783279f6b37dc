"""The address at which other machines reach this one's GPU worker: its replicas, the ranks of its training.

They listen at this address only. The worker's environment may name it. Otherwise it is the address from which this
machine reaches the Prefect server, or the call store; in a container or a pod, its address on their network. It is
127.0.0.1 if both are on this machine, or if the store is a file.
"""

import ipaddress
import os
import socket
from contextlib import suppress
from urllib.parse import urlsplit

import psutil

from tapir_core.errors import ConfigError

LOOPBACK = "127.0.0.1"

HOST_VARIABLE = "TAPIR_WORKER_HOST"
"""Environment variable of a worker: the name or address of its machine at which others reach it."""


def own_host(store: str) -> str:
    """The address or name of this machine for the others of a run whose call store has the URL ``store``.

    Raises:
        ConfigError: the environment names an address that others cannot reach, or there is no way to them.
    """
    if named := os.environ.get(HOST_VARIABLE):
        with suppress(ValueError):  # a name
            if ipaddress.ip_address(named).is_unspecified:
                raise ConfigError(
                    f"{HOST_VARIABLE} = {named!r} is no address that others can ask; name this machine's own"
                )
        return named
    others = filter(None, (urlsplit(url).hostname for url in (os.environ.get("PREFECT_API_URL", ""), store)))
    return next(
        (each for each in map(_address_towards, others) if not ipaddress.ip_address(each).is_loopback), LOOPBACK
    )


def interface_of(host: str) -> str:
    """The network interface that has the address of ``host``, for gloo and NCCL.

    Raises:
        ConfigError: no interface of this machine has it.
    """
    try:
        address = ipaddress.ip_address(socket.getaddrinfo(host, None, socket.AF_INET)[0][4][0])
    except OSError as exc:
        raise ConfigError(f"{HOST_VARIABLE} = {host!r} has no address ({exc}); name this machine's own") from exc
    there = {each.address: name for name, all_of_it in psutil.net_if_addrs().items() for each in all_of_it}
    # The loopback interface has all of 127.0.0.0/8, and lists one address.
    interface = there.get(LOOPBACK if address.is_loopback else str(address))
    if interface is None:
        raise ConfigError(
            f"no network interface of this machine has the address {address}; name one that it has in {HOST_VARIABLE}"
        )
    return interface


def _address_towards(other: str) -> str:
    """This machine's address on the way to another one; nothing is sent."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((other, 9))
            return str(probe.getsockname()[0])
    except OSError as exc:
        raise ConfigError(f"no way to {other!r} ({exc}); name this machine's address in {HOST_VARIABLE}") from exc
