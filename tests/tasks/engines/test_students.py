"""Every kind of student engine is served by something."""

import pytest

from tapir_core.config import StudentEngine
from tasks.engines.student_server import Serving
from tasks.engines.students import serving


@pytest.mark.parametrize("kind", StudentEngine.kinds().values(), ids=StudentEngine.kinds())
def test_each_engine_is_served(kind: type[StudentEngine]) -> None:
    """An engine without a line fails with what to add; nothing is asked of its fields, so none have to be given."""
    assert isinstance(serving(kind.model_construct()), Serving)
