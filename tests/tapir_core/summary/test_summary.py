from dataclasses import replace

import polars as pl
import pytest

from tapir_core.paths import BACKBONE
from tapir_core.reporting import sentences
from tapir_core.run_folder import RunFolder
from tapir_core.run_state import history, stop_reason
from tapir_core.stages import StageAt
from tapir_core.summary import RunReader, read_progress, summarise
from tests.run_builder import build_run, make_config


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return build_run(tmp_path_factory.mktemp("whole"))


def test_the_instructions_of_a_round_are_scored_or_counted_by_reason(whole: RunFolder) -> None:
    for each in summarise(whole).rounds[2:]:
        assert each.scored is not None
        assert each.unscored is not None
        assert each.unscored["no verdict in the reply"] > 0
        assert each.scored + sum(each.unscored.values()) == each.pool


def test_every_request_of_an_expansion_is_accepted_or_rejected_by_a_gate(whole: RunFolder) -> None:
    for each in summarise(whole).rounds[2:]:
        assert each.expansion is not None
        assert each.expansion.accepted + sum(each.expansion.rejected.values()) == each.expansion.asked


def test_an_expansion_that_brings_next_to_nothing_is_said_with_its_reason(whole: RunFolder) -> None:
    summary = summarise(whole)
    assert sentences.scarce(summary) == ""
    last = summary.rounds[-1]
    assert last.expansion is not None
    assert last.mixture is not None
    rejected = {"echo": 3, "near_duplicate": 384}
    poor = replace(last, expansion=replace(last.expansion, asked=387, accepted=0, rejected=rejected))
    said = sentences.scarce(replace(summary, rounds=(*summary.rounds[:-1], poor)))
    assert said == (
        "Round 2: 0 of 387 new instructions were kept; 384 were too similar (curriculum.expansion.max_rouge_l = 0.7); "
        f"trained on {last.mixture.rows} of {last.mixture.asked}."
    )
    other = replace(poor, expansion=replace(poor.expansion, rejected={"task_type": 387}))
    said = sentences.scarce(replace(summary, rounds=(*summary.rounds[:-1], other)))
    assert "387 failed at the gate task_type; trained on" in said


def test_the_pool_grows_by_what_the_expansions_accepted(whole: RunFolder) -> None:
    summary = summarise(whole)
    first, second = summary.rounds[2:]
    assert first.pool is not None
    assert first.expansion is not None
    assert second.pool == first.pool + first.expansion.accepted


def test_unusable_teacher_answers_leave_the_pool_by_reason(whole: RunFolder) -> None:
    summary = summarise(whole)
    assert summary.pool is not None
    assert summary.unusable is not None
    assert set(summary.unusable) == {"refused", "cut_off"}
    assert summary.pool - sum(summary.unusable.values()) == summary.rounds[2].pool
    assert summary.dropped == {"duplicates": 3}


def test_the_origins_of_a_mixture_sum_to_its_rows_and_what_lacks_to_its_size(whole: RunFolder) -> None:
    for each in summarise(whole).rounds[1:]:
        assert each.mixture is not None
        wanted = whole.config.round(each.number).examples if each.number else whole.config.basic_tuning.examples
        assert sum(each.mixture.origins.values()) == each.mixture.rows == wanted - each.mixture.missing
        assert each.mixture.shares["got"].sum() == pytest.approx(1)


def test_the_hard_share_and_the_seeds_of_the_histogram_agree(whole: RunFolder) -> None:
    for each in summarise(whole).rounds[2:]:
        assert each.difficulty is not None
        assert each.seeds is not None
        assert each.scored is not None
        assert each.difficulty["seed"].sum() == each.seeds
        assert each.hard_share == pytest.approx(0.3, abs=1 / each.scored)
        assert each.difficulty.filter(seed=True)["mfd"].min() == each.delta


def test_what_teacher_and_judge_were_asked_leaves_the_student_out(whole: RunFolder) -> None:
    summary = summarise(whole)
    asked = [stage for each in summary.rounds for stage in each.stages] + [*summary.stages]
    paid = [stage for stage in asked if stage.asks in ("teacher", "judge")]
    assert {stage.name for stage in paid} == {"label", "teach", "judge", "expand", "refine"}
    assert summary.usage.calls == sum(stage.usage.calls for stage in paid)
    assert summary.usage.usd == pytest.approx(sum(stage.usage.usd for stage in paid))


def test_a_run_that_is_done_says_so_and_names_its_best_round(whole: RunFolder) -> None:
    summary = summarise(whole)
    assert summary.next_stage is None
    assert summary.stopped is None
    assert [each.number for each in summary.rounds] == [BACKBONE, 0, 1, 2]
    assert summary.best == 2
    assert summary.gain is not None
    assert (summary.gain.before, summary.gain.after) == (0, 2)
    assert sentences.state(summary) == "Done, 2 of 2 rounds trained. Best round by the dev split: S_2."


