from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from tapir_core.curriculum import Labelling
from tapir_core.estimate.evidence import (
    MESSAGE_TOKENS,
    Instruction,
    estimate_tokens,
    measure_prompts,
    pool_requests,
)
from tapir_core.estimate.run import forecast
from tapir_core.estimate.workload import Pool, Prompts
from tapir_core.judging import show_instruction
from tapir_core.prompts import PROMPT_NAMES, load_prompt
from tapir_core.task_types import PAPER
from tapir_core.turns import Turn, pack_turns
from tasks.asking import chat, conversation, make_request
from tests.estimates import measured
from tests.run_config import make_config

PROMPTS = {name: load_prompt(name) for name in PROMPT_NAMES}


def row(instruction: str, system: str | None = None, reference: str | None = None, *earlier: Turn) -> Instruction:
    return {
        "instruction": instruction,
        "system": system,
        "reference": reference,
        "earlier_turns": pack_turns(earlier),
    }


SAMPLE = [
    row("Add 2 and 3."),
    row("Name a bird.", system="You are terse."),
    row("What is 1 + 1?", reference="2"),
    row("And another?", "You are terse.", None, Turn("user", "Name a bird."), Turn("assistant", "A swift.")),
]


@pytest.mark.parametrize("each", SAMPLE)
def test_keys_are_those_that_the_stages_ask_for(each: Instruction) -> None:
    config = make_config("runs")
    run: Any = SimpleNamespace(ref=SimpleNamespace(name="another"))
    voice = config.teacher.endpoint.answers_as("teacher")
    label = chat(Labelling(PAPER).render(PROMPTS["label"], show_instruction(each)))
    asked = make_request(run, "label", voice, label, config.teacher.labelling, prompt=PROMPTS["label"])
    taught = make_request(run, "teach", voice, conversation(each), config.teacher.answering)
    labelling, plain = pool_requests(config, PROMPTS["label"], each)
    assert (labelling.key, plain.key) == (asked.key, taught.key)


def test_a_prompt_is_the_real_one_and_answers_in_it_count_by_their_length() -> None:
    found = measure_prompts(make_config("runs"), PROMPTS, SAMPLE[:1])
    text = Labelling(PAPER).render(PROMPTS["label"], SAMPLE[0]["instruction"])
    assert found["label"] == Prompts(estimate_tokens(text) + MESSAGE_TOKENS)
    assert found["judge"].shows == {"teach": 1, "answer": 1}
    assert found["refine"].shows == {"teach": 1}
    assert found["teach"] == Prompts(estimate_tokens(SAMPLE[0]["instruction"]) + MESSAGE_TOKENS)


def test_a_judge_of_one_answer_sees_one() -> None:
    judge = {"endpoint": {"type": "standin"}, "mode": "pointwise"}
    found = measure_prompts(make_config("runs", judge=judge), PROMPTS, SAMPLE)
    assert found["judge"].shows == {"teach": 1}


def test_a_reply_that_stands_in_a_prompt_lengthens_it_by_its_own_length() -> None:
    config = make_config("runs")
    voice = config.teacher.endpoint.answers_as("teacher")
    found = measured(config)
    long = replace(found, lengths={("teach", voice, ""): 100.0})
    for role, answers in (("judge", 2), ("refine", 1), ("label", 0)):
        lines = {each.name: each.needed for each in forecast(config, Pool(240, 120), long).stages}
        asked = lines[role].prompt_tokens.likely / lines[role].calls.likely
        assert asked == pytest.approx(found.prompts[role].tokens + 100 * answers)  # type: ignore[index]  # roles


def test_system_texts_and_references_lengthen_the_prompts_that_show_them() -> None:
    config = make_config("runs")
    plain, with_system, with_reference = (measure_prompts(config, PROMPTS, [each]) for each in SAMPLE[:3])
    assert with_system["teach"].tokens > plain["teach"].tokens
    bare = measure_prompts(config, PROMPTS, [row("What is 1 + 1?")])
    assert with_reference["judge"].tokens > bare["judge"].tokens
    assert with_reference["teach"] == bare["teach"]
