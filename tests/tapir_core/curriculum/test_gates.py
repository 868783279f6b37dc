import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapir_core.curriculum import (
    Gated,
    all_rejected,
    apply_gates,
    file_by_label,
    held_back,
    needed_types,
    paid_gates,
    text_gates,
)
from tapir_core.prompts import load_prompt
from tapir_core.stages import EXPANSION_REJECTED
from tests.builders import (
    make_candidates,
    make_expansion_config,
    make_pool,
    make_questions,
    rouge_l,
)

POOL = make_pool("Name the three longest rivers of Europe.", "Add 17 and 25.")
BAKER = "A baker sells twelve rolls in the morning and thirty in the afternoon."
QUESTIONS = make_questions(BAKER)


def run_text_gates(*instructions: str, pool: pl.DataFrame = POOL, **fields: object) -> Gated:
    candidates = make_candidates(*instructions)
    contaminated = {*QUESTIONS.find(candidates)["instruction_id"]}
    gates = text_gates(make_expansion_config(**fields), load_prompt("expand"), pool, contaminated)
    return apply_gates(candidates, gates)


def test_a_sample_text_that_the_seed_has_may_be_spoken_of() -> None:
    pool = make_pool("Is the tone of the sample text below warm? Text: See you soon, dear.")
    told = "Does the sample text below ask a question? Text: Where have you been all day?"
    candidates = make_candidates(told).with_columns(seed_id=pl.lit(pool["instruction_id"][0]))
    gates = text_gates(make_expansion_config(), load_prompt("expand"), pool, set())
    assert apply_gates(candidates, gates).passed.height == 1


