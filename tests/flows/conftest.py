from pathlib import Path

import pytest

from tests.students import make_checkpoint


@pytest.fixture
def backbone(tmp_path: Path) -> Path:
    """Enough of a model folder to be taken for one before anything is loaded."""
    return make_checkpoint(tmp_path / "backbone")
