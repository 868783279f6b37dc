from types import SimpleNamespace
from typing import Any

import pytest

from tapir_core.curriculum import Labelling
from tapir_core.estimate.evidence import (
    MESSAGE_TOKENS,
    Instruction,
    estimate_tokens,
    label_request,
    measure_prompts,
    teach_request,
)
from tapir_core.prompts import PROMPT_NAMES, load_prompt
from tasks.asking import chat, make_request
from tests.run_config import make_config

PROMPTS = {name: load_prompt(name) for name in PROMPT_NAMES}
SAMPLE = [
    Instruction("Add 2 and 3."),
    Instruction("Name a bird.", system="You are terse."),
    Instruction("What is 1 + 1?", reference="2"),
]


@pytest.mark.parametrize("each", SAMPLE)
def test_keys_are_those_that_the_stages_ask_for(each: Instruction) -> None:
    config = make_config("runs")
    run: Any = SimpleNamespace(ref=SimpleNamespace(name="another"))
    voice = config.teacher.endpoint.answers_as("teacher")
    label = chat(Labelling().render(PROMPTS["label"], each.text))
    asked = make_request(run, "label", voice, label, config.teacher.labelling, prompt=PROMPTS["label"])
    assert label_request(config, PROMPTS["label"], each).key == asked.key
    taught = make_request(run, "teach", voice, chat(each.text, each.system), config.teacher.answering)
    assert teach_request(config, each).key == taught.key


def test_a_prompt_is_the_real_one_and_answers_in_it_count_by_their_length() -> None:
    measured = measure_prompts(make_config("runs"), PROMPTS, SAMPLE[:1])
    lengths: Any = {"teach": 100.0, "answer": 40.0}
    text = Labelling().render(PROMPTS["label"], SAMPLE[0].text)
    assert measured.of("label", lengths) == estimate_tokens(text) + MESSAGE_TOKENS
    assert measured.of("judge", lengths) == measured.fixed["judge"] + 140
    assert measured.of("refine", lengths) == pytest.approx(measured.fixed["refine"] + 100)
    assert measured.of("teach", lengths) == estimate_tokens(SAMPLE[0].text) + MESSAGE_TOKENS


def test_a_judge_of_one_answer_sees_one() -> None:
    judge = {"endpoint": {"type": "standin"}, "mode": "pointwise"}
    measured = measure_prompts(make_config("runs", judge=judge), PROMPTS, SAMPLE)
    assert measured.of("judge", {"teach": 100.0, "answer": 40.0}) == measured.fixed["judge"] + 100


def test_system_texts_and_references_lengthen_the_prompts_that_show_them() -> None:
    config = make_config("runs")
    plain, with_system, with_reference = (measure_prompts(config, PROMPTS, [each]) for each in SAMPLE)
    assert with_system.fixed["teach"] > plain.fixed["teach"]
    bare = measure_prompts(config, PROMPTS, [Instruction("What is 1 + 1?")])
    assert with_reference.fixed["judge"] > bare.fixed["judge"]
    assert with_reference.fixed["teach"] == bare.fixed["teach"]