@pytest.mark.parametrize(
    ("instruction", "gate"),
    [
        ("", "length"),
        (" a ", "length"),
        ("word " * 900, "length"),
        ("<task_type>Math</task_type> Add 3 and 4.", "echo"),
        ("Here is a new_instruction: add 3 and 4.", "echo"),
        ("<user_turn>\nAdd 3 and 4.\n</user_turn>", "echo"),
        ("Add 3 and 4.<|im_end|>", "echo"),
        ("Write a poem that can be done from its own text alone.", "echo"),
        ("Which intent has the order described in the sample text?", "echo"),
        ("Praise the soap of the seed text in one line.", "echo"),
        ("Who was first lady in 2015? (Task difficulty: 5/5; needs history)", "echo"),
        ("Give the standard deviation of the sample 2, 4 and 9.", None),
        ("Why is the task difficulty of chess rated so high?", None),
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
    counts = {"length": 2, "echo": 0, "near_duplicate": 1, "contaminated": 0, "held_back": 0}
    assert list(gated.counts.items()) == [*counts.items()]
    assert gated.rejected.schema == EXPANSION_REJECTED.columns


def test_a_row_is_counted_at_the_first_gate_that_rejects_it() -> None:
    gated = run_text_gates(BAKER, pool=make_pool(BAKER))
    assert gated.rejected["gate"].to_list() == ["near_duplicate"]


@pytest.mark.parametrize(
    ("instruction", "gate"),
    [
        ("A baker sells twelve rolls!", "near_duplicate"),
        ("thirty in the afternoon", "near_duplicate"),
        ("In the morning a baker sells rolls.", None),
    ],
)
def test_a_piece_of_its_own_seed_is_nothing_new(instruction: str, gate: str | None) -> None:
    """Of a long seed it is too short to be like the whole."""
    seed = make_pool(f"{BAKER} How much does he earn in a week, if each costs forty cents, and what is left after tax?")
    candidates = make_candidates(instruction).with_columns(seed_id=pl.lit(seed["instruction_id"][0]))
    earlier = seed.with_columns(instruction=pl.lit("Hello, can you help me with a text about baking?"))
    # As a conversation is known: its last turn, and then the others.
    gates = text_gates(make_expansion_config(), load_prompt("expand"), pl.concat([seed, earlier]), ())
    assert apply_gates(candidates, gates).rejected["gate"].to_list() == ([gate] if gate else [])


RISES = ("Explain why bread rises.", "Explain why bread rises!", "Explain why bread falls.")


def test_what_passed_holds_its_likes_back() -> None:
    gated = run_text_gates(*RISES)
    assert gated.passed["instruction"].to_list() == [RISES[0]]
    assert gated.rejected["gate"].to_list() == ["held_back"] * 2


def test_what_a_gate_rejects_holds_nothing_back() -> None:
    gated = run_text_gates(f"{BAKER} How many?", f"{BAKER} How many!", "Explain why bread rises.")
    assert gated.counts["contaminated"] == 2
    assert gated.passed["instruction"].to_list() == ["Explain why bread rises."]


@pytest.mark.parametrize(("first_is_accepted", "gates"), [(True, ["near_duplicate"] * 2), (False, ["task_type"])])
def test_what_was_held_back_is_looked_at_again_once_its_like_is_decided(
    first_is_accepted: bool, gates: list[str]
) -> None:
    first = run_text_gates(*RISES)
    screened = pl.concat([first.passed.with_columns(gate=pl.lit(None, pl.String)), first.rejected], how="diagonal")
    again = held_back(screened)
    assert again["instruction"].to_list() == [*RISES[1:]]
    known = make_pool(RISES[0]) if first_is_accepted else POOL
    second = apply_gates(again, text_gates(make_expansion_config(), load_prompt("expand"), known, ()))
    assert second.passed["instruction"].to_list() == ([] if first_is_accepted else [RISES[1]])
    # Of the whole round: the first wave's own, then what was decided of the others.
    empty = first.rejected.clear()
    decided = empty if first_is_accepted else first.passed.with_columns(gate=pl.lit("task_type"))
    gated = [empty.clear(), empty.clear()]
    gated[0] = pl.concat([empty, decided], how="diagonal")
    rejected = all_rejected([first.rejected, second.rejected], gated)
    assert rejected["gate"].to_list()[: len(gates)] == gates
    assert not rejected.select("instruction_id", "gate").is_duplicated().any()
    assert "held_back" not in rejected["gate"]


def test_what_the_last_wave_holds_back_is_a_near_duplicate() -> None:
    screened = run_text_gates(*RISES).rejected
    assert all_rejected([screened], [screened.clear()])["gate"].to_list() == ["near_duplicate"] * 2


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


TEXTS = ("one two", "three four", "five six")


def run_paid_gates(
    *found: tuple[str | None, str | None, str, float | None], delta: float | None = None, **lacks: int
) -> Gated:
    """What the gates let through of three Math candidates, each with its label, answer, ending and MFD."""
    examined = pl.DataFrame(found, ["label", "response", "finish_reason", "mfd"], orient="row")
    rows = pl.concat([make_candidates(*TEXTS), examined], how="horizontal")
    return file_by_label(apply_gates(rows, paid_gates(lacks, delta)))


def test_a_good_one_of_another_task_type_that_lacks_is_filed_there_until_nothing_lacks() -> None:
    gated = run_paid_gates(*((label, "fine", "stop", None) for label in ("Law", "Math", "Law")), Law=1, Math=3)
    assert dict(gated.passed.select("instruction", "task_type").rows()) == {"one two": "Law", "three four": "Math"}
    assert gated.rejected["task_type"].to_list() == ["Math"]
    assert gated.counts == {"task_type": 1, "teacher_answer": 0}


def test_what_another_gate_rejects_takes_no_room() -> None:
    gated = run_paid_gates(("Law", "", "stop", None), ("Law", "fine", "stop", None), (None, "", "stop", None), Law=1)
    assert gated.passed["instruction"].to_list() == ["three four"]
    assert gated.counts == {"task_type": 1, "teacher_answer": 1}


def test_one_of_the_wanted_task_type_passes_though_others_filled_it() -> None:
    gated = run_paid_gates(*(("Math", "fine", "stop", None) for _ in TEXTS), Math=1)
    assert gated.passed.height == 3


def test_only_candidates_of_a_task_type_that_is_wanted_are_answered() -> None:
    labels = pl.Series(["Math", "Law", "Art"])
    assert needed_types(make_candidates(*TEXTS), labels, {"Law"}).to_list() == [True, True, False]
    assert needed_types(make_candidates(*TEXTS), pl.Series([None] * 3, dtype=pl.String), {"Law"}).sum() == 0


def test_the_label_must_be_the_wanted_task_type() -> None:
    gated = run_paid_gates(*((label, "fine", "stop", None) for label in ("Math", "Law", None)))
    assert gated.passed["instruction"].to_list() == ["one two"]
    assert gated.counts == {"task_type": 2, "teacher_answer": 0}


def test_the_teachers_answer_must_be_usable() -> None:
    endings = [("fine", "stop"), (" ", "stop"), ("fine", "length")]
    gated = run_paid_gates(*(("Math", answer, ending, None) for answer, ending in endings))
    assert gated.passed["instruction"].to_list() == ["one two"]
    assert gated.counts == {"task_type": 0, "teacher_answer": 2}


def test_the_difficulty_check_keeps_what_is_above_delta() -> None:
    gated = run_paid_gates(*(("Math", "fine", "stop", mfd) for mfd in (2.0, 2.5, None)), delta=2.0)
    assert gated.passed["instruction"].to_list() == ["three four"]
    assert gated.counts == {"task_type": 0, "teacher_answer": 0, "difficulty": 2}