def test_a_student_without_a_dev_figure_is_not_the_best_and_stops_nothing(tmp_path) -> None:
    config = make_config(tmp_path, curriculum={"stop": {"min_seeds": 0, "patience": 1, "min_gain": 0.9}})
    run = build_run(tmp_path, config=config)
    scores = run.rows(at := StageAt("evaluate", 2))
    dev = pl.col("split") == "dev"
    run.write(at, scores.with_columns(value=pl.when(~dev).then("value")))
    assert summarise(run).best == 1
    assert history(run, 2)[-1].dev_score is None
    assert (stop_reason(run, 1) is None, stop_reason(run, 2)) == (False, None)


@pytest.mark.parametrize(
    ("until", "then"),
    [
        (StageAt("pool"), StageAt("label")),
        (StageAt("teach"), StageAt("answer_heldout", BACKBONE)),
        (StageAt("train", 0), StageAt("answer_heldout", 0)),
        (StageAt("select", 1), StageAt("expand", 1)),
        (StageAt("mix", 1), StageAt("train", 1)),
        (StageAt("train", 1), StageAt("answer_heldout", 1)),
    ],
)
def test_an_unfinished_run_is_summarised_as_far_as_it_is(tmp_path, until: StageAt, then: StageAt) -> None:
    summary = summarise(build_run(tmp_path, until=until))
    assert summary.next_stage == then
    trained = int(until == StageAt("train", 1))
    assert sentences.state(summary).startswith(f"Unfinished, {trained} of 2 rounds trained. Next stage: {then}.")
    last = summary.rounds[-1] if summary.rounds else None
    assert last is None or last.scores is None or last.number == BACKBONE


def test_a_round_without_its_selection_has_scores_and_no_seeds(tmp_path) -> None:
    judged = summarise(build_run(tmp_path, until=StageAt("difficulty", 1))).round(1)
    assert judged is not None
    assert judged.scored
    assert judged.seeds is judged.delta is judged.hard_share is judged.expansion is judged.mixture is None


def test_a_stage_whose_folder_is_gone_and_all_that_read_it_count_as_not_done(tmp_path) -> None:
    run = build_run(tmp_path)
    run.storage.remove(StageAt("judge", 2).folder)
    summary = summarise(RunFolder(run.ref))
    assert summary.next_stage == StageAt("judge", 2)
    second = summary.round(2)
    assert second is not None
    assert [stage.name for stage in second.stages] == ["answer"]


def test_a_run_that_the_stop_rule_ended_is_done(tmp_path) -> None:
    config = make_config(tmp_path)
    stop = config.curriculum.stop.model_copy(update={"min_seeds": 1000})
    config = config.model_copy(update={"curriculum": config.curriculum.model_copy(update={"stop": stop})})
    run = build_run(tmp_path, until=StageAt("select", 1), config=config)
    summary, progress = summarise(run), read_progress(RunReader(run), {})
    assert summary.next_stage is None
    assert summary.stopped is not None
    assert "min_seeds = 1000" in summary.stopped
    assert (progress.stopped, progress.next_stage, progress.seconds_left) == (summary.stopped, None, 0.0)
    assert sentences.state(summary).startswith("Stopped early, 0 of 2 rounds trained: ")


def test_a_run_without_a_heldout_set_has_no_scores(tmp_path) -> None:
    config = make_config(tmp_path, data={"pool": {"type": "standin", "rows": 120}})
    summary = summarise(build_run(tmp_path, config=config))
    assert summary.next_stage is None
    assert summary.best is summary.gain is None
    assert summary.students == ()


def test_one_order_alone_has_no_order_gap(tmp_path) -> None:
    config = make_config(tmp_path, judge={"endpoint": {"type": "standin"}, "orders": ["teacher_first"]})
    first = summarise(build_run(tmp_path, until=StageAt("select", 1), config=config)).round(1)
    assert first is not None
    assert first.order_gap is None


def test_time_at_work_counts_an_overlap_once(whole: RunFolder) -> None:
    summary = summarise(whole)
    # The builder takes no time: all stages end within the same seconds, so their spans overlap.
    longest = max(stage.seconds for stage in summary.all_stages)
    assert longest - 0.1 <= summary.busy_seconds < sum(stage.seconds for stage in summary.all_stages)


def test_the_standin_is_named_also_behind_an_address_and_a_model_is_not(tmp_path) -> None:
    def endpoint(model: str) -> dict[str, object]:
        where = {"type": "openai", "base_url": "http://127.0.0.1:8099/v1", "api_key_env": None}
        return {"endpoint": {**where, "model": model, "identity": "here"}}

    config = make_config(tmp_path, teacher=endpoint("standin-teacher"), judge=endpoint("some-model"))
    summary = summarise(build_run(tmp_path, until=StageAt("pool"), config=config))
    assert sentences.caution(summary).startswith("The teacher of this run is the stand-in: ")
    config = make_config(tmp_path, run={"name": "real"}, teacher=endpoint("strong"), judge=endpoint("some-model"))
    assert sentences.caution(summarise(build_run(tmp_path, until=StageAt("pool"), config=config))) == ""
