from pathlib import Path

import pytest

from tapir_core.config import CallsConfig


@pytest.fixture
def store_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'store.sqlite'}"


@pytest.fixture
def quick() -> CallsConfig:
    """Pauses too short to notice, and a breaker that stays out of the way."""
    return CallsConfig(backoff_seconds=0.005, max_backoff_seconds=0.02, max_attempts=4, timeout_seconds=5)
