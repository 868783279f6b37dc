from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.runtime import close_all
from tests.benchmark_runs import Student
from tests.doubles.provider import FakeProvider
from tests.students import make_tokenized


@pytest.fixture
def backbone(tmp_path: Path) -> Path:
    """Enough of a model folder to be taken for one before anything is loaded."""
    return make_tokenized(tmp_path / "backbone")


@pytest.fixture
def student() -> Iterator[FakeProvider]:
    """An endpoint that answers every instruction of the stand-in; what a run started with it ends with it."""
    with FakeProvider(Student()) as provider:
        yield provider
        close_all()
