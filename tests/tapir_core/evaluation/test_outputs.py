"""A model's answers from a file, as a benchmark takes them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tapir_core.errors import ConfigError
from tapir_core.evaluation.benchmark import benchmark_of, judging
from tapir_core.evaluation.fastchat import read_answers
from tests.benchmark_runs import ALPACA, MT_BENCH, MT_BENCH_ANSWERS, QUESTIONS, VICUNA
from tests.run_config import make_config


def given(root: Path, settings: dict[str, Any], path: str) -> pl.DataFrame:
    config = make_config(root, evaluation={"benchmarks": {"mine": {**settings, "outputs": {"gpt": path}}}})
    benchmark = judging(config, "mine")
    return benchmark.given_answers("gpt", benchmark.items())


def lines(file: Path, rows: Sequence[dict[str, Any]]) -> str:
    file.write_text("\n".join(map(json.dumps, rows)))
    return str(file)


def answer(question: int, *turns: str, model: str = "gpt") -> dict[str, Any]:
    return {"question_id": question, "model_id": model, "choices": [{"turns": list(turns)}]}


@pytest.mark.parametrize("settings", [ALPACA, VICUNA], ids=["ae", "vi"])
def test_a_file_in_the_form_of_the_baseline_answers_every_question(tmp_path: Path, settings: dict[str, Any]) -> None:
    rows = given(tmp_path, settings, settings["baseline"])
    assert rows.height == QUESTIONS
    assert set(rows["finish_reason"]) == {"given"}
    config = make_config(tmp_path, evaluation={"benchmarks": {"mine": settings}})
    assert rows["response"].to_list() == benchmark_of(config, "mine").items()["baseline"].to_list()


def test_a_file_in_fastchats_form_answers_every_turn(tmp_path: Path) -> None:
    rows = given(tmp_path, MT_BENCH, MT_BENCH_ANSWERS)
    assert rows.height == 2 * QUESTIONS
    assert set(rows["finish_reason"]) == {"given"}
    assert rows["response"].to_list() == [text for turns in read_answers(MT_BENCH_ANSWERS).values() for text in turns]


def test_what_a_file_lacks_has_no_answer_a_turn_and_a_failed_call_of_its_maker_included(tmp_path: Path) -> None:
    file = lines(tmp_path / "gpt.jsonl", [answer(1, "a", "b"), answer(2, "c"), answer(3, "d", "$ERROR$")])
    rows = given(tmp_path, MT_BENCH, file)
    assert rows["response"].to_list()[:7] == ["a", "b", "c", None, "d", None, None]
    assert rows["finish_reason"].to_list()[:4] == ["given", "given", "given", "failed:not_given"]
    assert rows["response"].null_count() == 2 * QUESTIONS - 4


def test_an_output_that_failed_is_none_and_two_different_ones_to_an_instruction_are_refused(tmp_path: Path) -> None:
    asked = [row["instruction"] for row in json.loads(Path(ALPACA["questions"]).read_text())][:4]
    outputs = [
        {"instruction": text, "output": said} for text, said in zip(asked, ("a", "$ERROR$", None, ""), strict=True)
    ]
    rows = given(tmp_path, ALPACA, lines(tmp_path / "gpt.jsonl", outputs))
    assert rows["response"].to_list()[:5] == ["a", None, None, "", None]
    assert given(tmp_path, ALPACA, lines(tmp_path / "gpt.jsonl", [*outputs, outputs[0]])).equals(rows)
    twice = lines(tmp_path / "gpt.jsonl", [*outputs, {"instruction": asked[0], "output": "b"}])
    with pytest.raises(ConfigError) as refused:
        given(tmp_path, ALPACA, twice)
    assert f"has different outputs to 1 of its instructions ({asked[0][:60]!r}: 'a' and 'b')" in str(refused.value)
    config = make_config(tmp_path, evaluation={"benchmarks": {"mine": {**ALPACA, "baseline": twice}}})
    with pytest.raises(ConfigError, match=r"gpt\.jsonl' has different outputs to 1"):
        benchmark_of(config, "mine").items()


@pytest.mark.parametrize(
    ("settings", "other"), [(ALPACA, VICUNA), (MT_BENCH, ALPACA), (VICUNA, ALPACA)], ids=["ae", "mt", "vi"]
)
def test_a_file_in_the_form_of_another_benchmark_is_refused_with_its_name(
    tmp_path: Path, settings: dict[str, Any], other: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError, match=r"(?s)benchmarks\.mine\.outputs\.gpt: .*another benchmark\? Expected"):
        given(tmp_path, settings, other["baseline"])


def test_answers_to_the_questions_of_another_benchmark_are_refused_with_both_names(tmp_path: Path) -> None:
    for settings, rows in (
        (ALPACA, [{"instruction": "Never asked", "output": "x"}]),
        (VICUNA, [answer(81, "x", "y")]),
        (MT_BENCH, [answer(number, "one turn alone") for number in range(1, QUESTIONS + 1)]),
    ):
        file = lines(tmp_path / "other.jsonl", rows)
        with pytest.raises(ConfigError) as refused:
            given(tmp_path, settings, file)
        assert f"'{file}' answers none of the {QUESTIONS} questions of '{settings['questions']}'" in str(refused.value)
        assert "Give a file of 'mine'" in str(refused.value)


def test_a_file_of_several_models_is_refused_with_their_names(tmp_path: Path) -> None:
    file = lines(tmp_path / "two.jsonl", [answer(1, "a", model="one"), answer(1, "b", model="two")])
    with pytest.raises(ConfigError, match=r"answers of 2 models \(one, two\)"):
        given(tmp_path, VICUNA, file)


@pytest.mark.parametrize("name", ["S_0", "backbone", "a/b", ".hidden", ""])
def test_a_model_cannot_have_the_name_of_a_student_or_of_another_folder(tmp_path: Path, name: str) -> None:
    settings = {**ALPACA, "outputs": {name: ALPACA["baseline"]}}
    with pytest.raises(ValueError, match="is no name for a model"):
        make_config(tmp_path, evaluation={"benchmarks": {"mine": settings}})
