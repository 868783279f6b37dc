import pytest

from tapir_core.calls import CallEngine
from tests.doubles.provider import FakeProvider, RecordedCall, Text, in_turn, make_request


def test_a_script_that_runs_out_fails_loudly(engine: CallEngine):
    requests = [make_request("a"), make_request("b")]
    with pytest.raises(AssertionError, match="run out"), FakeProvider(in_turn(Text("only one"))) as provider:
        engine.ask(requests, provider.endpoint)


def test_calls_are_recorded_as_they_arrived(engine: CallEngine):
    with FakeProvider() as provider:
        engine.ask([make_request("hello")], provider.endpoint)
        call = provider.calls[0]
    assert isinstance(call, RecordedCall)
    assert (call.prompt, call.body["model"], provider.prompts()) == ("hello", "fake-model", ["hello"])
