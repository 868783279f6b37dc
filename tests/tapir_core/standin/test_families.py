import ast
import random
import re
from collections import defaultdict
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tapir_core.judging.prompt import neutralise
from tapir_core.standin.families import FAMILIES, recognise
from tapir_core.standin.family import LEVELS, Problem, Stream
from tapir_core.task_types import TASK_TYPES
from tapir_core.verifiers import is_correct, states_result

any_problem = st.builds(
    lambda name, level, seed: FAMILIES[name].draw_problem(level, random.Random(seed)),
    st.sampled_from(sorted(FAMILIES)),
    st.sampled_from(LEVELS),
    st.integers(min_value=0, max_value=2**32),
)
each_family = pytest.mark.parametrize("name", sorted(FAMILIES))


def draw(name: str, level: int, count: int) -> list[Problem]:
    rng = random.Random(7)
    return [FAMILIES[name].draw_problem(level, rng) for _ in range(count)]


def test_there_are_at_least_16_families_over_at_least_12_of_the_32_task_types() -> None:
    task_types = {family.task_type for family in FAMILIES.values()}
    assert len(FAMILIES) >= 16
    assert len(task_types) >= 12
    assert task_types <= set(TASK_TYPES)
    assert {"Math", "Reasoning", "Code Generation", "Code Debug"} <= task_types


@each_family
def test_every_family_has_several_phrasings_and_hundreds_of_instructions_at_every_level(name: str) -> None:
    assert len(set(FAMILIES[name].phrasings)) >= 3
    for level in LEVELS:
        drawn = draw(name, level, 2500)
        assert len({problem.instruction for problem in drawn}) >= 300
        assert {problem.stream for problem in drawn} == set(get_args(Stream))


@settings(deadline=None)
@given(any_problem)
def test_an_instruction_is_recognised_as_the_very_problem_that_was_drawn(problem: Problem) -> None:
    assert recognise(problem.instruction) == problem
    assert recognise(f"\n {problem.instruction} \n") == problem
    assert recognise(neutralise(problem.instruction)) == problem


@settings(deadline=None)
@given(any_problem)
def test_no_two_families_claim_the_same_text(problem: Problem) -> None:
    assert [name for name, family in FAMILIES.items() if family.read(problem.instruction)] == [problem.family]


@each_family
def test_every_phrasing_of_every_level_is_recognised(name: str) -> None:
    family, rng = FAMILIES[name], random.Random(3)
    for level in LEVELS:
        slots = family.draw(level, rng)
        for phrasing in family.phrasings:
            problem = recognise(phrasing.format(**slots))
            assert problem is not None
            assert (problem.family, problem.level) == (name, level)


@settings(deadline=None)
@given(any_problem)
def test_plain_and_refined_answer_state_the_reference_as_their_result(problem: Problem) -> None:
    for answer in (problem.plain, problem.refined):
        assert states_result(answer)
        assert is_correct(answer, problem.reference)
        assert neutralise(answer) == answer
    assert problem.refined != problem.plain


@settings(deadline=None)
@given(any_problem)
def test_instructions_and_answers_are_short_so_that_a_small_student_learns_them_within_minutes(
    problem: Problem,
) -> None:
    assert len(re.findall(r"\w+", problem.instruction)) <= 30
    assert len(re.findall(r"\w+", problem.plain)) <= 25
    assert len(re.findall(r"\w+", problem.refined)) <= 50


