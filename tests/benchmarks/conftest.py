"""A tiny student, and one thread for it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.students import make_tiny_students


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Threads of so small a model wait for each other, and longer where others compute too."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    [folder] = make_tiny_students(tmp_path_factory.mktemp("tiny"), 1)
    return folder
