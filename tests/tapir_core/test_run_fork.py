"""What arms of a comparison share is taken over as it is, and nothing that one of them would make otherwise."""

import itertools
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tapir_core.calls.timing import Timing, timing_counts
from tapir_core.errors import TapirError
from tapir_core.estimate.evidence import past_seconds
from tapir_core.prompts import PROMPT_NAMES, load_prompt
from tapir_core.run_files import copy_run, remove_run, take_over
from tapir_core.run_folder import RunFolder, RunRef, open_run
from tapir_core.stages import STAGES, StageAt, plan
from tapir_core.storage import Storage
from tapir_core.summary import summarise
from tests.run_builder import build_run
from tests.run_config import make_config

TRAIN = StageAt("train", 0)
_NUMBERS = itertools.count()
RULE = {"type": "hard_share", "share": 0.3}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A finished run; read only."""
    run = build_run(tmp_path_factory.mktemp("whole"))
    run.storage.write_bytes(f"{TRAIN.folder}/training.json", b"{}")
    return run


@pytest.fixture
def source(whole: RunFolder, tmp_path: Path) -> RunFolder:
    """A finished run of one's own."""
    shutil.copytree(whole.storage.root, tmp_path / "runs" / "example")
    return RunFolder(RunRef(str(tmp_path / "runs"), "example"))


def open_next(root: Path | str, **sections: Any) -> RunFolder:
    """Another run of the same root, with nothing done."""
    prompts = {f"prompt:{each}": load_prompt(each).version for each in PROMPT_NAMES}
    return open_run(make_config(root, run={"name": f"next-{next(_NUMBERS)}"}, **sections), prompts)


def taken(source: RunFolder, target: RunFolder) -> list[StageAt]:
    """The stages of the plan that were taken over; each holds where it is now, and no other does."""
    stages = take_over(source, target)
    assert all(target.holds(at) is not None for at in stages)
    planned = [at for at in plan(target.config) if at in stages]
    assert planned == [at for at in plan(target.config) if target.holds(at) is not None]
    return planned


def test_the_same_run_under_another_name_is_taken_over_whole_and_needs_the_first_no_more(
    whole: RunFolder, source: RunFolder
) -> None:
    target = open_next(source.ref.root)
    assert taken(source, target) == list(plan(target.config))
    remove_run(source.storage)
    for at in plan(target.config):
        assert target.holds(at) is not None
        if STAGES[at.name].columns:
            assert target.rows(at).equals(whole.rows(at))
    weights = f"{TRAIN.folder}/model.safetensors"
    assert target.storage.read_bytes(weights) == whole.storage.read_bytes(weights)
    assert target.storage.read_bytes(f"{TRAIN.folder}/training.json") == b"{}"
    assert summarise(target).next_stage is None


def test_what_is_taken_over_was_timed_by_the_run_that_asked_for_it(source: RunFolder) -> None:
    teach = StageAt("teach")
    counts = {"calls": 1.0, "stored": 2.0, "seconds": 3.0}
    source.seal(teach, list(source.sealed(teach).parts), counts=counts | timing_counts([(7, Timing(2.0, 1.0))], "vLLM"))
    take_over(source, target := open_next(source.ref.root))
    assert target.sealed(teach).counts == {"calls": 0.0, "stored": 3.0, "seconds": 0.0}


def test_another_alpha_shares_all_up_to_the_seeds_of_round_one_and_nothing_after(whole: RunFolder) -> None:
    target = open_next(whole.ref.root, rounds={"default": {"examples": 96, "alpha": 0.7, "selection": RULE}})
    shared = taken(whole, target)
    assert shared[-1] == StageAt("select", 1)
    assert shared == list(plan(target.config))[: len(shared)]
    assert not target.storage.exists(StageAt("expand", 1).folder)


def test_a_round_that_draws_at_random_shares_all_up_to_the_scores_of_s0_and_nothing_after(whole: RunFolder) -> None:
    at_random = {"examples": 96, "alpha": 0.0, "selection": {"type": "random", "share": 0.0}}
    assert taken(whole, open_next(whole.ref.root, rounds={"default": at_random}))[-1] == StageAt("evaluate", 0)


