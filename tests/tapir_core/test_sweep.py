"""Which backbones lack a finished run, and what a sweep says of all."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tapir_core import probing
from tapir_core.calls import Answer
from tapir_core.config import RunConfig
from tapir_core.run_folder import RunFolder, RunRef, keep_settled
from tapir_core.run_state import Swept, finished_runs, lacks_run, sweep_sentence
from tapir_core.stages import StageAt
from tests.run_builder import build_run
from tests.run_config import make_config

SMALL = {"data": {"pool": {"type": "standin", "rows": 60}}, "run": {"rounds": 1}}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return build_run("", config=make_config(tmp_path_factory.mktemp("runs"), **SMALL), backbone="b" * 64)


def files_of(run: RunFolder) -> dict[str, str]:
    return {name: digest for name, digest in run.record.ingredients.items() if name != "backbone"}


def test_a_finished_run_of_the_same_configuration_is_enough(finished: RunFolder) -> None:
    assert not lacks_run(finished.config, files_of(finished))


@pytest.mark.parametrize(
    "change",
    [
        lambda config: {"run": config.run.model_copy(update={"name": "other"})},
        lambda config: {"run": config.run.model_copy(update={"rounds": 2})},
        lambda config: {"student": config.student.model_copy(update={"backbone": "org/other"})},
        lambda config: {"training": config.training.model_copy(update={"batch_size": 64})},
    ],
    ids=["name", "rounds", "backbone", "training"],
)
def test_a_run_of_another_configuration_is_not(
    finished: RunFolder, change: Callable[[RunConfig], dict[str, object]]
) -> None:
    assert lacks_run(finished.config.model_copy(update=change(finished.config)), files_of(finished))


def test_an_edited_prompt_needs_a_look_where_a_stage_of_the_run_takes_it(finished: RunFolder) -> None:
    assert lacks_run(finished.config, {**files_of(finished), "prompt:judge": "edited"})
    assert not lacks_run(finished.config, {**files_of(finished), "prompt:mt_bench_single": "edited"})


def test_what_its_probes_found_makes_a_run_no_other_one(tmp_path: Path) -> None:
    endpoint = {"type": "openai", "base_url": "http://127.0.0.1:1/v1", "model": "m", "identity": "i", "api_key_env": ""}
    asked = make_config(tmp_path, **SMALL, judge={"endpoint": endpoint, "replies": "auto"})
    told = Answer('{"explanation": "", "score_1": 1, "score_2": 2}', "stop", 1, 1)
    settled, found = probing.settle(asked, {}, lambda *_: told)
    assert settled.judge.replies != "auto"
    run = keep_settled(build_run("", config=settled), settled, found, amend=False)
    assert not lacks_run(asked, files_of(run))


def test_an_unfinished_run_goes_on(tmp_path: Path) -> None:
    run = build_run("", until=StageAt("teach"), config=make_config(tmp_path, **SMALL))
    assert lacks_run(run.config, files_of(run))


def test_a_sweep_says_what_became_of_each_and_compares_what_is_finished() -> None:
    ref = RunRef("runs", "x")
    swept = [Swept("a", ref, "finished before"), Swept("b", ref, "failed", "no model"), Swept("c", ref, "finished")]
    assert sweep_sentence(swept) == "Backbones: 1 finished before (a); 1 finished (c); 1 failed (b).\nb: no model"
    assert len(finished_runs(swept)) == 2
