"""What `make bench-train` makes of the times of its two sides, and which sides it does not compare."""

from pathlib import Path

import pytest

from benchmarks.training import Timing, check_alike, figures, make_rows, time_plain
from tapir_core.config import TrainingConfig
from tasks.engines.training.launch import TrainingJob


def make_timing(
    seconds_a_step: float = 1.0, *, first: float = 1.0, tokens: int = 100, loss: float = 2.0, steps: int = 4
):
    return Timing(
        seconds=[first + seconds_a_step * step for step in range(steps)],
        tokens=[tokens * step for step in range(1, steps + 1)],
        losses=[loss] * steps,
        padding_share=0.1,
        whole_seconds=20.0,
        whole_cpu_seconds=30.0,
    )


def make_job(folder: Path, **training: object) -> TrainingJob:
    settings = {"precision": "fp32", "batch_size": 16, "micro_batch_size": 8, "processes": 1, **training}
    return TrainingJob(
        base=folder,
        mixture=(folder / "rows.parquet",),
        output=folder / "attempt",
        training=TrainingConfig(**settings),
        epochs=1,
        learning_rate=1e-4,
        seed=0,
        log_path=folder / "log",
    )


def test_the_first_step_in_which_libraries_warm_up_counts_for_the_whole_time_alone():
    slow_start = figures({"ours": [make_timing()], "plain": [make_timing(first=50.0)]}, epochs=1)
    assert slow_start["ratio"] == 1.0
    assert slow_start["first_step_seconds"] == {"ours": 1.0, "plain": 50.0}


def test_a_line_break_that_one_side_trains_makes_its_rate_no_higher():
    found = figures({"ours": [make_timing()], "plain": [make_timing(tokens=102)]}, epochs=1)
    assert (found["ours"], found["theirs"]) == (100.0, 100.0)


def test_the_median_of_the_repeats_counts_and_their_spread_is_told():
    ours = [make_timing(0.5), make_timing(1.0), make_timing(10.0)]
    found = figures({"ours": ours, "plain": [make_timing(2.0)] * 3}, epochs=1)
    assert found["ratio"] == 2.0
    assert found["ratios"] == [4.0, 2.0, 0.2]
    assert found["spread"] == {"ours": [10.0, 200.0], "plain": [50.0, 50.0]}


def test_losses_are_those_of_the_last_epoch_in_which_both_sides_see_each_row_by_their_tokens():
    timing = Timing([1, 2, 3, 4], [10, 20, 30, 60], [9.0, 9.0, 4.0, 2.0], 0.0, 1.0, 1.0)
    assert (timing.loss(epochs=2), timing.loss(epochs=1), timing.final_loss) == (2.5, 4.666666666666667, 2.0)


@pytest.mark.parametrize("other", [{"steps": 5}, {"tokens": 120}, {"loss": 2.5}])
def test_sides_that_did_other_work_are_not_compared(tmp_path, other):
    with pytest.raises(SystemExit, match="the sides did other work"):
        check_alike({"ours": [make_timing()], "plain": [make_timing(**other)]}, make_job(tmp_path))


@pytest.mark.parametrize("training", [{"packing": True}, {"precision": "auto"}, {"batch_size": 12}])
def test_plain_trl_is_not_started_on_what_it_would_train_otherwise(tmp_path, training):
    with pytest.raises(SystemExit):
        time_plain(make_job(tmp_path, **training))
    assert not (tmp_path / "attempt").exists()


def test_rows_are_of_mixed_lengths_and_equal_for_equal_seeds():
    rows = make_rows(200, seed=7)
    lengths = sorted(sum(len(message["content"].split()) for message in row) for row in rows)
    assert rows == make_rows(200, seed=7)
    assert (lengths[0], lengths[-1]) == (20, 400)
    assert 70 < lengths[100] < 120
