from collections.abc import Iterator

import pytest

from tapir_core.calls import AnswerStore, CallEngine
from tapir_core.config import CallsConfig


@pytest.fixture
def quick() -> CallsConfig:
    """Pauses too short to notice, and a breaker that stays out of the way."""
    return CallsConfig(backoff_seconds=0.005, max_backoff_seconds=0.02, max_attempts=4, timeout_seconds=5)


@pytest.fixture
def engine(store_url: str, quick: CallsConfig) -> Iterator[CallEngine]:
    with CallEngine(AnswerStore(store_url), quick, run="a-run") as engine:
        yield engine
