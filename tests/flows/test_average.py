"""A run whose rounds are averaged, from its configuration to its export: fake engines, real weights."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

from flows.cli import app
from flows.distill import distill
from flows.driver import find_stage, hold_run, is_done
from tapir_core.config import RunConfig
from tapir_core.config.load import load_config
from tapir_core.errors import ConfigError, EngineError, RunBusy
from tapir_core.paths import AVERAGE, attempt_folder
from tapir_core.run_folder import RunFolder, RunRef
from tapir_core.run_state import state_of
from tapir_core.stages import StageAt
from tasks._task import work_of
from tasks.engines.training.launch import TrainingJob, TrainingSummary
from tasks.runtime import close_all, current
from tests.doubles.provider import FakeProvider
from tests.golden import adapter, fakes
from tests.students import make_checkpoint

pytestmark = pytest.mark.usefixtures("prefect_server")

MADE, SCORED = StageAt("average", AVERAGE), StageAt("evaluate", AVERAGE)
WEIGHTS = "model.safetensors"
_FILES = 'questions = "configs/benchmarks/alpaca_eval.json", baseline = "configs/benchmarks/alpaca_eval_baseline.json"'
BENCHMARK = (
    f'evaluation={{ each_round = ["alpaca"], benchmarks = {{ alpaca = {{ type = "alpaca_eval", {_FILES} }} }} }}'
)


def weights_of(number: int) -> dict[str, Any]:
    return {"layer": np.full((2, 3), number**2, np.float32), "bias": np.array([1, -number], np.float16)}


def train(job: TrainingJob, **more: Any) -> TrainingSummary:
    """As the golden trainer, with weights that say of which round they are."""
    summary = fakes.train(job, **more)
    number = int(job.output.parts[-3].removeprefix("round_"))
    save_file(weights_of(number), job.output / "checkpoint" / WEIGHTS, {"format": "pt"})
    return summary


def config_of(folder: Path, provider: FakeProvider, *more: str) -> RunConfig:
    models = [
        f"{each}.base_url={provider.base_url}" for each in ("student.engine", "teacher.endpoint", "judge.endpoint")
    ]
    backbone = f"student.backbone={make_checkpoint(folder / 'backbone')}"
    heldout = 'data.heldout={ type = "standin", dev = 20, test = 10 }'
    small = ["curriculum.expansion.max_waves=0", "curriculum.refine=false", "curriculum.stop.min_seeds=0"]
    asked = ["student.average=rounds", "evaluation={}", *small, f"run.root={folder / 'runs'}"]
    return load_config("tests/golden/plain.toml", [backbone, heldout, *asked, *models, *more])


@pytest.fixture(scope="module")
def provider() -> Iterator[FakeProvider]:
    with pytest.MonkeyPatch.context() as patched, FakeProvider(fakes.reply) as provider:
        patched.setitem(fakes.SKILL, "/average/", 0.94)
        yield provider


def drive(config: RunConfig, monkeypatch: pytest.MonkeyPatch, until: str | None = None) -> RunFolder:
    fakes.replace_trainer(monkeypatch, train)
    with hold_run(config, say=lambda _: None) as run:
        distill(run.ref, until)
    return run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, provider: FakeProvider) -> Iterator[RunFolder]:
    """Done, of two rounds."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(adapter, "train", train)
        yield adapter.drive(config_of(tmp_path_factory.mktemp("whole"), provider, BENCHMARK), patched)


def mean_of(*numbers: int) -> dict[str, list[Any]]:
    rounds = [weights_of(number) for number in numbers]
    return {name: np.mean([each[name] for each in rounds], axis=0).tolist() for name in rounds[0]}


def weights(run: RunFolder) -> dict[str, list[Any]]:
    loaded = load_file(run.storage.local(MADE.folder) / WEIGHTS)
    return {name: tensor.tolist() for name, tensor in loaded.items()}


def tapir(run: RunFolder, command: str, *words: str) -> str:
    done = CliRunner().invoke(app, [command, run.ref.name, *words, "--root", run.ref.root], env={"COLUMNS": "200"})
    assert done.exit_code == 0, f"{done.output}\n{done.exception!r}"
    return done.output


def test_the_mean_of_the_rounds_is_a_student_scored_like_the_others(run: RunFolder) -> None:
    assert weights(run) == mean_of(1, 2)
    names = set(run.storage.names(MADE.folder))
    assert names == {"chat_template.jinja", "config.json", "manifest.json", WEIGHTS, "tokenizer.json"}
    assert run.storage.names("average/training") == []
    assert {*run.rows(SCORED)["split"]} == {"dev", "test"}
    assert run.holds(StageAt("benchmark_scores", AVERAGE, benchmark="alpaca")) is not None
    assert is_done(run, None)


