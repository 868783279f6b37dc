"""Conversations with tools, from a file to a student that is scored on its calls, on engines that answer."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from flows.cli import app
from tapir_core.config import RunConfig
from tapir_core.config.load import load_config, replace_values
from tapir_core.errors import ConfigError
from tapir_core.run_folder import RunFolder
from tapir_core.sources import clean_pool
from tapir_core.stages import StageAt
from tapir_core.tools import calls_in
from tapir_core.turns import user_texts
from tests.doubles.provider import FakeProvider, RecordedCall, Status, Text
from tests.golden.adapter import drive
from tests.students import make_tokenized

pytestmark = pytest.mark.usefixtures("prefect_server")

WEIGH = {"type": "function", "function": {"name": "weigh", "parameters": {"type": "object"}}}
ANIMALS = [f"animal {number}" for number in range(60)]


def reply(call: RecordedCall) -> Any:
    """A judge that finds answers equal; a teacher that weighs; a student that weighs another for each third."""
    messages, model = call.body["messages"], str(call.body["model"])
    if model == "judge-1":
        assert "<tools_turn>" in call.prompt, "the judge sees the tools"
        return Text("Scores: [[7, 7]]")
    assert call.body["tools"] == [WEIGH]
    if messages[-1]["role"] == "tool":
        return Text(f"It weighs {messages[-1]['content']}.")
    animal = str(messages[-1]["content"]).removeprefix("How heavy is ").removesuffix("?")
    wrong = "/" in model and ANIMALS.index(animal) % 3 == 0
    function = {"name": "weigh", "arguments": json.dumps({"animal": "okapi" if wrong else animal})}
    made = [{"id": "x", "type": "function", "function": function}]
    message = {"role": "assistant", "content": None, "tool_calls": made}
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls"}
    usage = {"prompt_tokens": 10, "completion_tokens": 5}
    return Status(200, {"id": "1", "object": "chat.completion", "model": model, "choices": [choice], "usage": usage})


@pytest.fixture(scope="module")
def provider() -> Iterator[FakeProvider]:
    with FakeProvider(reply) as provider:
        yield provider


def adopted(folder: Path, provider: FakeProvider) -> RunConfig:
    def example(animal: str) -> dict[str, Any]:
        function = {"name": "weigh", "arguments": json.dumps({"animal": animal})}
        turns = [
            {"role": "user", "content": f"How heavy is {animal}?"},
            {"role": "assistant", "tool_calls": [{"id": "a", "type": "function", "function": function}]},
            {"role": "tool", "tool_call_id": "a", "content": f"{len(animal)} kg"},
            {"role": "assistant", "content": f"It weighs {len(animal)} kg."},
        ]
        return {"messages": turns, "tools": [WEIGH]}

    (folder / "my.jsonl").write_text("".join(f"{json.dumps(example(each))}\n" for each in ANIMALS))
    at = ["--address", provider.base_url, "--model", "teacher-1", "--judge", "judge-1", "--student", "embedded"]
    done = CliRunner().invoke(app, ["adopt", str(folder / "my.jsonl"), str(folder / "moved.toml"), *at])
    assert done.exit_code == 0, f"{done.output}\n{done.exception!r}"
    backbone = make_tokenized(folder / "backbone", "<|im_start|>", "<|im_end|>", vocab_size=514)
    settings = ["rounds.default.examples=60", "basic_tuning.examples=20", f"run.root={folder / 'runs'}"]
    return load_config(folder / "moved.toml", [f"student.backbone={backbone}", *settings])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, provider: FakeProvider) -> Iterator[RunFolder]:
    config = adopted(tmp_path_factory.mktemp("tools"), provider)
    assert (config.student.chat_template, config.student.engine.shaping()["tool_parser"]) == ("chatml-tools", "hermes")
    engine = f'student.engine={{ type = "endpoint", base_url = "{provider.base_url}" }}'
    with pytest.MonkeyPatch.context() as patched:
        yield drive(replace_values(config, [engine]), patched)


def test_calls_and_what_follows_them_are_trained_on(run: RunFolder) -> None:
    trained = run.rows(StageAt("mix", 1))["messages"].to_list()
    assert {each[0]["role"] for each in trained} == {"tools"}
    called = [bool(calls_in(each[-1]["content"])[1]) for each in trained]
    assert any(called)
    assert not all(called)


def test_the_share_of_same_calls_is_reported_of_those_that_call(run: RunFolder) -> None:
    test = run.rows(StageAt("judged_heldout")).filter(split="test")
    meant = {row["instruction_id"]: row for row in test.to_dicts() if calls_in(row["response"])[1]}
    asked = [ANIMALS.index(row["instruction"][13:-1]) for row in meant.values()]
    assert 0 < len(meant) < test.height
    for number in (0, 1):
        scores = run.rows(StageAt("evaluate", number)).filter(split="test", category="all", metric="same_calls")
        assert scores["n"].to_list() == [len(meant)]
        assert scores["value"][0] == pytest.approx(sum(each % 3 > 0 for each in asked) / len(asked))
    report = run.storage.read_bytes("report.html").decode()
    assert "Same calls, %" in report
    assert f"(n = {len(meant)})" in report


def test_calls_and_what_follows_results_have_figures_of_their_own(run: RunFolder) -> None:
    rows = run.rows(StageAt("evaluate", 1)).filter(split="test", metric="quality_retention")
    counted = dict(rows.select("category", "n").iter_rows())
    assert counted.keys() == {"all", "calls of tools", "after results of tools"}
    test = run.rows(StageAt("judged_heldout")).filter(split="test")["response"].to_list()
    assert counted["calls of tools"] == sum(bool(calls_in(each)[1]) for each in test)
    assert counted["all"] == counted["calls of tools"] + counted["after results of tools"] == len(test)


def test_no_conversation_is_both_held_out_and_trained_on(run: RunFolder) -> None:
    def begins(messages: list[dict[str, str]]) -> str:
        return next(each["content"] for each in messages if each["role"] == "user")

    trained = {begins(each) for each in run.rows(StageAt("mix", 1))["messages"].to_list()}
    drawn = run.rows(StageAt("judged_heldout")).join(run.rows(StageAt("pool")), on="instruction_id")
    assert not trained & {user_texts(row)[0] for row in drawn.iter_rows(named=True)}


def test_without_a_parser_or_a_template_that_shows_tools_nothing_is_paid(
    tmp_path: Path, provider: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, asked = adopted(tmp_path, provider), len(provider.calls)
    unheard = replace_values(config, ["student.engine.tool_parser="])
    assert "120 instructions have tools; set student.engine.tool_parser" in clean_pool(unheard).lost
    assert "have tools" not in clean_pool(config).lost
    with pytest.raises(ConfigError, match=r"tool_parser is not set, and 120 instructions.*docs/tools.md"):
        drive(unheard, monkeypatch)
    other = [f"run.root={tmp_path / 'other'}", "student.chat_template=chatml"]
    with pytest.raises(ConfigError, match=r"shows no tools, and 120 instructions"):
        drive(replace_values(config, other), monkeypatch)
    assert len(provider.calls) == asked
