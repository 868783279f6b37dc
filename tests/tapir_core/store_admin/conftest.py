from pathlib import Path

import pytest


@pytest.fixture
def other_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'other' / 'store.sqlite'}"
