import threading
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tapir_core.errors import ConfigError
from tests.doubles.standin import StandinServer


def test_two_servers_run_side_by_side_and_leave_nothing_behind() -> None:
    before = threading.active_count()
    with StandinServer() as one, StandinServer() as other:
        assert one.base_url != other.base_url
        address = one.base_url.replace("/v1", "/health")
        urllib.request.urlopen(address).close()
    assert threading.active_count() == before
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(address)


def test_a_log_that_cannot_be_written_is_one_clear_error_and_no_thread(tmp_path: Path) -> None:
    before = threading.active_count()
    with pytest.raises(ConfigError, match="another --log"), StandinServer(log_path=tmp_path):
        pass
    assert threading.active_count() == before
