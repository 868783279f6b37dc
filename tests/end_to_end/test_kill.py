"""``kill -9`` in four stages of one round, then the same command: nothing is asked again, nothing is left over."""

import pytest

from tapir_core.paths import attempt_folder
from tapir_core.stages import StageAt, plan
from tests.doubles.standin import StandinServer
from tests.end_to_end.project import DEADLINE_SECONDS, Project
from tests.harness.processes import kill, left_over
from tests.harness.stand_ins import RequestLog, endpoints
from tests.waiting import wait_until

pytestmark = pytest.mark.operations

CONCURRENCY = 2


@pytest.fixture(scope="module")
def slow_project(tmp_path_factory, tiny_students, lay_prefect_database):
    """A run root whose teacher and judge are an external stand-in, slow enough to be caught at work."""
    root = tmp_path_factory.mktemp("killed")
    lay_prefect_database(root)
    log = root / "standin.jsonl"
    with StandinServer(latency_ms=40, log_path=log) as server:
        settings = {"run.rounds": "1", "calls.concurrency": str(CONCURRENCY), "student.engine.concurrency": "2"}
        yield Project(root, tiny_students[0], {**settings, **endpoints(server.base_url)}), RequestLog(log)


def moments(project, name):
    """Stage → whether the run is in the middle of it. Each comes once, in the order of a run."""
    run = project.folder(name)

    def answers_of_round_1() -> bool:
        return run.holds(StageAt("evaluate", 0)) is not None and project.stored("answer") >= answered + 8

    def training_of_round_1() -> bool:
        key = run.key(StageAt("train", 1))
        return key is not None and (project.root / name / attempt_folder(1, key) / "progress.jsonl").exists()

    answered = 80  # 40 held-out answers of the backbone and of S_0
    return {
        "answer": answers_of_round_1,
        "judge": lambda: project.stored("judge") >= 40,
        "expand": lambda: project.stored("expand") >= 3,
        "train": training_of_round_1,
    }


def test_a_run_killed_in_every_stage_completes_and_pays_nothing_again(slow_project, standing_prefect):
    project, log = slow_project
    name = "killed"
    whole_tree = {"answer": False, "judge": True, "expand": False, "train": True}
    for stage in whole_tree:
        driver = project.start(name)
        run_json = project.root / name / "run.json"
        wait_until(run_json.exists, seconds=DEADLINE_SECONDS, alive=driver)
        wait_until(moments(project, name)[stage], seconds=DEADLINE_SECONDS, alive=driver)
        family = kill(driver, whole_tree=whole_tree[stage])
        assert left_over(family) == [], f"left over after the kill in {stage}"
    project.run(name)
    run = project.folder(name)
    assert [str(at) for at in plan(run.config) if run.holds(at) is None] == []
    assert log.answered_again() <= CONCURRENCY * len(whole_tree)

    # The same answers and verdicts again, undisturbed: a run of another name finds them all in the store.
    calls = len(log.lines())
    project.prefect_api = standing_prefect.api
    project.run("undisturbed", "--until", "mix")
    assert len(log.lines()) == calls
    parts = [project.folder(each).manifest(StageAt("mix", 1)).parts for each in (name, "undisturbed")]
    assert parts[0] == parts[1]
