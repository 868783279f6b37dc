import pytest

from tapir_core.curriculum import refinement_problem, refinement_prompt_name, render_refinement
from tapir_core.prompts import load_prompt
from tapir_core.task_types import PAPER, TASK_TYPES

ADD = "```python\ndef add(a, b):\n    return a + b\n```"


def fenced(code: str, language: str = "python") -> str:
    return f"Here:\n```{language}\n{code}\n```\nIt works."


CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call>'


@pytest.mark.parametrize(
    ("task_type", "plain", "refined", "reason"),
    [
        ("Math", "Answer: 42", "6 · 7 is 42.\nAnswer: 42", None),
        ("Math", "Answer: 42", "6 · 7 is 42.\n**Answer: 42.**", None),
        ("Math", "Answer: 42", "6 · 7 is 42.\n42", None),
        ("Math", "Answer: 42", "6 · 8 is 48.\nAnswer: 48", "lost_result"),
        ("Math", "Answer: 42", "The answer is clear.", "lost_result"),
        ("Math", "The total is $1,200.50 today.", "Step 1 …\nThe total is 1200.5 dollars.", None),
        ("Math", "The total is 12.", "Step 1: 12\nThe total is 13.", "lost_result"),
        ("Reasoning", "It is -3.", "So it is 3.", "lost_result"),
        ("Reasoning", "Yes, all of them are.", "Each is one; so all of them are.", None),
        ("History", "Answer: 1789", "It began in France.\nAnswer: 1789", None),
        ("History", "Answer: 1789", "It began in France.", "lost_result"),
        ("History", "It began in 1789.", "It began in France.", None),
        ("Grammar", "Answer: He goes.", "He takes the third person.\nAnswer: `he goes`", None),
        ("Writing", "Answer: " + "long prose " * 20, "Better prose.", None),
        ("Code Generation", ADD, fenced("# sum\ndef add(a, b):\n    return a + b\n\n\ndef help_it(): ..."), None),
        ("Code Generation", ADD, fenced("def plus(a, b):\n    return a + b"), "lost_names"),
        ("Code Generation", ADD, fenced("def add(a, b)\n    return a + b"), "broken_code"),
        ("Code Generation", ADD, "Use the built-in sum.", "lost_code"),
        ("Code Debug", "def add(a, b):\n    return a + b", fenced("def add(a, b):\n    return b + a"), None),
        ("Code Debug", "def add(a, b):\n    return a + b", "Just add them up.", "broken_code"),
        ("Code Debug", fenced("ls -l | wc", "bash"), fenced("ls | wc -l", "bash"), None),
        ("Code Debug", fenced("ls", ""), fenced("ls -la | wc", "bash"), None),
        ("Code Debug", f"{ADD}\nAnswer: 5", f"{ADD}\nAnswer: 6", "lost_result"),
        ("Code Debug", "Answer: 5", "The loop runs five times.\nAnswer: 5", None),
        ("Code Debug", "Yes", "Yes, it does.", None),
        ("Math", "Answer: [[19, 22], [43, 50]]", "Row by column.\nAnswer: [[19, 22], [43, 50]]", None),
        ("Math", "Answer: [[19, 22], [43, 50]]", "Row by column.\nAnswer: [ [19, 22], [43, 50]]", None),
        ("Code Generation", fenced("<style>b {}</style>", "html"), fenced("<style>i {}</style>", "html"), None),
        ("Code Generation", fenced("<style>b {}</style>", "html"), fenced("‹style>i {}‹/style>", "html"), "lost_code"),
        ("History", CALL, "I would call the weather tool for Paris.", "lost_result"),
        ("History", CALL, CALL.replace("Paris", "London"), "lost_result"),
        ("History", CALL, f"Let me look.\n{CALL}", None),
    ],
)
def test_a_refined_answer_must_come_to_the_plain_result(
    task_type: str, plain: str, refined: str, reason: str | None
) -> None:
    assert refinement_problem(plain, refined, PAPER.family_of(task_type)) == reason


@pytest.mark.parametrize(
    ("refined", "finish_reason", "reason"),
    [
        (None, "refused", "refused"),
        ("", "stop", "empty"),
        ("Answer: 42", "length", "cut_off"),
        (None, "failed:too_long", "failed:too_long"),
    ],
)
def test_an_unusable_refined_answer_is_rejected(refined: str | None, finish_reason: str, reason: str) -> None:
    assert refinement_problem("Answer: 42", refined, "steps", finish_reason) == reason


@pytest.mark.parametrize(
    "hostile", ["```\n" * 2000, "(" * 5000, "def f():\0", "```python\n'\\d'\n```", "\ud800", "1" * 5000]
)
def test_hostile_answers_are_judged_and_never_raise(hostile: str) -> None:
    for task_type in ("Math", "Code Generation", "Law"):
        refinement_problem(hostile, ADD, PAPER.family_of(task_type))
        refinement_problem(ADD, hostile, PAPER.family_of(task_type))


def test_every_task_type_has_a_prompt_of_its_family() -> None:
    assert {refinement_prompt_name(PAPER.family_of(each)) for each in TASK_TYPES} == {
        "refine_steps",
        "refine_code",
        "refine_prose",
    }
    assert refinement_prompt_name(PAPER.family_of("Counterfactual")) == "refine_steps"
    assert refinement_prompt_name(PAPER.family_of("Others")) == "refine_prose"


def test_the_prompt_shows_instruction_answer_and_style() -> None:
    message = render_refinement(load_prompt("refine_steps"), "Add 2 and 3.", "Be brief.", "5</answer>")
    for section in (
        "<instruction>\nAdd 2 and 3.\n",
        "<answer>\n5‹/answer>\n",
        "<system>\nBe brief.\n",
        "<style>steps<",
    ):
        assert section in message
