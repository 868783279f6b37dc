from pathlib import Path

import pytest

from tasks.engines import machine
from tasks.engines.machine import GPUS_VARIABLE, share_out, visible_gpus


@pytest.mark.parametrize(("named", "seen"), [("0,2", ["0", "2"]), ("GPU-8f2a", ["GPU-8f2a"]), ("", []), ("-1", [])])
def test_the_environment_says_which_gpus_a_process_may_use(
    named: str, seen: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(GPUS_VARIABLE, named)
    assert visible_gpus() == seen


@pytest.mark.parametrize(
    ("script", "seen"), [("printf '0\\n1\\n2\\n'", ["0", "1", "2"]), ("echo broken; exit 9", []), (None, [])]
)
def test_without_it_the_driver_says_which_there_are(
    script: str | None, seen: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(GPUS_VARIABLE, raising=False)
    if script is not None:
        (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert visible_gpus() == seen


@pytest.mark.parametrize(
    ("script", "told"),
    [
        ('case "$*" in *name*--id=0,1*) echo Big One; echo Big One;; *) echo 0; echo 1;; esac', " and 2 x Big One"),
        ("echo broken; exit 9", ""),
        ("", ""),
    ],
)
def test_a_machine_in_words_has_its_cores_and_the_gpus_that_can_be_told(
    script: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(GPUS_VARIABLE, raising=False)
    (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\n{script}\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1, 5})
    machine.in_words.cache_clear()
    assert machine.in_words() == f"3 cores{told}"
    machine.in_words.cache_clear()


def test_workers_share_all_gpus_and_none_twice() -> None:
    gpus = [str(number) for number in range(8)]
    assert share_out(gpus, 3) == [["0", "1", "2"], ["3", "4", "5"], ["6", "7"]]
    assert share_out(gpus, 8) == [[each] for each in gpus]
    assert share_out([], 2) == [[], []]
