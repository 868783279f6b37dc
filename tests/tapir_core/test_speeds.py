"""How fast an endpoint is, from replies of several lengths, and where it is kept."""

from pathlib import Path

import pytest

from tapir_core.speeds import EndpointSpeed, keep_speeds, known_speeds


@pytest.mark.parametrize(
    ("replies", "first", "token"),
    [
        ([(10, 1.2), (100, 3.0)], 1.0, 0.02),
        ([(5, 20.0), (300, 20.0), (60, 20.0)], 20.0, 0.0),
        ([(5, 20.0), (300, 10.0)], 15.0, 0.0),
        ([(5, 0.1), (300, 30.0)], 0.0, 30.1 / 305),
        ([(50, 2.0)], 2.0, 0.0),
    ],
    ids=["by length", "the same for all", "shorter is slower", "all by length", "one reply"],
)
def test_a_reply_takes_a_time_to_begin_and_a_time_for_each_token(
    replies: list[tuple[float, float]], first: float, token: float
) -> None:
    found = EndpointSpeed.fit(replies)
    assert (found.first_seconds, found.token_seconds) == pytest.approx((first, token), abs=1e-6)


@pytest.mark.parametrize(("took", "at_once"), [(60.0, 4.0), (240.0, 1.0), (900.0, 1.0), (21.0, 30.0)])
def test_how_many_are_worked_at_is_seen_by_how_long_they_take_together(took: float, at_once: float) -> None:
    assert EndpointSpeed(20.0, 0.0).beside_others([7.0] * 12, took).at_once == at_once


def test_speeds_are_kept_beside_those_of_other_endpoints(tmp_path: Path) -> None:
    root = str(tmp_path)
    assert known_speeds(root) == {}
    one, two = EndpointSpeed(1.0, 0.02, 4.0), EndpointSpeed(2.0, 0.0)
    keep_speeds(root, {"one": one, "two": one})
    keep_speeds(root, {"two": two})
    assert known_speeds(root) == {"one": one, "two": two}


def test_a_file_that_cannot_be_read_is_as_if_nobody_had_measured(tmp_path: Path) -> None:
    keep_speeds(str(tmp_path), {"one": EndpointSpeed(1.0, 0.0)})
    next(tmp_path.rglob("speeds.json")).write_bytes(b'{"one": \xff')
    assert known_speeds(str(tmp_path)) == {}
