"""What the whole suite shares: Hypothesis without time limits or files of its own, and one Prefect server."""

from collections.abc import Iterator

import pytest
from hypothesis import settings
from prefect.testing.utilities import prefect_test_harness

# The same examples every time.
settings.register_profile("project", deadline=None, derandomize=True, database=None)
settings.load_profile("project")


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[None]:
    """A Prefect server of the session's own, for the flows of the test process."""
    with prefect_test_harness():
        yield
