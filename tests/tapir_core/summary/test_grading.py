import random

import polars as pl
import pytest

from tapir_core.paths import BACKBONE
from tapir_core.reporting.report import choose_examples
from tapir_core.run_folder import RunFolder
from tapir_core.stages import StageAt
from tapir_core.summary import RunReader, measure_gain
from tests.run_builder import build_run

STUDENTS = [BACKBONE, 0, 2]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return build_run(tmp_path_factory.mktemp("whole"))


def test_a_gain_is_the_difference_of_the_two_scores(whole: RunFolder) -> None:
    gain = measure_gain(RunReader(whole), 0, 2)
    scores = [whole.rows(StageAt("evaluate", number)).filter(split="test", category="all") for number in (0, 2)]
    before, after = (scores[0]["value"][0], scores[1]["value"][0])
    assert gain is not None
    found = gain.paired
    assert found.value == pytest.approx(100 * (after - before))
    assert (found.n, gain.paired.failed) == (scores[0]["n"][0], 0)
    assert found.low < found.value < found.high
    assert 0 < gain.paired.p <= 1


def test_what_failed_is_in_no_gain_and_no_example(tmp_path) -> None:
    run = build_run(tmp_path)
    answers = run.rows(at := StageAt("answer_heldout", 2))
    test = run.rows(StageAt("heldout")).filter(split="test")["instruction_id"].sort()
    lost = pl.col("instruction_id").is_in(test[:3].implode())
    run.write(at, answers.with_columns(response=pl.when(~lost).then("response")))
    gain, examples = measure_gain(RunReader(run), 0, 2), choose_examples(RunReader(run), STUDENTS, 10, random.Random(1))
    assert gain is not None
    assert examples is not None
    assert (gain.paired.n, gain.paired.failed, examples.n) == (77, 3, 77)

    lost = pl.col("instruction_id").is_in(test[:5].implode())
    run.write(at, answers.with_columns(response=pl.when(~lost).then("response")))
    gain = measure_gain(RunReader(run), 0, 2)
    assert gain is not None
    assert gain.paired.value is gain.paired.p is None
    assert "5 of 80 instructions failed" in gain.paired.note


def test_no_gain_of_a_student_that_was_not_asked(tmp_path) -> None:
    assert measure_gain(RunReader(build_run(tmp_path, until=StageAt("evaluate", 0))), 0, 1) is None
