"""`tapir init`: what is answered is what stands in the file, which is short and can be run."""

import json
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from flows.cli import app
from flows.commands.init import Asked
from tapir_core.config import EMBEDDED_STUDENT, FilePool, OpenAIEndpoint, StandinEndpoint
from tapir_core.config.checks import check_config
from tapir_core.config.load import load_config
from tapir_core.errors import ConfigError
from tasks.engines.training.prerequisites import ModelSize, estimate_memory

ROWS = 500
SMOLLM2_135M = ModelSize(134_515_008, 305_280, 106_168_320, 30, 576, 1536, 49152)


@pytest.fixture
def instructions(tmp_path: Path) -> Path:
    file = tmp_path / "mine.json"
    file.write_text(json.dumps([{"instruction": f"Say {number} in words."} for number in range(ROWS)]))
    return file


def asked(file: Path, answers: list[str], *words: str) -> Result:
    return CliRunner().invoke(app, ["init", str(file), *words], input="".join(f"{each}\n" for each in answers))


def test_return_five_times_is_a_run_for_a_laptop_that_needs_nobody(tmp_path: Path) -> None:
    done = asked(tmp_path / "try-out.toml", [""] * 3)
    assert done.exit_code == 0, done.output
    config = load_config(tmp_path / "try-out.toml")
    assert check_config(config) == []
    assert (config.run.name, config.student.backbone) == ("try-out", EMBEDDED_STUDENT)
    assert isinstance(config.teacher.endpoint, StandinEndpoint)
    assert isinstance(config.judge.endpoint, StandinEndpoint)
    assert f"tapir run {tmp_path / 'try-out.toml'}" in done.output


@pytest.mark.parametrize("words", [[], ["--usd", "0"]])
def test_a_server_of_ones_own_costs_nothing_and_has_no_cap(tmp_path: Path, words: list[str]) -> None:
    at = ["--teacher", "m", "--address", "http://127.0.0.1:8000/v1", *words]
    done = asked(tmp_path / "run.toml", [], "--instructions", "standin", "--student", "embedded", *at)
    assert done.exit_code == 0, done.output
    config = load_config(tmp_path / "run.toml")
    assert config.budget.usd is None
    assert isinstance(config.teacher.endpoint, OpenAIEndpoint)
    assert not config.teacher.endpoint.api_key_env
    assert "a server of your own" in (tmp_path / "run.toml").read_text()


@pytest.mark.parametrize("usd", ["0", "-1"])
def test_nothing_to_spend_at_a_provider_is_refused(tmp_path: Path, usd: str) -> None:
    at = ["--teacher", "m", "--address", "https://api.example.com", "--usd", usd]
    done = asked(tmp_path / "run.toml", [], "--instructions", "standin", "--student", "embedded", *at)
    assert isinstance(done.exception, ConfigError)
    assert f"--usd {usd}: nothing could be asked" in str(done.exception)
    assert not (tmp_path / "run.toml").exists()


@pytest.mark.parametrize(
    "address",
    ["api.example.com/v1", "http://[::1", "http://localhost:8000v1", "http://:8000/v1", "http://me:hush@h/v1"],
)
def test_an_address_that_is_none_is_refused_before_anything_is_written(tmp_path: Path, address: str) -> None:
    at = ["--teacher", "m", "--address", address, "--usd", "1"]
    done = asked(tmp_path / "run.toml", [], "--instructions", "standin", "--student", "embedded", *at)
    assert isinstance(done.exception, ConfigError)
    assert str(done.exception).startswith("--address: ")
    assert "hush" not in str(done.exception)
    assert not (tmp_path / "run.toml").exists()


@pytest.mark.parametrize(
    "words",
    [["--teacher", "standin"], ["--teacher", "big-model", "--address", "https://api.example.com", "--usd", "1"]],
)
def test_the_embedded_student_is_trained_within_a_laptops_memory(tmp_path: Path, words: list[str]) -> None:
    done = asked(tmp_path / "run.toml", [], "--instructions", "standin", "--student", "embedded", *words)
    assert done.exit_code == 0, done.output
    training = load_config(tmp_path / "run.toml").training
    needed = estimate_memory(training, SMOLLM2_135M, in_bf16=True, longest=training.max_length, processes=1)
    assert sum(needed.values()) < 12 * 2**30


def test_own_data_and_an_api_are_asked_for_in_five_questions(tmp_path: Path, instructions: Path) -> None:
    file = tmp_path / "run.toml"
    done = asked(
        file, [str(instructions), "Qwen/Qwen2.5-7B-Instruct", "big-model", "https://api.example.com/v1", "7.5"]
    )
    assert done.exit_code == 0, done.output
    config = load_config(file)
    teacher = config.teacher.endpoint
    assert isinstance(teacher, OpenAIEndpoint)
    assert config.judge.endpoint == teacher
    assert (teacher.model, teacher.base_urls, teacher.api_key_env) == (
        "big-model",
        ("https://api.example.com/v1",),
        "EXAMPLE_API_KEY",
    )
    assert config.student.chat_template == "chatml"
    assert (config.budget.usd, config.training.batch_size) == (7.5, 16)
    assert "for 500 instructions" in file.read_text()
    assert "export EXAMPLE_API_KEY=…" in done.output
    assert len(file.read_text().splitlines()) <= 30


