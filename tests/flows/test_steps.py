"""Stages through a real Prefect flow: a failing shard is tried again, then red; what is accepted is not asked again."""

import json
import logging
import time
from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path

import pytest
from prefect import flow, tags
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterTaskRunId, FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import StateType, TaskRun
from prefect.client.schemas.sorting import FlowRunSort

from flows import steps
from flows.driver import find_stage, stages_until
from flows.project_flow import project_flow
from flows.steps import run_stages
from tapir_core.calls.types import GREETING
from tapir_core.config import BudgetConfig, RunConfig
from tapir_core.errors import BudgetReached, ConfigError, TooMuchMissing
from tapir_core.prompts import PROMPT_NAMES, load_prompt
from tapir_core.run_folder import RunFolder, RunRef, open_run
from tapir_core.stages import StageAt
from tasks.runtime import close_all, current
from tests.doubles.provider import FakeProvider, FakeReply, RecordedCall, Status, Text
from tests.run_builder import build_run
from tests.run_config import make_config

INGREDIENTS = {f"prompt:{name}": load_prompt(name).version for name in PROMPT_NAMES}
POOL, LABEL, TEACH = StageAt("pool"), StageAt("label"), StageAt("teach")


pytestmark = pytest.mark.usefixtures("prefect_server")


class Teacher:
    """A teacher that fails on some instructions until it is fixed; its answers are task types too."""

    def __init__(self) -> None:
        self.failing: set[str] = set()

    def __call__(self, call: RecordedCall) -> FakeReply:
        return Status(500) if call.prompt in self.failing else Text("Math")


@pytest.fixture
def teacher() -> Teacher:
    return Teacher()


@pytest.fixture
def provider(teacher: Teacher) -> Iterator[FakeProvider]:
    with FakeProvider(teacher) as provider:
        yield provider


@pytest.fixture
def run(tmp_path: Path, provider: FakeProvider) -> Iterator[RunFolder]:
    endpoint = {"type": "openai", "base_url": provider.base_url, "model": "m", "identity": "i", "api_key_env": ""}
    config = make_config(
        tmp_path,
        data={"pool": {"type": "standin", "rows": 40}},
        teacher={"endpoint": endpoint},
        calls={"rows_per_shard": 10, "max_attempts": 1, "shard_retries": 1, "shard_retry_seconds": 0},
    )
    yield open_run(config, INGREDIENTS)
    close_all()


@flow(name="pool", validate_parameters=False)
def make_pool(ref: RunRef) -> None:
    run_stages(ref, [POOL])


@flow(name="teach", validate_parameters=False)
def teach(ref: RunRef) -> int:
    rows: int = run_stages(ref, [POOL, TEACH])[TEACH].rows
    return rows


def instructions(run: RunFolder) -> list[str]:
    """In the order in which shards take them."""
    found: list[str] = run.rows(StageAt("pool")).sort("instruction_id")["instruction"].to_list()
    return found


def tasks_of_last_flow_run() -> list[TaskRun]:
    """The server has others' too."""
    with get_client(sync_client=True) as client:
        [last] = client.read_flow_runs(sort=FlowRunSort.START_TIME_DESC, limit=1)
        of_last = FlowRunFilter(id=FlowRunFilterId(any_=[last.id]))
        return client.read_task_runs(flow_run_filter=of_last)


def shards() -> list[TaskRun]:
    """The shards of the last flow run."""
    return [run for run in tasks_of_last_flow_run() if run.name.startswith("teach 00")]


def names_of_last_flow_run() -> list[str]:
    return [task.name for task in tasks_of_last_flow_run()]


def wait_until(seen: Callable[[], bool]) -> None:
    """The server writes task runs down when it comes to it."""
    deadline = time.monotonic() + 60
    while not seen():
        assert time.monotonic() < deadline, names_of_last_flow_run()
        time.sleep(0.1)


def tables_at(task_run: TaskRun) -> list[list[dict[str, str]]]:
    with get_client(sync_client=True) as client:
        wanted = ArtifactFilter(task_run_id=ArtifactFilterTaskRunId(any_=[task_run.id]))
        return [json.loads(str(each.data)) for each in client.read_artifacts(artifact_filter=wanted)]


