"""Verdicts that a run went on without are asked for again, and only those; what they change is named, not redone."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from rich.console import Console

from flows.commands.run import ask_again
from flows.retry_judge import retry_judge
from tapir_core.config import RunConfig
from tapir_core.errors import ConfigError, NoFigure
from tapir_core.run_folder import RunFolder, RunRef
from tapir_core.run_state import changed_stages, rounds_to_retry
from tapir_core.stages import StageAt
from tasks._task import seal
from tasks.engines.backbone import checkpoint_digest
from tasks.runtime import close_all
from tests.benchmark_runs import ALPACA
from tests.doubles.provider import FakeProvider, FakeReply, RecordedCall, Status, Text
from tests.run_builder import build_run
from tests.run_config import make_config

pytestmark = pytest.mark.usefixtures("prefect_server")

JUDGE = StageAt("judge", 1)


class Judge:
    """Fails on every ninth prompt, says nothing of use on every tenth, until it is mended."""

    def __init__(self) -> None:
        self.mended = False

    def __call__(self, call: RecordedCall) -> FakeReply:
        place = sum(call.prompt.encode()) % 90
        if not self.mended and place % 9 == 0:
            return Status(500)
        return Text("I cannot say." if not self.mended and place % 10 == 1 else "Scores: [[4, 7]]")


@pytest.fixture
def judge() -> Judge:
    return Judge()


@pytest.fixture
def provider(judge: Judge) -> Iterator[FakeProvider]:
    with FakeProvider(judge) as provider:
        yield provider


def build(tmp_path: Path, backbone: Path, provider: FakeProvider, until: StageAt) -> RunFolder:
    endpoint = {"type": "openai", "base_url": provider.base_url, "model": "m", "identity": "i", "api_key_env": ""}
    config: RunConfig = make_config(
        tmp_path,
        student={"backbone": str(backbone)},
        judge={"endpoint": endpoint, "reasks": 0},
        calls={"max_attempts": 1, "shard_retries": 0, "max_missing_share": 0.5},
    )
    return build_run(tmp_path, until=until, config=config, backbone=checkpoint_digest(backbone))


@pytest.fixture
def run(tmp_path: Path, backbone: Path, provider: FakeProvider) -> Iterator[RunFolder]:
    """A run whose first round was judged by that judge, and sealed with what was missing."""
    run = build(tmp_path, backbone, provider, StageAt("answer", 1))
    retry_judge(run.ref, [1])
    later = [StageAt("difficulty", 1), StageAt("select", 1)]
    build_run(
        tmp_path, until=StageAt("answer", 1), config=run.config, later=later, backbone=checkpoint_digest(backbone)
    )
    provider.calls.clear()
    yield run
    close_all()


def counts(run: RunFolder) -> tuple[int, int]:
    """Missing and unscored verdicts of round 1."""
    manifest = run.manifest(JUDGE)
    assert manifest is not None
    return sum(manifest.accepted_missing.values()), run.rows(JUDGE).filter(status="unscored").height


def test_only_what_is_missing_is_asked_again_and_the_stages_it_changes_are_named(
    run: RunFolder, judge: Judge, provider: FakeProvider
) -> None:
    missing, unscored = counts(run)
    assert missing > 10
    assert unscored > 10
    judge.mended = True
    assert rounds_to_retry(run, None, also_terminal=False) == [1]
    [told] = retry_judge(run.ref, [1])
    assert len(provider.calls) == missing
    assert counts(run) == (0, unscored)
    assert (told["missing_before"], told["missing_after"]) == (missing, 0)
    assert changed_stages(run) == [StageAt("difficulty", 1), StageAt("select", 1)]
    assert rounds_to_retry(run, None, also_terminal=False) == []


def test_unscored_verdicts_are_asked_again_only_when_that_is_wanted(
    run: RunFolder, judge: Judge, provider: FakeProvider
) -> None:
    missing, unscored = counts(run)
    judge.mended = True
    assert rounds_to_retry(run, 1, also_terminal=True) == [1]
    retry_judge(run.ref, [1], also_terminal=True)
    assert counts(run) == (0, 0)
    assert len(provider.calls) == missing + unscored


def test_where_the_store_lacks_what_is_scored_nothing_is_asked(run: RunFolder, provider: FakeProvider) -> None:
    """Pruned, or the run was moved: all of it would be paid for again."""
    close_all()
    for file in Path(run.ref.root).glob(".tapir/store.sqlite*"):
        file.unlink()
    before, missing = run.rows(JUDGE), counts(run)
    with pytest.raises(ConfigError, match=r"the store lacks \d+ replies that have scores"):
        retry_judge(run.ref, [1])
    assert provider.calls == []
    assert (run.rows(JUDGE).equals(before), counts(run)) == (True, missing)


def test_nothing_answered_is_lost_when_the_judge_still_fails(run: RunFolder, provider: FakeProvider) -> None:
    before = run.rows(JUDGE)
    retry_judge(run.ref, [1])
    assert run.rows(JUDGE).sort("instruction_id", "order").equals(before.sort("instruction_id", "order"))
    assert rounds_to_retry(run, None, also_terminal=False) == [1]


def test_a_retry_that_is_ended_midway_leaves_the_round_as_it_was_and_can_be_given_again(
    run: RunFolder, judge: Judge, provider: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    def end(ref: RunRef, at: StageAt, *given: object, **how: object) -> object:
        if at == JUDGE:
            raise RuntimeError("ended")
        return seal(ref, at, *given, **how)

    before = run.manifest(JUDGE)
    judge.mended = True
    with monkeypatch.context() as patch:
        patch.setattr("flows.steps.seal", end)
        with pytest.raises(RuntimeError, match="ended"):
            retry_judge(run.ref, [1])
    assert run.manifest(JUDGE) == before
    assert rounds_to_retry(run, None, also_terminal=False) == [1]
    provider.calls.clear()
    retry_judge(run.ref, [1])
    assert counts(run)[0] == 0


def test_a_round_that_stopped_in_judging_is_judged_to_its_end(
    tmp_path: Path, backbone: Path, judge: Judge, provider: FakeProvider
) -> None:
    run = build(tmp_path, backbone, provider, StageAt("answer", 1))
    judge.mended = True
    assert rounds_to_retry(run, None, also_terminal=True) == [1]
    [told] = retry_judge(run.ref, [1], also_terminal=True)
    assert told["missing_before"] == run.rows(JUDGE).height == len(provider.calls)
    assert counts(run) == (0, 0)
    close_all()


def test_a_round_that_is_not_judged_is_refused(run: RunFolder) -> None:
    with pytest.raises(ConfigError, match=r"--round 2: .*judged: \[1\]"):
        rounds_to_retry(run, 2, also_terminal=False)


def test_going_on_to_the_end_fails_as_the_run_does_where_a_benchmark_has_no_figure(tmp_path: Path) -> None:
    baseline = json.loads(Path(ALPACA["baseline"]).read_text())
    half = tmp_path / "half.json"
    half.write_text(json.dumps(baseline[::2]))
    asked = {"benchmarks": {"ae": {**ALPACA, "baseline": str(half)}}, "each_round": ["ae"]}
    run = build_run(
        tmp_path, config=make_config(tmp_path, evaluation={**asked, "decontamination": {"max_rouge_l": 1.0}})
    )
    told: list[str] = []
    with pytest.raises(NoFigure, match=r": backbone, S_0, S_1, S_2 on ae: 10 of 20 judgments failed"):
        ask_again(run, None, Console(), say=told.append, also_terminal=False, go_on=True)
    assert told == [], "nothing was left to ask"
    ask_again(run, None, Console(), say=told.append, also_terminal=False, go_on=False)


def test_the_command_brings_its_own_prefect_and_leaves_nothing_in_the_home(
    run: RunFolder, judge: Judge, tmp_path: Path, lay_prefect_database: Callable[[Path], None]
) -> None:
    judge.mended = True
    lay_prefect_database(Path(run.ref.root))
    home = tmp_path / "home"
    home.mkdir()
    told = subprocess.run(
        [sys.executable, "-m", "flows.cli", "retry-judge", f"{run.ref.root}/{run.ref.name}"],
        env={"PATH": os.environ["PATH"], "HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert told.returncode == 0, told.stdout + told.stderr
    assert "Stages that the new verdicts change: difficulty (round 1), select (round 1)" in told.stdout
    assert counts(run)[0] == 0
    assert list(home.iterdir()) == []
