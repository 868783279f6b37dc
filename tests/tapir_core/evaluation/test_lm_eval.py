"""What marks of lm-evaluation-harness come to, and when they are made again."""

from pathlib import Path

import polars as pl
import pytest

from tapir_core.config.benchmarks import LmEvalBenchmark
from tapir_core.evaluation.benchmark import Exchange, exchanges_of, items_table
from tapir_core.evaluation.marking import UNKNOWN, LmEval, Marks
from tapir_core.evaluation.scores import judgments_of
from tapir_core.stages import BENCHMARK_ITEMS, BENCHMARK_REPLIES, StageAt, own_digest
from tasks.input_files import gather_files
from tests.run_config import make_config

MARKS = {
    "strict": [("0", [1.0]), ("1", [0.0]), ("2", [1.0]), ("3", [1.0])],
    "parts": [("0", [1.0, 1.0, 1.0]), ("1", [0.0]), ("2", [1.0, 1.0]), ("3", [1.0, 0.0])],
}


def exchanges(questions: int) -> list[Exchange]:
    items = items_table((str(place), "all", 1, f"Question {place}?", "", None) for place in range(questions))
    assert items.schema == BENCHMARK_ITEMS.columns
    return exchanges_of(items, items.select("question_id", "turn").with_columns(response=pl.lit("Yes.")))


def benchmark(max_failed_share: float = 0.5) -> LmEval:
    return LmEval(LmEvalBenchmark(questions="q", task="ifeval", max_failed_share=max_failed_share))


def marked(values: dict[str, list[tuple[str, list[float]]]]) -> Marks:
    return Marks("lm-evaluation-harness 0.4.13", "ifeval 4.0", values)


def test_figures_are_means_of_all_marks_in_the_order_of_the_harness() -> None:
    replies = marked(MARKS).replies({})
    assert replies.schema == BENCHMARK_REPLIES.columns
    found = benchmark().scores(exchanges(4), judgments_of(replies))
    assert [*found] == [("all", "strict"), ("all", "parts")]
    strict, parts = found.values()
    assert (strict.value, strict.n) == (75, 4)
    # As the harness does: its standard deviation (n - 1) by the root of n.
    assert strict.stderr == pytest.approx(25)
    # Wilson's interval, since a mark is right or wrong; a mean of several has the other one.
    assert (strict.low, strict.high) == (pytest.approx(30.1, abs=0.05), pytest.approx(95.4, abs=0.05))
    assert (parts.value, parts.n) == (75, 4)
    assert parts.note == "mean of 8 marks; n counts questions"
    assert strict.note == ""
    assert parts.stderr is not None
    # Four questions, and not eight marks, are independent: the error of eight would be 16.4.
    assert parts.stderr == pytest.approx(18.4, abs=0.01)


def test_a_question_without_an_answer_has_failed_once_in_every_metric() -> None:
    replies = marked(MARKS).replies({"4": "the student gave no answer"})
    for found in benchmark().scores(exchanges(5), judgments_of(replies)).values():
        assert (found.value, found.n, found.failed) == (75, 4, 1)
    # One of five questions, whatever marks the others have.
    for share, withheld in ((0.2, False), (0.19, True)):
        for found in benchmark(share).scores(exchanges(5), judgments_of(replies)).values():
            assert (found.value is None) == withheld
            assert ("1 of 5 questions failed (20.0%)" in found.note) == withheld
    headline = benchmark(0.1).scores(exchanges(5), judgments_of(replies))["all", "strict"]
    assert headline.note.endswith("failed: 1 question: the student gave no answer")
    assert replies.filter(status="failed")["reason"].to_list() == ["the student gave no answer"] * 2


def test_where_nothing_could_be_marked_there_is_no_figure_and_it_is_said() -> None:
    replies = marked({}).replies({"0": "the student gave no answer"})
    [((_, metric), found)] = benchmark(1.0).scores(exchanges(1), judgments_of(replies)).items()
    assert (metric, found.value, found.failed) == (UNKNOWN, None, 1)


def test_students_are_compared_by_what_has_one_mark_a_question() -> None:
    replies = marked(MARKS).replies({"4": "the student gave no answer"})
    values = benchmark().values(exchanges(5), judgments_of(replies))
    assert values == {"strict": {"0": 100, "1": 0, "2": 100, "3": 100, "4": None}}


def test_marks_are_made_again_when_what_marks_has_changed(tmp_path: Path) -> None:
    (tmp_path / "questions.jsonl").write_text('{"prompt": "Well?", "answer": "Yes."}\n')
    (tmp_path / "tasks").mkdir()
    code = tmp_path / "tasks" / "marks.py"

    def digests(**settings: object) -> list[str]:
        table = {"type": "lm_eval", "task": "mine", "include_path": str(tmp_path / "tasks"), **settings}
        table["questions"] = str(tmp_path / "questions.jsonl")
        config = make_config(tmp_path, evaluation={"benchmarks": {"ex": table}})
        stages = ("benchmark_items", "benchmark_answers", "benchmark_replies", "benchmark_scores")
        return [own_digest(StageAt(name, 0, benchmark="ex"), config, gather_files(config)) for name in stages]

    code.write_text("mark = 1")
    before = digests()
    assert digests(python="elsewhere/python") == before
    code.write_text("mark = 2")
    after = digests()
    assert [one == other for one, other in zip(before, after, strict=True)] == [False, True, False, False]
    another = digests(task="another")
    assert [one == other for one, other in zip(after, another, strict=True)] == [False, True, False, False]
    longer = digests(answering={"max_tokens": 7})
    assert [one == other for one, other in zip(after, longer, strict=True)] == [True, False, True, False]
