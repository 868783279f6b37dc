import math
from collections.abc import Iterable
from dataclasses import replace

import pytest

from tapir_core.evaluation.alpaca_eval import is_switched, measure_annotations, measure_position
from tapir_core.evaluation.length_control import Annotation
from tapir_core.judging.agreement import favoured_position


def judged(preferences: Iterable[float | None]) -> list[Annotation]:
    return [Annotation(each, 100, 100) for each in preferences]


def test_rates_and_errors_are_those_of_the_formulae() -> None:
    found = measure_annotations(judged([1.0, 1.5, 1.9, 2.0, 1.2]))
    shares = [0.0, 50.0, 90.0, 100.0, 20.0]
    mean = sum(shares) / 5
    assert found.win_rate.value == pytest.approx(mean)
    spread = math.sqrt(sum((share - mean) ** 2 for share in shares) / 4)
    assert found.win_rate.stderr == pytest.approx(spread / math.sqrt(5))
    assert found.discrete.value == 50.0
    assert (found.outcomes, found.win_rate.n) == ("2 wins, 2 losses, 1 draws", 5)


def test_failed_judgments_are_in_no_figure_and_are_counted() -> None:
    whole = measure_annotations(judged([1.25] * 40))
    found = measure_annotations(judged([*[1.25] * 40, None]))
    assert replace(found.win_rate, failed=0) == whole.win_rate
    assert (found.win_rate.failed, found.discrete.failed) == (1, 1)


def test_above_the_allowed_share_of_failures_there_is_no_figure() -> None:
    preferences = [*[1.25] * 18, None, None]
    found = measure_annotations(judged(preferences))
    assert found.win_rate.value is None
    assert found.discrete.value is None
    assert found.win_rate.note == "2 of 20 judgments failed (10.0%), more than the 5.0% allowed"
    assert measure_annotations(judged(preferences), max_failed_share=0.1).win_rate.value == 25.0


@pytest.mark.parametrize("lost", [0, 1, 20])
def test_the_interval_of_a_rate_near_an_end_stays_within_0_and_100_and_has_a_width(lost: int) -> None:
    found = measure_annotations(judged([1.0] * lost + [2.0] * (20 - lost)))
    for rate in (found.win_rate, found.discrete):
        assert rate.value == 100 - 5 * lost
        assert 0 <= rate.low <= rate.value <= rate.high <= 100
        assert rate.high - rate.low > 10
    soft = measure_annotations(judged([1.2] + [1.99] * 19)).win_rate
    assert soft.low < soft.value < soft.high <= 100


def test_an_annotator_that_prefers_the_first_output_yields_a_half_and_is_found_out() -> None:
    orders = [is_switched(f"Write about {number}.") for number in range(400)]
    found = [Annotation(2.0 if switched else 1.0, 100, 100, switched) for switched in orders]
    rate = measure_annotations(found).win_rate
    assert rate.low is not None
    assert rate.high is not None
    assert rate.low < 50 < rate.high
    position = measure_position(found)
    assert position.value == 100
    assert favoured_position(position) == "first"


def test_an_annotator_that_looks_at_the_outputs_favours_no_position() -> None:
    orders = [is_switched(f"Write about {number}.") for number in range(400)]
    found = [Annotation(1.0 + number % 10 / 9, 100, 100, switched) for number, switched in enumerate(orders)]
    assert favoured_position(measure_position(found)) == "neither"


def test_the_gain_by_standing_first_has_welchs_error() -> None:
    first, second = [1.0, 1.5, 2.0, 1.7], [1.1, 1.3, 1.2, 1.0, 1.4]
    found = measure_position([Annotation(p, 1, 1, s) for s, side in ((True, first), (False, second)) for p in side])

    def moments(side: list[float]) -> tuple[float, float]:
        mean = sum(side) / len(side)
        return mean, sum((each - mean) ** 2 for each in side) / (len(side) - 1)

    (one, of_one), (other, of_other) = moments(first), moments(second)
    assert found.value == pytest.approx(100 * (one - other))
    welch = math.sqrt(of_one / len(first) + of_other / len(second))
    assert found.stderr == pytest.approx(100 * welch)


def test_without_known_orders_nothing_is_said_of_positions() -> None:
    assert measure_position(judged([1.0, 2.0])).value is None
