import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapir_core.calls import FailureKind
from tapir_core.calls.retry import RetryPolicy, pause_before_retry
from tapir_core.config import CallsConfig

POLICY = RetryPolicy(max_attempts=6, backoff_seconds=1.0, max_backoff_seconds=10.0)


def pause(
    kind: FailureKind = "server", *, attempt: int = 1, retry_after: float | None = None, seed: int = 0
) -> float | None:
    return pause_before_retry(
        POLICY, kind=kind, attempt=attempt, retry_after_seconds=retry_after, rng=random.Random(seed)
    )


@pytest.mark.parametrize("kind", ["rate_limited", "server", "timeout", "connection"])
def test_what_another_attempt_may_heal_is_tried_until_the_attempts_are_used_up(kind: FailureKind):
    assert pause(kind, attempt=5) is not None
    assert pause(kind, attempt=6) is None


@pytest.mark.parametrize("kind", ["refused", "too_long", "bad_request", "bad_reply", "unauthorized", "budget"])
def test_what_another_attempt_cannot_heal_is_given_up_at_once(kind: FailureKind):
    assert pause(kind, attempt=1) is None


@given(st.integers(1, 5), st.integers())
def test_pauses_stay_within_the_doubling_limit(attempt: int, seed: int):
    waited = pause(attempt=attempt, seed=seed)
    assert waited is not None
    assert 0 <= waited <= min(10.0, 2.0 ** (attempt - 1))


def test_equal_failures_do_not_all_come_back_at_once():
    assert len({pause(attempt=3, seed=seed) for seed in range(20)}) > 10


@given(st.floats(0, 100), st.integers())
def test_retry_after_is_waited_in_full(retry_after: float, seed: int):
    waited = pause("rate_limited", retry_after=retry_after, seed=seed)
    assert waited is not None
    assert retry_after <= waited <= retry_after + 1.0


def test_a_retry_after_of_hours_gives_the_row_up_for_now():
    assert pause("rate_limited", retry_after=7200) is None


def test_the_policy_comes_from_the_configuration():
    config = CallsConfig(max_attempts=2, backoff_seconds=3, max_backoff_seconds=4)
    assert RetryPolicy.of(config) == RetryPolicy(2, 3, 4)
