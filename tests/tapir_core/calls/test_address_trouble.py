"""When an address is in trouble, and when it is gone."""

import pytest

from tapir_core.calls.endpoint import Address
from tapir_core.calls.types import Answer, Endpoint, Failure, FailureKind
from tapir_core.calls.wire import Reply
from tapir_core.config import CallsConfig

WHERE = "http://h/v1"
ENDPOINT = Endpoint(WHERE, 8, "sk-1", "MY_KEY")
GOOD = Reply(Answer("fine", "stop", 1, 1))


def reply_of(kind: FailureKind, *, raw: str | None = None, at_fault: bool = False, clear: bool = False) -> Reply:
    return Reply(Failure(kind, f"it was {kind}"), raw=raw, endpoint_at_fault=at_fault or clear, refuses_everybody=clear)


def observe(address: Address, *replies: Reply, every: float = 1.0, start: float = 0.0) -> Failure | None:
    given_up = None
    for number, reply in enumerate(replies):
        began = start + number * every
        given_up = address.observe(reply, began=began, now=began + 0.5, endpoint=ENDPOINT)
    return given_up


def address_of(dead_after_seconds: float = 10.0) -> Address:
    return Address(WHERE, 8, CallsConfig(dead_after_seconds=dead_after_seconds))


def test_silence_for_long_enough_gives_the_address_up():
    silent = reply_of("connection")
    assert observe(address_of(), *[silent] * 10) is None
    given_up = observe(address_of(), *[silent] * 11)
    assert given_up is not None
    assert "has answered nothing for 10 s (last: it was connection)" in given_up.message


def test_a_few_slow_calls_alone_give_nothing_up():
    assert observe(address_of(), *[reply_of("timeout")] * 2, every=100.0) is None
    assert observe(address_of(), *[reply_of("timeout")] * 3, every=100.0) is not None


@pytest.mark.parametrize("sign_of_life", [GOOD, reply_of("server", raw="oops"), reply_of("rate_limited", raw="{}")])
def test_any_reply_is_a_sign_of_life(sign_of_life: Reply):
    address = address_of()
    observe(address, *[reply_of("connection")] * 9)
    observe(address, sign_of_life, start=9.0)
    assert observe(address, *[reply_of("connection")] * 10, start=9.5) is None


def test_after_it_was_given_up_the_first_failure_says_so_again():
    address = address_of()
    observe(address, *[reply_of("connection")] * 11)
    assert observe(address, reply_of("connection"), start=1000.0) is not None


def test_one_that_refuses_everybody_is_given_up_at_once_and_one_that_answered_only_after_three():
    refusal = reply_of("unauthorized", raw="{}", clear=True)
    given_up = observe(address_of(), refusal)
    assert given_up is not None
    assert "MY_KEY" in given_up.message
    address = address_of()
    assert observe(address, GOOD, *[refusal] * 2) is None
    assert observe(address, refusal, start=3.0) is not None


def test_what_may_be_the_fault_of_one_row_is_waited_for_longer_and_stops_no_run():
    refusal = reply_of("unauthorized", raw="{}", at_fault=True)
    address = address_of()
    assert observe(address, GOOD, *[refusal] * 9) is None
    given_up = observe(address, refusal, start=10.0)
    assert given_up is not None
    assert not given_up.refuses_all


def test_refusals_that_were_under_way_together_count_as_one():
    address = address_of()
    observe(address, GOOD)
    refusal = reply_of("unauthorized", raw="{}", clear=True)
    together = [
        address.observe(refusal, began=1.0, now=2.0 + n / 100, endpoint=ENDPOINT, key=str(n)) for n in range(32)
    ]
    assert together == [None] * 32
    assert address.observe(refusal, began=3.0, now=3.1, endpoint=ENDPOINT, key="a") is None
    assert address.observe(refusal, began=3.0, now=3.1, endpoint=ENDPOINT, key="b") is not None


def test_a_row_that_is_refused_while_others_are_answered_gives_nothing_up():
    address = address_of()
    refusal = reply_of("connection", raw="{}", clear=True)
    for n in range(20):
        observe(address, GOOD, start=2.0 * n)
        assert address.observe(refusal, began=2.0 * n + 1, now=2.0 * n + 1.5, endpoint=ENDPOINT, key=f"{n % 4}") is None
    for n in range(20):
        assert address.observe(refusal, began=50.0 + n, now=50.5 + n, endpoint=ENDPOINT, key=f"{n % 4}") is None


@pytest.mark.parametrize("kind", ["server", "connection", "timeout"])
def test_five_failures_in_a_row_are_its_trouble_and_an_answer_heals_it(kind: FailureKind):
    address = address_of()
    observe(address, *[reply_of(kind, raw="oops")] * 4)
    assert address.trouble is None
    observe(address, reply_of(kind, raw="oops"))
    assert address.trouble is not None
    assert f"5 times in a row (last: it was {kind})" in address.trouble.message
    observe(address, GOOD)
    assert address.trouble is None


@pytest.mark.parametrize("kind", ["rate_limited", "refused", "too_long", "bad_request"])
def test_what_a_healthy_server_says_too_brings_no_address_into_trouble(kind: FailureKind):
    address = address_of()
    observe(address, *[reply_of(kind, raw="{}")] * 20)
    assert address.trouble is None
