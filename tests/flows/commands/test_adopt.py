"""`tapir adopt`: a fine-tuning file becomes a pool and a short configuration that a run takes."""

import json
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from flows.cli import app
from tapir_core.config import FilePool, OpenAIEndpoint
from tapir_core.config.checks import check_config
from tapir_core.config.load import load_config
from tapir_core.errors import ConfigError

ROWS = 300
FINE_TUNE = "ft:gpt-4.1-mini-2025-04-14:acme::x"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "examples.jsonl"
    chats = (
        [{"role": "user", "content": f"Say {each} in words."}, {"role": "assistant", "content": f"It is {each}."}]
        for each in range(ROWS)
    )
    file.write_text("".join(f"{json.dumps({'messages': each})}\n" for each in chats))
    return file


def adopt(file: Path, *words: str, said: str = "") -> Result:
    return CliRunner().invoke(app, ["adopt", str(file), str(file.with_name("new.toml")), *words], input=said)


def test_what_is_answered_is_what_stands_in_a_file_of_thirty_lines(file: Path) -> None:
    answers = [FINE_TUNE, "qwen2.5", "", "5", "", "0.8", "3.2"]
    done = adopt(file, said="".join(f"{each}\n" for each in answers))
    assert done.exit_code == 0, f"{done.output}\n{done.exception!r}"
    config = load_config(file.with_name("new.toml"))
    assert check_config(config) == []
    assert len(file.with_name("new.toml").read_text().splitlines()) <= 30
    teacher, judge, pool, judged = (
        config.teacher.endpoint,
        config.judge.endpoint,
        config.data.pool,
        config.data.judged,
    )
    assert isinstance(teacher, OpenAIEndpoint)
    assert (teacher.model, teacher.usd_per_million_prompt_tokens) == (FINE_TUNE, 0.8)
    assert isinstance(judge, OpenAIEndpoint)
    assert judge.model == "gpt-6-luna"
    assert isinstance(pool, FilePool)
    assert (pool.answers_of, config.budget.usd) == ("examples.jsonl", 5)
    assert judged is not None
    assert (judged.answers, judged.test, judged.dev) == ("teacher", 60, 30)
    assert config.curriculum.types.names == ("Others",)
    assert config.teacher.takes_refusals, "they belong to what is moved"
    rows = [json.loads(each)["messages"] for each in file.with_name("new.jsonl").read_text().splitlines()]
    assert len(rows) == ROWS
    blank = [each for each in rows if each[-1]["role"] == "user"]
    assert len(blank) == 90, "what is held out, and no more"
    assert f"{FINE_TUNE} is asked for 90; students are compared with it on 90." in " ".join(done.output.split())


@pytest.mark.parametrize("usd", [[], ["--usd", "5"]])
def test_that_a_local_address_is_not_capped_is_said(file: Path, usd: list[str]) -> None:
    words = ["--model", "m", "--judge", "j", "--student", "qwen2.5", "--address", "http://127.0.0.1:9/v1"]
    assert ("free, without a cap; --price and --usd give one" in adopt(file, *words, *usd).output) == (usd == [])


def test_a_listed_price_is_not_asked_for(file: Path) -> None:
    words = ["--model", "ft:gpt-4o-mini-2024-07-18:acme::x", "--judge", "gpt-6-luna", "--student", "qwen2.5"]
    done = adopt(file, *words, "--address", "https://api.openai.com/v1", "--usd", "5")
    assert done.exit_code == 0, f"{done.output}\n{done.exception!r}"
    assert "usd_per_million" not in file.with_name("new.toml").read_text()


def test_nothing_is_written_where_a_question_has_no_answer(file: Path) -> None:
    done = adopt(file, "--model", FINE_TUNE)
    assert isinstance(done.exception, ConfigError)
    assert "--judge" in str(done.exception)
    assert [*file.parent.iterdir()] == [file]


