from dataclasses import replace
from typing import Any

import pytest

from tapir_core.calls import Answer, CallEngine, Endpoint, Failure, Outcome, Watch, ask_read, forget_unread
from tapir_core.calls.engine import REASK_STRIDE, Parsed
from tapir_core.config import Sampling
from tapir_core.text import MISSING, Unparsed
from tests.doubles.provider import FakeProvider, FakeReply, RecordedCall, Status, Text, echo, in_turn, make_request


def never() -> Endpoint:
    raise AssertionError("nothing should have to be asked")


def parse_number(_: int, answer: Answer) -> int | Unparsed:
    return int(answer.text) if answer.text.isdigit() else Unparsed("no number")


def test_a_parsable_reply_is_asked_for_once(engine: CallEngine):
    with FakeProvider(in_turn(Text("7"))) as provider:
        parsed = ask_read(engine, [make_request()], provider.endpoint, parse_number, 2)[0]
    assert (parsed.value, parsed.reason, parsed.raw, parsed.retryable) == (7, "", "7", False)
    assert len(parsed.outcomes) == 1


def test_a_reply_that_cannot_be_parsed_is_asked_for_again_with_another_seed(engine: CallEngine):
    with FakeProvider(in_turn(Text("seven"), Text("7"))) as provider:
        parsed = ask_read(engine, [make_request(sample_index=3)], provider.endpoint, parse_number, 2)[0]
        assert [call.body["seed"] for call in provider.calls] == [3, 3 + REASK_STRIDE]
    assert parsed.value == 7
    assert [outcome.text for outcome in parsed.outcomes if isinstance(outcome, Answer)] == ["seven", "7"]


def test_after_all_re_asks_the_parsers_reason_stands_and_the_raw_reply_is_kept(engine: CallEngine):
    with FakeProvider(in_turn(Text("a"), Text("b"), Text("c"))) as provider:
        parsed = ask_read(engine, [make_request()], provider.endpoint, parse_number, 2)[0]
    assert (parsed.value, parsed.reason, parsed.raw, len(parsed.outcomes)) == (None, "no number", "c", 3)
    assert not parsed.retryable


def test_without_re_asks_each_row_is_asked_once(engine: CallEngine):
    with FakeProvider(in_turn(Text("a"))) as provider:
        assert ask_read(engine, [make_request()], provider.endpoint, parse_number, 0)[0].value is None


def test_a_second_run_parses_the_stored_replies_and_pays_for_nothing(engine: CallEngine):
    with FakeProvider(in_turn(Text("a"), Text("7"))) as provider:
        first = ask_read(engine, [make_request()], provider.endpoint, parse_number, 2)
    again = ask_read(engine, [make_request()], never, parse_number, 2)
    assert again[0].value == first[0].value == 7
    assert all(outcome.stored for outcome in again[0].outcomes)


def test_a_better_parser_reads_the_old_replies(engine: CallEngine):
    with FakeProvider(in_turn(Text("seven"))) as provider:
        ask_read(engine, [make_request()], provider.endpoint, parse_number, 0)
    assert ask_read(engine, [make_request()], never, lambda _, answer: len(answer.text), 0)[0].value == 5


@pytest.mark.parametrize(
    ("reply", "reason", "retryable"),
    [(Text(None, refusal="No."), "refused", False), (Status(401), "unauthorized", True)],
)
def test_a_failure_is_not_re_asked(engine: CallEngine, reply: FakeReply, reason: str, retryable: bool):
    with FakeProvider(in_turn(reply)) as provider:
        parsed = ask_read(engine, [make_request()], provider.endpoint, parse_number, 2)[0]
    assert (parsed.value, parsed.reason, parsed.raw, parsed.retryable) == (None, reason, "", retryable)


def test_a_value_that_is_falsy_counts_as_parsed(engine: CallEngine):
    with FakeProvider(in_turn(Text("0"))) as provider:
        assert ask_read(engine, [make_request()], provider.endpoint, parse_number, 2)[0].value == 0


def test_each_row_is_reported_once_when_it_is_settled(engine: CallEngine):
    def script(call: RecordedCall) -> FakeReply:
        first_time = "seed" not in call.body
        return {"even": Text("2"), "late": Text("x" if first_time else "3"), "never": Text("x")}.get(
            call.prompt
        ) or Text(None, refusal="No.")

    reported: list[tuple[int, Outcome]] = []
    with FakeProvider(script) as provider:
        parsed = ask_read(
            engine,
            [make_request(prompt) for prompt in ("late", "even", "never", "refused")],
            provider.endpoint,
            parse_number,
            2,
            Watch(lambda row, outcome: reported.append((row, outcome))),
        )
    assert [each.value for each in parsed] == [3, 2, None, None]
    assert sorted(row for row, _ in reported) == [0, 1, 2, 3]
    assert all(outcome == parsed[row].counts_as for row, outcome in reported)
    assert parsed[2].counts_as == Failure("bad_reply", "no number: x", attempts=3)
    assert isinstance(parsed[3].outcome, Failure)
    assert all(outcome == parsed[row].outcome for row, outcome in reported if row != 2)


