"""What an environment is built from."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.harness.processes import REPOSITORY


@pytest.fixture
def installer(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    found = importlib.util.spec_from_file_location("install", REPOSITORY / "requirements" / "install.py")
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    monkeypatch.setattr(module, "_make_environment", lambda *_: None)
    return module


@pytest.mark.parametrize(
    ("pins", "gpu", "triton", "wanted"),
    [
        ("tapir", True, True, True),
        ("tapir", False, True, False),
        ("tapir", True, False, False),
        ("lm-eval", True, True, False),
    ],
)
def test_kernels_of_a_gpu_come_where_there_is_one_and_torch_was_built_for_it(
    installer: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    pins: str,
    gpu: bool,
    triton: bool,
    wanted: bool,
) -> None:
    installed: list[str] = []
    monkeypatch.setattr(installer, "_install", lambda _, words, **__: installed.extend(words))
    monkeypatch.setattr(installer.shutil, "which", lambda _: "/usr/bin/nvidia-smi" if gpu else None)
    monkeypatch.setattr(sys, "argv", ["install.py", str(tmp_path), pins])
    if triton:
        (tmp_path / "lib" / "python3.11" / "site-packages" / "triton").mkdir(parents=True)
    installer.main()
    assert any(word.endswith("/gpu.txt") for word in installed) == wanted
