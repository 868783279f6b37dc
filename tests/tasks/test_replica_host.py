import pytest

from tapir_core.errors import ConfigError
from tasks.serving import HOST_VARIABLE, replica_host


def test_nothing_listens_beyond_this_machine_unless_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(HOST_VARIABLE, raising=False)
    assert replica_host() == "127.0.0.1"
    monkeypatch.setenv(HOST_VARIABLE, "gpu-7.internal")
    assert replica_host() == "gpu-7.internal"


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_an_address_that_no_driver_can_ask_is_refused(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(HOST_VARIABLE, host)
    with pytest.raises(ConfigError, match=f"'{host}' is no address that a driver can ask"):
        replica_host()


@pytest.mark.parametrize("api", ["http://127.0.0.2:4200/api", ""])
def test_a_container_finds_its_own_address_on_the_way_to_the_prefect_server(
    api: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(HOST_VARIABLE, "auto")
    monkeypatch.setenv("PREFECT_API_URL", api)
    assert replica_host() == "127.0.0.1"
    monkeypatch.setenv("PREFECT_API_URL", "http://[::1]:4200/api")
    with pytest.raises(ConfigError, match="no way to '::1'"):
        replica_host()
