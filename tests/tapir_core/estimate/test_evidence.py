import json
from pathlib import Path

import polars as pl
import pytest
import sqlalchemy as sa

from tapir_core.calls import Answer, AnswerStore, Spend
from tapir_core.calls.store_tables import read_url
from tapir_core.calls.wire import Reply
from tapir_core.config import ModelIdentity, RunConfig
from tapir_core.curriculum import shares_of
from tapir_core.estimate.evidence import (
    Asked,
    estimate_tokens,
    look_at_pool,
    past_seconds,
    stored_lengths,
    weights_of,
)
from tapir_core.estimate.run import estimate_run
from tapir_core.estimate.workload import Pool, workload
from tapir_core.prompts import load_prompt
from tapir_core.run_folder import RunFolder
from tapir_core.sources import read_pool_of
from tapir_core.stages import StageAt
from tests.doubles.provider import make_request
from tests.postgres_server import needs_postgres
from tests.run_builder import build_run, make_config
from tests.tapir_core.calls.test_postgres import postgres_url

__all__ = ["postgres_url"]

VOICE = ModelIdentity("fake-model", "fake-1")


def no_store(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'store.sqlite'}"


def fill(url: str, answers: int, tokens: int) -> None:
    with AnswerStore(url) as store:
        for number in range(answers):
            request = make_request(f"question {number}")
            answer = Answer("fine", "stop", 10, tokens)
            store.put(request.key, request, Reply(answer, Spend(1, 10, tokens))).result(30)


def test_lengths_are_those_of_the_same_model_in_the_same_role(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'store.sqlite'}"
    fill(url, 30, 17)
    mine = ("teach", VOICE, "")
    others: list[Asked] = [("judge", VOICE, ""), ("teach", ModelIdentity("fake-model", "another revision"), "")]
    found = stored_lengths(url, {mine: [], **{each: [] for each in others}, ("teach", VOICE, "b"): ["another version"]})
    assert found == {mine: 17.0}


def test_a_few_answers_are_no_history(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'store.sqlite'}"
    fill(url, 5, 17)
    assert stored_lengths(url, {("teach", VOICE, ""): []}) == {}


def test_a_store_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    assert stored_lengths(no_store(tmp_path), {("teach", VOICE, ""): []}) == {}
    assert list(tmp_path.iterdir()) == []


@needs_postgres
def test_a_database_without_a_store_stays_empty(postgres_url: str) -> None:
    assert stored_lengths(postgres_url, {("teach", VOICE, ""): []}) == {}
    assert sa.inspect(sa.create_engine(read_url(postgres_url), poolclass=sa.NullPool)).get_table_names() == []


def test_seconds_are_those_of_earlier_runs_with_the_same_models(tmp_path: Path) -> None:
    build_run(tmp_path)
    found = past_seconds(make_config(tmp_path, run={"name": "next"}))
    assert {"label", "teach", "answer", "judge", "expand", "refine", "evaluate", "train"} == set(found)
    assert found["label"] == pytest.approx(0.15 / 0.9, rel=0.6)
    assert all(seconds > 0 for seconds in found.values())


def test_runs_with_other_models_and_broken_ones_tell_nothing(tmp_path: Path) -> None:
    build_run(tmp_path)
    other = make_config(tmp_path, run={"name": "next"}, student={"backbone": "another/model"})
    assert past_seconds(other) == {}
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "run.json").write_text("{")
    assert past_seconds(make_config(tmp_path, run={"name": "next"}))
    assert past_seconds(make_config(tmp_path / "empty")) == {}


def look(config: RunConfig, folder: Path) -> tuple[pl.DataFrame, Pool]:
    read = read_pool_of(config.data.pool, config.data, config.run.seed)
    return look_at_pool(config, read, load_prompt("label"), no_store(folder))


def test_the_pool_is_the_one_that_the_run_will_have(tmp_path: Path) -> None:
    run: RunFolder = build_run(tmp_path, until=StageAt("label"))
    instructions, pool = look(run.config, tmp_path)
    assert set(instructions["instruction"]) == set(run.rows(StageAt("pool"))["instruction"])
    assert pool.heldout_rows == run.rows(StageAt("heldout")).height
    assert pool.natural_shares == pytest.approx(shares_of(run.rows(StageAt("label"))))
    assert (pool.rows, pool.usable_share, pool.stored_labels) == (240, 1.0, 0)


