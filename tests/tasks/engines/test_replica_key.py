"""The key of a replica: the same on both sides, another for each replica, from a secret that only its owner reads."""

import threading
from pathlib import Path

import pytest

from tapir_core.errors import MissingPrerequisite
from tapir_core.paths import FLEET_SECRET
from tasks.engines.keys import SECRET_VARIABLE, keyless_environment, replica_key


@pytest.fixture(autouse=True)
def no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SECRET_VARIABLE, raising=False)


def test_both_sides_derive_the_same_key_and_no_other_replica_or_run_has_it(tmp_path: Path) -> None:
    key = replica_key(str(tmp_path), "run", "replica")
    assert key == replica_key(str(tmp_path), "run", "replica")
    others = {replica_key(str(tmp_path), *ids) for ids in (("run", "another"), ("another", "replica"), ("run r", ""))}
    assert len({key, *others}) == 4


def test_the_secret_is_made_once_and_read_by_nobody_else(tmp_path: Path) -> None:
    keys: list[str] = []
    threads = [threading.Thread(target=lambda: keys.append(replica_key(str(tmp_path), "r", "1"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    file = tmp_path / FLEET_SECRET
    assert len(set(keys)) == 1
    assert len(keys) == 8
    assert file.stat().st_mode & 0o777 == 0o600
    assert list(file.parent.iterdir()) == [file]
    assert file.read_text() not in keys[0]


def test_a_secret_in_the_environment_wins_and_no_engine_gets_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = replica_key(str(tmp_path / "one"), "run", "replica")
    monkeypatch.setenv(SECRET_VARIABLE, "shared by the fleet")
    shared = {replica_key(str(tmp_path / machine), "run", "replica") for machine in ("one", "two")}
    assert len(shared) == 1
    assert own not in shared
    assert not (tmp_path / "two").exists()
    assert SECRET_VARIABLE not in keyless_environment()


def test_an_empty_secret_is_told_with_its_remedy(tmp_path: Path) -> None:
    (tmp_path / FLEET_SECRET).parent.mkdir()
    (tmp_path / FLEET_SECRET).touch()
    with pytest.raises(MissingPrerequisite, match=r"fleet-secret is empty; remove it, or export TAPIR_FLEET_SECRET"):
        replica_key(str(tmp_path), "run", "replica")
