"""Requests and tokens per minute: laws of the buckets in their own time, and the queue in real time."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapir_core.calls.limits import Bucket, RateLimit, Rates


def send_all(rates: Rates, wanted: list[int], *, now: float = 0.0) -> list[float]:
    """The times at which requests of so many tokens go out, each as soon as it may."""
    sent = []
    for tokens in wanted:
        while delay := rates.delay(tokens, now):
            now += delay
        rates.take(tokens, now)
        sent.append(now)
    return sent


def rates_of(requests: float | None = None, tokens: float | None = None) -> Rates:
    return Rates(requests, tokens)


@given(st.floats(1, 6000), st.integers(2, 200))
def test_no_minute_sees_more_requests_than_the_limit_and_one_second_of_it(per_minute: float, count: int):
    sent = send_all(rates_of(per_minute), [10] * count)
    for first in sent:
        assert sum(first <= each < first + 60 for each in sent) <= per_minute + max(1.0, per_minute / 60) + 1


@given(st.floats(60, 100_000), st.lists(st.integers(1, 5000), min_size=2, max_size=100))
def test_tokens_go_out_at_their_rate_whatever_the_size_of_requests(per_minute: float, wanted: list[int]):
    sent = send_all(rates_of(tokens=per_minute), wanted)
    per_second = per_minute / 60
    assert sum(wanted[:-1]) <= per_second * sent[-1] + per_second + max(wanted) + 1


def test_without_limits_nothing_waits():
    assert send_all(rates_of(), [10_000] * 50) == [0.0] * 50


def test_both_limits_hold():
    assert send_all(rates_of(60, 6000), [10] * 4)[-1] == pytest.approx(3)
    assert send_all(rates_of(6000, 600), [10] * 4)[-1] == pytest.approx(3)


def test_tokens_that_an_answer_did_not_use_are_given_back():
    rates = rates_of(tokens=6000)
    permit = rates.take(100, 0.0)
    assert rates.delay(100, 0.0) == pytest.approx(1)
    rates.finish(permit, used_tokens=20, now=0.0)
    assert rates.delay(100, 0.0) == pytest.approx(0.2)


def test_a_limit_that_headers_show_holds_from_then_on():
    rates = rates_of()
    permit = rates.take(10, 0.0)
    rates.finish(permit, used_tokens=10, limits=(RateLimit("requests", 2, 60, 58),), now=0.0)
    assert send_all(rates, [10] * 4) == pytest.approx([0, 0, 1, 2])


def test_what_was_sent_since_counts_and_what_filled_up_since_too():
    rates = rates_of()
    first = rates.take(10, 0.0)
    rates.finish(first, used_tokens=10, limits=(RateLimit("requests", 10, 60, 50),), now=0.0)
    permit = rates.take(10, 1.0)
    for _ in range(3):
        rates.take(10, 1.0)
    # The provider had 5 left when that request came; 3 others went since, and 2 came back in 2 seconds.
    rates.finish(permit, used_tokens=10, limits=(RateLimit("requests", 5, 60, 55),), now=3.0)
    assert send_all(rates, [10] * 6, now=3.0) == pytest.approx([3, 3, 3, 3, 4, 5])


def test_an_older_reply_does_not_overrule_a_newer_one():
    rates = rates_of()
    old, new = rates.take(10, 0.0), rates.take(10, 1.0)
    rates.finish(new, used_tokens=10, limits=(RateLimit("requests", 0, 60, 60),), now=2.0)
    rates.finish(old, used_tokens=10, limits=(RateLimit("requests", 50, 60, 10),), now=2.0)
    assert rates.delay(10, 2.0) == pytest.approx(0.0)
    rates.take(10, 2.0)
    assert rates.delay(10, 2.0) == pytest.approx(1.0)


def test_a_full_limit_or_one_shown_in_part_teaches_nothing():
    rates = rates_of()
    permit = rates.take(10, 0.0)
    shown = RateLimit("requests", 60, 60, 0.01), RateLimit("tokens", 0)
    rates.finish(permit, used_tokens=10, limits=shown, now=0.0)
    assert send_all(rates, [10] * 100)[-1] == 0


def test_a_pause_holds_everybody_and_the_longest_counts_that_anybody_waits():
    rates = rates_of()
    for seconds in (5.0, 3.0, 601.0):
        rates.finish(rates.take(10, 0.0), used_tokens=0, now=0.0, pause_seconds=seconds)
    assert rates.delay(10, 1.0) == 4.0
    assert rates.delay(10, 5.0) == 0.0


@given(st.floats(0.1, 1e4), st.floats(1e-3, 1e3), st.lists(st.floats(0, 1e4), max_size=30))
def test_after_its_delay_an_amount_may_always_be_taken(capacity: float, per_second: float, amounts: list[float]):
    now = 0.0
    bucket = Bucket(per_second, capacity)
    for amount in amounts:
        for _ in range(3):
            delay = bucket.delay(amount, now)
            now += delay
        assert delay == pytest.approx(0.0, abs=1e-6)
        bucket.take(amount, now)


def test_who_came_first_goes_first_also_past_a_small_one():
    async def run() -> list[str]:
        rates = Rates(None, 60_000)
        order: list[str] = []

        async def go(name: str, tokens: int) -> None:
            await rates.acquire(tokens)
            order.append(name)

        await go("at once", 1000)
        await asyncio.gather(go("large", 200), go("small", 1))
        return order

    assert asyncio.run(run()) == ["at once", "large", "small"]


def test_who_gives_up_waiting_blocks_nobody():
    async def run() -> None:
        rates = Rates(None, 6000)
        await rates.acquire(100)
        waiting = asyncio.create_task(rates.acquire(6000))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait_for(rates.acquire(5), timeout=5)

    asyncio.run(run())
