import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapir_core.errors import ConfigError
from tests.doubles.faults import FaultKind, Faults, FaultScript, Window, draw_unit

SHARES: dict[FaultKind, float] = {"429": 0.1, "500": 0.1, "hang": 0.02}


def draws(faults: Faults, rows: int = 4000, seen: int = 0, elapsed_seconds: float = 0.0) -> list[FaultKind | None]:
    return [faults.draw(f"body {number}", seen, elapsed_seconds) for number in range(rows)]


def test_each_fault_strikes_its_share_of_the_requests() -> None:
    counts = Counter(draws(Faults(SHARES)))
    for kind, share in SHARES.items():
        assert abs(counts[kind] / 4000 - share) < 4 * math.sqrt(share / 4000)
    assert counts.total() == 4000


def test_no_share_never_strikes_and_a_whole_one_always() -> None:
    assert set(draws(Faults({"429": 0.0, "500": 1.0}), rows=300)) == {"500"}
    assert set(draws(Faults({"429": 0.0}), rows=300)) == {None}


@given(st.text(), st.integers(0, 5), st.floats(0, 1e6), st.integers())
def test_the_same_request_at_the_same_turn_always_meets_the_same_fault(
    body: str, seen: int, seconds: float, seed: int
) -> None:
    faults = Faults(SHARES, seed=seed)
    assert faults.draw(body, seen, seconds) == faults.draw(body, seen, 0.0)


def test_a_repeated_request_and_another_seed_draw_anew() -> None:
    first, again = draws(Faults(SHARES)), draws(Faults(SHARES), seen=1)
    struck_twice = sum(one is not None and other is not None for one, other in zip(first, again, strict=True))
    assert abs(struck_twice / 4000 - 0.22**2) < 0.015
    assert draws(Faults(SHARES, seed=1)) != first


def test_a_window_strikes_all_between_its_begin_and_its_end_and_goes_before_the_shares() -> None:
    faults = Faults({"500": 1.0}, (Window("hang", 10, 40),))
    moments = [faults.draw("body", 0, seconds) for seconds in (9.9, 10, 39.9, 40)]
    assert moments == ["500", "hang", "hang", "500"]


def test_a_window_without_an_end_never_ends_and_one_with_a_share_spares_the_rest() -> None:
    assert Faults(windows=(Window("hang", 10),)).draw("body", 0, 1e9) == "hang"
    counts = Counter(draws(Faults(windows=(Window("500", 0, share=0.5),))))
    assert 1850 < counts["500"] < 2150


def test_a_script_without_faults_is_false() -> None:
    assert not Faults()
    assert Faults({"429": 0.1})
    assert Faults(windows=(Window("hang", 0),))


def test_a_script_at_work_counts_how_often_a_body_came() -> None:
    faults = Faults({"500": 0.5})
    script = FaultScript(faults)
    script.start()
    bodies = [b"one", b"two", b"one", b"one", b"two"]
    turns = [0, 0, 1, 2, 1]
    expected = [FaultScript(faults) for _ in bodies]
    for each, body, turn in zip(expected, bodies, turns, strict=True):
        for _ in range(turn):
            each.next_fault(body)
    assert [script.next_fault(body) for body in bodies] == [
        each.next_fault(body) for each, body in zip(expected, bodies, strict=True)
    ]


def test_all_values_out_of_range_are_named() -> None:
    windows = (Window("hang", 40, 10), Window("500", -1, share=2))
    with pytest.raises(ConfigError) as caught:
        Faults({"429": 1.5, "500": math.nan}, windows, retry_after_seconds=-1, slow_seconds=math.inf)
    assert [problem.split(":")[0] for problem in caught.value.problems] == [
        "the share of '429' is 1.5",
        "the share of '500' is nan",
        "the share of the window of '500' is 2",
        "the window of 'hang' goes from 40 to 10 s",
        "the window of '500' goes from -1 to inf s",
        "retry_after_seconds is -1",
        "slow_seconds is inf",
    ]


def test_shares_of_more_than_all_requests_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"sum to 1\.2: lower some"):
        Faults({"429": 0.6, "500": 0.6})


@given(st.lists(st.one_of(st.text(), st.integers())))
def test_a_draw_is_from_zero_up_to_one(words: list[object]) -> None:
    assert 0 <= draw_unit(*words) < 1
