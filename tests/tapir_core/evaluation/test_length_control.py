import random
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from tapir_core.errors import ConfigError
from tapir_core.evaluation.alpaca_eval import measure_annotations
from tapir_core.evaluation.length_control import (
    STRENGTHS,
    Annotation,
    LengthTables,
    choose_strength,
    control_length,
    fit_logistic,
    is_far_from,
    join_rows,
    length_alone,
    predict_win_rate,
    regression_rows,
    soft_rows,
)

N = 300
ALONE = length_alone(N)


def prefers_the_longer(model: int, baseline: int) -> float:
    return 2.0 if model > baseline else 1.0 if model < baseline else 1.5


def judge(
    times_longer: float, annotator: Callable[[int, int], float], seed: int = 0, spread: float = 0.5
) -> list[Annotation]:
    """Outputs that are about so much longer than the baseline's, judged by ``annotator``."""
    draw = random.Random(seed)
    lengths = [
        (round(1_000 * times_longer * draw.lognormvariate(0, spread)), draw.randint(500, 2_000)) for _ in range(N)
    ]
    return [Annotation(annotator(model, baseline), model, baseline) for model, baseline in lengths]


def tables_of(annotator: Callable[[int, int], float], difficulty: list[float]) -> LengthTables:
    """With judgments of the baseline told to be long, and told to be brief."""
    anchors = [
        soft_rows(judge(times, annotator, seed), difficulty, anchors=True) for times, seed in ((1.8, 1), (0.6, 2))
    ]
    return LengthTables(difficulty, join_rows(anchors))


@pytest.fixture
def difficulty() -> list[float]:
    draw = random.Random(3)
    return [draw.gauss(0, 1.5) for _ in range(N)]


@pytest.mark.parametrize("times_longer", [0.4, 0.6, 2.0, 2.5])
def test_what_the_longer_output_wins_by_length_alone_is_taken_off(times_longer: float, difficulty: list[float]) -> None:
    """An annotator that always prefers the longer output: controlled clearly nearer a half than raw."""
    tables = tables_of(prefers_the_longer, difficulty)
    for seed in range(10, 16):
        judged = judge(times_longer, prefers_the_longer, seed)
        found = measure_annotations(judged, tables)
        raw, controlled = found.win_rate.value, found.controlled.value
        minimal = control_length(judged, ALONE).value
        assert raw is not None
        assert controlled is not None
        assert minimal is not None
        assert abs(raw - 50) > 20
        assert abs(controlled - 50) < abs(raw - 50) / 2
        assert abs(minimal - 50) < abs(raw - 50) / 2, "the same without anchors and difficulty"


def test_an_annotator_without_logprobs_is_never_certain() -> None:
    """Else one that always prefers the longer output had no finite effect of length, and rates anywhere."""
    sure = [Annotation(preference, 100, 90) for preference in (1.0, 2.0, 1.5, None)]
    assert soft_rows(sure, [0.0] * 4).labels.tolist() == [0.002, 0.998, 0.5]
    weighted = [*sure, Annotation(1.25, 100, 90)]
    assert soft_rows(weighted, [0.0] * 5).labels.tolist() == [0.0, 1.0, 0.5, 0.25]


def test_a_better_model_stays_better(difficulty: list[float]) -> None:
    """An annotator that does not look at lengths: control changes little."""
    draw = random.Random(4)

    def prefers_the_model(model: int, baseline: int) -> float:
        return 1 + float(draw.random() < 0.8)

    judged = judge(1.0, prefers_the_model)
    tables = tables_of(lambda model, baseline: 1.5, difficulty)
    raw = 100 * float(np.mean([each.preference - 1 for each in judged if each.preference is not None]))
    assert control_length(judged, tables).value == pytest.approx(raw, abs=3)


def test_the_baseline_against_itself_is_a_half_without_a_fit(difficulty: list[float]) -> None:
    judged = [Annotation(1.5, 700, 700)] * N
    found = control_length(judged, tables_of(prefers_the_longer, difficulty))
    assert (found.value, found.spread) == (50.0, 0.0)
    assert (found.stderr, found.low, found.note) == (None, None, "the baseline against itself")


@pytest.mark.parametrize(
    "preference", [lambda longer: 1.0, lambda longer: 2.0 if longer else 1.0], ids=["all lost", "parted by length"]
)
def test_where_every_judgment_is_predicted_as_it_is_no_error_is_known(
    preference: Callable[[bool], float], difficulty: list[float]
) -> None:
    judged = [Annotation(preference(number % 2 > 0), 900 if number % 2 else 300, 600) for number in range(40)]
    for tables in (tables_of(prefers_the_longer, difficulty), ALONE):
        rate = control_length(judged, tables)
        assert rate.value is not None
        assert (rate.stderr, rate.low, rate.high) == (None, None, None)
        assert "leaves nothing to tell its error by" in rate.note


