"""The estimate of benchmarks against what a run's students and judge are really asked."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.distill import evaluate_students
from tapir_core.estimate.run import estimate_run
from tapir_core.paths import BACKBONE
from tapir_core.stages import benchmark_stages
from tasks.runtime import close_all
from tests.benchmark_runs import ALPACA, MT_BENCH, VICUNA, judge, make_run
from tests.doubles.provider import FakeProvider, Text
from tests.doubles.standin import StandinServer

pytestmark = pytest.mark.usefixtures("prefect_server")

STUDENTS = (BACKBONE, 0, 1, 2)
NAMES = ("ae", "mt", "vi")


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    close_all()


def test_an_estimate_is_what_the_benchmarks_of_a_run_really_ask(tmp_path: Path, backbone: Path) -> None:
    with FakeProvider(lambda call: Text(f"I am {call.body['model']}.")) as students, StandinServer() as server:
        benchmarks = zip(NAMES, (ALPACA, MT_BENCH, VICUNA), strict=True)
        own_judge = {name: {**settings, "judge": judge(server)} for name, settings in benchmarks}
        run = make_run(tmp_path, backbone, students, each_round=NAMES, **own_judge)
        found = estimate_run(run.config, source="a test", sample=20)
        for number in STUDENTS:
            for at in (at for name in NAMES for at in benchmark_stages(name, number)):
                run.storage.remove(at.folder)
        evaluate_students(run.ref, STUDENTS, NAMES)
        paid = server.stats()["requests"]
    stages = {stage.name: stage.needed.calls.likely for stage in found.stages}
    assert stages["benchmark_answers"] == len(students.calls)
    assert stages["benchmark_replies"] == paid
