import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapir_core.paths import BACKBONE
from tapir_core.reporting.report import choose_examples
from tapir_core.run_folder import RunFolder
from tapir_core.stages import StageAt
from tapir_core.summary import RunReader
from tests.run_builder import build_run

STUDENTS = [BACKBONE, 0, 2]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return build_run(tmp_path_factory.mktemp("whole"))


@given(seed=st.integers(0, 2**32), count=st.integers(1, 100))
def test_what_is_shown_has_the_proportions_of_all(whole: RunFolder, seed: int, count: int) -> None:
    examples = choose_examples(RunReader(whole), STUDENTS, count, random.Random(seed))
    assert examples is not None
    assert sum(examples.groups.values()) == examples.n == 80
    assert len(examples.shown) == min(count, examples.n)
    assert len({example.instruction for example in examples.shown}) == len(examples.shown)
    for change, size in examples.groups.items():
        shown = sum(example.why == change for example in examples.shown)
        assert abs(shown - len(examples.shown) * size / examples.n) <= 1


def test_the_same_generator_shows_the_same_examples(whole: RunFolder) -> None:
    first, again = (choose_examples(RunReader(whole), STUDENTS, 10, random.Random(3)) for _ in range(2))
    assert first == again


def test_an_example_says_what_happened_between_s0_and_the_last_student(whole: RunFolder) -> None:
    examples = choose_examples(RunReader(whole), STUDENTS, 80, random.Random(1))
    assert examples is not None
    for example in examples.shown:
        assert [answer.who for answer in example.answers] == ["backbone", "S_0", "S_2"]
        before, after = (answer.correct for answer in example.answers[1:])
        assert (
            example.why
            == {
                (False, True): "became right",
                (True, False): "became wrong",
                (True, True): "stayed right",
                (False, False): "stayed wrong",
            }[before, after]
        )
        assert example.answers[2].correct == (f"Answer: {example.reference}" in example.answers[2].text.splitlines())


def test_one_student_alone_is_right_or_wrong(tmp_path) -> None:
    run = build_run(tmp_path, until=StageAt("evaluate", BACKBONE))
    examples = choose_examples(RunReader(run), [BACKBONE], 10, random.Random(1))
    assert examples is not None
    assert set(examples.groups) <= {"stayed right", "stayed wrong"}
