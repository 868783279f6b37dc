import json
from pathlib import Path
from typing import Any

import pytest

from tapir_core.errors import ConfigError
from tapir_core.evaluation.fastchat import Question, check_references, read_answers, read_questions


def write(path: Path, *rows: Any) -> str:
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


def test_questions_are_read_in_order_without_their_own_references(tmp_path: Path) -> None:
    path = write(
        tmp_path / "question.jsonl",
        {"question_id": 2, "category": "math", "turns": ["Add 1 and 2.", "Now add 3."], "reference": ["3", "6"]},
        {"question_id": "1", "category": "fermi", "turns": ["How many?"]},
    )
    assert read_questions(path) == [
        Question("2", "math", ("Add 1 and 2.", "Now add 3.")),
        Question("1", "fermi", ("How many?",)),
    ]


def test_the_first_choice_of_an_answer_counts(tmp_path: Path) -> None:
    choices = [{"index": 0, "turns": ["3", "6"]}, {"index": 1, "turns": ["4", "7"]}]
    path = write(tmp_path / "gpt-4.jsonl", {"question_id": 2, "model_id": "m", "choices": choices})
    assert read_answers(path) == {"2": ("3", "6")}
    of_2023 = write(tmp_path / "answer.jsonl", {"question_id": 3, "text": "Yes.", "model_id": "m"})
    assert read_answers(of_2023) == {"3": ("Yes.",)}


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"category": "math", "turns": ["x"]}, "question_id must be a number or a text, got None"),
        ({"question_id": 1, "turns": ["x"]}, "category must be a text, got None"),
        ({"question_id": 1, "category": "math", "turns": []}, "turns must be a list of texts"),
        ({"question_id": 1, "category": "math", "turns": "x"}, "turns must be a list of texts, got 'x'"),
    ],
)
def test_what_is_no_question_is_named(tmp_path: Path, row: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        read_questions(write(tmp_path / "question.jsonl", row))


def test_what_is_no_answer_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="row 1: choices must be a list of objects"):
        read_answers(write(tmp_path / "a.jsonl", {"question_id": 1, "choices": []}))


def test_an_id_twice_is_refused(tmp_path: Path) -> None:
    row = {"question_id": 7, "category": "math", "turns": ["x"]}
    with pytest.raises(ConfigError, match="question_id 7 more than once"):
        read_questions(write(tmp_path / "question.jsonl", row, row))


def test_every_question_that_needs_a_reference_has_one_for_each_turn() -> None:
    questions = [
        Question("1", "math", ("a", "b")),
        Question("2", "coding", ("a",)),
        Question("3", "reasoning", ("a",)),
        Question("4", "stem", ("a", "b")),
    ]
    check_references(questions, {"1": ("x", "y"), "2": ("x",), "3": ("x",)}, "references")
    with pytest.raises(ConfigError, match="no reference answer to question 1, 3;"):
        check_references(questions, {"1": ("x",), "2": ("x",)}, "references")
    with pytest.raises(ConfigError, match="no reference answer to question 1;"):
        check_references(questions, {"1": ("x", " "), "2": ("x",), "3": ("x",)}, "references")
