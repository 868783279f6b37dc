from typing import Any

import pytest

from tapir_core.config import StopConfig
from tapir_core.curriculum import RoundHistory, best_round, should_stop
from tapir_core.curriculum.stopping import STOP_RULES, alarming


def make_history(*scores: float | None, seeds: int = 100) -> list[RoundHistory]:
    """S_0 first."""
    return [RoundHistory(number, seeds if number else None, score) for number, score in enumerate(scores)]


@pytest.mark.parametrize(
    ("scores", "rule", "stops"),
    [
        ([0.2, 0.3, 0.4], {"patience": 1}, False),
        ([0.2, 0.3, 0.3], {"patience": 1}, False),
        ([0.2, 0.3, 0.29], {"patience": 1}, True),
        ([0.2, 0.3, 0.29], {"patience": 2}, False),
        ([0.2, 0.3, 0.29, 0.28], {"patience": 2}, True),
        ([0.2, 0.3, 0.25, 0.29], {"patience": 2}, True),
        ([0.2, 0.3, 0.305], {"patience": 1, "min_gain": 0.01}, True),
        ([0.2, 0.3, 0.2, 0.1], {"patience": 0}, False),
        ([0.2], {"patience": 1}, False),
        ([None, None, None], {"patience": 1}, False),
        ([0.3, 0.2, None], {"patience": 1}, False),
        ([], {"patience": 1}, False),
    ],
)
def test_the_run_stops_when_the_dev_score_no_longer_grows(
    scores: list[float | None], rule: dict[str, float], stops: bool
) -> None:
    reason = should_stop(make_history(*scores), StopConfig.model_validate(rule))
    assert (reason is not None) is stops


def test_too_few_seeds_stop_the_run_with_a_reason() -> None:
    reason = should_stop(make_history(0.2, None, seeds=3), StopConfig(min_seeds=4))
    assert reason == "round 1 has 3 seeds, fewer than min_seeds = 4"
    assert should_stop(make_history(0.2, None, seeds=4), StopConfig(min_seeds=4)) is None


DECIDES: dict[str, tuple[list[RoundHistory], dict[str, Any], dict[str, Any]]] = {
    "min_seeds": (make_history(0.2, None, seeds=3), {"min_seeds": 4}, {"min_seeds": 3}),
    "min_gain": (make_history(0.2, 0.3), {"min_gain": 0.2, "patience": 1}, {"min_gain": 0.0, "patience": 1}),
    "patience": (make_history(0.3, 0.2), {"patience": 1}, {"patience": 0}),
}
"""Field of `StopConfig` → a history, and settings with which the run stops and goes on."""


OF_ALARMS = {name for name in StopConfig.model_fields if name.startswith("max_")}
"""Limits that make an alarm of a student; tests/tapir_core/curriculum/test_alarms.py has a case of each."""


def test_every_field_decides_in_some_history_and_every_rule_gives_a_reason() -> None:
    lacking = sorted(StopConfig.model_fields.keys() - DECIDES.keys() - OF_ALARMS)
    assert lacking == [], "add a history in which it decides to DECIDES above, and its rule to STOP_RULES"
    reached = set()
    for field, (history, stops, goes_on) in DECIDES.items():
        reason = should_stop(history, StopConfig.model_validate(stops))
        assert reason, f"{field}: no rule of STOP_RULES in tapir_core/curriculum/stopping.py reads it"
        assert should_stop(history, StopConfig.model_validate(goes_on)) is None
        reached |= {each for each in STOP_RULES if each(history, StopConfig.model_validate(stops)) == reason}
    assert reached == {*STOP_RULES} - {alarming}, (
        "add a field or a history in which the rule gives its reason to DECIDES above"
    )


@pytest.mark.parametrize(
    ("scores", "best"),
    [
        ([0.2, 0.4, 0.3], 1),
        ([0.2, 0.4, 0.4], 1),
        ([0.2, None, 0.1], 0),
        ([None, None], None),
        ([0.0, 0.0], 0),
        ([], None),
    ],
)
def test_the_best_round_is_the_earliest_of_the_highest_score(scores: list[float | None], best: int | None) -> None:
    assert best_round(make_history(*scores)) == best


def judged_history(*values: list[float]) -> list[RoundHistory]:
    """S_0 first, with its value on each instruction of the dev split."""
    return [
        RoundHistory(
            number,
            100 if number else None,
            sum(each) / len(each),
            dict(zip(map(str, range(len(each))), each, strict=True)),
        )
        for number, each in enumerate(values)
    ]


GOOD, SAME_SIZE_NOISE, BAD = [1.0] * 30 + [0.0] * 10, [0.0] * 11 + [1.0] * 29, [1.0] * 15 + [0.0] * 25


@pytest.mark.parametrize(
    ("values", "rule", "stops"),
    [
        ([BAD, GOOD, BAD], {"patience": 1}, True),
        ([BAD, GOOD, SAME_SIZE_NOISE], {"patience": 1}, False),
        ([BAD, GOOD, GOOD], {"patience": 1}, False),
        ([BAD, GOOD, GOOD], {"patience": 1, "min_gain": 0.01}, True),
        ([BAD, GOOD, SAME_SIZE_NOISE], {"patience": 1, "min_gain": 0.01}, False),
        ([BAD, GOOD, BAD, GOOD], {"patience": 2}, False),
        ([BAD, GOOD, BAD, BAD], {"patience": 2}, True),
        ([BAD, GOOD, BAD], {"patience": 0}, False),
        ([[1.0] * 3, [0.0] * 3], {"patience": 1}, False),
    ],
)
def test_a_judged_dev_split_stops_the_run_only_by_a_paired_interval(
    values: list[list[float]], rule: dict[str, float], stops: bool
) -> None:
    reason = should_stop(judged_history(*values), StopConfig.model_validate(rule))
    assert (reason is not None) is stops
    assert reason is None or "95 % interval" in reason


@pytest.mark.parametrize(
    ("values", "best"),
    [
        ([BAD, GOOD, BAD], 1),
        ([BAD, GOOD, SAME_SIZE_NOISE], 2),
        ([BAD, BAD, GOOD], 2),
        ([GOOD, BAD, SAME_SIZE_NOISE], 2),
        ([GOOD, GOOD, BAD], 0),
        ([[1.0] * 3, [0.0] * 3], 1),
        ([], None),
    ],
)
def test_the_best_round_of_a_judged_dev_split_is_the_last_unless_the_interval_names_one(
    values: list[list[float]], best: int | None
) -> None:
    assert best_round(judged_history(*values)) == best