def test_another_learning_rate_shares_the_mixture_and_no_student(whole: RunFolder) -> None:
    rounds = {"default": {"examples": 96, "selection": RULE, "learning_rate": 1e-4}}
    target = open_next(whole.ref.root, rounds=rounds)
    assert taken(whole, target)[-1] == StageAt("mix", 1)
    steps = [StageAt("expansion_rejected", 1), *(StageAt(step, 1, 1) for step in STAGES if step.startswith("wave_"))]
    assert all(target.holds(at) is not None for at in steps), "an expansion is taken over with its waves"
    rounds_done = {each.number: each for each in summarise(target).rounds}
    assert rounds_done[1].expansion == {each.number: each for each in summarise(whole).rounds}[1].expansion


def test_another_seed_or_another_prompt_shares_what_they_do_not_touch(whole: RunFolder) -> None:
    other = open_run(make_config(whole.ref.root, run={"name": "other", "seed": 2}), whole.record.ingredients)
    assert taken(whole, other) == []
    edited = {**whole.record.ingredients, "prompt:judge": "edited"}
    target = open_run(make_config(whole.ref.root, run={"name": "edited"}), edited)
    assert taken(whole, target)[-1] == StageAt("answer", 1)


def test_what_another_version_made_is_not_taken_over(whole: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(STAGES, "judge", replace(STAGES["judge"], version=STAGES["judge"].version + 1))
    assert taken(whole, open_next(whole.ref.root))[-1] == StageAt("answer", 1)


def test_what_rests_on_rows_of_its_own_is_not_taken_over(whole: RunFolder) -> None:
    target = open_next(whole.ref.root)
    target.write(StageAt("heldout"), whole.rows(StageAt("heldout")).head(10))
    assert take_over(whole, target) == []


def test_what_holds_already_stays_and_a_second_time_takes_nothing(whole: RunFolder) -> None:
    target = open_next(whole.ref.root)
    take_over(whole, target)
    made = {at: target.manifest(at) for at in plan(target.config)}
    assert take_over(whole, target) == []
    assert {at: target.manifest(at) for at in plan(target.config)} == made


def test_what_a_run_took_over_was_asked_by_no_call_and_took_no_time(source: RunFolder) -> None:
    target = open_next(source.ref.root)
    take_over(source, target)
    first, second = summarise(source), summarise(target)
    assert second.usage.calls == 0
    assert second.usage.stored == first.usage.calls + first.usage.stored
    assert second.usage.usd == first.usage.usd
    assert second.busy_seconds == 0
    assert past_seconds(make_config(source.ref.root, run={"name": "third"})) == pytest.approx(
        past_seconds(source.config)
    )


def test_files_are_shared_on_the_disk_and_a_change_in_one_run_leaves_the_other(source: RunFolder) -> None:
    target = open_next(source.ref.root)
    take_over(source, target)
    path = f"{TRAIN.folder}/model.safetensors"
    assert source.storage.local(path).samefile(target.storage.local(path))
    before = source.storage.read_bytes(path)
    target.storage.write_bytes(path, b"others")
    assert source.storage.read_bytes(path) == before


def test_a_damaged_file_is_taken_over_by_nobody(source: RunFolder) -> None:
    path = f"{TRAIN.folder}/model.safetensors"
    source.storage.write_bytes(path, b"damaged")
    target = open_next(source.ref.root)
    with pytest.raises(TapirError, match=rf"{path} did not arrive .*remove its stage's folder"):
        take_over(source, target)
    assert target.holds(TRAIN) is None
    assert not target.storage.exists(path)
    assert target.holds(StageAt("mix", 0)) is not None, "what was sound stays"


def test_a_stage_that_another_making_left_unfinished_is_replaced(whole: RunFolder) -> None:
    target = open_next(whole.ref.root)
    target.storage.write_bytes(f"{TRAIN.folder}/optimizer.bin", b"of a training that was left")
    take_over(whole, target)
    assert set(target.storage.names(TRAIN.folder)) == {"manifest.json", "model.safetensors", "training.json"}


def test_on_s3_stages_are_copied_and_the_first_run_may_go(s3: Any, tmp_path: Path) -> None:
    copy_run(build_run(tmp_path, until=TRAIN).storage, Storage("s3://runs/all/example"), on_file=lambda *_: None)
    source, target = RunFolder(RunRef("s3://runs/all", "example")), open_next("s3://runs/all")
    assert take_over(source, target)[-1] == TRAIN
    remove_run(source.storage)
    assert target.holds(TRAIN) is not None
    assert target.storage.read_bytes(f"{TRAIN.folder}/model.safetensors") == b"weights after train (round 0)"
