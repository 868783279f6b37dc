"""Who waits for a machine: a deployed run that serves or trains on it."""

import socket
from pathlib import Path
from typing import Any

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectNotFound

from flows.forms import machine_for
from flows.whole_run import Work
from tapir_core.config import RunConfig
from tests.run_config import make_config

pytestmark = pytest.mark.usefixtures("prefect_server")

VLLM = {"type": "vllm"}
REPLICAS = {"type": "replicas"}
ENDPOINT = {"type": "endpoint", "base_url": "http://127.0.0.1:9/v1"}


def is_taken() -> bool:
    with get_client(sync_client=True) as client:
        try:
            limit = client.read_global_concurrency_limit_by_name(f"distill-on-{socket.gethostname()}")
        except ObjectNotFound:
            return False
        return limit.active_slots == 1


def takes(work: Work, config: RunConfig) -> bool:
    @flow(name="takes the machine")
    def look() -> bool:
        with machine_for(config, work):
            return is_taken()

    return bool(look())


@pytest.mark.parametrize(
    ("engine", "trains_on", "taken"),
    [
        (VLLM, "driver", True),
        (VLLM, "worker", True),
        (REPLICAS, "driver", True),
        (REPLICAS, "worker", False),
        (ENDPOINT, "driver", True),
        (ENDPOINT, "worker", False),
    ],
)
def test_a_run_takes_its_machine_when_it_serves_or_trains_there(
    tmp_path: Path, engine: dict[str, Any], trains_on: str, taken: bool
) -> None:
    config = make_config(tmp_path, student={"engine": engine}, training={"runs_on": trains_on})
    assert takes("distil", config) is taken
    assert not is_taken()


@pytest.mark.parametrize(("engine", "taken"), [(VLLM, True), (REPLICAS, True), (ENDPOINT, False)])
def test_scores_take_the_machine_that_serves_for_them(tmp_path: Path, engine: dict[str, Any], taken: bool) -> None:
    config = make_config(tmp_path, student={"engine": engine})
    assert takes("evaluate", config) is taken
    assert not takes("show", config), "all scores stand"


def test_a_judge_that_the_run_serves_takes_the_machine_too(tmp_path: Path) -> None:
    judge = {"endpoint": {"type": "vllm", "model": "org/judge"}}
    config = make_config(tmp_path, student={"engine": ENDPOINT}, judge=judge, training={"runs_on": "worker"})
    assert takes("distil", config)
    assert takes("evaluate", config)
    assert takes("judge", config)
    assert not takes("judge", make_config(tmp_path))
