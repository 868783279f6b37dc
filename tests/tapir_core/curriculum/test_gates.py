import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapir_core.curriculum import (
    REJECTED,
    AnswerGate,
    DifficultyGate,
    Gate,
    Gated,
    LabelGate,
    apply_gates,
    text_gates,
)
from tapir_core.prompts import load_prompt
from tapir_core.text import instruction_id
from tests.builders import (
    make_candidates,
    make_difficulty,
    make_expansion_config,
    make_labels,
    make_pool,
    make_questions,
    make_teacher,
    rouge_l,
)

POOL = make_pool("Name the three longest rivers of Europe.", "Add 17 and 25.")
BAKER = "A baker sells twelve rolls in the morning and thirty in the afternoon."
QUESTIONS = make_questions(BAKER)


def run_text_gates(*instructions: str, pool: pl.DataFrame = POOL, **fields: object) -> Gated:
    gates = text_gates(make_expansion_config(**fields), load_prompt("expand"), pool, QUESTIONS)
    return apply_gates(make_candidates(*instructions), gates)


@pytest.mark.parametrize(
    ("instruction", "gate"),
    [
        ("", "length"),
        (" a ", "length"),
        ("word " * 900, "length"),
        ("<task_type>Math</task_type> Add 3 and 4.", "echo"),
        ("Here is a new_instruction: add 3 and 4.", "echo"),
        ("Write a poem that can be done from its own text alone.", "echo"),
        ("Name the three longest rivers of Europe!", "near_duplicate"),
        ("Name the three longest rivers of Asia.", "near_duplicate"),
        ("Read this: a baker sells twelve rolls in the morning and thirty in the afternoon. How many?", "contaminated"),
        ("Explain in one sentence why bread rises.", None),
        ("写一首关于秋天的短诗。", None),
    ],
)
def test_each_bad_instruction_stops_at_its_gate(instruction: str, gate: str | None) -> None:
    gated = run_text_gates(instruction)
    assert gated.rejected["gate"].to_list() == ([] if gate is None else [gate])
    assert gated.passed.height == (gate is None)


def test_every_gate_is_counted_in_order_zeros_included() -> None:
    gated = run_text_gates("", "", "Add 17 and 25!", "Explain why bread rises.")
    assert list(gated.counts.items()) == [("length", 2), ("echo", 0), ("near_duplicate", 1), ("contaminated", 0)]
    assert gated.rejected.schema == REJECTED


def test_a_row_is_counted_at_the_first_gate_that_rejects_it() -> None:
    gated = run_text_gates(BAKER, pool=make_pool(BAKER))
    assert gated.rejected["gate"].to_list() == ["near_duplicate"]


def test_what_passed_stands_in_the_way_of_its_likes() -> None:
    gated = run_text_gates("Explain why bread rises.", "Explain why bread rises!", "Explain why bread falls.")
    assert gated.passed["instruction"].to_list() == ["Explain why bread rises."]


def test_an_equal_instruction_is_rejected_even_when_likeness_is_allowed() -> None:
    gated = run_text_gates("Add 17 and 25.", "Add 17 and 26.", "Add 17 and 26.", max_rouge_l=1.0)
    assert gated.passed["instruction"].to_list() == ["Add 17 and 26."]


@given(
    st.lists(
        st.lists(st.sampled_from(["add", "two", "and", "three", "or", "not", "to", "be"]), min_size=1).map(" ".join)
    )
)
def test_nothing_that_passes_is_like_the_pool_or_like_another(instructions: list[str]) -> None:
    passed = run_text_gates(*instructions, max_rouge_l=0.6).passed["instruction"].to_list()
    known = POOL["instruction"].to_list()
    for instruction in passed:
        assert all(rouge_l(instruction, other) <= 0.6 + 1e-9 for other in known)
        known.append(instruction)


def run_paid_gates(gates: list[Gate]) -> Gated:
    return apply_gates(make_candidates("one two", "three four", "five six"), gates)


def test_the_label_must_be_the_wanted_task_type() -> None:
    labels = make_labels({instruction_id("one two"): "Math", instruction_id("three four"): "Law"})
    gated = run_paid_gates([LabelGate(labels)])
    assert gated.passed["instruction"].to_list() == ["one two"]
    assert gated.counts == {"task_type": 2}


def test_the_teachers_answer_must_be_usable() -> None:
    answers = {instruction_id("one two"): "fine", instruction_id("three four"): " "}
    assert run_paid_gates([AnswerGate(make_teacher(answers))]).passed["instruction"].to_list() == ["one two"]
    assert run_paid_gates([AnswerGate(make_teacher(answers, finish_reason="length"))]).passed.height == 0


def test_the_difficulty_check_keeps_what_is_above_delta() -> None:
    difficulty = make_difficulty({instruction_id("one two"): 2.0, instruction_id("three four"): 2.5})
    assert run_paid_gates([DifficultyGate(difficulty, 2.0)]).passed["instruction"].to_list() == ["three four"]
