import random
import re
from itertools import pairwise

import pytest

from tapir_core.standin.families import FAMILIES, recognise
from tapir_core.standin.family import LEVELS, Problem
from tapir_core.standin.rules import Refusal, Reply
from tapir_core.task_types import PAPER
from tests.tapir_core.standin.asks import SUM, expand_text, label_text, refine_text, taught

ESSAY = "Write an essay about the sea."
OPENING, CLOSING = "<new_instruction>\n", "\n</new_instruction>"


def expanded(reply: Reply) -> Problem:
    assert isinstance(reply, str)
    assert reply.startswith(OPENING)
    assert reply.endswith(CLOSING)
    problem = recognise(reply.removeprefix(OPENING).removesuffix(CLOSING))
    assert problem is not None
    return problem


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_the_teacher_answers_labels_and_refines_every_family(name: str) -> None:
    rng = random.Random(2)
    for level in LEVELS:
        problem = FAMILIES[name].draw_problem(level, rng)
        assert taught(problem.instruction) == problem.plain
        assert taught(label_text(problem.instruction)) == f"Task type: {problem.task_type}"
        assert taught(refine_text(problem.instruction, problem.task_type)) == problem.refined


def test_refined_answers_come_in_the_style_of_their_task_type() -> None:
    rng = random.Random(2)
    steps, code, prose = (FAMILIES[name].draw_problem(2, rng) for name in ("sum", "lambda", "plural"))
    assert PAPER.family_of(steps.task_type) == "steps"
    assert "=" in steps.refined
    assert PAPER.family_of(code.task_type) == "code"
    assert "#" in code.refined
    assert PAPER.family_of(prose.task_type) == "prose"
    assert "takes" in prose.refined


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_an_expansion_has_the_seeds_family_level_and_phrasing_and_new_content_from_the_pools_stream(name: str) -> None:
    rng = random.Random(3)
    for level in LEVELS:
        seed = FAMILIES[name].draw_problem(level, rng)
        new = expanded(taught(expand_text(seed.instruction, seed.task_type), level))
        assert (new.family, new.level, new.phrasing, new.stream) == (name, level, seed.phrasing, "pool")
        assert new.content != seed.content


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_what_made_a_seed_hard_recurs_in_its_expansions(name: str) -> None:
    rng, alike, different = random.Random(4), [], []
    for level in LEVELS:
        seeds = [FAMILIES[name].draw_problem(level, rng) for _ in range(8)]
        new = [expanded(taught(expand_text(seed.instruction, seed.task_type))) for seed in seeds]
        assert all(len(one.traits) == len(other.traits) for one, other in zip(seeds, new, strict=True))
        alike += [one.traits == other.traits for one, other in zip(seeds, new, strict=True)]
        different += [one.traits != other.traits for one, other in pairwise(seeds)]
    assert sum(alike) >= 0.9 * len(alike)
    assert any(different), "traits tell nothing apart"


@pytest.mark.parametrize(
    ("seed", "pattern"),
    [
        ("Add up: 50 + 68", r"Add up: \d+ \+ \d+"),
        ("Which word is third: water garden tiger house?", r"Which word is third: (\w+ ){3}\w+\?"),
        ("Say in Italian: king", r"Say in Italian: \w+"),
        ("Passive voice: Leo has followed the gate.", r"Passive voice: \w+ has \w+ the \w+\."),
        ("Ann has 13 pens, loses 5. How many now?", r"\w+ has \d+ \w+, (loses|sells) \d+\. How many now\?"),
        ("Give a lambda which divides x by 7.", r"Give a lambda which divides x by \d+\."),
        ("30 km in m?", r"\d+ km in m\?"),
        ("Chemical name of Fe?", r"Chemical name of \w+\?"),
        ("As JSON: city Tokyo, age 7", r"As JSON: (name|city|colour|pet) \w+, (age|score|room) \d+"),
        ("Who is youngest? Ann is older than Ben, Ben than Dan.", r"Who is youngest\? \w+ is older than .*"),
        ("Output of print('river'[-1])?", r"Output of print\('\w+'\[-1\]\)\?"),
    ],
)
def test_known_expansions(seed: str, pattern: str) -> None:
    problem = recognise(seed)
    assert problem is not None
    new = [expanded(taught(expand_text(seed, problem.task_type), index)).instruction for index in range(10)]
    assert [text for text in new if not re.fullmatch(pattern, text)] == []
    assert len(set(new)) > 3


def test_another_task_type_is_expanded_by_a_family_of_that_type_at_the_seeds_level() -> None:
    seed = FAMILIES["melody"].draw_problem(4, random.Random(1))
    new = [expanded(taught(expand_text(seed.instruction, "Math"), index)) for index in range(20)]
    assert {problem.family for problem in new} == {"sum", "product"}
    assert {problem.level for problem in new} == {4}


def test_task_types_may_come_with_definitions() -> None:
    assert taught(label_text(task_types=("Law: what courts do", "Math: sums, as in 2 + 2: 4"))) == taught(label_text())
    new = [expanded(taught(expand_text(task_type="Music: notes and songs"), index)) for index in range(3)]
    assert {problem.task_type for problem in new} == {"Music"}


def test_the_same_request_gives_the_same_expansion_and_another_sample_index_another() -> None:
    replies = [taught(expand_text(), index) for index in (0, 0, 1, 2, 3)]
    assert replies[0] == replies[1]
    assert len(set(replies)) == 4


def test_even_a_held_out_seed_is_expanded_into_the_pools_stream() -> None:
    rng = random.Random(5)
    seeds = [FAMILIES["element"].draw_problem(1, rng) for _ in range(200)]
    heldout = [seed for seed in seeds if seed.stream != "pool"]
    assert heldout
    for seed in heldout:
        assert expanded(taught(expand_text(seed.instruction, "Chemistry"))).stream == "pool"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (ESSAY, "does not know"),
        (label_text(ESSAY), "does not know"),
        (refine_text(ESSAY), "does not know"),
        (expand_text(ESSAY), "does not know"),
        (expand_text(SUM, "Law"), "no family of task type 'Law'"),
        (label_text(SUM, ("Law", "Art")), "knows this as Math"),
    ],
)
def test_what_the_teacher_does_not_know_it_refuses(text: str, reason: str) -> None:
    with pytest.raises(Refusal, match=reason):
        taught(text)


def test_sections_that_no_rule_knows_are_an_instruction_that_nobody_knows() -> None:
    with pytest.raises(Refusal, match="does not know"):
        taught("<style>\nprose\n</style>\n<question>\nWhat is 30 + 61?\n</question>")