def test_the_endpoint_is_asked_for_once_over_all_re_asks(engine: CallEngine):
    asked: list[Endpoint] = []

    def source() -> Endpoint:
        asked.append(provider.endpoint())
        return asked[-1]

    with FakeProvider(echo) as provider:
        ask_read(engine, [make_request("x")], source, parse_number, 2)
        assert len(provider.calls) == 3
    assert len(asked) == 1


def test_a_row_that_is_forgotten_with_its_re_asks_is_asked_anew_and_no_other(engine: CallEngine):
    forgotten, kept = make_request("forget me"), make_request("keep me")
    with FakeProvider(echo) as provider:
        ask_read(engine, [forgotten, kept], provider.endpoint, parse_number, 2)
        assert forget_unread(engine, [forgotten], parse_number, 2) == 3
        assert forget_unread(engine, [forgotten], parse_number, 2) == 0
        assert engine.count_stored([forgotten, kept]) == 1
        ask_read(engine, [forgotten, kept], provider.endpoint, parse_number, 2)
        assert sorted(provider.prompts()) == ["forget me"] * 6 + ["keep me"] * 3


def test_what_was_read_is_not_forgotten_whichever_reask_it_took(engine: CallEngine):
    requests = [make_request(prompt) for prompt in ("even", "never", "refused")]
    replies = {"even": [Text("a"), Text("7")], "refused": [Text(None, refusal="No.")]}
    with FakeProvider(lambda call: (replies.get(call.prompt) or [Text("a")]).pop(0)) as provider:
        ask_read(engine, requests, provider.endpoint, parse_number, 2)
        assert forget_unread(engine, requests, parse_number, 2) == 3 + 1
        assert engine.count_stored(requests) == 1
    assert [each.value for each in ask_read(engine, requests[:1], never, parse_number, 2)] == [7]


@pytest.mark.parametrize("ending", ["stop", "length"])
def test_a_greedy_reply_is_shown_with_the_word_that_it_cannot_be_read(engine: CallEngine, ending: str):
    request = replace(make_request("Which number?"), sampling=Sampling(temperature=0.0))
    with FakeProvider(in_turn(Text("I weigh …", finish_reason=ending), Text("Nine."), Text("9"))) as provider:
        parsed = ask_read(engine, [request], provider.endpoint, parse_number, 2)[0]
        asked = [[message["content"] for message in call.body["messages"]] for call in provider.calls]
    assert asked == [["Which number?"], ["Which number?", "I weigh …", MISSING], ["Which number?", "Nine.", MISSING]]
    assert parsed.value == 9
    assert ask_read(engine, [request], never, parse_number, 2)[0].value == 9


@pytest.mark.parametrize("temperature", [0.7, "provider"])
def test_a_reply_that_was_drawn_is_drawn_anew(engine: CallEngine, temperature: Any):
    request = replace(make_request("x"), sampling=Sampling(temperature=temperature, max_tokens=9))
    with FakeProvider(in_turn(Text("I weigh …", finish_reason="length"), Text("9"))) as provider:
        assert ask_read(engine, [request], provider.endpoint, parse_number, 2)[0].value == 9
        first, second = (call.body for call in provider.calls)
    assert first["messages"] == second["messages"]
    assert first.get("seed") != second["seed"]


def test_an_empty_reply_is_not_shown(engine: CallEngine):
    with FakeProvider(in_turn(Text(" "), Text("9"))) as provider:
        ask_read(engine, [make_request("x")], provider.endpoint, parse_number, 2)
        assert {len(call.body["messages"]) for call in provider.calls} == {1}


def test_no_requests_give_no_results(engine: CallEngine):
    assert ask_read(engine, [], never, parse_number, 2) == []


def test_the_first_rows_are_asked_again_before_the_rest_is_asked_at_all(engine: CallEngine):
    settled: list[int] = []
    requests = [make_request(f"row {row}") for row in range(30)]
    with FakeProvider(lambda _: Text("x")) as provider:
        parsed = ask_read(
            engine,
            requests,
            provider.endpoint,
            parse_number,
            2,
            Watch(lambda row, _: settled.append(row), is_stopped=lambda: len(settled) >= 5, first=5),
        )
        assert sorted(set(provider.prompts())) == sorted(f"row {row}" for row in range(5))
        assert len(provider.calls) == 5 * 3
    assert [each.counts_as.kind for each in parsed if isinstance(each.counts_as, Failure)] == ["bad_reply"] * 5 + [
        "stopped"
    ] * 25


def test_a_reply_that_never_became_parsable_settles_as_a_failure_that_holds_it():
    answer, refusal = Answer("four", "stop", 10, 1), Failure("refused", "no")
    assert Parsed(4, "", (answer,)).counts_as is answer
    assert Parsed(None, "refused", (refusal,)).counts_as is refusal
    unread = Parsed(None, "no number", (answer, answer))
    assert unread.counts_as == Failure("bad_reply", "no number: four", attempts=2)
