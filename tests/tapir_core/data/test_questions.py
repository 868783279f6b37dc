import json
from pathlib import Path

import pytest

from tapir_core.config.benchmarks import QuestionsOnly
from tapir_core.data.readers import heldout_questions, read_questions
from tapir_core.errors import ConfigError
from tapir_core.stages import QUESTIONS
from tests.builders import make_pool


def read(tmp_path: Path, content: str) -> list[tuple[object, ...]]:
    (tmp_path / "file").write_text(content)
    return read_questions({"mine": QuestionsOnly(questions=str(tmp_path / "file"))}).rows()


@pytest.mark.parametrize(
    ("content", "rows"),
    [
        (
            json.dumps([{"dataset": "d", "instruction": "Why?", "output": "So."}, {"instruction": "How? "}]),
            [("1", 1, "Why?"), ("2", 1, "How?")],
        ),
        (
            '{"question_id": 81, "category": "writing", "turns": ["Write.", "Rewrite."]}\n',
            [("81", 1, "Write."), ("81", 2, "Rewrite.")],
        ),
        ("key,prompt,answer\n7,Why?,So.\n", [("7", 1, "Why?")]),
        (
            '{"prompt": "A?", "messages": [{"from": "human", "value": "A?"}, {"from": "gpt", "value": "B."}, '
            '{"from": "human", "value": "C?"}]}\n',
            [("1", 1, "A?"), ("1", 2, "C?")],
        ),
        ('{"key": 1000, "prompt": "Write in capitals."}\n', [("1000", 1, "Write in capitals.")]),
        ('{"prompt": "One."}\n\n{"prompt": "Two."}\n', [("1", 1, "One."), ("3", 1, "Two.")]),
        (json.dumps([{"id": "a", "instruction": "Sum.", "input": "2, 3"}]), [("a", 1, "Sum.\n\n2, 3")]),
        ('{"messages": [{"role": "user", "content": "What is a tapir?"}]}\n', [("1", 1, "What is a tapir?")]),
    ],
)
def test_the_formats_of_the_benchmarks_are_read(tmp_path: Path, content: str, rows: list[tuple[object, ...]]) -> None:
    assert read(tmp_path, content) == [("mine", *row) for row in rows]


def test_a_question_is_read_where_there_is_nothing_else_that_is_asked(tmp_path: Path) -> None:
    rows = read(tmp_path, '{"question": "Well?"}\n{"question": "In short", "instruction": "Well, in full?"}\n')
    assert [text for *_, text in rows] == ["Well?", "Well, in full?"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"turns": []}\n', r"row 1: none of `instruction`"),
        ('{"prompt": 3}\n', r"row 1: `prompt` is neither a text nor a list of texts"),
        ('{"prompt": "Well?", "instruction": "How?"}\n', r"row 1: `prompt` and `instruction` disagree"),
        ('{"prompt": "Well?", "turns": ["How?", "Why?"]}\n', r"row 1: `turns` and `prompt` disagree"),
        ('{"turns": ["Well?", " "]}\n', r"row 1: `turns`"),
        ('{"question": 3}\n', r"row 1: `question` is neither a text nor a list of texts"),
        ('{"query": "Well?"}\n', r"row 1: none of `instruction`"),
        ('{"prompt": "Well?"}\n{"prompt"\n', r"1 rows hold no question:\n  row 2: damaged JSON"),
        ("[]", "there is no record in it"),
    ],
)
def test_a_file_that_is_not_read_whole_is_refused_with_its_benchmark_and_rows(
    tmp_path: Path, content: str, said: str
) -> None:
    with pytest.raises(ConfigError, match=said) as refused:
        read(tmp_path, content)
    assert str(refused.value).startswith("evaluation.benchmarks.mine.questions: ")


def test_benchmarks_come_sorted_and_none_is_a_table_without_rows(tmp_path: Path) -> None:
    (tmp_path / "file").write_text('[{"instruction": "Why?"}]')
    file = QuestionsOnly(questions=str(tmp_path / "file"))
    assert read_questions({"b": file, "a": file})["benchmark"].to_list() == ["a", "b"]
    assert read_questions({}).schema == QUESTIONS.columns


def test_held_out_instructions_are_questions_too() -> None:
    pool = make_pool("Why?")
    assert heldout_questions(pool).rows() == [("heldout", pool["instruction_id"][0], 1, "Why?")]
    assert heldout_questions(pool).schema == QUESTIONS.columns
