import random
from collections import Counter
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tapir_core.errors import ConfigError
from tapir_core.standin.families import EQUAL_SHARES, FAMILIES, NATURAL_SHARES, draw_problem, recognise, sample_problems
from tapir_core.standin.family import Stream


def test_natural_shares_cover_all_families_and_three_of_them_take_more_than_half() -> None:
    assert set(NATURAL_SHARES) == set(FAMILIES)
    assert sum(NATURAL_SHARES.values()) == pytest.approx(1)
    assert sum(sorted(NATURAL_SHARES.values())[-3:]) > 0.5


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 400), st.integers(1, 5), st.integers(0, 2**32), st.sampled_from([NATURAL_SHARES, EQUAL_SHARES]))
def test_a_sample_is_distinct_within_its_levels_and_has_each_share_within_one_row(
    rows: int, max_level: int, seed: int, shares: dict[str, float]
) -> None:
    problems = sample_problems(rows, max_level=max_level, rng=random.Random(seed), shares=shares)
    assert len(problems) == len({problem.instruction for problem in problems}) == rows
    assert all(1 <= problem.level <= max_level for problem in problems)
    counts = Counter(problem.family for problem in problems)
    assert all(abs(counts[name] - share * rows) < 1 + 1e-6 for name, share in shares.items())


@pytest.mark.parametrize("stream", get_args(Stream))
def test_a_sample_comes_from_the_stream_that_was_asked_for(stream: str) -> None:
    problems = sample_problems(200, max_level=5, rng=random.Random(1), stream=stream)
    assert {problem.stream for problem in problems} == {stream}
    assert all(recognise(problem.instruction) == problem for problem in problems)


def test_the_same_generator_gives_the_same_sample_and_another_seed_another() -> None:
    one, same, other = (sample_problems(50, max_level=3, rng=random.Random(seed)) for seed in (1, 1, 2))
    assert one == same
    assert one != other


def test_more_rows_than_there_are_instructions_is_an_error_that_names_the_family() -> None:
    with pytest.raises(ConfigError, match=r"'plural' is used up.*ask for fewer rows"):
        sample_problems(1000, max_level=1, rng=random.Random(1), shares={"plural": 1.0})


def test_drawing_gives_the_level_that_was_asked_for() -> None:
    problem = draw_problem(FAMILIES["melody"], 4, "dev", random.Random(1))
    assert (problem.family, problem.level, problem.stream) == ("melody", 4, "dev")
