"""What the endpoints of a run have in common."""

from pathlib import Path

import pytest

from tapir_core.config import VllmEndpoint
from tapir_core.errors import ConfigError
from tasks.engines.endpoints import Endpoints, endpoint_source


def test_a_model_that_cannot_be_served_is_named_by_the_field_of_its_endpoint(tmp_path: Path) -> None:
    said: list[str] = []
    endpoints = Endpoints(8, lambda name: tmp_path / name, tmp_path, report=said.append)
    (tmp_path / "empty").mkdir()
    source = endpoint_source(VllmEndpoint(model=str(tmp_path / "empty")), endpoints, "judge.endpoint")
    with pytest.raises(ConfigError, match=r"judge\.endpoint\.model = '.*empty'.*has no config\.json") as raised:
        source()
    assert "set judge.endpoint.chat_template" in str(raised.value)
    assert said == [f"preparing {tmp_path / 'empty'}"]
    endpoints.close()
