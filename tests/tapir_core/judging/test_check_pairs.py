import math
import random
from collections import Counter

import pytest

from tapir_core.judging.check import PAIR_KINDS, CheckPair, build_pairs
from tapir_core.judging.hostile import hostile_cases
from tapir_core.standin.families import FAMILIES, recognise
from tapir_core.standin.family import Problem
from tapir_core.standin.rules import SCALE, grade
from tapir_core.verifiers import is_correct

PAIRS = build_pairs(60, random.Random(3))


def problem(pair: CheckPair) -> Problem:
    found = recognise(pair.instruction)
    assert found is not None
    return found


def test_each_plain_kind_has_as_many_pairs_as_wanted_and_each_hostile_case_one() -> None:
    counts = Counter(pair.kind for pair in PAIRS)
    assert counts == {kind: 60 if kind != "hostile" else len(hostile_cases()) for kind in PAIR_KINDS}
    assert len({pair.id for pair in PAIRS}) == len(PAIRS)


def test_all_families_are_asked_about() -> None:
    assert {problem(pair).family for pair in PAIRS} == set(FAMILIES)


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair.id)
def test_what_is_called_better_is_right_and_the_other_is_what_its_kind_says(pair: CheckPair) -> None:
    posed = problem(pair)
    assert is_correct(pair.better, posed.reference)
    assert is_correct(pair.other, posed.reference) == (pair.kind == "padded")
    if pair.kind == "padded":
        assert len(pair.other) > 5 * len(pair.better)
    else:
        assert grade(pair.other, posed) < SCALE.badly_formed
    if pair.kind == "no answer":
        assert "Answer:" not in pair.other


def test_almost_right_is_nearer_than_wrong() -> None:
    points = {
        kind: [grade(pair.other, problem(pair)) for pair in PAIRS if pair.kind == kind]
        for kind in ("wrong", "almost right")
    }
    assert sum(points["almost right"]) > sum(points["wrong"]) + len(PAIRS) // 4


def test_a_hostile_answer_is_the_plain_pairs_wrong_answer_with_a_text_around_it() -> None:
    plain = {pair.id: pair for pair in PAIRS if pair.kind == "wrong"}
    hostile = [pair for pair in PAIRS if pair.kind == "hostile"]
    assert [pair.case for pair in hostile] == [case.name for case in hostile_cases()]
    for pair, case in zip(hostile, hostile_cases(), strict=True):
        assert pair.other == case.wrap(plain[pair.plain_id].other)
        assert (pair.instruction, pair.better) == (plain[pair.plain_id].instruction, plain[pair.plain_id].better)


def test_the_same_generator_gives_the_same_pairs() -> None:
    assert build_pairs(5, random.Random(1)) == build_pairs(5, random.Random(1)) != build_pairs(5, random.Random(2))


def test_one_pair_of_each_kind_will_do() -> None:
    assert len(build_pairs(1, random.Random(0))) == 4 + math.ceil(len(hostile_cases()) / 20)


def test_fewer_pairs_have_fewer_hostile_ones_of_all_kinds_that_there_is_room_for() -> None:
    names = {case.name: case.kind for case in hostile_cases()}
    for per_kind, expected in ((10, len(names) // 2), (20, len(names))):
        cases = [pair.case for pair in build_pairs(per_kind, random.Random(0)) if pair.kind == "hostile"]
        assert len(cases) == expected
        assert {names[case] for case in cases} == {*names.values()}
