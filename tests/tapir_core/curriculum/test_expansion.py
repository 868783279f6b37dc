from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapir_core.calls.engine import REASK_STRIDE
from tapir_core.curriculum import candidate_rows, lacking, parse_expansion, plan_wave, render_expansion
from tapir_core.curriculum.expansion import ExpansionRequest
from tapir_core.prompts import load_prompt
from tapir_core.randomness import derive_rng
from tapir_core.stages import WAVE_CANDIDATES
from tapir_core.text import Unparsed
from tests.builders import make_expansion_config, make_seeds, shuffled

SEEDS = make_seeds({"a": "Math", "b": "Math", "c": "Law"})
NONE = Unparsed("no new instruction")


def plan(lacks: dict[str, int], **fields: int) -> list[ExpansionRequest]:
    at = {"round_number": 1, "wave": 1, "rng_seed": 7} | fields
    rng = derive_rng(at.pop("rng_seed"))
    return plan_wave(SEEDS, lacks, **at, oversample=1.25, rng=rng)


def test_what_lacks_is_wanted_less_what_is_there() -> None:
    assert lacking({"Math": 5, "Law": 2, "Art": 0}, {"Math": 3, "Law": 9}) == {"Math": 2}


@given(st.dictionaries(st.sampled_from(["Math", "Law", "Art"]), st.integers(1, 50)), st.integers(0, 9))
def test_a_wave_asks_for_exactly_what_lacks(lacks: dict[str, int], seed: int) -> None:
    oversample = make_expansion_config().oversample
    asked = plan_wave(SEEDS, lacks, round_number=1, wave=1, oversample=oversample, rng=derive_rng(seed))
    assert Counter(each.task_type for each in asked) == lacks


def test_a_wave_can_ask_for_more_than_lacks() -> None:
    assert Counter(each.task_type for each in plan({"Math": 4, "Law": 5})) == {"Math": 5, "Law": 7}


def test_a_task_type_uses_its_own_seeds_evenly_and_borrows_only_if_it_has_none() -> None:
    requests = plan({"Math": 8, "Art": 24})
    assert Counter(each.seed_id for each in requests if each.task_type == "Math") == {"a": 5, "b": 5}
    assert Counter(each.seed_id for each in requests if each.task_type == "Art") == {"a": 10, "b": 10, "c": 10}


def test_without_seeds_nothing_is_asked_for() -> None:
    rng = derive_rng(1)
    assert plan_wave(make_seeds({}), {"Math": 3}, round_number=1, wave=1, oversample=1.0, rng=rng) == []


def test_no_two_requests_of_a_run_are_the_same() -> None:
    requests = [
        each
        for number in (1, 2, 49)
        for wave in (1, 2, 19)
        for each in plan({"Math": 9}, round_number=number, wave=wave)
    ]
    assert len(set(requests)) == len(requests)
    assert max(each.sample_index for each in requests) < REASK_STRIDE


def test_a_single_seed_is_not_asked_without_end() -> None:
    only = make_seeds({"a": "Math"})
    requests = plan_wave(only, {"Math": 20_000}, round_number=1, wave=1, oversample=1.0, rng=derive_rng(1))
    assert len(set(requests)) == len(requests) == 1000


@given(st.dictionaries(st.sampled_from(["Math", "Law", "Art"]), st.integers(1, 9)), st.integers(0, 99))
def test_the_same_seed_plans_the_same_wave_whatever_the_order_of_the_rows(lacks: dict[str, int], seed: int) -> None:
    plans = [
        plan_wave(rows, asked, round_number=1, wave=1, oversample=1.25, rng=derive_rng(seed))
        for rows, asked in [(SEEDS, lacks), (shuffled(SEEDS, seed), dict(reversed(lacks.items())))]
    ]
    assert plans[0] == plans[1]


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("<new_instruction>\nAdd 2 and 3.\n</new_instruction>", "Add 2 and 3."),
        ("Sure!\n<NEW_INSTRUCTION>x</NEW_INSTRUCTION> Enjoy.", "x"),
        ("<new_instruction>a</new_instruction><new_instruction>b\nc</new_instruction>", "b\nc"),
        ("<new_instruction>cafe\u0301 \ud800</new_instruction>", "café ?"),
        ("<new_instruction> </new_instruction>", NONE),
        ("<new_instruction>cut off", NONE),
        ("Add 2 and 3.", NONE),
        ("", NONE),
        (None, NONE),
    ],
)
def test_the_last_whole_instruction_of_a_reply_counts(raw: str | None, expected: str | Unparsed) -> None:
    assert parse_expansion(raw) == expected


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("<new_instruction>\nAdd 2 and 3.\n", "Add 2 and 3."),
        ("Sure:\n<New_Instruction>Add 2\nand 3.", "Add 2\nand 3."),
        ("<new_instruction>a</new_instruction> <new_instruction>b", "a"),
        ("<new_instruction>a<new_instruction>b", "b"),
        ("<new_instruction> ", NONE),
        ("Add 2 and 3.</new_instruction>", NONE),
        ("<new_instruction>" * 20_000 + "<", "<"),
    ],
)
def test_a_tag_that_is_left_open_counts_where_the_reply_came_to_its_end(raw: str, expected: str | Unparsed) -> None:
    assert parse_expansion(raw, ended=True) == expected


def test_the_prompt_shows_seed_and_wanted_task_type() -> None:
    message = render_expansion(load_prompt("expand"), "Add 2 and 3.</seed>", "Math")
    assert "<seed>\nAdd 2 and 3.‹/seed>\n</seed>" in message
    assert "<task_type>Math</task_type>" in message


def test_a_request_without_an_instruction_stays_a_candidate_so_that_it_is_counted() -> None:
    requests = plan({"Math": 2})
    rows = candidate_rows(requests, ["Add 2 and 3.", None, NONE], wave=1)
    assert rows.schema == WAVE_CANDIDATES.columns
    assert rows["instruction"].to_list() == ["Add 2 and 3.", "", ""]
    assert rows["seed_id"].to_list() == [each.seed_id for each in requests]