def test_nothing_stays_of_what_is_refused_after_it_was_written(file: Path) -> None:
    words = ["--model", FINE_TUNE, "--judge", "gpt-6-luna", "--student", "qwen2.5", "--usd", "5"]
    done = adopt(file, *words, "--address", "https://api.openai.com/v1", "--price", "-1", "1")
    assert isinstance(done.exception, ConfigError)
    assert "usd_per_million" in str(done.exception)
    assert [*file.parent.iterdir()] == [file]


@pytest.mark.parametrize("there", [["new.toml"], ["new.jsonl"], ["new.toml", "new.jsonl"]])
def test_files_that_are_there_stay_and_are_named_together(file: Path, there: list[str]) -> None:
    files = [file.with_name(name) for name in there]
    for each in files:
        each.write_text("mine")
    done = adopt(file)
    assert f"there already: {' and '.join(map(str, files))};" in str(done.exception)
    assert {each.read_text() for each in files} == {"mine"}


def test_an_answer_that_is_none_is_asked_for_again_with_a_hint(file: Path) -> None:
    done = adopt(file, said="".join(f"{each}\n" for each in ["", "m", "qwen2.5", "", "5", "", "", "five", "1", "2"]))
    assert done.exit_code == 0, f"{done.output}\n{done.exception!r}"
    assert done.output.count("this has no default; type an answer") == 2
    assert "'five' is no number" in done.output


def test_long_answers_get_room_at_teacher_student_and_training(file: Path) -> None:
    chat = [{"role": "user", "content": "Tell."}, {"role": "assistant", "content": "a word " * 3000}]
    with file.open("a") as examples:
        examples.write(f"{json.dumps({'messages': chat})}\n")
    words = ["--model", "m", "--judge", "j", "--student", "qwen2.5", "--address", "http://127.0.0.1:9/v1"]
    done = adopt(file, *words)
    assert done.exit_code == 0, f"{done.output}\n{done.exception!r}"
    config = load_config(file.with_name("new.toml"))
    assert check_config(config) == []
    longest = config.student.sampling.max_tokens
    assert longest > 4000
    assert config.teacher.answering.max_tokens == 2 * longest
    assert config.student.room is not None
    assert config.student.room >= longest
    assert config.training.max_length >= longest


@pytest.mark.parametrize(
    ("student", "template", "parser"),
    [
        ("embedded", "chatml-tools", "hermes"),
        ("qwen2.5", None, "hermes"),
        ("Qwen/Qwen2.5-Coder-7B-Instruct", None, "hermes"),
        ("meta-llama/Llama-3.1-8B-Instruct", None, "llama3_json"),
        ("google/gemma-3-1b-it", None, ""),
    ],
)
def test_a_file_with_tools_sets_what_the_family_needs(
    file: Path, student: str, template: str | None, parser: str
) -> None:
    call = {"name": "weigh", "arguments": "{}"}
    chat = [{"role": "user", "content": "Heavy?"}, {"role": "assistant", "tool_calls": [{"function": call}]}]
    with file.open("a") as examples:
        examples.write(f"{json.dumps({'messages': chat, 'functions': [{'name': 'weigh'}]})}\n")
    if student == "embedded":  # the longest file is that with all of this
        file.write_text(file.read_text() + file.read_text().splitlines()[0].replace("It is 0.", "long " * 3000) + "\n")
    words = ["--model", "m", "--judge", "j", "--student", student, "--address", "http://127.0.0.1:9/v1"]
    done = adopt(file, *words, "--usd", "5", "--price", "1", "2")
    assert done.exit_code == 0, f"{done.output}\n{done.exception!r}"
    config = load_config(file.with_name("new.toml"))
    assert len(file.with_name("new.toml").read_text().splitlines()) <= 30
    assert config.student.engine.shaping().get("tool_parser", "") == parser
    assert parser == "" or config.student.chat_template == template
    assert ("set student.engine.tool_parser" in " ".join(done.output.split())) == (parser == "")
