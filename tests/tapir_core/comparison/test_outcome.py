"""What an arm took is what its recipe asks for, read from a run's folder; measuring its students costs it nothing."""

import json
from pathlib import Path

import polars as pl
import pytest

from tapir_core.calls import Spend
from tapir_core.comparison.matching import buy_more
from tapir_core.comparison.outcome import ArmOutcome, read_outcome
from tapir_core.comparison.plan import Arm
from tapir_core.config.presets import RolePrices, TokenPrices
from tapir_core.paths import training_file
from tapir_core.run_folder import RunFolder
from tapir_core.stages import StageAt
from tests.run_builder import build_run
from tests.run_config import make_config

SAMPLES = Path(__file__).parents[3] / "configs" / "benchmarks"
BENCHMARKS = {
    "ae": {
        "type": "alpaca_eval",
        "questions": str(SAMPLES / "alpaca_eval.json"),
        "baseline": str(SAMPLES / "alpaca_eval_baseline.json"),
    }
}
AT_RANDOM = {"default": {"examples": 96, "alpha": 0.0, "selection": {"type": "random", "share": 0.0}}}
PRICES = RolePrices(
    **{
        role: TokenPrices(usd_per_million_prompt_tokens=1.0, usd_per_million_completion_tokens=1.0)
        for role in ("teacher", "judge")
    }
)


def build(root: Path, name: str, *, asked: bool, **sections: object) -> RunFolder:
    """A finished run, which asks its students a benchmark after each round or just keeps away from its questions."""
    evaluation = {
        "benchmarks": BENCHMARKS,
        "each_round": ["ae"] if asked else [],
        "decontamination": {"max_rouge_l": 1.0},
    }
    run = build_run(root, config=make_config(root, run={"name": name}, evaluation=evaluation, **sections))
    told = {"examples": 96, "total_tokens": 960, "trained_tokens": 96, "steps": 12, "epochs": 1.0}
    for number in range(run.config.run.rounds + 1):
        run.storage.write_bytes(training_file(StageAt("train", number).folder), json.dumps(told).encode())
    return run


def outcome(run: RunFolder) -> ArmOutcome:
    paid = {"teach": Spend(3, 1_000_000, 0), "judge": Spend(2, 0, 1_000_000), "answer": Spend(9, 1, 1)}
    return read_outcome(run, Arm("random", "Random", "rounds", False), 1, paid=paid, prices=PRICES)


@pytest.mark.parametrize("rounds", [{}, {"rounds": AT_RANDOM}])
def test_asking_students_a_benchmark_makes_an_arm_no_dearer(tmp_path: Path, rounds: dict[str, object]) -> None:
    plain, asked = (outcome(build(tmp_path, f"run-{asked}", asked=asked, **rounds)) for asked in (False, True))
    assert (asked.answers, asked.usd, asked.stored) == (plain.answers, plain.usd, plain.stored)
    assert (plain.answers["judge"] == 0) is bool(rounds), "random mixtures are judged by nobody"


def test_equal_usd_buys_as_much_whether_students_are_asked_a_benchmark_or_not(tmp_path: Path) -> None:
    bought = [
        buy_more(
            build(tmp_path, f"all-{asked}", asked=asked),
            build(tmp_path, f"one-{asked}", asked=asked, rounds=AT_RANDOM),
            PRICES,
        )
        for asked in (False, True)
    ]
    assert bought[0] == bought[1]


def test_labels_count_where_mixtures_go_by_task_type_and_not_where_they_are_drawn_from_all(tmp_path: Path) -> None:
    balanced = build(tmp_path, "balanced", asked=False, rounds=AT_RANDOM)
    natural = build(tmp_path, "natural", asked=False, rounds=AT_RANDOM, curriculum={"target_shares": "natural"})
    pool = balanced.rows(StageAt("pool")).height
    assert outcome(balanced).answers["teacher"] == 2 * pool
    assert outcome(natural).answers["teacher"] == pool
    assert outcome(natural).usd < outcome(balanced).usd


def test_an_answer_that_failed_for_good_is_missing_and_neither_right_nor_wrong(tmp_path: Path) -> None:
    run = build(tmp_path, "run", asked=False, rounds=AT_RANDOM)
    whole = outcome(run).students[2, "test"]
    answers = run.rows(at := StageAt("answer_heldout", 2))
    lost = set(list(whole.correct)[:3])
    run.write(at, answers.with_columns(response=pl.when(~pl.col("instruction_id").is_in(lost)).then("response")))
    found = outcome(run).students[2, "test"]
    assert (whole.missing, found.missing) == (0, 3)
    assert found.correct == {item: mark for item, mark in whole.correct.items() if item not in lost}


def test_what_was_sent_is_everything_but_the_students_own_answers(tmp_path: Path) -> None:
    found = outcome(build(tmp_path, "run", asked=False, rounds=AT_RANDOM))
    assert (found.paid_requests, found.paid_usd) == (5, 2.0)
    assert (found.last, found.trained.tokens, found.tokens_to(1)) == (2, 1920, 960)


def test_judgments_of_benchmarks_count_at_the_judges_price(tmp_path: Path) -> None:
    prices = RolePrices(
        teacher=TokenPrices(usd_per_million_prompt_tokens=10.0, usd_per_million_completion_tokens=10.0),
        judge=PRICES.judge,
    )
    run, arm = build(tmp_path, "run", asked=False, rounds=AT_RANDOM), Arm("random", "Random", "rounds", False)
    paid = {"benchmark": Spend(1, 1_000_000, 0), "label": Spend(1, 1_000_000, 0)}
    assert read_outcome(run, arm, 1, paid=paid, prices=prices).paid_usd == 1.0 + 10.0


def test_instructions_that_it_trained_on_are_counted_once_over_all_mixtures(tmp_path: Path) -> None:
    run = build(tmp_path, "run", asked=False, rounds=AT_RANDOM)
    mixtures = [run.rows(StageAt("mix", number))["instruction_id"].to_list() for number in range(3)]
    found = outcome(run).distinct
    assert found == len({each for mixture in mixtures for each in mixture})
    assert max(map(len, mixtures)) <= found < sum(map(len, mixtures))
