"""Which proxy stands before an address, whatever the environment names."""

import os
import urllib.request

import httpx
import httpx2
import pytest

from tapir_core.errors import MissingPrerequisite
from tapir_core.proxies import proxy_before, spare_this_machine, through
from tests.doubles.provider import FakeProvider

REMOTE = "https://api.example.com/v1"
HERE = [
    "http://127.0.0.1:8000/v1",
    "http://localhost:8000",
    "http://[::1]:8000/v1",
    "http://127.3.2.1",
    "https://127.0.0.1",
]
SOCKS = ["socks5://127.0.0.1:1080", "socks5h://me:hush@10.0.0.1:1080", "socks4://10.0.0.1", "SOCKS5://10.0.0.1:9"]
NAMES = [each for name in ("http", "https", "all", "no") for each in (f"{name}_proxy", f"{name}_PROXY".upper())]


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without any proxy; what a test sets, and what is made of it, is put back."""
    for name in NAMES:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


@pytest.mark.parametrize("url", HERE)
@pytest.mark.parametrize("name", ["http_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"])
@pytest.mark.parametrize("proxy", ["http://10.0.0.1:3128", *SOCKS])
def test_this_machine_is_asked_directly(monkeypatch: pytest.MonkeyPatch, url: str, name: str, proxy: str) -> None:
    monkeypatch.setenv(name, proxy)
    assert proxy_before(url) is None


@pytest.mark.parametrize("name", ["http_proxy", "ALL_PROXY"])
@pytest.mark.parametrize("proxy", ["http://127.0.0.1:9", *SOCKS])
@pytest.mark.parametrize("kept", ["", "internal.example.com, 10.1.0.0/16"])
def test_every_client_asks_this_machine_directly_and_what_the_user_spares_is_spared(
    monkeypatch: pytest.MonkeyPatch, name: str, proxy: str, kept: str
) -> None:
    monkeypatch.setenv(name, proxy)
    monkeypatch.setenv("NO_PROXY", kept)
    spare_this_machine()
    before = {**os.environ}
    spare_this_machine()
    assert before == os.environ, "a child does it again"
    with FakeProvider(models=["m"]) as here:
        assert all(get(f"{here.base_url}/models").is_success for get in (httpx.get, httpx2.get))
    assert urllib.request.proxy_bypass("127.0.0.1:4200")
    assert bool(urllib.request.proxy_bypass("internal.example.com")) == bool(kept)


def test_an_asterisk_still_spares_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://10.0.0.1:3128")
    monkeypatch.setenv("no_proxy", "*")
    spare_this_machine()
    assert proxy_before(REMOTE) is None


@pytest.mark.parametrize(
    ("variables", "shown"),
    [
        ({"https_proxy": "http://me:hush@proxy:3128"}, "http://proxy:3128 (https_proxy)"),
        ({"HTTPS_PROXY": "proxy:3128"}, "http://proxy:3128 (HTTPS_PROXY)"),
        ({"ALL_PROXY": "http://me:h@sh@proxy"}, "http://proxy (ALL_PROXY)"),
        ({"http_proxy": "http://proxy"}, ""),
        ({"https_proxy": "http://proxy", "no_proxy": "example.com"}, ""),
        # As set by many programs that share a connection.
        ({"https_proxy": "http://proxy:1", "all_proxy": "socks5://proxy:1"}, "http://proxy:1 (https_proxy)"),
    ],
)
def test_a_proxy_is_named_with_its_variable_and_without_its_password(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], shown: str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    spare_this_machine()
    assert through(REMOTE) == (f" through the proxy {shown}" if shown else "")


@pytest.mark.parametrize(("url", "is_spared"), [("http://10.1.2.3/v1", True), ("http://10.2.0.1/v1", False)])
def test_a_network_can_be_spared(monkeypatch: pytest.MonkeyPatch, url: str, is_spared: bool) -> None:
    monkeypatch.setenv("http_proxy", "http://proxy")
    monkeypatch.setenv("no_proxy", "10.1.0.0/16, nonsense/x")
    assert (proxy_before(url) is None) == is_spared


@pytest.mark.parametrize("name", ["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"])
@pytest.mark.parametrize("proxy", SOCKS)
def test_another_kind_of_proxy_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch, name: str, proxy: str) -> None:
    monkeypatch.setenv(name, proxy)
    for prepare in (lambda: None, spare_this_machine):
        prepare()
        with pytest.raises(MissingPrerequisite, match=rf"{name.lower()} {name.upper()}") as refused:
            proxy_before(REMOTE)
        assert "\n" not in str(refused.value)
        assert "hush" not in str(refused.value)
        assert proxy_before(REMOTE, "http://mine") is not None, "the endpoint's own is used in its place"
        assert proxy_before(REMOTE, "") is None