@settings(deadline=None)
@given(any_problem, st.data())
def test_a_changed_word_gives_another_problem_or_none_but_never_the_same_answer_for_another_text(
    problem: Problem, data: st.DataObject
) -> None:
    words = problem.instruction.split(" ")
    place = data.draw(st.integers(min_value=0, max_value=len(words) - 1))
    words[place] = data.draw(st.sampled_from(["", "xyzzy", "0", "not", f"{words[place]} twice"]))
    changed = " ".join(words)
    found = recognise(changed)
    assert found is None or found.instruction == changed.strip()
    assert found is None or found.family == problem.family


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Hello",
        "What is the capital of France?",
        "What is 3 + 4 - 2?",
        "What is 3 + 4000?",
        "What is 3.5 times 2?",
        "What is 3 + 4? Answer in French.",
        "Please, what is 3 + 4?",
        "Name the fourth word: red lamp stone",
        "Plural of cat, phoneme?",
        "Who is tallest? Ann is older than Ben.",
        "Who is tallest? Ann is taller than Ben, Ben than Ann.",
        "Who is tallest? Ann is taller than Ben, Cara than Dan.",
        "Who is tallest? Ann is taller than Ann.",
        "Who is tallest? Ann is taller than Ben, Ben than Cara, Cara than Ben.",
        "Who won: Lions 3, Bears 3?",
        "Who won: Lions 3, Lions 2?",
        "Who won: Lions 3, Bears 1 and 9?",
        "Ann has 3 pens, sells 5. How many now?",
        "If snow was red, what colour would grass be?",
        "If snow was red, snow blue, what colour would snow be?",
        "Which is biggest: cat, cat?",
        "Which is biggest: ant, theory?",
        "As JSON: age Ann",
        "As JSON: age 5, age 6",
        "Play backwards: C",
        "In grass - snail - frog, what eats the frog?",
        "In frog - snail - grass, what eats the snail?",
        "Which century is 50 in?",
        "Which century is 0 BC in?",
        "Which century is 10 years after 44 BC in?",
        "Convert 5 km to kg.",
        "Convert 0 km to m.",
        "Chemical symbol of kryptonite?",
        "Translate to French: justice",
        "Write a Python lambda that adds 7.",
        "Write a Python lambda that adds 7 to x, then does nothing.",
        "Fix this Python: def area(x): return x + 7",
        "Fix this Python: import os",
        "Output of print(1/0)?",
        "Passive voice: Ann sleeps the wall.",
        "What is 1 + 2?" + " " * 400 + "x",
    ],
)
def test_what_no_rule_covers_is_not_recognised(text: str) -> None:
    assert recognise(text) is None


@settings(deadline=None)
@given(st.text(max_size=400))
def test_any_text_is_read_without_an_error(text: str) -> None:
    recognise(text)


@each_family
def test_one_problem_is_in_one_stream_in_whatever_phrasing(name: str) -> None:
    family, rng = FAMILIES[name], random.Random(5)
    for level in LEVELS:
        slots = family.draw(level, rng)
        problems = [recognise(phrasing.format(**slots)) for phrasing in family.phrasings]
        assert len({problem.stream for problem in problems if problem}) == 1


def test_one_problem_is_in_one_stream_in_whatever_order_of_its_items() -> None:
    by_items = defaultdict(set)
    for problem in draw("sum", 2, 500):
        by_items[tuple(sorted(re.findall(r"\d+", problem.instruction)))].add(problem.stream)
    assert all(len(streams) == 1 for streams in by_items.values())


@each_family
def test_phrasings_share_too_few_words_in_a_row_to_look_like_held_out_instructions(name: str) -> None:
    for phrasing in FAMILIES[name].phrasings:
        runs = [run.split() for run in re.split(r"\{\w+\}", phrasing)]
        assert max(map(len, runs)) <= 6


def test_all_code_in_reference_answers_is_python() -> None:
    for name in ("lambda", "mend", "print"):
        for level in LEVELS:
            for problem in draw(name, level, 20):
                if name != "print":
                    ast.parse(problem.reference)
                    ast.parse(problem.refined.rpartition("\n")[0])


@settings(deadline=None)
@given(any_problem, any_problem, st.data())
def test_two_instructions_spliced_are_read_without_an_error_and_claimed_by_one_family_at_most(
    one: Problem, other: Problem, data: st.DataObject
) -> None:
    heads, tails = one.instruction.split(" "), other.instruction.split(" ")
    cut, start = (data.draw(st.integers(min_value=0, max_value=len(words))) for words in (heads, tails))
    spliced = " ".join(heads[:cut] + tails[start:])
    assert sum(family.read(spliced) is not None for family in FAMILIES.values()) <= 1
    found = recognise(spliced)
    assert found is None or is_correct(found.refined, found.reference)


def test_a_clause_that_repeats_the_verb_is_not_recognised() -> None:
    assert recognise("If snow was red, was blue, what colour would snow be?") is None
