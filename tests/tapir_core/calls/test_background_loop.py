import asyncio
from collections.abc import Iterator

import pytest

from tapir_core.calls.engine import BackgroundLoop
from tapir_core.errors import TapirError


async def nothing() -> None:
    """Nothing to finish."""


@pytest.fixture
def loop() -> Iterator[BackgroundLoop]:
    loop = BackgroundLoop("test")
    yield loop
    loop.close(nothing)


def test_a_job_that_has_ended_is_not_changed_by_a_late_cancel(loop: BackgroundLoop):
    job = loop.start(nothing(), on_end=lambda: None)
    job.result()
    job.cancel()
    assert job.result() is None


def test_a_cancelled_job_says_that_it_was_stopped_and_that_it_has_ended(loop: BackgroundLoop):
    ended: list[bool] = []
    job = loop.start(asyncio.sleep(600), on_end=lambda: ended.append(True))
    job.cancel()
    with pytest.raises(TapirError, match="stopped"):
        job.result()
    loop.close(nothing)
    assert ended == [True]
