"""The machine: environments and GPUs."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.commands.diagnosis.checks import Check, Finding, checks_of, examine
from tapir_core.config import StudentEngine, VllmEngine
from tapir_core.config.student import EndpointEngine, ReplicasEngine
from tapir_core.installation import STUDENT_ENVIRONMENT_VARIABLE
from tests.run_config import make_config


def look(part: str, engine: StudentEngine | None = None) -> Finding:
    (found,) = examine([each for each in checks(engine) if each.part == part])
    return found


def checks(engine: StudentEngine | None) -> list[Check]:
    given = make_config(Path("runs"))
    student = given.student.model_copy(update={"engine": engine})
    return checks_of("runs", given.model_copy(update={"student": student}) if engine else None)


def put_nvidia_smi(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))


def test_the_environment_is_told_with_its_versions() -> None:
    found = look("environment")
    assert found.level == "ok"
    assert "prefect 3." in found.found
    assert "deepspeed" in found.found


def test_a_student_environment_that_is_not_there_names_the_command_that_builds_it() -> None:
    found = look("student environment", VllmEngine(python=".venv-nowhere/bin/python"))
    assert found.level == "fault"
    assert ".venv-nowhere" in found.found
    assert "tapir setup" in found.remedy


def test_an_environment_without_vllm_is_none_for_a_student() -> None:
    found = look("student environment", VllmEngine(python=sys.executable))
    assert found.level == "fault"
    assert "no vLLM" in found.found
    assert "tapir setup" in found.remedy


def test_a_student_of_another_server_needs_no_environment() -> None:
    engine = EndpointEngine(base_url="http://127.0.0.1:9/v1")
    assert "student environment" not in [each.part for each in checks(engine)]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a command on a machine where no student's environment was built."""
    monkeypatch.setenv(STUDENT_ENVIRONMENT_VARIABLE, str(tmp_path / "none"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def gpu_worker(folder: Path) -> Iterator[None]:
    """What its command looks like to others."""
    words = ["worker", "start", "--pool", "tapir-gpu", "--type", "process"]
    with subprocess.Popen([sys.executable, "-c", "input()", *words], cwd=folder, stdin=subprocess.PIPE) as process:
        yield
        process.kill()


@pytest.mark.usefixtures("folder")
def test_a_machine_that_only_drives_needs_no_student_environment() -> None:
    found = look("student environment", ReplicasEngine())
    assert found.level == "ok"
    assert "none is needed here" in found.found


@pytest.mark.usefixtures("folder")
def test_without_a_configuration_a_missing_student_environment_may_be_as_wanted() -> None:
    found = look("student environment")
    assert found.level == "warning"
    assert "replicas" in found.found
    assert "tapir setup" in found.remedy
    assert "tapir doctor CONFIG" in found.remedy


@pytest.mark.usefixtures("gpu_worker")
@pytest.mark.parametrize("engine", [None, ReplicasEngine()])
def test_where_a_gpu_worker_works_a_missing_student_environment_is_a_fault(engine: StudentEngine | None) -> None:
    found = look("student environment", engine)
    assert found.level == "fault"
    assert "a worker of tapir-gpu that works here can serve no student" in found.found
    assert "tapir setup" in found.remedy


@pytest.mark.usefixtures("gpu_worker")
def test_a_gpu_worker_of_another_folder_is_none_of_this_one(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path_factory.mktemp("another"))
    assert look("student environment", ReplicasEngine()).level == "ok"


@pytest.mark.usefixtures("folder")
def test_gpus_are_told_also_where_no_student_is_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_nvidia_smi(tmp_path, monkeypatch, "echo 'NVIDIA H200, 143771 MiB, 4 MiB, 570.86'")
    assert look("accelerators").found.startswith("NVIDIA H200")


def test_gpus_are_shown_as_the_driver_names_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_nvidia_smi(tmp_path, monkeypatch, "echo 'NVIDIA H200, 143771 MiB, 4 MiB, 570.86'")
    found = look("accelerators")
    assert found.found.startswith("NVIDIA H200, 143771 MiB, 4 MiB in use, driver 570.86")
    assert found.level in ("ok", "warning"), "a CPU build of torch beside a GPU is worth a warning"


def test_a_driver_that_does_not_answer_is_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_nvidia_smi(tmp_path, monkeypatch, "echo 'Driver/library version mismatch'; exit 18")
    found = look("accelerators")
    assert found.level == "fault"
    assert "mismatch" in found.found
    assert "driver" in found.remedy


def test_free_memory_is_told() -> None:
    assert look("memory").found.endswith("GiB available")


def test_a_machine_without_gpu_is_no_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert look("accelerators").level == "ok"
