import json
from dataclasses import replace
from typing import Any

import pytest

from tapir_core.calls import Role
from tapir_core.config import ModelIdentity
from tapir_core.config.load import load_config
from tapir_core.errors import ConfigError
from tapir_core.estimate.evidence import Asked
from tapir_core.estimate.run import (
    CALLS,
    HOURS,
    KNOWN_HOURS,
    Estimate,
    Figures,
    Span,
    estimate_json,
    forecast,
    load_estimate,
)
from tapir_core.estimate.workload import Pool, Prompts
from tapir_core.reporting.estimate_table import instead_sentence
from tapir_core.speeds import EndpointSpeed
from tests.estimates import measured
from tests.run_config import make_config

POOL = Pool(240, 120)
PRICED = {
    "type": "openai",
    "model": "some-model",
    "identity": "i",
    "usd_per_million_prompt_tokens": 1.0,
    "usd_per_million_completion_tokens": 10.0,
}
UNPRICED = {"type": "openai", "base_url": "https://llm.example.com/v1", "model": "some-model", "identity": "i"}


def estimate(pool: Pool = POOL, **sections: Any) -> Estimate:
    config = make_config("runs", **sections)
    return forecast(config, pool, measured(config))


def paid_by(teacher: Any, judge: Any, **more: Any) -> Estimate:
    return estimate(teacher={"endpoint": teacher}, judge={"endpoint": judge}, **more)


def stage(found: Estimate, name: str) -> Figures:
    return next(each for each in found.stages if each.name == name)


def spans(figures: Figures) -> list[Span]:
    loads = [figures.needed, figures.paid]
    found = [span for load in loads for span in (load.calls, load.prompt_tokens, load.completion_tokens, load.usd)]
    return [span for span in (*found, figures.hours, figures.steps) if span is not None]


def test_every_figure_lies_between_its_ends() -> None:
    found = paid_by(PRICED, PRICED)
    for figures in (*found.stages, found.total):
        for span in spans(figures):
            assert 0 <= span.low <= span.likely <= span.high


def test_the_stages_come_to_the_total() -> None:
    found = paid_by(PRICED, PRICED, evaluation={"baseline": "sft"})
    beside = [found.baseline] if found.baseline else []
    assert found.with_baseline
    parts = (*found.stages, *beside)
    assert sum(each.needed.calls.likely for each in parts) == pytest.approx(found.total.needed.calls.likely)
    assert sum(each.paid.usd.likely for each in parts if each.paid.usd) == pytest.approx(
        found.total.paid.usd.likely if found.total.paid.usd else None
    )


