import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapir_core.calls import FailureKind
from tapir_core.calls.limits import pause_before_retry
from tapir_core.config import CallsConfig

ATTEMPTS: dict[FailureKind, int] = {"connection": 10, "rate_limited": 12, "server": 8, "timeout": 3}
CONFIG: dict[str, Any] = {"max_attempts": 12, "retries": ATTEMPTS, "backoff_seconds": 1.0, "max_backoff_seconds": 10.0}


def pause(
    kind: FailureKind = "server",
    *,
    attempt: int = 1,
    others: dict[FailureKind, int] | None = None,
    retry_after: float | None = None,
    seed: int = 0,
    **config: Any,
) -> float | None:
    return pause_before_retry(
        CallsConfig.model_validate(CONFIG | config),
        kind=kind,
        failed={kind: attempt, **(others or {})},
        retry_after_seconds=retry_after,
        rng=random.Random(seed),
    )


@pytest.mark.parametrize(("kind", "attempts"), ATTEMPTS.items())
def test_each_kind_of_trouble_has_attempts_of_its_own(kind: FailureKind, attempts: int):
    assert pause(kind, attempt=attempts - 1) is not None
    assert pause(kind, attempt=attempts) is None


def test_attempts_that_failed_in_another_way_use_up_only_the_whole_number():
    assert pause("timeout", attempt=2, others={"rate_limited": 9}) is not None
    assert pause("timeout", attempt=2, others={"rate_limited": 10}) is None
    assert pause("timeout", attempt=2, others={"rate_limited": 11}) is None


@pytest.mark.parametrize("kind", ["refused", "too_long", "bad_request", "bad_reply", "unauthorized", "budget"])
def test_what_another_attempt_cannot_heal_is_given_up_at_once(kind: FailureKind):
    assert pause(kind, attempt=1) is None


@given(st.integers(1, 7), st.integers())
def test_pauses_stay_within_the_doubling_limit(attempt: int, seed: int):
    waited = pause(attempt=attempt, seed=seed)
    assert waited is not None
    assert 0 <= waited <= min(10.0, 2.0 ** (attempt - 1))


@pytest.mark.parametrize(("attempt", "longest"), [(1, 1.0), (2, 2.0), (3, 4.0), (4, 8.0), (5, 10.0), (7, 10.0)])
def test_pauses_are_spread_over_all_of_the_doubling_limit(attempt: int, longest: float):
    pauses = [pause(attempt=attempt, seed=seed) or 0.0 for seed in range(200)]
    assert min(pauses) < 0.05 * longest
    assert 0.95 * longest < max(pauses) <= longest


def test_a_limit_of_thousands_of_attempts_still_gives_a_pause():
    waited = pause(attempt=5000, max_attempts=10_000, retries={"server": 10_000})
    assert waited is not None
    assert waited <= 10.0


def test_equal_failures_do_not_all_come_back_at_once():
    assert len({pause(attempt=3, seed=seed) for seed in range(20)}) > 10


@given(st.floats(0, 100), st.integers())
def test_retry_after_is_waited_in_full(retry_after: float, seed: int):
    waited = pause("rate_limited", retry_after=retry_after, seed=seed)
    assert waited is not None
    assert retry_after <= waited <= retry_after + 1.0


def test_rows_with_one_retry_after_come_back_spread_over_the_first_backoff():
    pauses = [pause("rate_limited", retry_after=30, seed=seed, backoff_seconds=4.0) or 0.0 for seed in range(200)]
    assert min(pauses) < 30.2
    assert 33.8 < max(pauses) <= 34.0


def test_a_retry_after_of_ten_minutes_is_waited_and_one_of_hours_gives_the_row_up_for_now():
    assert pause("rate_limited", retry_after=600) is not None
    assert pause("rate_limited", retry_after=601) is None