def test_equally_long_outputs_have_no_effect_of_length() -> None:
    judged = [Annotation(1.0 + number % 4 / 3, 700, 700) for number in range(N)]
    assert fit_logistic(regression_rows(judged, ALONE), 100.0)[:2].tolist() == [0.0, 0.0]


def test_a_failed_judgment_counts_for_the_spread_of_lengths_and_for_the_prediction(difficulty: list[float]) -> None:
    judged = judge(1.5, prefers_the_longer)
    failed = [replace(judged[0], preference=None), *judged[1:]]
    tables = replace(ALONE, difficulty=difficulty)
    longer = [replace(failed[0], model_chars=90_000), *failed[1:]]
    one, other = (fit_logistic(regression_rows(each, tables), 10.0) for each in (failed, longer))
    assert abs(one - other).max() > 1e-3
    assert control_length(failed, tables).n == N


def test_a_prediction_has_the_spread_of_its_parts_and_no_interval() -> None:
    found = predict_win_rate(np.array([-1.0, 1.0, 0.0]), [-1.0, 0.0, 1.0, 0.0])
    shares = [100 / (1 + np.exp(-each)) for each in (-1, 0, 1, 0)]
    assert found.value == pytest.approx(50)
    assert found.spread == pytest.approx(np.std(shares, ddof=1) / 2)
    assert (found.stderr, found.low, found.high) == (None, None, None)


def test_where_lengths_say_nothing_the_sampling_error_is_that_of_the_mean() -> None:
    draw = random.Random(6)
    judged = [Annotation(1 + draw.random(), 700, 700) for _ in range(N)]
    found = control_length(judged, ALONE)
    shares = [100 * (each.preference - 1) for each in judged if each.preference is not None]
    assert found.stderr == pytest.approx(np.std(shares, ddof=1) / N**0.5)
    assert found.spread == pytest.approx(0), "every prediction is the same, which says nothing of other instructions"


def test_the_sampling_error_is_what_a_bootstrap_over_instructions_finds(difficulty: list[float]) -> None:
    draw = random.Random(7)

    def prefers_the_longer_mostly(model: int, baseline: int) -> float:
        return 1 + draw.betavariate(0.8, 0.4) if model > baseline else 1 + draw.betavariate(0.2, 0.8)

    judged = judge(1.4, prefers_the_longer_mostly)
    tables = tables_of(prefers_the_longer_mostly, difficulty)
    found, strength = control_length(judged, tables), choose_strength(regression_rows(judged, tables))
    rates = []
    for _ in range(100):
        places = draw.choices(range(N), k=N)
        again, table = [judged[place] for place in places], [difficulty[place] for place in places]
        rows = regression_rows(again, replace(tables, difficulty=table))
        drawn = predict_win_rate(fit_logistic(rows, strength), table)
        rates.append(drawn.value)
    assert found.stderr == pytest.approx(np.std(rates, ddof=1), rel=0.2)
    assert found.spread is not None
    assert found.spread < found.stderr / 2


def test_an_interval_stays_within_0_and_100_around_its_rate(difficulty: list[float]) -> None:
    draw = random.Random(8)
    judged = judge(1.0, lambda model, baseline: 1 + float(draw.random() < 0.02))[:40]
    rate = control_length(judged, replace(ALONE, difficulty=difficulty))
    assert rate.value is not None
    assert 0 < rate.low < rate.value < rate.high < 100
    few = control_length(judged[:3], replace(ALONE, difficulty=difficulty))
    assert (few.low, few.note) == (None, "3 judgments only")
    assert control_length(judged[:1], replace(ALONE, difficulty=difficulty)).low is None


def test_the_strength_is_one_of_the_grid_and_small_where_there_is_nothing_to_learn() -> None:
    draw = random.Random(5)
    judged = judge(1.0, lambda model, baseline: 1.0 + draw.random())
    assert choose_strength(regression_rows(judged, ALONE)) in STRENGTHS[:5]
    assert choose_strength(regression_rows(judge(1.0, prefers_the_longer), ALONE)) in STRENGTHS[5:]


def test_more_judgments_than_the_table_has_instructions_are_refused(difficulty: list[float]) -> None:
    judged = judge(1.0, prefers_the_longer)
    with pytest.raises(ConfigError, match="300 annotations, but a difficulty table of 299"):
        measure_annotations(judged, LengthTables(difficulty[1:], ALONE.anchors))


@pytest.mark.parametrize(
    ("controlled", "raw", "far"),
    [(9, 20, True), (11, 20, False), (41, 20, True), (39, 20, False), (37, 50, True), (63, 50, True), (62, 50, False)],
)
def test_a_rate_far_from_the_raw_one_is_doubted(controlled: float, raw: float, far: bool) -> None:
    assert is_far_from(controlled, raw) == far
