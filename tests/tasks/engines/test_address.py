"""The address of a worker for other machines, as the environment names it or as the ways to them show it."""

import socket

import pytest

from tapir_core.errors import ConfigError
from tasks.engines import machine
from tasks.engines.machine import HOST_VARIABLE, interface_of, own_host

FILE = "sqlite:///runs/.tapir/store.sqlite"


@pytest.fixture(autouse=True)
def ways(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Other machine → this one's address on the way there."""
    monkeypatch.delenv(HOST_VARIABLE, raising=False)
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    known = {"127.0.0.1": "127.0.0.1", "localhost": "127.0.0.1", "server": "10.1.2.3", "database": "10.9.9.9"}
    monkeypatch.setattr(machine, "_address_towards", known.__getitem__)
    return known


@pytest.mark.parametrize(
    ("api", "store", "found"),
    [
        ("", FILE, "127.0.0.1"),
        ("http://127.0.0.1:4200/api", FILE, "127.0.0.1"),
        ("http://localhost:4200/api", "postgresql://tapir@localhost/tapir", "127.0.0.1"),
        ("http://server:4200/api", FILE, "10.1.2.3"),
        ("http://server:4200/api", "postgresql://tapir@database/tapir", "10.1.2.3"),
        # The Prefect server's own machine: its driver may be on another, which shares the store.
        ("http://127.0.0.1:4200/api", "postgresql://tapir@database/tapir", "10.9.9.9"),
    ],
)
def test_a_worker_is_reached_at_its_address_on_the_way_to_what_it_shares_with_others(
    api: str, store: str, found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", api)
    assert own_host(store) == found


def test_what_the_environment_names_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://server:4200/api")
    monkeypatch.setenv(HOST_VARIABLE, "gpu-7.internal")
    assert own_host(FILE) == "gpu-7.internal"


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_an_address_that_nobody_can_ask_is_refused(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(HOST_VARIABLE, host)
    with pytest.raises(ConfigError, match=f"'{host}' is no address that others can ask"):
        own_host(FILE)


def test_the_way_to_another_machine_is_looked_up_and_its_lack_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.delenv(HOST_VARIABLE, raising=False)
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.2:4200/api")
    assert own_host(FILE) == "127.0.0.1"
    monkeypatch.setenv("PREFECT_API_URL", "http://[::1]:4200/api")
    with pytest.raises(ConfigError, match=rf"no way to '::1' .*{HOST_VARIABLE}"):
        own_host(FILE)


def test_the_interface_is_the_one_that_has_the_address(monkeypatch: pytest.MonkeyPatch) -> None:
    assert interface_of("127.0.0.1") == interface_of("127.0.0.2") == "lo"
    with pytest.raises(ConfigError, match=r"no network interface .* 192\.0\.2\.1"):
        interface_of("192.0.2.1")
    monkeypatch.setattr(socket, "getaddrinfo", no_name)
    with pytest.raises(ConfigError, match=rf"{HOST_VARIABLE} = 'nobody' has no address"):
        interface_of("nobody")


def no_name(*_: object) -> None:
    raise OSError("no such name")
