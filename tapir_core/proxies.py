"""Proxies: which one is used for an address, and which addresses are always reached directly.

This machine is reached directly, whatever the environment says: servers of the student and of Prefect, stand-ins,
ranks. Only HTTP proxies are used; an address for which the environment names another kind is refused.
"""

import ipaddress
import os
from contextlib import suppress
from dataclasses import dataclass, field
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from tapir_core.errors import MissingPrerequisite

_THIS_MACHINE = ("localhost", "127.0.0.1", "127.0.0.0/8", "::1")


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy and where it is set."""

    url: str = field(repr=False)
    """May contain a password."""
    source: str
    """An environment variable, or a field of the configuration."""

    def __str__(self) -> str:
        """The address without user and password, and the source."""
        scheme, _, rest = self.url.partition("://")
        return f"{scheme}://{rest.rpartition('@')[2]} ({self.source})"


def spare_this_machine() -> None:
    """Change the environment of this process and its children so that no client reaches this machine through a proxy.

    Many clients fail if any proxy is no HTTP proxy: such proxies are hidden from them.
    """
    spared = getproxies().get("no", "")
    # An asterisk counts only if it is the whole value.
    if spared.strip() != "*":
        names = dict.fromkeys(filter(None, [*map(str.strip, spared.split(",")), *_THIS_MACHINE]))
        os.environ["no_proxy"] = os.environ["NO_PROXY"] = ",".join(names)
    for scheme in ("http", "https", "all"):
        url = getproxies().get(scheme, "")
        if not _is_http(url):
            # Python uses the empty one of the two; `proxy_before` finds the other.
            os.environ |= {f"{scheme}_PROXY".upper(): url, f"{scheme}_proxy": ""}


def proxy_before(url: str, own: str | None = None) -> Proxy | None:
    """The proxy of an address: ``own`` ("" means none), or else that of the environment.

    Raises:
        MissingPrerequisite: it is no HTTP proxy.
    """
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    if own is not None:
        return Proxy(own, "its field `proxy`") if own else None
    if _is_spared(parts.hostname or "") or proxy_bypass(host):
        return None
    for name in (f"{parts.scheme}_proxy", "all_proxy"):
        hidden = os.environ.get(name.upper(), "")
        found = getproxies().get(name.removesuffix("_proxy")) or ("" if _is_http(hidden) else hidden)
        proxy = Proxy(found if "://" in found else f"http://{found}", name if os.environ.get(name) else name.upper())
        if not _is_http(found):
            raise MissingPrerequisite(
                f"{url} would be asked through {proxy}, which is no HTTP proxy; name an HTTP proxy in "
                f"{parts.scheme}_proxy, or {host} in no_proxy, or `unset {name} {name.upper()}`"
            )
        if found:
            return proxy
    return None


def through(url: str, own: str | None = None) -> str:
    """Names the proxy of an address in a message; empty if there is none."""
    proxy = proxy_before(url, own)
    return f" through the proxy {proxy}" if proxy else ""


def _is_http(url: str) -> bool:
    return "://" not in url or urlsplit(url).scheme in ("http", "https")


def _is_spared(host: str) -> bool:
    """Whether the host is this machine, or in a network of `no_proxy`."""
    networks = [each.strip() for each in getproxies().get("no", "").split(",") if "/" in each]
    with suppress(ValueError):
        address = ipaddress.ip_address(host)
        return address.is_loopback or any(address in ipaddress.ip_network(each, strict=False) for each in networks)
    return host == "localhost"
