from pathlib import Path

import pytest

from tapir_core.calls import root_store_url, run_key, store_url
from tapir_core.calls.store_tables import open_engine
from tapir_core.errors import ConfigError
from tests.run_config import make_config


def test_the_store_of_a_root_is_the_one_that_its_runs_use(tmp_path: Path):
    url = f"sqlite:///{tmp_path}/.tapir/store.sqlite"
    assert root_store_url(str(tmp_path)) == store_url(make_config(tmp_path)) == url


@pytest.mark.parametrize("name", ["a%20b", "what?", "a#b", "Übung 1:2@3"])
def test_a_root_may_have_any_name(tmp_path: Path, name: str):
    open_engine(root_store_url(str(tmp_path / name))).dispose()
    assert [str(each.relative_to(tmp_path)) for each in tmp_path.rglob("*.sqlite")] == [f"{name}/.tapir/store.sqlite"]


def test_a_run_may_name_a_store_of_its_own_wherever_its_root_is():
    calls = {"store_url": "postgresql://host/answers"}
    assert store_url(make_config("s3://bucket/runs", calls=calls)) == "postgresql://host/answers"


def test_a_remote_root_has_no_store_of_its_own():
    with pytest.raises(ConfigError, match="--store"):
        root_store_url("s3://bucket/runs")


def test_a_run_has_one_address_however_its_root_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert run_key(make_config("runs")) == run_key(make_config(tmp_path / "runs")) == f"{tmp_path}/runs/example"
    assert run_key(make_config("s3://bucket/runs/")) == run_key(make_config("s3://bucket/runs"))
