"""Answers of the teacher by a schema of the user's: asked for so, and used only where they obey."""

import json
from pathlib import Path
from typing import Any

import pytest

from tapir_core import thoughts
from tapir_core.calls import Answer
from tapir_core.config.load import load_config
from tapir_core.errors import ConfigError
from tapir_core.stages import StageAt
from tapir_core.tools import Call
from tasks.asking import obeying
from tests.doubles.provider import FakeProvider, RecordedCall, Text
from tests.golden.adapter import drive
from tests.students import make_checkpoint

SCHEMA = {
    "type": "object",
    "properties": {"kg": {"type": "number"}},
    "required": ["kg"],
    "additionalProperties": False,
}


def number_of(call: RecordedCall) -> int:
    return int(call.prompt.removeprefix("Weigh animal ").removesuffix("."))


def reply(call: RecordedCall) -> Any:
    if call.body["model"] == "judge-1":
        return Text("Scores: [[7, 7]]")
    if "/" in str(call.body["model"]):
        return Text("I do not know.")
    number = number_of(call)
    kg = {0: '"heavy"', 1: f"{number}"}.get(number % 3, f"{number}.5")
    return Text(f'{{"kg": {kg}}}')


@pytest.mark.usefixtures("prefect_server")
def test_only_what_obeys_is_trained_on_and_the_student_is_asked_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"instruction": f"Weigh animal {number}."} for number in range(60)]
    (tmp_path / "pool.json").write_text(json.dumps(rows))
    (tmp_path / "weight.json").write_text(json.dumps(SCHEMA))
    with FakeProvider(reply) as provider:
        at = f'base_url = "{provider.base_url}"'
        openai = f'type = "openai", {at}, api_key_env = ""'
        pool, schema = tmp_path / "pool.json", tmp_path / "weight.json"
        backbone = make_checkpoint(tmp_path / "backbone")
        settings = [
            f'data={{ pool = {{ type = "file", path = "{pool}" }} }}',
            f'teacher={{ endpoint = {{ {openai}, model = "teacher-1" }}, answer_schema = "{schema}" }}',
            f'judge.endpoint={{ {openai}, model = "judge-1" }}',
            f'student={{ backbone = "{backbone}", engine = {{ type = "endpoint", {at} }} }}',
            'curriculum={ task_types = { Others = "all" }, expansion = { max_waves = 0 } }',
            "evaluation={}",
            *("rounds.default.examples=60", "basic_tuning.examples=60", f"run.root={tmp_path / 'runs'}"),
        ]
        config = load_config("tests/golden/plain.toml", ["run.rounds=1", *settings])
        run = drive(config, monkeypatch)
        asked = [call for call in provider.calls if call.body["model"] == "teacher-1"]
        others = [call for call in provider.calls if call.body["model"] != "teacher-1"]
    assert len(asked) == 60
    assert all(call.body["response_format"]["json_schema"]["schema"] == SCHEMA for call in asked)
    assert others
    assert not [call for call in others if "response_format" in call.body]
    ends = run.rows(StageAt("teach"))["finish_reason"].to_list()
    assert (ends.count("failed:schema"), ends.count("stop")) == (20, 40)
    trained = [each[-1]["content"] for each in run.rows(StageAt("mix", 0))["messages"].to_list()]
    assert len(trained) > 20
    assert all(isinstance(json.loads(each)["kg"], int | float) for each in trained)
    assert run.sealed(StageAt("teach")).counts["calls"] == 60, "what does not obey was paid for, and is kept"


@pytest.mark.parametrize(
    ("text", "ending"),
    [
        ('{"kg": 250}', "stop"),
        (' {"kg": 250}\n', "stop"),
        ('Here:\n```json\n{"kg": 250}\n```', "failed:schema"),
        ('{"kg": "heavy"}', "failed:schema"),
        ("250 kg", "failed:schema"),
        (Call("weigh", {}).text, "stop"),
        (thoughts.join("It is heavy.", '{"kg": 250}'), "stop"),
        (thoughts.join("It is heavy.", '{"kg": "heavy"}'), "failed:schema"),
    ],
)
def test_what_obeys(text: str, ending: str) -> None:
    found = obeying(Answer(text, "stop", 1, 1), json.dumps(SCHEMA))
    assert isinstance(found, Answer)
    assert found.finish_reason == ending
    assert obeying(Answer(text, "stop", 1, 1), "") == Answer(text, "stop", 1, 1)


def test_a_schema_is_a_table_or_a_file_and_the_same_either_way(tmp_path: Path) -> None:
    (tmp_path / "weight.json").write_text(json.dumps(SCHEMA, indent=4))
    table = 'teacher.answer_schema={ type = "object", required = ["kg"] }'
    short = load_config("tests/golden/plain.toml", [table]).teacher.answer_schema
    assert json.loads(short) == {"type": "object", "required": ["kg"]}
    of_file = load_config("tests/golden/plain.toml", [f"teacher.answer_schema={tmp_path / 'weight.json'}"])
    assert json.loads(of_file.teacher.answer_schema) == SCHEMA


def test_what_is_cut_off_is_told_as_that() -> None:
    found = obeying(Answer('{"kg": 2', "length", 1, 1), json.dumps(SCHEMA))
    assert isinstance(found, Answer)
    assert found.finish_reason == "length"


@pytest.mark.parametrize("text", ["{", None, '{"type": "objct"}', '{"$ref": "#/$defs/gone"}', "[1]"])
def test_a_file_that_is_no_schema_is_refused(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "weight.json").write_text(text)
    with pytest.raises(ConfigError, match=r"teacher\.answer_schema.*cannot be read as a JSON schema.*name a file"):
        load_config("tests/golden/plain.toml", [f"teacher.answer_schema={tmp_path / 'weight.json'}"])


@pytest.mark.parametrize("given", ["weight", '{ type = "objct" }'])
def test_what_is_no_schema_is_refused(given: str) -> None:
    with pytest.raises(ConfigError, match=r"teacher\.answer_schema"):
        load_config("tests/golden/plain.toml", [f"teacher.answer_schema={given}"])