def test_it_is_exported_as_the_best_asked_scored_and_shown_by_its_name(
    run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert state_of(run).best == AVERAGE
    monkeypatch.chdir(tmp_path)
    shutil.copytree(Path(__file__).parents[1] / "golden", tmp_path / "tests" / "golden")
    shutil.copytree(Path(__file__).parents[2] / "configs", tmp_path / "configs")
    assert "average of run golden is in exports/golden-average" in " ".join(tapir(run, "export").split())
    assert {name: each.tolist() for name, each in load_file(f"exports/golden-average/{WEIGHTS}").items()} == mean_of(
        1, 2
    )
    assert json.loads(Path("exports/golden-average/tapir_export.json").read_text())["round"] == "average"
    shown = tapir(run, "status")
    assert "average on the held-out test split" in shown
    assert next(line.split()[:2] for line in shown.splitlines() if line.startswith("average")) == ["average", "average"]
    assert "average" in tapir(run, "evaluate", "--round", "average")
    [question] = run.rows(StageAt("heldout")).head(1)["instruction"]
    assert "Answer:" in tapir(run, "ask", question, "--round", "average")
    close_all()


def copy_without_average(run: RunFolder, root: Path) -> RunFolder:
    shutil.copytree(run.storage.local(""), root / run.ref.name)
    copied = RunFolder(RunRef(str(root), run.ref.name))
    copied.storage.remove(MADE.folder)
    return copied


def test_what_a_killed_start_left_is_made_anew_and_scores_of_the_same_weights_hold(
    run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = copy_without_average(run, tmp_path)
    key = left.key(MADE)
    assert key is not None
    half = left.storage.local(attempt_folder(AVERAGE, key)) / "checkpoint"
    half.mkdir(parents=True)
    (half / WEIGHTS).write_bytes(b"half of it")
    drive(left.config, monkeypatch)
    assert left.sealed(MADE).digest == run.sealed(MADE).digest
    assert left.sealed(SCORED).created == run.sealed(SCORED).created
    assert state_of(RunFolder(left.ref)).next_stage is None
    assert not half.exists()


@pytest.mark.parametrize("patience", [1, 2])
def test_a_run_that_a_rule_stops_averages_what_it_has(
    tmp_path: Path, provider: FakeProvider, monkeypatch: pytest.MonkeyPatch, patience: int
) -> None:
    stop = [f"curriculum.stop.patience={patience}", "curriculum.stop.min_gain=1.0", "run.rounds=3"]
    run = drive(config_of(tmp_path, provider, *stop), monkeypatch)
    state = state_of(run)
    assert state.stopped is not None
    assert state.next_stage is None
    assert is_done(run, None)
    assert run.trained_rounds == [*range(patience + 1)]
    if patience == 1:
        assert run.students == [0, 1]
        assert not run.storage.exists("average")
        assert "too few rounds were trained to average" in tapir(run, "status")
    else:
        assert run.students == [0, 1, 2, AVERAGE]
        assert weights(run) == mean_of(1, 2)
        assert run.holds(SCORED) is not None
        assert "stopped early: the dev score" in tapir(run, "status")


def test_a_stage_of_it_can_be_the_last_that_is_wanted(
    run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = (left := copy_without_average(run, tmp_path)).config
    assert find_stage(config, "average") == MADE
    assert find_stage(config, "evaluate@average") == SCORED
    assert find_stage(config, "evaluate") == StageAt("evaluate", 1)
    with pytest.raises(ConfigError, match=r"mix@0-2, train@0-2, .*average"):
        find_stage(config, "trim")
    drive(config, monkeypatch, "evaluate@2")
    assert left.holds(MADE) is None
    left.storage.remove("average/heldout_answers")
    drive(config, monkeypatch, "average")
    assert left.holds(MADE) is not None
    assert state_of(left).next_stage == StageAt("answer_heldout", AVERAGE)


class Lost:
    """The lease of a driver that another one took the run from."""

    def holds(self) -> bool:
        return False


def test_nothing_is_promoted_by_a_driver_that_lost_the_run_or_whose_child_fails(
    run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = copy_without_average(run, tmp_path)
    work = work_of(left.config, MADE).task.fn
    try:
        monkeypatch.setattr(current(left), "lease", Lost())
        with pytest.raises(RunBusy, match="promotes nothing"):
            work(left.ref, MADE)
        assert not left.storage.exists(MADE.folder)
        broken = left.storage.local(StageAt("train", 1).folder) / WEIGHTS
        save_file({"layer": np.zeros(1, np.float32)}, broken)
        monkeypatch.setattr(
            current(left), "checkpoint", lambda number: left.storage.local(f"round_{number:02d}/checkpoint")
        )
        with pytest.raises(EngineError, match=r"ended with exit code 1; see .*average\.log"):
            work(left.ref, MADE)
        assert "not all of them have bias" in left.workplace.local("logs/average.log").read_text()
        assert not left.storage.exists(MADE.folder)
    finally:
        close_all()
