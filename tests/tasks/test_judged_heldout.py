"""The judged held-out set through its tasks: what is drawn, what leaves with it, and what verdicts come to."""

import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

import polars as pl
import pytest

from tapir_core.comparison.outcome import recipe_stages
from tapir_core.config import RunConfig
from tapir_core.curriculum import draw_splits, split_usable
from tapir_core.errors import ConfigError
from tapir_core.run_folder import RunFolder
from tapir_core.stages import StageAt
from tapir_core.summary import summarise
from tapir_core.text import instruction_id
from tasks import pool
from tasks._task import seal
from tasks.judge import evaluate, judge_heldout_shard
from tasks.outcomes import Piece, ShardOutcome
from tasks.runtime import close_all
from tests.doubles.provider import FakeProvider, FakeReply, RecordedCall, Text
from tests.run_builder import build_run
from tests.run_config import make_config

JUDGED, OVERLAP, TEACH = StageAt("judged_heldout"), StageAt("heldout_overlap"), StageAt("teach")
ANSWERS, VERDICTS = StageAt("answer_heldout", 0), StageAt("judge_heldout", 0)


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    close_all()


def judged_config(root: Path, rows: int = 240, judge: dict[str, Any] | None = None, **heldout: Any) -> RunConfig:
    data = {"pool": {"type": "standin", "rows": rows}, "heldout": {"type": "judged", **heldout}}
    return make_config(root, data=data, judge=judge or {"endpoint": {"type": "standin"}})


def usable(run: RunFolder) -> pl.DataFrame:
    return split_usable(*(run.rows(StageAt(name)) for name in ("pool", "teach", "label"))).examples


