"""Verdicts that a run went on without are asked for again, and only those; what they change is named, not redone."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from flows.cli import app
from flows.distill import retry_judge
from tapir_core.config import RunConfig
from tapir_core.data.dataset import write_part
from tapir_core.errors import ConfigError, NoFigure
from tapir_core.paths import BACKBONE, MANIFEST
from tapir_core.run_folder import RunFolder, RunRef
from tapir_core.run_state import changed_stages, stages_to_retry
from tapir_core.stages import StageAt, plan
from tasks._task import seal
from tasks.engines.backbone import checkpoint_digest
from tasks.input_files import gather_ingredients
from tasks.runtime import close_all
from tests.benchmark_runs import ALPACA
from tests.conftest import StandingServer
from tests.doubles.provider import FakeProvider, FakeReply, RecordedCall, Status, Text
from tests.run_builder import build_run
from tests.run_config import make_config
from tests.run_with_gaps import store_verdicts

pytestmark = pytest.mark.usefixtures("prefect_server")

JUDGE = StageAt("judge", 1)
UNPATIENT = {"max_attempts": 1, "shard_retries": 0, "max_missing_share": 0.5}


class Judge:
    """Fails on every ninth prompt, says nothing of use on every tenth, until it is fixed."""

    def __init__(self) -> None:
        self.fixed = False

    def __call__(self, call: RecordedCall) -> FakeReply:
        place = sum(call.prompt.encode()) % 90
        if not self.fixed and place % 9 == 0:
            return Status(500)
        return Text("I cannot say." if not self.fixed and place % 10 == 1 else "Scores: [[4, 7]]")


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
        calls=UNPATIENT,
    )
    return build_run(tmp_path, until=until, config=config, backbone=checkpoint_digest(backbone))


@pytest.fixture
def run(tmp_path: Path, backbone: Path, provider: FakeProvider) -> Iterator[RunFolder]:
    """A run whose first round was judged by that judge, and sealed with what was missing."""
    run = build(tmp_path, backbone, provider, StageAt("answer", 1))
    retry_judge(run.ref, [JUDGE])
    later = [StageAt("difficulty", 1), StageAt("select", 1)]
    build_run(
        tmp_path, until=StageAt("answer", 1), config=run.config, later=later, backbone=checkpoint_digest(backbone)
    )
    provider.calls.clear()
    yield run
    close_all()


def tapir(command: str, run: RunFolder, *more: str, **environment: str) -> Result:
    return CliRunner().invoke(app, [command, run.ref.name, "--root", run.ref.root, *more], env=environment)


def counts(run: RunFolder, at: StageAt = JUDGE) -> tuple[int, int]:
    """Missing and unscored verdicts, of round 1 if nothing else is said."""
    manifest = run.manifest(at)
    assert manifest is not None
    return sum(manifest.accepted_missing.values()), run.rows(at).filter(status="unscored").height


def test_only_what_is_missing_is_asked_again_and_the_stages_it_changes_are_named(
    run: RunFolder, judge: Judge, provider: FakeProvider
) -> None:
    missing, unscored = counts(run)
    assert missing > 10
    assert unscored > 10
    judge.fixed = True
    assert stages_to_retry(run, None, also_terminal=False) == [JUDGE]
    [told] = retry_judge(run.ref, [JUDGE])
    assert len(provider.calls) == missing
    assert counts(run) == (0, unscored)
    assert (told["missing_before"], told["missing_after"]) == (missing, 0)
    assert changed_stages(run) == [StageAt("difficulty", 1), StageAt("select", 1)]
    assert stages_to_retry(run, None, also_terminal=False) == []


def test_unscored_verdicts_are_asked_again_only_when_that_is_wanted(
    run: RunFolder, judge: Judge, provider: FakeProvider
) -> None:
    missing, unscored = counts(run)
    judge.fixed = True
    assert stages_to_retry(run, 1, also_terminal=True) == [JUDGE]
    retry_judge(run.ref, [JUDGE], also_terminal=True)
    assert counts(run) == (0, 0)
    assert len(provider.calls) == missing + unscored


def test_where_the_store_lacks_what_is_scored_nothing_is_asked(run: RunFolder, provider: FakeProvider) -> None:
    """Pruned, or the run was moved: all of it would be paid for again."""
    close_all()
    for file in Path(run.ref.root).glob(".tapir/store.sqlite*"):
        file.unlink()
    before, missing = run.rows(JUDGE), counts(run)
    with pytest.raises(ConfigError, match=r"the store lacks \d+ replies that have scores"):
        retry_judge(run.ref, [JUDGE])
    assert provider.calls == []
    assert (run.rows(JUDGE).equals(before), counts(run)) == (True, missing)


def test_nothing_answered_is_lost_when_the_judge_still_fails(run: RunFolder, provider: FakeProvider) -> None:
    before = run.rows(JUDGE)
    retry_judge(run.ref, [JUDGE])
    assert run.rows(JUDGE).sort("instruction_id", "order").equals(before.sort("instruction_id", "order"))
    assert stages_to_retry(run, None, also_terminal=False) == [JUDGE]


def test_a_retry_that_is_ended_midway_leaves_the_round_as_it_was_and_can_be_given_again(
    run: RunFolder, judge: Judge, provider: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    def end(ref: RunRef, at: StageAt, *given: object, **how: object) -> object:
        if at == JUDGE:
            raise RuntimeError("ended")
        return seal(ref, at, *given, **how)

    before = run.manifest(JUDGE)
    judge.fixed = True
    with monkeypatch.context() as patch:
        patch.setattr("flows.steps.seal", end)
        with pytest.raises(RuntimeError, match="ended"):
            retry_judge(run.ref, [JUDGE])
    assert run.manifest(JUDGE) == before
    assert stages_to_retry(run, None, also_terminal=False) == [JUDGE]
    provider.calls.clear()
    retry_judge(run.ref, [JUDGE])
    assert counts(run)[0] == 0


def test_a_round_that_stopped_in_judging_is_judged_to_its_end(
    tmp_path: Path, backbone: Path, judge: Judge, provider: FakeProvider
) -> None:
    run = build(tmp_path, backbone, provider, StageAt("answer", 1))
    judge.fixed = True
    assert stages_to_retry(run, None, also_terminal=True) == [JUDGE]
    [told] = retry_judge(run.ref, [JUDGE], also_terminal=True)
    assert told["missing_before"] == run.rows(JUDGE).height == len(provider.calls)
    assert counts(run) == (0, 0)
    close_all()


def test_a_round_that_is_not_judged_is_refused(run: RunFolder) -> None:
    with pytest.raises(ConfigError, match=r"--round 2: .*judged: \[1\]"):
        stages_to_retry(run, 2, also_terminal=False)


def test_going_on_to_the_end_fails_as_the_run_does_where_a_benchmark_has_no_figure(
    tmp_path: Path, backbone: Path
) -> None:
    baseline = json.loads(Path(ALPACA["baseline"]).read_text())
    half = tmp_path / "half.json"
    half.write_text(json.dumps(baseline[::2]))
    asked = {"benchmarks": {"ae": {**ALPACA, "baseline": str(half)}}, "each_round": ["ae"]}
    config = make_config(
        tmp_path,
        student={"backbone": str(backbone)},
        evaluation={**asked, "decontamination": {"max_rouge_l": 1.0}},
    )
    run = build_run(tmp_path, config=config, **gather_ingredients(config))
    ended = tapir("retry-judge", run, "--continue")
    assert isinstance(ended.exception, NoFigure)
    assert ": backbone, S_0, S_1, S_2 on ae: 10 of 20 judgments failed" in str(ended.exception)
    assert "Nothing to ask again" in ended.output
    assert tapir("retry-judge", run).exit_code == 0


@pytest.fixture
def held_out(tmp_path: Path, backbone: Path, provider: FakeProvider) -> Iterator[RunFolder]:
    """A done run of one round with a judged held-out set."""
    endpoint = {"type": "openai", "base_url": provider.base_url, "model": "m", "identity": "i", "api_key_env": ""}
    config = make_config(
        tmp_path,
        run={"rounds": 1},
        data={"pool": {"type": "standin", "rows": 240}, "heldout": {"type": "judged", "max_failed_share": 0.9}},
        student={"backbone": str(backbone), "engine": {"type": "endpoint", "base_url": provider.base_url}},
        judge={"endpoint": endpoint, "reasks": 0},
        calls=UNPATIENT,
    )
    run = build_run(tmp_path, config=config, **gather_ingredients(config))
    yield run
    close_all()


def lack_verdicts(run: RunFolder, at: StageAt, missing: int) -> None:
    """Seal a judging stage without its last verdicts; the store has the replies to the others."""
    run.seal(
        at, [write_part(run.storage, at.folder, run.rows(at).head(-missing))], accepted_missing={"server": missing}
    )
    store_verdicts(run, at)


def test_verdicts_on_the_held_out_set_are_asked_again_and_the_scores_follow(
    held_out: RunFolder, judge: Judge, provider: FakeProvider, standing_prefect: StandingServer
) -> None:
    judge.fixed, students = True, (BACKBONE, 0, 1)
    for number in students:
        lack_verdicts(held_out, StageAt("judge_heldout", number), 5)
    ended = tapir("retry-judge", held_out, PREFECT_API_URL=standing_prefect.api)
    assert ended.exit_code == 0, f"{ended.output}\n{ended.exception!r}"
    said, asked = " ".join(ended.output.split()), len(provider.calls)
    assert 0 < asked <= 5 * len(students), "two students may give the same answer, and an answer that failed none"
    for at in ("backbone", "round 0", "round 1"):
        assert f"judge_heldout ({at}): 5 verdicts missing before, 0 now; " in said
    assert "change: evaluate (backbone), evaluate (round 0), evaluate (round 1)" in said
    assert "Redo them with `tapir retry-judge " in said
    ended = tapir("retry-judge", held_out, "--continue", PREFECT_API_URL=standing_prefect.api)
    assert ended.exit_code == 0, f"{ended.output}\n{ended.exception!r}"
    assert changed_stages(held_out) == []
    for number in students:
        scored = held_out.rows(StageAt("evaluate", number)).filter(metric="quality_retention", category="all")
        verdicts = held_out.rows(StageAt("judge_heldout", number))
        assert 2 * (scored["n"].sum() + scored["n_failed"].sum()) == verdicts.height
    assert len(provider.calls) == asked, "scores are made of the verdicts that are there"


def test_a_student_that_will_be_trained_anew_is_not_judged_before(
    held_out: RunFolder, judge: Judge, provider: FakeProvider
) -> None:
    """With other verdicts on the pool its round trains another student, which answers the held-out set anew."""
    config, planned = held_out.config, list(plan(held_out.config))
    lack_verdicts(held_out, JUDGE, 5)
    later = planned[planned.index(JUDGE) + 1 :]
    build_run("", until=StageAt("answer", 1), config=config, later=later, **held_out.record.ingredients)
    stages = [StageAt("judge_heldout", BACKBONE), JUDGE, StageAt("judge_heldout", 1)]
    for at in (stages[0], stages[-1]):
        lack_verdicts(held_out, at, 5)
    assert stages_to_retry(held_out, None, also_terminal=False) == stages
    judge.fixed = True
    told = retry_judge(held_out.ref, stages)
    assert [each["stage"] for each in told] == ["judge_heldout (backbone)", "judge (round 1)"]
    assert all(each["missing_after"] == 0 for each in told)
    assert held_out.holds(StageAt("judge_heldout", 1)) is None


def test_unscored_verdicts_on_the_held_out_set_are_asked_again_where_that_is_wanted(
    held_out: RunFolder, judge: Judge, provider: FakeProvider
) -> None:
    at = StageAt("judge_heldout", 0)
    held_out.storage.remove(f"{at.folder}/{MANIFEST}")
    retry_judge(held_out.ref, [at])
    missing, unscored = counts(held_out, at)
    assert missing
    assert unscored
    judge.fixed = True
    provider.calls.clear()
    assert stages_to_retry(held_out, 0, also_terminal=True) == [at]
    retry_judge(held_out.ref, [at], also_terminal=True)
    assert len(provider.calls) == missing + unscored
    assert counts(held_out, at) == (0, 0)


def test_the_command_brings_its_own_prefect_and_leaves_nothing_in_the_home(
    run: RunFolder, judge: Judge, tmp_path: Path, lay_prefect_database: Callable[[Path], None]
) -> None:
    judge.fixed = True
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