def test_what_overlaps_the_held_out_set_does_not_count(tmp_path: Path) -> None:
    rows = [{"instruction": f"Tell me of river {number}."} for number in range(10)]
    heldout = [{"instruction": "Tell me of river 3.", "reference": "long", "split": "test"}]
    for name, content in (("pool", rows), ("heldout", heldout)):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    files = {name: {"type": "file", "path": str(tmp_path / f"{name}.json")} for name in ("pool", "heldout")}
    instructions, pool = look(make_config(tmp_path, data=files), tmp_path)
    assert (instructions.height, pool.rows, pool.heldout_rows) == (9, 9, 1)


def test_answers_that_the_pool_brings_are_not_asked_for(tmp_path: Path) -> None:
    rows = [{"instruction": f"Tell me of river {number}.", "output": "Long." * (number % 2)} for number in range(10)]
    (tmp_path / "pool.json").write_text(json.dumps(rows))
    pool = {"type": "file", "path": str(tmp_path / "pool.json"), "answers": "use"}
    config = make_config(tmp_path, data={"pool": pool, "heldout": None})
    _, known = look(config, tmp_path)
    work = {each.role: each for each in workload(config, known, {}) if each.stage in ("label", "teach")}
    assert work["teach"].needed == work["teach"].paid == 5
    assert work["label"].needed > 5


def test_where_nothing_is_labelled_the_stand_ins_answers_are_usable_whatever_type_they_are_of(tmp_path: Path) -> None:
    types = {"Others": "everything"}
    config = make_config(tmp_path, curriculum={"task_types": types, "target_shares": "equal"})
    _, known = look(config, tmp_path)
    assert (known.usable_share, known.natural_shares) == (1.0, {"Others": 1.0})


@pytest.mark.parametrize("address", ["http://127.0.0.1:8041/v1", "https://api.example.com/v1"])
def test_a_teacher_answers_as_long_as_the_answers_that_the_pool_brings(tmp_path: Path, address: str) -> None:
    long = "one word after another " * 25
    rows = [{"instruction": f"Tell me of river {number}.", "output": long * (number % 4 > 0)} for number in range(400)]
    (tmp_path / "pool.json").write_text(json.dumps(rows))
    pool = {"type": "file", "path": str(tmp_path / "pool.json"), "answers": "use"}
    endpoint = {"type": "openai", "model": "m", "identity": "i", "base_url": address}
    config = make_config(tmp_path, data={"pool": pool, "heldout": None}, teacher={"endpoint": endpoint})
    found = estimate_run(config, source="a test")
    [teach] = [each for each in found.stages if each.name == "teach"]
    assert teach.paid.calls.likely == 100
    assert teach.paid.completion_tokens.likely == pytest.approx(100 * estimate_tokens(long), rel=0.01)
    assert f"teach {estimate_tokens(long)} (seen)" in " ".join(found.assumptions)


def test_task_types_of_a_strange_pool_are_not_known(tmp_path: Path) -> None:
    endpoint = {"type": "openai", "model": "m", "identity": "i"}
    config = make_config(tmp_path, teacher={"endpoint": endpoint})
    _, pool = look(config, tmp_path)
    assert pool.natural_shares is None
    assert pool.usable_share is None


@pytest.mark.parametrize(
    ("backbone", "weights"),
    [
        ("embedded:smollm2-135m-instruct", 135e6),
        ("Qwen/Qwen2.5-0.5B-Instruct", 0.5e9),
        ("meta-llama/Llama-2-7b-hf", 7e9),
        ("/models/qwen-4bit", None),
        ("someone/phi", None),
    ],
)
def test_the_name_of_a_model_tells_its_size(backbone: str, weights: float | None) -> None:
    assert weights_of(backbone) == weights


def test_the_files_of_a_folder_tell_its_size_whatever_its_name(tmp_path: Path) -> None:
    folder = tmp_path / "mine-7b"
    folder.mkdir()
    assert weights_of(str(folder)) == 7e9
    for part in (1, 2):
        (folder / f"model-{part}.safetensors").write_bytes(b"0" * 1000)
    assert weights_of(str(folder)) == 1000