def test_a_mistyped_answer_is_told_and_asked_for_again(tmp_path: Path, instructions: Path) -> None:
    (tmp_path / "bad.json").write_text("no json")
    wrong = [f"{instructions}x", str(tmp_path / "bad.json"), "no such column"]
    answers = [*wrong, str(instructions), "qwen3", "big-model", "api.example.com/v1", "https://api.example.com/v1"]
    done = asked(tmp_path / "run.toml", [*answers, "much", "0", "5"])
    assert done.exit_code == 0, done.output
    assert [done.output.count(f"Error: {each}") for each in ("", "--address: is no web address", "--usd 0")] == [
        5,
        1,
        1,
    ]
    assert f"{instructions}x" in done.output
    config = load_config(tmp_path / "run.toml")
    assert config.data.pool == FilePool(path=str(instructions))
    assert config.budget.usd == 5


def test_what_is_given_on_the_command_line_is_not_asked(tmp_path: Path, instructions: Path) -> None:
    words = ["--instructions", str(instructions), "--student", "qwen3", "--teacher", "standin"]
    done = asked(tmp_path / "run.toml", [], *words)
    assert done.exit_code == 0, done.output
    assert load_config(tmp_path / "run.toml").student.backbone == "Qwen/Qwen3-1.7B"


def test_a_file_that_is_there_stays_and_one_of_wrong_instructions_is_not_written(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text("kept")
    assert "there already: " in str(asked(tmp_path / "mine.toml", [""] * 3).exception)
    assert (tmp_path / "mine.toml").read_text() == "kept"
    assert "there is no folder" in str(asked(tmp_path / "no" / "run.toml", []).exception)
    (tmp_path / "bad.json").write_text("no json")
    done = asked(tmp_path / "new.toml", [str(tmp_path / "bad.json"), "", ""])
    assert done.exit_code != 0
    assert not (tmp_path / "new.toml").exists()


def test_a_question_without_an_answer_writes_nothing_and_says_how_to_answer(tmp_path: Path) -> None:
    done = asked(tmp_path / "run.toml", [""])
    assert "no answer; give it at the terminal, or as --instructions" in str(done.exception)
    assert not (tmp_path / "run.toml").exists()


@pytest.mark.parametrize(
    ("header", "answers", "words", "columns"),
    [
        ("question,answer", [], [], {"instruction": "question"}),
        ("Prompt,context", [], [], {"instruction": "Prompt", "input": "context"}),
        ("frage,antwort", ["frage"], [], {"instruction": "frage"}),
        ("frage,prompt", [], ["--column", "frage"], {"instruction": "frage"}),
    ],
    ids=str,
)
def test_columns_of_other_names_are_guessed_asked_for_or_given(
    tmp_path: Path, header: str, answers: list[str], words: list[str], columns: dict[str, str]
) -> None:
    (tmp_path / "mine.csv").write_text(f"{header}\nName a fruit.,apple\n")
    own = ["--instructions", str(tmp_path / "mine.csv"), "--student", "embedded", "--teacher", "standin"]
    done = asked(tmp_path / "run.toml", answers, *own, *words)
    assert done.exit_code == 0, done.output
    pool = load_config(tmp_path / "run.toml").data.pool
    assert isinstance(pool, FilePool)
    assert pool.columns == columns


def test_columns_that_nobody_can_name_are_told_and_no_file_is_left(tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text("frage,antwort\nName a fruit.,apple\n")
    own = ["--instructions", str(tmp_path / "mine.csv"), "--student", "embedded", "--teacher", "standin"]
    done = asked(tmp_path / "run.toml", [], *own)
    assert "frage, antwort" in done.output
    assert "--column" in str(done.exception)
    assert not (tmp_path / "run.toml").exists()


@pytest.mark.parametrize(
    ("student", "preset"),
    [
        ("meta-llama/Llama-3.2-1B-Instruct", "llama3.2"),
        ("meta-llama/Llama-2-7b-chat-hf", "llama2-chat"),
        ("meta-llama/Llama-2-13b-hf", "llama2"),
        ("google/gemma-3-270m-it", "gemma3"),
        ("Qwen/Qwen1.5-0.5B", "qwen1.5"),
        ("some/other-model", ""),
        ("Qwen/Qwen3-VL-2B-Instruct", ""),
        ("Qwen/Qwen3.5-2B", ""),
        ("google/gemma-3n-E2B-it", ""),
        ("/models/qwen3/my-llama", ""),
    ],
)
def test_the_preset_follows_the_models_name(student: str, preset: str) -> None:
    assert Asked("standin", student, "standin").preset == preset


@pytest.mark.parametrize(
    ("address", "key"),
    [
        ("https://api.openai.com/v1", "OPENAI_API_KEY"),
        ("https://openrouter.ai/api/v1", "OPENROUTER_API_KEY"),
        ("http://127.0.0.1:8041/v1", ""),
        ("https://8.8.8.8/v1", "API_KEY"),
    ],
)
def test_the_key_is_looked_for_under_the_providers_name(address: str, key: str) -> None:
    assert Asked("standin", "embedded", "a-model", address).key == key
