import os
import subprocess
import sys

import pytest

from tests.end_to_end.harness import ROOT, Project


def pytest_collection_modifyitems(items):
    """Everything here starts real engines: slow, and skipped where the student's environment is not built."""
    lacks_vllm = not os.access(ROOT / ".venv-vllm" / "bin" / "python", os.X_OK)
    for item in items:
        if "end_to_end" in item.nodeid:
            item.add_marker(pytest.mark.slow)
            item.add_marker(pytest.mark.skipif(lacks_vllm, reason="needs .venv-vllm: run `make student-env`"))


@pytest.fixture(scope="session")
def tiny_students(tmp_path_factory):
    """Two backbones of different weights."""
    folder = tmp_path_factory.mktemp("students")
    for seed in (1, 2):
        command = [sys.executable, "-m", "tasks.engines.tiny_student", str(folder / f"tiny-{seed}"), str(seed)]
        subprocess.run(command, check=True, cwd=ROOT, capture_output=True)
    return [folder / "tiny-1", folder / "tiny-2"]


@pytest.fixture(scope="session")
def project(tmp_path_factory, tiny_students):
    """A run root on which one undisturbed run is done."""
    project = Project(tmp_path_factory.mktemp("runs"), tiny_students[0])
    project.output = project.run("first").stdout
    return project
