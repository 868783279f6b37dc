"""`tapir evaluate --benchmark` killed while the judge works, and given again: nothing received is asked twice."""

import os
import subprocess
from pathlib import Path

import pytest

from tapir_core.calls.fakes import FakeProvider
from tapir_core.run_folder import RunFolder
from tapir_core.stages import benchmark_stages
from tapir_core.standin.running import StandinServer
from tasks.engines.backbone import checkpoint_digest
from tasks.ingredients import gather_files
from tests.benchmark_runs import MT_BENCH, judge
from tests.conftest import StandingServer
from tests.end_to_end.project import Project
from tests.harness.processes import REPOSITORY, kill, tapir
from tests.harness.stand_ins import RequestLog
from tests.run_builder import build_run
from tests.run_config import make_config
from tests.waiting import wait_until

CONCURRENCY = 4


def make_run(root: Path, backbone: Path, student: FakeProvider, server: StandinServer) -> RunFolder:
    engine = {"type": "endpoint", "base_url": student.base_url, "model": "{checkpoint}", "api_key_env": ""}
    mt_bench = {**MT_BENCH, "modes": ["single"], "judge": judge(server), "outputs": {"gpt": MT_BENCH["baseline"]}}
    config = make_config(
        root,
        run={"name": "killed"},
        student={"backbone": str(backbone), "engine": engine},
        evaluation={"benchmarks": {"mt": mt_bench}, "decontamination": {"max_rouge_l": 1.0}},
        calls={"concurrency": CONCURRENCY},
    )
    return build_run(root, config=config, **gather_files(config), backbone=checkpoint_digest(backbone))


@pytest.mark.parametrize(("which", "who"), [("0", 0), ("outputs", "gpt")])
def test_a_killed_evaluation_goes_on_and_pays_for_nothing_twice(
    tmp_path: Path, backbone: Path, student: FakeProvider, standing_prefect: StandingServer, which: str, who: int | str
) -> None:
    log, root = RequestLog(tmp_path / "judge.jsonl"), tmp_path / "runs"
    with StandinServer(latency_ms=150, log_path=log.path) as server:
        run = make_run(root, backbone, student, server)
        command = tapir("evaluate", str(root / "killed"), "--round", which, "--benchmark", "mt")
        environment = {**os.environ, "PREFECT_API_URL": standing_prefect.api}
        project = Project(root, backbone)
        with (tmp_path / "first.log").open("wb") as output:
            first = subprocess.Popen(command, cwd=REPOSITORY, env=environment, stdout=output, stderr=output)
            wait_until(lambda: project.stored("benchmark") >= 8, seconds=120, every=0.02, alive=first)
            kill(first)
        stored = project.stored("benchmark")
        assert stored < 40, "it was killed too late to show anything"
        again = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=240)
        assert again.returncode == 0, again.stderr[-2000:]
    assert "rating, 1–10" in again.stdout
    assert run.rows(benchmark_stages("mt", who)[1]).height == 40
    assert len(set(log.answered("benchmark"))) == 40
    # What was in flight at the kill was answered to nobody.
    assert log.answered_again() <= CONCURRENCY
    assert len(student.calls) == (2 * 20 if which == "0" else 0)
