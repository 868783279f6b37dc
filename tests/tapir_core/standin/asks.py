"""Requests as our own prompts word them."""

from tapir_core.judging.prompt import fill_in, neutralise
from tapir_core.prompts import load_prompt
from tapir_core.standin.rules import Ask, Behaviour, Reply, read_ask, say
from tapir_core.task_types import PAPER, TASK_TYPES

SUM = "What is 30 + 61?"


def ask(text: str, seed: int | None = None) -> Ask:
    return read_ask([{"role": "user", "content": text}], seed)


def taught(text: str, seed: int | None = None) -> Reply:
    """What the teacher says."""
    return say(ask(text, seed), Behaviour())


def pair_text(answer_1: str, answer_2: str, instruction: str = SUM) -> str:
    given = {"instruction": instruction, "system": None, "reference": "91"}
    return fill_in(load_prompt("judge"), **given, answer_1=answer_1, answer_2=answer_2)


def single_text(answer: str, instruction: str = SUM) -> str:
    prompt = load_prompt("judge_pointwise")
    return fill_in(prompt, instruction=instruction, system=None, reference=None, answer=answer)


def label_text(instruction: str = SUM, task_types: tuple[str, ...] = TASK_TYPES) -> str:
    return load_prompt("label").render(instruction=neutralise(instruction), task_types="\n".join(task_types))


def expand_text(seed: str = SUM, task_type: str = "Math") -> str:
    return load_prompt("expand").render(seed=neutralise(seed), task_type=task_type)


def refine_text(instruction: str = SUM, task_type: str = "Math") -> str:
    prompt = load_prompt(f"refine_{PAPER.family_of(task_type)}")
    return prompt.render(instruction=neutralise(instruction), answer="Answer: 91", system="")
