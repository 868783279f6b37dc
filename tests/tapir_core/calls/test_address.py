from pathlib import Path

import pytest

from tapir_core.calls.address import root_store_url
from tapir_core.errors import ConfigError


def test_the_store_of_a_root_is_the_one_that_its_runs_use(tmp_path: Path):
    assert root_store_url(str(tmp_path)) == f"sqlite:///{tmp_path}/.tapir/store.sqlite"


def test_a_remote_root_has_no_store_of_its_own():
    with pytest.raises(ConfigError, match="--store"):
        root_store_url("s3://bucket/runs")
