"""When an address is failing, when it is gone, and how everybody who waits is told."""

import asyncio

import pytest

from tapir_core.calls.endpoint import Breaker, EndpointGivenUpError, Health
from tapir_core.calls.types import Answer, Endpoint, Failure, FailureKind
from tapir_core.calls.wire import Reply

WHERE = "http://h/v1"
ENDPOINT = Endpoint(WHERE, 8, "sk-1", "MY_KEY")
GOOD = Reply(Answer("fine", "stop", 1, 1))


def reply_of(kind: FailureKind, *, raw: str | None = None, at_fault: bool = False) -> Reply:
    return Reply(Failure(kind, f"it was {kind}"), raw=raw, endpoint_at_fault=at_fault)


def observe(health: Health, *replies: Reply, every: float = 1.0, start: float = 0.0) -> Failure | None:
    given_up = None
    for number, reply in enumerate(replies):
        began = start + number * every
        given_up = health.observe(reply, began=began, now=began + 0.5, endpoint=ENDPOINT)
    return given_up


def health_of(dead_after_seconds: float = 10.0) -> Health:
    return Health(WHERE, dead_after_seconds=dead_after_seconds)


def test_silence_for_long_enough_gives_the_address_up():
    silent = reply_of("connection")
    assert observe(health_of(), *[silent] * 10) is None
    given_up = observe(health_of(), *[silent] * 11)
    assert given_up is not None
    assert "has answered nothing for 10 s (last: it was connection)" in given_up.message


def test_a_few_slow_calls_alone_give_nothing_up():
    assert observe(health_of(), *[reply_of("timeout")] * 2, every=100.0) is None
    assert observe(health_of(), *[reply_of("timeout")] * 3, every=100.0) is not None


@pytest.mark.parametrize("sign_of_life", [GOOD, reply_of("server", raw="oops"), reply_of("rate_limited", raw="{}")])
def test_any_reply_is_a_sign_of_life(sign_of_life: Reply):
    health = health_of()
    observe(health, *[reply_of("connection")] * 9)
    observe(health, sign_of_life, start=9.0)
    assert observe(health, *[reply_of("connection")] * 10, start=9.5) is None


def test_after_it_was_given_up_the_first_failure_says_so_again():
    health = health_of()
    observe(health, *[reply_of("connection")] * 11)
    assert observe(health, reply_of("connection"), start=1000.0) is not None


def test_one_that_refuses_everybody_is_given_up_at_once_and_one_that_answered_only_after_ten():
    refusal = reply_of("unauthorized", raw="{}", at_fault=True)
    given_up = observe(health_of(), refusal)
    assert given_up is not None
    assert "MY_KEY" in given_up.message
    health = health_of()
    assert observe(health, GOOD, *[refusal] * 9) is None
    assert observe(health, refusal) is not None


@pytest.mark.parametrize("kind", ["server", "connection", "timeout"])
def test_five_failures_in_a_row_make_it_failing_and_an_answer_heals_it(kind: FailureKind):
    health = health_of()
    observe(health, *[reply_of(kind)] * 4)
    assert health.failing is None
    observe(health, reply_of(kind))
    assert health.failing is not None
    assert f"5 times in a row (last: it was {kind})" in health.failing
    observe(health, GOOD)
    assert health.failing is None


@pytest.mark.parametrize("kind", ["rate_limited", "refused", "too_long", "bad_request"])
def test_what_a_healthy_server_says_too_makes_no_address_failing(kind: FailureKind):
    health = health_of()
    observe(health, *[reply_of(kind, raw="{}")] * 20)
    assert health.failing is None


def test_tripping_ends_the_waiting_of_everybody_and_rearming_lets_new_ones_try():
    async def run() -> None:
        breaker, ended = Breaker(), list[str]()

        async def wait() -> None:
            try:
                with breaker:
                    await asyncio.sleep(60)
            except EndpointGivenUpError as given_up:
                ended.append(given_up.failure.message)

        waiting = [asyncio.create_task(wait()) for _ in range(3)]
        await asyncio.sleep(0)
        breaker.trip(Failure("connection", "gone"))
        breaker.trip(Failure("connection", "gone again"))
        await asyncio.gather(*waiting, wait())
        assert ended == ["gone"] * 4
        breaker.rearm()
        with breaker:
            pass

    asyncio.run(run())
