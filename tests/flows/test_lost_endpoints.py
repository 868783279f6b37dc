"""An endpoint that refuses everybody, and rows that their provider does not answer: what a run asks, says and does."""

import re
import shlex
from collections import Counter
from pathlib import Path
from zlib import crc32

import polars as pl
import pytest
from typer.testing import CliRunner

from flows.cli import app
from flows.distill import distill
from flows.driver import hold_run
from tapir_core.config import RunConfig
from tapir_core.errors import ConfigError
from tapir_core.stages import StageAt
from tasks.runtime import close_all
from tests.doubles.provider import FakeProvider, FakeReply, RecordedCall, Status, Text
from tests.run_config import make_config

pytestmark = pytest.mark.usefixtures("prefect_server")

WRONG_KEY = Status(401, {"error": {"message": "Incorrect API key provided: sk-no", "code": "invalid_api_key"}})
NO_MODEL = Status(404, {"error": {"message": "The model `a-teacher` does not exist", "code": "model_not_found"}})
BLOCKED = Status(200, {"choices": [], "prompt_feedback": {"block_reason": "PROHIBITED_CONTENT"}})
CLOSED = Status(200, {"choices": [], "note": "closed on Sundays"})


def make_small(root: Path, provider: FakeProvider, backbone: Path, rows: int) -> RunConfig:
    endpoint = {"type": "openai", "base_url": provider.base_url, "api_key_env": "", "model": "a-teacher"}
    return make_config(
        root,
        run={"name": "lost", "rounds": 1},
        data={"pool": {"type": "standin", "rows": rows}, "heldout": None},
        student={"backbone": str(backbone)},
        teacher={"endpoint": endpoint},
        judge={"endpoint": endpoint},
        calls={"backoff_seconds": 0.01, "shard_retry_seconds": 0.1, "rows_per_shard": 64},
    )


def answer(call: RecordedCall) -> FakeReply:
    return Text("Task type: Math" if "<task_types>" in call.prompt else f"An answer to {call.prompt}")


def is_plain(call: RecordedCall) -> bool:
    return "<task_types>" not in call.prompt and not call.prompt.startswith("Reply with")


def run_to_answers(config: RunConfig) -> pl.DataFrame:
    try:
        with hold_run(config, say=print) as run:
            distill(run.ref, until="teach")
        return run.rows(StageAt("teach"))
    finally:
        close_all()


@pytest.mark.parametrize(
    ("refusal", "cause", "remedy"),
    [(WRONG_KEY, "HTTP 401: Incorrect API key", "api_key_env"), (NO_MODEL, "HTTP 404: The model", "model name")],
    ids=["key", "model"],
)
def test_an_endpoint_that_refuses_everybody_is_asked_once(
    refusal: Status, cause: str, remedy: str, tmp_path: Path, backbone: Path
) -> None:
    with FakeProvider(lambda _: refusal, probed=True) as provider:
        with pytest.raises(ConfigError) as stopped:
            run_to_answers(make_small(tmp_path, provider, backbone, 400))
        assert len(provider.calls) == 1
    said = str(stopped.value).removeprefix("teacher.endpoint: ")
    assert said.startswith(cause)
    assert remedy in said
    assert "max_missing_share" not in said


def test_a_key_that_is_withdrawn_stops_the_run_after_three_refusals_in_a_row(tmp_path: Path, backbone: Path) -> None:
    def withdrawn(call: RecordedCall) -> FakeReply:
        return answer(call) if len(provider.calls) <= 100 else WRONG_KEY

    with FakeProvider(withdrawn) as provider:
        config = make_small(tmp_path, provider, backbone, 400)
        config = config.model_copy(update={"calls": config.calls.model_copy(update={"concurrency": 8})})
        with pytest.raises(ConfigError, match=r"^HTTP 401: Incorrect API key") as stopped:
            run_to_answers(config)
        assert len(provider.calls) <= 100 + 3 * 8, "what was in flight then, and nothing for the shards that follow"
    assert "max_missing_share" not in str(stopped.value)


@pytest.mark.parametrize(
    "refusal",
    [Status(403, "<html>blocked by the firewall</html>"), Status(404, {"error": {"message": "no such entry"}})],
    ids=["firewall", "not found"],
)
def test_a_few_rows_that_are_refused_each_for_itself_are_missing_and_stop_no_start(
    refusal: Status, tmp_path: Path, backbone: Path
) -> None:
    def some_refused(call: RecordedCall) -> FakeReply:
        is_refused = is_plain(call) and crc32(call.prompt.encode()) % 100 == 7
        refused.update([call.prompt] if is_refused else [])
        return refusal if is_refused else answer(call)

    refused = set[str]()
    with FakeProvider(some_refused) as provider:
        taught = run_to_answers(make_small(tmp_path, provider, backbone, 400))
    assert 3 <= len(refused) <= 8
    assert taught.height == 400 - len(refused)


def test_rows_that_the_provider_blocks_are_listed_and_left_out(tmp_path: Path, backbone: Path) -> None:
    odd = Counter[str]()

    def some_blocked(call: RecordedCall) -> FakeReply:
        if is_plain(call) and len(odd.keys() | {call.prompt}) <= 8:
            odd[call.prompt] += 1
            return (BLOCKED, CLOSED)[crc32(call.prompt.encode()) % 2]
        return answer(call)

    with FakeProvider(some_blocked) as provider:
        taught = run_to_answers(make_small(tmp_path, provider, backbone, 60))
        asked = len(provider.calls)
        assert run_to_answers(make_small(tmp_path, provider, backbone, 60)).equals(taught)
        assert len(provider.calls) == asked, "the second start asks nobody"
    assert taught.height == 60
    unanswered = taught.filter(pl.col("response").is_null())
    assert set(unanswered["finish_reason"]) <= {"refused", "failed:no_answer"}
    assert unanswered.height == 8
    assert max(odd.values()) <= 3


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (CLOSED, "closed on Sundays"),
        (BLOCKED, "PROHIBITED_CONTENT"),
        (Text("Half an ans", finish_reason="max_tokens"), "cut_off: Half an ans"),
        (Text(""), "empty"),
        (Text("Yes.<|im_end|>\n<|im_start|>user\nAnd?"), "control_token"),
        (Text("Yes.</s>"), "control_token"),
        (Status(200, {"choices": [{"message": {"content": None, "reasoning_content": "Hm."}}]}), "reasoning_content"),
        (Status(400, {"error": {"message": "what?"}}), "what?"),
    ],
    ids=["closed", "blocked", "cut off", "empty", "goes on", "ends twice", "thoughts alone", "wrong"],
)
def test_where_too_many_have_no_answer_the_run_stops_with_the_providers_words_and_its_remedy_works(
    reply: FakeReply, said: str, tmp_path: Path, backbone: Path
) -> None:
    healed = False

    def until_healed(call: RecordedCall) -> FakeReply:
        return reply if is_plain(call) and not healed else answer(call)

    with FakeProvider(until_healed) as provider:
        config = make_small(tmp_path, provider, backbone, 60)
        with pytest.raises(ConfigError) as stopped:
            run_to_answers(config)
        message = str(stopped.value)
        assert said in message
        healed = True
        commands = [shlex.split(each) for each in re.findall(r"`tapir ([^`]+)`", message)]
        assert [command[:2] for command in commands] == [["store", "prune"]]
        done = CliRunner().invoke(app, commands[0])
        removed = re.search(r"removed (\d+) rows", done.output)
        assert removed is not None, done.output
        taught = run_to_answers(config)
    assert taught["response"].null_count() == 0
    assert int(removed[1]) >= 20, "the rows that the message is about"