def test_too_much_missing_stops_the_stage_and_the_next_start_asks_only_for_it(
    run: RunFolder, teacher: Teacher, provider: FakeProvider
) -> None:
    make_pool(run.ref)
    failing = instructions(run)[:3]
    teacher.failing = set(failing)
    with pytest.raises(TooMuchMissing, match=r"teach: 3 of 40 rows are missing .*3 server"):
        teach(run.ref)
    assert run.holds(TEACH) is None
    asked = [prompt for prompt in provider.prompts() if prompt != GREETING]
    assert len(asked) == 40 + 3, "the incomplete shard was tried once more, for what it lacked"
    [red, *green] = sorted(shards(), key=lambda shard: shard.state_type != StateType.FAILED)
    assert [shard.state_type for shard in green] == [StateType.COMPLETED] * 3
    [table] = tables_at(red)
    assert [(row["kind"], row["instruction"][:120]) for row in table] == [("server", text[:120]) for text in failing]
    assert all("HTTP 500" in row["said"] for row in table)
    assert not any(map(tables_at, green))
    [seen] = [stage for stage in current(run).progress.stages() if stage.at == TEACH]
    assert (seen.rows_done, seen.missing) == (37, 3), "the second attempt is not counted on top of the first"

    teacher.failing = set()
    provider.calls.clear()
    assert teach(run.ref) == 40
    assert sorted(provider.prompts()) == sorted(failing)


