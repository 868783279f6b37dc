"""What the whole suite shares: Hypothesis without time limits or files of its own, and a Prefect server."""

from collections.abc import Iterator

import pytest
from hypothesis import settings
from prefect.testing.utilities import prefect_test_harness

# The same examples every time.
settings.register_profile("project", deadline=None, derandomize=True, database=None)
settings.load_profile("project")


@pytest.fixture(scope="module")
def prefect_server() -> Iterator[None]:
    """A Prefect server of the module's own, for the flows of the test process.

    Not the session's: as long as it lives, a thread of its client draws from the global random numbers that Hypothesis
    wants for itself.
    """
    with prefect_test_harness():
        yield