def test_dev_and_test_are_a_tenth_each_of_what_is_usable_by_its_own_shares(tmp_path: Path) -> None:
    run = build_run(tmp_path, until=TEACH, config=judged_config(tmp_path))
    pool.judged_heldout.fn(run.ref, JUDGED)
    drawn, examples = run.rows(JUDGED), usable(run)
    assert Counter(drawn["split"]) == {"dev": examples.height // 10, "test": examples.height // 10}
    assert drawn["instruction_id"].is_unique().all()
    taught = drawn.join(examples, on="instruction_id", suffix="_taught")
    assert taught.height == drawn.height, "only what the teacher answered usably"
    assert (taught["response"] == taught["response_taught"]).all(), "the pool's own answers"
    natural = dict(examples["task_type"].value_counts().iter_rows())
    for split in ("dev", "test"):
        got = dict(drawn.filter(split=split)["task_type"].value_counts().iter_rows())
        assert all(abs(got.get(name, 0) - count / 10) <= 1 for name, count in natural.items())


def test_a_large_pool_gives_no_more_than_is_asked_for() -> None:
    config = judged_config(Path())
    assert config.data.judged is not None
    assert config.data.judged.sizes(100_000) == {"test": 200, "dev": 200}
    assert config.data.judged.sizes(1_999) == {"test": 199, "dev": 199}
    assert judged_config(Path(), dev=0, test=7).data.judged.sizes(1_999) == {"test": 7, "dev": 0}  # type: ignore[union-attr]


def test_the_order_of_rows_changes_nothing(tmp_path: Path) -> None:
    examples = usable(build_run(tmp_path, until=TEACH))
    one, other = (
        draw_splits(rows, {"test": 20, "dev": 20}, random.Random(7))
        for rows in (examples, examples.sample(fraction=1.0, shuffle=True, seed=1))
    )
    assert one.equals(other)


def test_what_holds_a_held_out_instruction_leaves_the_pool_and_is_listed(tmp_path: Path) -> None:
    run = build_run(tmp_path, until=TEACH, config=judged_config(tmp_path, max_share=0.4))
    twins = {row["instruction_id"]: f"Please answer briefly. {row['instruction']}" for row in usable(run).to_dicts()}
    for name in ("pool", "label", "teach"):
        rows = run.rows(StageAt(name)).filter(pl.col("instruction_id").is_in([*twins]))
        of_twins = pl.col("instruction_id").replace_strict(twins, default=None)
        more = rows.with_columns(instruction=of_twins).with_columns(
            instruction_id=pl.col("instruction").map_elements(instruction_id, return_dtype=pl.String)
        )
        run.write(StageAt(name), pl.concat([rows, more.select(rows.columns)]))
    pool.judged_heldout.fn(run.ref, JUDGED)
    pool.heldout_overlap.fn(run.ref, OVERLAP)
    drawn, listed = run.rows(JUDGED), run.rows(OVERLAP)
    lost = set(listed["instruction_id"])
    assert lost
    assert not lost & set(drawn["instruction_id"])
    assert set(listed["benchmark"]) == {"heldout"}
    counts = run.sealed(OVERLAP).counts
    assert counts["checked"] == run.rows(StageAt("pool")).height - drawn.height
    apart = lost | set(drawn["instruction_id"])
    for number in (0, 1):
        assert set(pool.round_pool(run, number)["instruction_id"]) == set(usable(run)["instruction_id"]) - apart
    held = pool.evaluation_questions(run).find(usable(run))["instruction_id"]
    assert set(drawn["instruction_id"]) | lost == set(held), "the gates of expansions find them"


def test_a_pool_of_which_nothing_is_left_is_refused(tmp_path: Path) -> None:
    run = build_run(tmp_path, until=TEACH, config=judged_config(tmp_path, rows=40))
    for name in ("pool", "label", "teach"):
        run.write(StageAt(name), run.rows(StageAt(name)).sort("instruction_id")[-2:])
    pool.judged_heldout.fn(run.ref, JUDGED)
    pool.heldout_overlap.fn(run.ref, OVERLAP)
    with pytest.raises(ConfigError, match="of 2 usable instructions none is left to train on"):
        pool.check_pool(run)


def judged_run(root: Path, provider: FakeProvider, without_figure: str = "warn", **judge: Any) -> RunFolder:
    """S_0 scored by a judge behind ``provider``."""
    endpoint = {"type": "openai", "base_url": provider.base_url, "model": "m", "identity": "i", "api_key_env": ""}
    config = judged_config(root, judge={"endpoint": endpoint, "reasks": 0, **judge}, without_figure=without_figure)
    run = build_run(root, until=ANSWERS, config=config)
    answers = run.manifest(ANSWERS)
    assert answers is not None
    shards = [judge_heldout_shard.fn(run.ref, VERDICTS, Piece(0, 1), ShardOutcome(answers.parts[0]))]
    seal.fn(run.ref, VERDICTS, shards, 0.0)
    evaluate.fn(run.ref, StageAt("evaluate", 0))
    return run


def figures(run: RunFolder) -> dict[tuple[str, str, str], dict[str, Any]]:
    rows = run.rows(StageAt("evaluate", 0)).to_dicts()
    return {(row["split"], row["category"], row["metric"]): row for row in rows}


def test_a_judge_that_always_prefers_the_first_answer_yields_half(tmp_path: Path) -> None:
    with FakeProvider(lambda _: Text("Scores: [[9, 2]]")) as provider:
        run = judged_run(tmp_path, provider)
    found = figures(run)
    for split in ("dev", "test"):
        assert found[split, "all", "win_rate"]["value"] == 0.5
        assert found[split, "all", "quality_retention"]["value"] == 0.5
        assert found[split, "all", "score_ratio"]["value"] == 1.0


def by_lot(call: RecordedCall) -> FakeReply:
    """Scores that go by the prompt alone; ties among them, and now and then none."""
    lot = random.Random(call.prompt)
    return Text("Well …" if lot.random() < 0.01 else f"Scores: [[{lot.choice([4, 6, 8])}, {lot.choice([4, 6, 8])}]]")


def test_figures_are_those_that_other_code_makes_of_the_verdicts(tmp_path: Path) -> None:
    with FakeProvider(by_lot) as provider:
        run = judged_run(tmp_path, provider)
    verdicts = defaultdict[str, list[tuple[float, float]]](list)
    for row in run.rows(VERDICTS).filter(status="scored").to_dicts():
        verdicts[row["instruction_id"]].append((row["student_score"], row["teacher_score"]))
    said = dict(run.rows(ANSWERS).select("instruction_id", "response").iter_rows())
    found, drawn = figures(run), run.rows(JUDGED).to_dicts()
    types = ("all", *{row["task_type"] for row in drawn})
    for split, category in product(("dev", "test"), types):
        rows = [row for row in drawn if row["split"] == split and category in ("all", row["task_type"])]
        scored = [row for row in rows if len(verdicts[row["instruction_id"]]) == 2]
        if not rows or len(scored) < 0.9 * len(rows):
            continue
        pairs = [verdicts[row["instruction_id"]] for row in scored]
        both = [pair for of in pairs for pair in of]
        expected = {
            "quality_retention": fmean(student >= teacher for student, teacher in both),
            "win_rate": fmean((student > teacher) + (student == teacher) / 2 for student, teacher in both),
            "score_ratio": sum(student for student, _ in both) / sum(teacher for _, teacher in both),
            "student_chars": fmean(len(said[row["instruction_id"]]) for row in scored),
            "teacher_chars": fmean(len(row["response"]) for row in scored),
        }
        for metric, value in expected.items():
            row = found[split, category, metric]
            assert row["value"] == pytest.approx(value)
            assert (row["n"], row["n_failed"]) == (len(scored), len(rows) - len(scored))
            assert row["low"] is None or row["low"] <= value <= row["high"]
    assert found["test", "all", "quality_retention"]["low"] is not None


def sometimes_silent(call: RecordedCall) -> FakeReply:
    return Text("Well …" if random.Random(call.prompt).random() < 0.3 else "Scores: [[7, 7]]")


def test_instructions_without_a_verdict_are_counted_and_above_a_share_there_is_no_figure(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with FakeProvider(sometimes_silent) as provider:
        run = judged_run(tmp_path, provider)
    assert re.search(r"evaluate.*have no verdict .*x no verdict.*no figure here.*judge\.sampling", caplog.text)
    row = figures(run)["test", "all", "quality_retention"]
    assert row["value"] is None
    assert row["n_failed"] > 0
    assert "instructions failed" in row["note"]
    assert "more than the 10.0% allowed" in row["note"]


def test_a_run_stops_at_a_student_that_gets_no_figure_where_it_shall(tmp_path: Path) -> None:
    with (
        FakeProvider(sometimes_silent) as provider,
        pytest.raises(ConfigError, match=r"no figure here.*without_figure = \"warn\" goes on"),
    ):
        judged_run(tmp_path, provider, without_figure="stop")


@pytest.mark.parametrize("model", ["m", "another"])
def test_a_judge_that_is_the_teacher_is_said_to_be_beside_every_score(tmp_path: Path, model: str) -> None:
    endpoint = {"type": "openai", "base_url": "http://127.0.0.1:1/v1", "identity": "i", "api_key_env": ""}
    data = {"pool": {"type": "standin", "rows": 120}, "heldout": {"type": "judged"}}
    teacher, judge = ({"endpoint": {**endpoint, "model": name}} for name in ("m", model))
    config = make_config(tmp_path, data=data, teacher=teacher, judge=judge)
    run = build_run(tmp_path, until=StageAt("evaluate", -1), config=config)
    [who] = run.rows(StageAt("evaluate", -1))["judge"].unique()
    assert ("the teacher, which judges its own answers" in who) is (model == "m")
    thinks = make_config(tmp_path, data=data, teacher={**teacher, "thinking": "keep"}, judge=judge)
    assert thinks.judges_itself is (model == "m"), "kept thoughts make it nobody else"


def test_verdicts_that_measure_the_students_are_no_cost_of_the_recipe(tmp_path: Path) -> None:
    data = {"pool": {"type": "standin", "rows": 120}, "heldout": {"type": "judged"}}
    run = build_run(tmp_path, config=make_config(tmp_path, data=data))
    summary = summarise(run)
    assert "judge_heldout" in {stage.name for stage in summary.all_stages}
    of_recipe = {stage.name for stage in recipe_stages(summary, run.config)}
    assert "judge_heldout" not in of_recipe
    assert {"teach", "judge", "train"} <= of_recipe