def test_few_shards_are_at_work_at_once(
    run: RunFolder, provider: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "_ROWS_AT_WORK", 0)
    monkeypatch.setattr(steps, "_SHARDS_AT_WORK", 1)
    make_pool(run.ref)
    teach(run.ref)
    shard_of = {text: place // 10 for place, text in enumerate(instructions(run))}
    in_turn = [shard_of[prompt] for prompt in provider.prompts() if prompt != GREETING]
    assert [len([*same]) for _, same in groupby(in_turn)] == [10] * 4, "one shard is whole before the next one asks"


def test_batches_are_all_sent_at_once(tmp_path: Path) -> None:
    endpoint = {"type": "openai", "base_url": "http://127.0.0.1:1/v1", "model": "m", "identity": "i"}
    at_once, in_batches = (
        make_config(tmp_path / mode, teacher={"endpoint": {**endpoint, "mode": mode}}, calls={"concurrency": 256})
        for mode in ("live", "batch")
    )
    assert steps.shards_at_work(at_once, TEACH, 20, 1_000_000) == 4
    assert steps.shards_at_work(at_once, TEACH, 400, 100_000) == 32
    assert steps.shards_at_work(in_batches, TEACH, 20, 1_000_000) == 20


def test_a_large_stage_has_larger_shards_and_not_more(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "_MOST_SHARDS", 3)
    make_pool(run.ref)
    teach(run.ref)
    assert [part.rows for part in run.sealed(TEACH).parts] == [14, 14, 12]


def test_tasks_are_named_by_stage_and_shard_and_tagged_with_their_stage(run: RunFolder) -> None:
    make_pool(run.ref)
    teach(run.ref)
    shard_names = {f"teach {index:04d}/0004" for index in range(4)}
    wait_until(lambda: "seal teach" in names_of_last_flow_run())
    found = {task.name: set(task.tags) for task in tasks_of_last_flow_run()}
    assert set(found) == {"pool", *shard_names, "seal teach"}
    assert all(found[name] == {"stage-teach", "shard"} for name in shard_names)
    assert "stage-teach" in found["seal teach"]


@project_flow("expand", run_name="expand")
def expand(ref: RunRef) -> dict[str, object]:
    run_stages(ref, [StageAt("expand", 1)])
    return {}


def test_task_runs_of_an_expansion_say_which_wave_they_are_of(tmp_path: Path, provider: FakeProvider) -> None:
    endpoint = {"type": "openai", "base_url": provider.base_url, "model": "m", "identity": "i", "api_key_env": ""}
    settings = {"max_attempts": 1, "max_failed_share": 1}
    config = make_config(tmp_path, teacher={"endpoint": endpoint, "reasks": 0}, calls=settings)
    expand(build_run(tmp_path, until=StageAt("select", 1), config=config).ref)
    close_all()
    steps = ["wave_requests", "wave_candidates 0000/0001", "wave_screened", "wave_examined 0000/0001", "wave_gated"]
    # A wave that kept nothing is the last that asks.
    wanted = sorted(["wave_requests (wave 2)", *(f"{step} (wave 1)" for step in steps)])
    wait_until(lambda: sorted(name for name in names_of_last_flow_run() if name.startswith("wave_")) == wanted)


def test_what_is_accepted_as_missing_is_sealed_and_not_asked_again(
    run: RunFolder, teacher: Teacher, provider: FakeProvider
) -> None:
    make_pool(run.ref)
    teacher.failing = {instructions(run)[0]}
    config = run.config.model_copy(update={"calls": run.config.calls.model_copy(update={"max_missing_share": 0.1})})
    run = open_run(config, INGREDIENTS)
    close_all()
    assert teach(run.ref) == 39
    manifest = run.manifest(TEACH)
    assert manifest is not None
    assert manifest.accepted_missing == {"server": 1}
    asked = len(provider.calls)
    teacher.failing = set()
    assert teach(run.ref) == 39
    assert len(provider.calls) == asked


def test_at_a_cap_the_stage_stops_without_retries_and_a_raised_cap_asks_only_for_the_rest(
    run: RunFolder, provider: FakeProvider
) -> None:
    make_pool(run.ref)
    capped = run.config.model_copy(update={"budget": BudgetConfig(requests=25)})
    run = open_run(capped, INGREDIENTS)
    close_all()
    with pytest.raises(BudgetReached, match=r"budget\.requests = 25 is reached.*teach: 25 rows are done, 15 are left"):
        teach(run.ref)
    assert len(provider.calls) == 25
    run = open_run(capped.model_copy(update={"budget": BudgetConfig()}), INGREDIENTS)
    close_all()
    assert teach(run.ref) == 40
    assert len(provider.calls) == len(set(provider.prompts())) == 40


def test_the_log_names_stages_that_are_done_and_not_each_of_their_shards(run: RunFolder) -> None:
    said: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = said.append  # type: ignore[method-assign]  # all that this one is for
    logger = logging.getLogger("prefect.task_runs")
    logger.addHandler(handler)
    try:
        teach(run.ref)
    finally:
        logger.removeHandler(handler)
    assert len(shards()) == 4
    assert [vars(each)["task_name"] for each in said if "Completed" in each.getMessage()] == ["pool", "seal"]


@project_flow("label and teach", run_name="until")
def label_and_teach(ref: RunRef, until: str | None = None) -> dict[str, int]:
    done = run_stages(ref, [at for at in (POOL, LABEL, TEACH) if at in stages_until(RunFolder(ref).config, until)])
    return {at.name: made.rows for at, made in done.items()}


def test_nothing_after_the_stage_to_reach_is_started(run: RunFolder, provider: FakeProvider) -> None:
    assert label_and_teach(run.ref, "label") == {"pool": 40, "label": 40}
    assert run.holds(LABEL) is not None
    assert run.holds(TEACH) is None
    assert provider.calls
    assert not set(instructions(run)) & set(provider.prompts())

    assert label_and_teach(run.ref) == {"pool": 40, "label": 40, "teach": 40}


def test_stages_that_hold_are_cached_task_runs_of_a_run_with_work_left(run: RunFolder, provider: FakeProvider) -> None:
    label_and_teach(run.ref, "label")
    asked = len(provider.calls)
    label_and_teach(run.ref)
    assert len(provider.calls) == asked + 40, "only for teach"
    wait_until(lambda: "seal teach" in names_of_last_flow_run())
    states = {task.name: task.state_name for task in tasks_of_last_flow_run()}
    assert {name for name, state in states.items() if state == "Cached"} == {"pool", "seal label"}
    assert [name for name in states if name.startswith("label ")] == [], "nothing of it is done again"
    assert {state for name, state in states.items() if "teach" in name} == {"Completed"}
    [cached] = [task for task in tasks_of_last_flow_run() if task.name == "seal label"]
    assert cached.state is not None
    assert (cached.state_type, cached.state.message) == (StateType.COMPLETED, "labels holds: 40 rows")
    assert "stage-label" in cached.tags


def test_a_stage_is_named_with_its_round_and_without_one_is_of_the_first(tmp_path: Path) -> None:
    config: RunConfig = make_config(tmp_path)
    assert find_stage(config, "teach") == TEACH
    assert find_stage(config, "judge") == StageAt("judge", 1)
    assert find_stage(config, "judge@2") == StageAt("judge", 2)
    assert find_stage(config, "train@0") == StageAt("train", 0)


@pytest.mark.parametrize("name", ["jugde", "judge@3", "judge@0", "teach@1", "", "wave_gated"])
def test_a_stage_that_the_run_has_not_is_refused_with_those_it_has(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=r"teach, .*judge@1-2"):
        find_stage(make_config(tmp_path), name)


def test_shards_carry_the_tags_of_run_and_stage_and_no_limit_of_these_is_asked_for(run: RunFolder) -> None:
    unasked = ["run-tagged", "stage-label", "stage-pool", "stage-seal", "stage-teach"]
    with get_client(sync_client=True) as client:
        for tag in unasked:
            client.create_concurrency_limit(tag=tag, concurrency_limit=0)
        with tags("run-tagged"):
            label_and_teach(run.ref)
        for tag in unasked:
            client.delete_concurrency_limit_by_tag(tag=tag)
    wanted = [{"run-tagged", "stage-teach", "shard"}] * 4
    wait_until(lambda: [set(shard.tags) for shard in shards()] == wanted)
