import subprocess
import sys
import sysconfig
from contextlib import nullcontext
from pathlib import Path

import pytest

from tapir_core.errors import MissingPrerequisite
from tasks.engines import machine
from tasks.engines.machine import GPUS_VARIABLE, share_out, visible_gpus


@pytest.mark.parametrize(("named", "seen"), [("0,2", ["0", "2"]), ("GPU-8f2a", ["GPU-8f2a"]), ("", []), ("-1", [])])
def test_the_environment_says_which_gpus_a_process_may_use(
    named: str, seen: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(GPUS_VARIABLE, named)
    assert visible_gpus() == seen


@pytest.mark.parametrize(
    ("script", "seen"),
    [("printf '0\\n1\\n2\\n'", ["0", "1", "2"]), ("echo No devices were found; exit 6", []), (None, [])],
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


@pytest.mark.parametrize(
    ("script", "told"),
    [
        (
            'case "$*" in *memory.total*--id=0,1*) echo 81559 MiB; echo 24564 MiB;; *) echo 0; echo 1;; esac',
            [81559, 24564],
        ),
        ('case "$*" in *memory.total*) echo "[N/A]";; *) echo 0;; esac', []),
    ],
)
def test_the_driver_says_what_each_gpu_holds(
    script: str, told: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(GPUS_VARIABLE, raising=False)
    (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\n{script}\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert machine.gpu_memory() == [each * 2**20 for each in told]


@pytest.mark.parametrize(
    ("cuda", "named", "compiler", "refused"),
    [
        (0, "0,1", "gcc", r"2 GPUs.*make setup STUDENT=vllm-cuda"),
        (0, "", "gcc", ""),
        (13, "0", "gcc", ""),
        (13, "0", "clang", ""),
        (13, "0", "", "no C compiler"),
        (13, "0", "cc", "no C compiler"),
        (0, "", "", ""),
    ],
)
def test_a_machine_with_gpus_trains_on_them_or_says_what_lacks(
    cuda: int, named: str, compiler: str, refused: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(machine, "cuda_of_torch", lambda: cuda)
    monkeypatch.setenv(GPUS_VARIABLE, named)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    if compiler:
        (tmp_path / compiler).touch(0o755)
    with pytest.raises(MissingPrerequisite, match=refused) if refused else nullcontext():
        machine.check_gpu_training()


@pytest.mark.parametrize(("driver", "cuda", "refused"), [(570, 13, True), (580, 13, False), (535, 12, False)])
def test_a_driver_older_than_torchs_cuda_is_told_before_training(
    driver: int, cuda: int, refused: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\necho {driver}.65.06\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    (tmp_path / "gcc").touch(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv(GPUS_VARIABLE, "0")
    monkeypatch.setattr(machine, "cuda_of_torch", lambda: cuda)
    with pytest.raises(MissingPrerequisite, match=r"CUDA 13.*580.*570") if refused else nullcontext():
        machine.check_gpu_training()


def test_a_machine_with_gpus_lacks_the_headers_of_its_python(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(machine, "cuda_of_torch", lambda: 13)
    monkeypatch.setenv(GPUS_VARIABLE, "0")
    monkeypatch.setattr(sysconfig, "get_path", lambda *_: str(tmp_path))
    with pytest.raises(MissingPrerequisite, match=r"Python\.h; install the headers.*python3-dev"):
        machine.check_gpu_training()


def test_a_driver_that_hangs_is_told_and_no_machine_without_gpus(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def hang(*_: object, **__: object) -> None:
        raise subprocess.TimeoutExpired("nvidia-smi", 30)

    (tmp_path / "nvidia-smi").touch(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv(GPUS_VARIABLE, raising=False)
    monkeypatch.setattr(subprocess, "run", hang)
    with pytest.raises(MissingPrerequisite, match="may hang"):
        visible_gpus()
    assert machine.gpu_memory() == []


def test_a_driver_that_fails_is_told_and_no_machine_without_gpus(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "nvidia-smi").write_text(
        "#!/bin/sh\necho Failed to initialize NVML: Driver/library version mismatch; exit 18"
    )
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv(GPUS_VARIABLE, raising=False)
    with pytest.raises(MissingPrerequisite, match=r"fails \(Failed to initialize NVML.*fix the driver"):
        visible_gpus()
    monkeypatch.setenv(GPUS_VARIABLE, "")
    assert visible_gpus() == []


def test_a_run_may_hold_more_files_open_than_the_usual_thousand() -> None:
    code = "from tasks.engines.machine import allow_open_files as go; import resource; go(); go()"
    told = f"{code}; print(*resource.getrlimit(resource.RLIMIT_NOFILE))"
    command = ["sh", "-c", f'ulimit -Sn 256; exec "$0" -c "{told}"', sys.executable]
    soft, hard = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert int(soft) == min(int(hard), 65536)


def test_workers_share_all_gpus_and_none_twice() -> None:
    gpus = [str(number) for number in range(8)]
    assert share_out(gpus, 3) == [["0", "1", "2"], ["3", "4", "5"], ["6", "7"]]
    assert share_out(gpus, 8) == [[each] for each in gpus]
    assert share_out([], 2) == [[], []]