def test_a_baseline_is_all_rounds_trained_once_more_and_one_more_student_scored_and_counts_in_the_total() -> None:
    alone, found = (paid_by(PRICED, PRICED, evaluation={"baseline": said}) for said in ("none", "sft"))
    assert found.baseline is not None
    assert found.baseline.steps is not None
    assert found.total.steps is not None
    assert alone.total.steps is not None
    epochs, batch = 2.0, 128
    assert found.baseline.steps.high == 2 * -(-96 * epochs // batch)
    assert found.total.steps.likely == alone.total.steps.likely + found.baseline.steps.likely
    assert found.baseline.needed.calls.likely == 120, "the held-out set, asked of one student"
    assert found.stages == alone.stages


@pytest.mark.parametrize(
    ("teacher", "seconds", "said", "has_one"),
    [
        (PRICED, {"train": 1e-6}, {}, True),
        (PRICED, {"train": 1e3}, {}, False),
        (PRICED, {}, {}, False),
        (PRICED, {"train": 1e-6}, {"baseline": "none"}, False),
        (UNPRICED, {}, {}, False),
        (UNPRICED, {"train": 1e-6}, {}, True),
        (UNPRICED, {"train": 1e3}, {}, False),
        (UNPRICED, {}, {"baseline": "sft"}, True),
        ({"type": "standin"}, {}, {}, False),
        ({"type": "standin"}, {"train": 1e3}, {}, False),
    ],
    ids=str,
)
def test_a_run_has_a_baseline_where_it_costs_under_a_tenth_in_usd_and_in_hours_or_as_it_is_told(
    teacher: dict[str, Any], seconds: dict[str, float], said: dict[str, str], has_one: bool
) -> None:
    config = make_config("runs", teacher={"endpoint": teacher}, judge={"endpoint": teacher}, evaluation=said)
    # Of a large pool, so that calls take most of the time.
    found = forecast(config, Pool(24_000, 120), replace(measured(config), seconds=seconds))
    assert found.with_baseline is has_one
    assert any("baseline follows" in line for line in found.assumptions) is has_one


def test_a_baseline_whose_judge_costs_a_tenth_is_left_out_and_so_is_one_that_nothing_would_score() -> None:
    judged = {
        "benchmarks": {"mt": {"type": "mt_bench", "questions": "q.jsonl", "judge": PRICED}},
        "each_round": ["mt"],
    }
    config = make_config("runs", teacher={"endpoint": PRICED}, judge={"endpoint": PRICED}, evaluation=judged)
    asks: dict[Role, Prompts] = {"answer": Prompts(100.0, calls=160), "benchmark": Prompts(100.0, calls=160)}
    for questions, has_one in ((1, True), (1000, False)):
        size = {name: replace(each, calls=each.calls * questions) for name, each in asks.items()}
        sizes, seconds = {"mt": size}, {"train": 1e-6}
        found = forecast(config, Pool(24_000, 120), replace(measured(config), benchmarks=sizes, seconds=seconds))
        assert found.with_baseline is has_one
    without = make_config(
        "runs", teacher={"endpoint": PRICED}, judge={"endpoint": PRICED}, data={"pool": {"type": "standin"}}
    )
    assert not forecast(without, Pool(240), measured(without)).with_baseline


def test_an_estimate_of_before_has_no_baseline() -> None:
    written = json.loads(estimate_json(paid_by(PRICED, PRICED)))
    del written["baseline"], written["with_baseline"]
    assert not load_estimate(json.dumps(written)).with_baseline


def test_the_stand_in_and_the_student_cost_nothing() -> None:
    found = estimate()
    assert found.total.paid.usd == Span(0, 0, 0)
    assert found.unknown_prices == ()


def test_an_unknown_price_is_said_with_its_remedy_and_makes_no_sum() -> None:
    found = paid_by(PRICED, UNPRICED)
    assert stage(found, "judge").paid.usd is None
    assert stage(found, "teach").paid.usd is not None
    assert found.total.paid.usd is None
    assert len(found.unknown_prices) == 1
    assert "judge.endpoint" in found.unknown_prices[0]
    assert "usd_per_million_prompt_tokens" in found.unknown_prices[0]


def test_a_price_is_that_of_prompt_and_completion_tokens() -> None:
    paid = stage(paid_by(PRICED, PRICED), "label").paid
    assert paid.usd is not None
    expected = (paid.prompt_tokens.likely * 1.0 + paid.completion_tokens.likely * 10.0) / 1e6
    assert paid.usd.likely == pytest.approx(expected)


def test_a_batch_costs_half_and_takes_hours() -> None:
    live, batch = paid_by(PRICED, PRICED), paid_by(PRICED, PRICED | {"mode": "batch"})
    before, after = stage(live, "judge"), stage(batch, "judge")
    assert before.paid.usd is not None
    assert after.paid.usd is not None
    assert after.paid.usd.likely == pytest.approx(before.paid.usd.likely / 2)
    assert after.hours is not None
    assert after.hours.high == pytest.approx(2 * 24)
    assert stage(batch, "teach") == stage(live, "teach")


def test_what_the_store_holds_is_needed_and_not_paid() -> None:
    found = estimate(Pool(240, 120, stored_labels=240, stored_answers=240))
    for name in ("label", "teach"):
        assert stage(found, name).needed.calls.likely == 240
        assert stage(found, name).paid.calls.likely == 0
        assert stage(found, name).paid.completion_tokens.high == 0


def test_known_lengths_replace_assumed_ones_and_narrow_the_span() -> None:
    config = make_config("runs", teacher={"endpoint": PRICED})
    evidence = measured(config)
    assumed = stage(forecast(config, POOL, evidence), "teach").needed.completion_tokens
    known = replace(evidence, lengths={("teach", ModelIdentity("some-model", "i"), ""): 40.0})
    seen = stage(forecast(config, POOL, known), "teach").needed.completion_tokens
    assert seen.likely == 240 * 40
    assert seen.high / seen.low < assumed.high / assumed.low


def test_no_reply_is_longer_than_the_configuration_allows() -> None:
    found = paid_by(PRICED, PRICED, student={"sampling": {"max_tokens": 10}})
    answers = stage(found, "answer").needed
    assert answers.completion_tokens.high <= 10 * answers.calls.high


def test_every_judge_of_a_panel_is_asked_at_its_own_price_and_length() -> None:
    dearer = PRICED | {"model": "another", "usd_per_million_prompt_tokens": 3.0}
    dearer["usd_per_million_completion_tokens"] = 30.0
    one, both = (
        paid_by(PRICED, PRICED),
        estimate(teacher={"endpoint": PRICED}, judge={"endpoint": PRICED, "panel": [dearer]}),
    )
    before, after = stage(one, "judge"), stage(both, "judge")
    assert after.needed.calls.likely == 2 * before.needed.calls.likely
    assert before.paid.usd is not None
    assert after.paid.usd is not None
    assert after.paid.usd.likely == pytest.approx(4 * before.paid.usd.likely)
    assert stage(both, "teach") == stage(one, "teach")
    said = " ".join(both.assumptions)
    assert "Price of judge.endpoint: " in said
    assert "Price of judge.panel.0: " in said

    config = make_config("runs", teacher={"endpoint": PRICED}, judge={"endpoint": PRICED, "panel": [dearer]})
    lengths: dict[Asked, float] = {("judge", ModelIdentity("another", "i"), ""): 12.0}
    short = forecast(config, POOL, replace(measured(config), lengths=lengths))
    assert "judge 120, judge 12 (seen)" in " ".join(short.assumptions)
    judged = stage(short, "judge").needed
    assert judged.completion_tokens.likely == pytest.approx(judged.calls.likely / 2 * (120 + 12))


def test_the_judge_of_a_panel_that_has_no_price_is_named() -> None:
    (line,) = estimate(teacher={"endpoint": PRICED}, judge={"endpoint": PRICED, "panel": [UNPRICED]}).unknown_prices
    assert line.startswith("judge.panel.0: ")


def hours(figures: Figures) -> Span:
    assert figures.hours is not None
    return figures.hours


EXAMPLES = 64 * 3 + 2 * 96 * 2
"""Of all trainings, passes counted."""


def test_hours_of_earlier_runs_count_first_and_are_less_open() -> None:
    config = make_config("runs")
    seen = replace(measured(config), seconds={"train": 0.5, "label": 3.0}, weights=135e6)
    found = forecast(config, POOL, seen)
    assert hours(stage(found, "train")).likely == pytest.approx(EXAMPLES * 0.5 / 3600)
    assert hours(stage(found, "label")).likely == pytest.approx(240 * 3.0 / 3600)
    assert hours(stage(found, "label")).high == pytest.approx(KNOWN_HOURS[1] * 240 * 3.0 / 3600)
    assert "Hours of label, train are those of earlier runs" in " ".join(found.assumptions)


def test_hours_of_training_are_unknown_where_nobody_tells_the_size_of_the_student() -> None:
    found = estimate()
    assert stage(found, "train").hours is None
    said = " ".join(found.assumptions)
    assert "Hours of training are unknown and not in the total: 'embedded:smollm2-135m-instruct' does not say" in said


@pytest.mark.parametrize(("weights", "gpus"), [(135e6, 0), (135e6, 1), (7e9, 1), (7e9, 8)])
def test_hours_of_training_follow_the_size_of_the_student_and_what_trains_it(weights: float, gpus: int) -> None:
    config = make_config("runs")
    known = replace(measured(config), weights=weights, gpus=gpus)
    found = forecast(config, POOL, known)
    tokens = EXAMPLES * (known.prompts["teach"].tokens + 4)
    training = tokens * 6 * weights / (2e11 if gpus == 0 else gpus * 1e14)
    assert 3600 * hours(stage(found, "train")).likely == pytest.approx(training + 3 * 30)
    assert hours(stage(found, "train")).high == pytest.approx(HOURS[1] * hours(stage(found, "train")).likely)
    said = " ".join(found.assumptions)
    assert f"{weights / 1e9:.2g} billion weights" in said
    assert (f"with {gpus} GPUs" if gpus else "with a CPU") in said
    assert "7 starts of servers and trainings take 30 s each." in said


def test_the_hours_of_a_stage_are_those_of_its_calls_and_of_the_starts_of_its_server() -> None:
    """Of a slow processor: it reads and writes 741 tokens a second, however many requests are in flight."""
    config = make_config("runs")
    known = replace(measured(config), weights=135e6)
    found, rate = forecast(config, POOL, known), 2e11 / (2 * 135e6)
    for name, starts in (("answer", 0), ("evaluate", 4)):
        needed = stage(found, name).needed
        tokens = needed.prompt_tokens.likely + needed.completion_tokens.likely
        assert 3600 * hours(stage(found, name)).likely == pytest.approx(tokens / rate + 30 * starts)
    assert hours(found.total).likely == pytest.approx(sum(hours(each).likely for each in found.stages))


@pytest.mark.parametrize(("weights", "size"), [(135e6, ", of 0.3 GB in bf16."), (None, ".")])
def test_an_average_is_said_to_take_a_checkpoint_and_a_scoring(weights: float | None, size: str) -> None:
    plain, averaged = (make_config("runs", student=student) for student in ({}, {"average": "rounds"}))
    [said] = [
        each
        for each in forecast(averaged, POOL, replace(measured(averaged), weights=weights)).assumptions
        if "student.average" in each
    ]
    assert said == (
        "The average of the rounds' students (student.average) is one more student to be scored, and one more "
        f"checkpoint on the disk{size}"
    )
    assert not [each for each in forecast(plain, POOL, measured(plain)).assumptions if "student.average" in each]


def test_a_run_as_short_as_the_quickstart_is_not_told_to_take_no_time() -> None:
    """It took 7 minutes on two cores (docs/LOG.md)."""
    config = load_config("configs/quickstart.toml")
    known = replace(measured(config), weights=135e6)
    assert 7 / 3 < 60 * hours(forecast(config, Pool(600, 360), known).total).likely < 7 * 3


@pytest.mark.parametrize("at_once", [1, 4, 12, 64])
def test_hours_of_a_slow_local_server_are_right_within_a_factor_of_three_once_its_speed_was_measured(
    at_once: int,
) -> None:
    """A server that reads 100 tokens a second and writes 10 a request, and works at some requests at a time."""
    local = PRICED | {"base_url": "http://127.0.0.1:8000/v1"}
    config = make_config("runs", teacher={"endpoint": local}, judge={"endpoint": local})
    known = measured(config)
    # As `tapir doctor --try` asks: the judge reads the teacher's answer.
    tried: list[tuple[Role, float, float]] = [
        ("label", 0, 12),
        ("teach", 0, 250),
        ("expand", 0, 40),
        ("judge", 250, 120),
    ]
    replies = [(out, (known.prompts[role].tokens + shown) / 100 + out / 10) for role, shown, out in tried]
    speed = EndpointSpeed.fit(replies)
    speed = speed.beside_others([128.0] * 12, 12 / min(12, at_once) * speed.seconds(128.0))
    found = forecast(config, POOL, replace(known, speeds={config.teacher.endpoint.place: speed}))
    paid = found.charged.paid
    really = (paid.prompt_tokens.likely / 100 + paid.completion_tokens.likely / 10) / at_once
    assert really / 3 < 3600 * hours(found.charged).likely < 3 * really
    assert hours(stage(found, "label")).high == pytest.approx(KNOWN_HOURS[1] * hours(stage(found, "label")).likely)


def test_hours_are_those_of_the_speed_that_was_measured() -> None:
    teacher = PRICED | {"base_url": "http://127.0.0.1:8000/v1"}
    config = make_config("runs", teacher={"endpoint": teacher}, judge={"endpoint": PRICED})
    speeds = {config.teacher.endpoint.place: EndpointSpeed(20.0, 0.0, at_once=4.0)}
    found = forecast(config, POOL, replace(measured(config), speeds=speeds))
    labels = stage(found, "label")
    assert labels.hours is not None
    assert labels.hours.likely == pytest.approx(labels.paid.calls.likely * 20 / 4 / 3600)
    assert "teacher.endpoint 20.0 s and 0 ms a token for a reply, about 4 at once (measured)" in " ".join(
        found.assumptions
    )
    assert stage(found, "judge").hours == stage(paid_by(teacher, PRICED), "judge").hours


def test_more_requests_in_flight_take_less_time() -> None:
    one, many = (paid_by(PRICED, PRICED, calls={"concurrency": concurrency}).total.hours for concurrency in (1, 64))
    assert one is not None
    assert many is not None
    assert one.likely > 10 * many.likely


def test_limits_of_the_configuration_hold_back_and_more_addresses_help() -> None:
    slow = PRICED | {"requests_per_minute": 10}
    addresses = ["https://one.example.com/v1", "https://two.example.com/v1"]
    one, two = paid_by(PRICED, slow), paid_by(PRICED, slow | {"base_url": addresses})
    hours = [stage(each, "judge").hours for each in (one, two)]
    assert hours[0] is not None
    assert hours[1] is not None
    assert hours[0].likely == pytest.approx(stage(one, "judge").paid.calls.likely / 10 / 60)
    assert hours[1].likely == pytest.approx(hours[0].likely / 2)


def test_assumptions_are_said_in_words() -> None:
    said = " ".join(paid_by(PRICED, PRICED).assumptions)
    for word in ("Range: calls", "instructions", "store", "usable", "Price of teacher.endpoint"):
        assert word in said
    by_threshold = {"default": {"examples": 96, "selection": {"type": "threshold"}}}
    assert "above δ" in " ".join(paid_by(PRICED, PRICED, rounds=by_threshold).assumptions)
    at_random = {"default": {"examples": 96, "alpha": 0.0, "selection": {"type": "random", "share": 0.0}}}
    unjudged = " ".join(paid_by(PRICED, PRICED, rounds=at_random).assumptions)
    assert "nothing is judged in round 1, 2." in unjudged
    assert "nothing is judged" not in said


def test_a_round_that_is_likely_smaller_than_asked_for_is_said_with_both_numbers() -> None:
    rounds = {"default": {"examples": 1000, "alpha": 0.4, "selection": {"type": "hard_share", "share": 0.3}}}
    found = estimate(rounds=rounds)
    said = next(each for each in found.assumptions if "Round 1 takes about" in each)
    assert "and not the 1,000 that are asked for" in said
    assert "α = 0.40" in said
    enough = {"default": {"examples": 50, "alpha": 0.4, "selection": {"type": "hard_share", "share": 0.3}}}
    assert not [each for each in estimate(rounds=enough).assumptions if "takes about" in each]


def test_the_money_of_the_curriculum_is_told_in_plain_answers_of_the_same_teacher() -> None:
    found = paid_by(PRICED, PRICED)
    assert found.instead is not None
    usd = {each.name: each.paid.usd.likely for each in found.stages if each.paid.usd}
    assert found.instead.usd.likely == pytest.approx(usd["judge"] + usd["expand"] + usd["refine"])
    assert found.instead.answers.likely == pytest.approx(
        found.instead.usd.likely / (usd["teach"] / stage(found, "teach").paid.calls.likely)
    )
    assert found.instead.answers.low < found.instead.answers.likely < found.instead.answers.high
    free_judge = paid_by(PRICED, {**PRICED, "usd_per_million_prompt_tokens": 0, "usd_per_million_completion_tokens": 0})
    assert free_judge.instead is not None
    assert free_judge.instead.answers.likely < found.instead.answers.likely
    assert f"{found.instead.answers.likely:,.0f}" in instead_sentence(found)


def test_nothing_is_told_in_plain_answers_where_they_cost_nothing_or_a_price_is_unknown() -> None:
    assert estimate().instead is None
    assert paid_by(PRICED, UNPRICED).instead is None
    assert not instead_sentence(estimate())


def test_an_estimate_survives_being_written_and_read() -> None:
    found = paid_by(PRICED, UNPRICED)
    assert load_estimate(estimate_json(found)) == found


def test_a_damaged_estimate_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"estimate\.json"):
        load_estimate("{}")


def test_a_verifier_likely_scores_what_has_a_reference() -> None:
    config = make_config("runs", judge={"endpoint": PRICED, "verifier": "exact"})
    found, plain = (
        forecast(config, replace(POOL, references=60), measured(config)),
        paid_by({"type": "standin"}, PRICED),
    )
    calls, without = stage(found, "judge").needed.calls, stage(plain, "judge").needed.calls
    assert calls.likely == pytest.approx(0.75 * without.likely)
    [said] = [each for each in found.assumptions if "verifier" in each]
    assert "The verifier exact scores the 60 instructions with a reference in the judge's place" in said
    assert not [each for each in plain.assumptions if "verifier" in each]


def test_calls_that_are_counted_have_no_range_and_those_that_answers_decide_have_the_stated_one() -> None:
    found = paid_by(PRICED, PRICED)
    for name in ("label", "teach", "evaluate"):
        calls = stage(found, name).needed.calls
        assert calls.low == calls.likely == calls.high
    judge = stage(found, "judge").needed.calls
    assert (judge.low, judge.high) == pytest.approx([end * judge.likely for end in CALLS])
