from collections.abc import Iterator

import pytest

from tapir_core.calls import AnswerStore, CallEngine
from tapir_core.config import CallsConfig


@pytest.fixture
def engine(store_url: str, quick: CallsConfig) -> Iterator[CallEngine]:
    with CallEngine(AnswerStore(store_url), quick, run="a-run") as engine:
        yield engine
