"""Thoughts are taken away where they are thoughts, and nowhere else."""

import json

import pytest

from tapir_core.calls import Endpoint
from tapir_core.calls.thoughts import strip_thoughts, unknown_mark
from tapir_core.calls.wire import read_completion


@pytest.mark.parametrize(
    "text",
    [
        "<think>\nHm.\n</think>\n\n42",
        "\n<think>Hm.</think>42",
        "<Thinking>\nHm.\n</Thinking>\n\n42",
        "<think>Hm.</THINK>42",
        "<think>\nHm.\n</thinking>\n42",
        "<thought>Hm.</thought> 42",
        "<reasoning>Hm.</reasoning>\n42",
        "[THINK]Hm.[/THINK]42",
        "<seed:think>Hm.</seed:think>42",
        "◁think▷Hm.◁/think▷42",
        "<|begin_of_thought|>Hm.<|end_of_thought|>\n<|begin_of_solution|>42<|end_of_solution|>",
        "<|START_THINKING|>Hm.<|END_THINKING|><|START_RESPONSE|>42<|END_RESPONSE|>",
        "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>42<|return|>",
        "analysisHm.assistantfinal42",
        "<|channel>thought\nHm.<channel|>42",
        "<unused94>thought\nHm.<unused95>42",
        "Here is my thought process: Hm. Here is my response: 42",
        "<think>Hm.</think>\n<answer>\n42\n</answer>",
        "<think>Hm.</think>\n\n<response>\n42\n</response>",
        "<think></think><think>Hm.</think>42",
        "Hm.\n</think>\n\n42",
        "Hm.</think> 42",
        "Hm, 6 times 7.\n[/THINK]42",
    ],
)
def test_thoughts_in_the_marks_of_the_known_families_are_no_part_of_the_answer(text: str):
    assert strip_thoughts(text) == "42"


@pytest.mark.parametrize(
    "text",
    [
        "42",
        "",
        "Put your plan between <think> and </think> tags; then answer.",
        "<think> is a tag, <think> too, and </think> closes",
        "<think> and </think> are tags.",
        "End your thoughts with </think> and go on.",
        "Close it with `</think>` first.",
        "```\n<p>Hm.\n</think>\n```\nis how it ends.",
        "Analysis of the poem: it rhymes.",
        "Here is my thought process: I added both.",
        "I think <thinking> is what cats do.",
        "<answer>42</answer>",
        "<div>thinking</div>",
        "<reason>Missing stock</reason>\n<code>E42</code>",
        "<thought>one</thought>\n<thought>two</thought>",
        "<reasoning>because</reasoning>",
        "Write:\n\n    </think>\n\nand go on.",
        "| mark | meaning |\n| </think> | the end |",
        "1. </think> ends them.",
        "It is **</think>** that ends them.",
    ],
)
def test_what_only_speaks_of_thoughts_stays_as_it_is(text: str):
    assert strip_thoughts(text) == text


@pytest.mark.parametrize("opening", ["<think>", "<thinking>\n", "[THINK]", "<|channel|>analysis<|message|>"])
def test_thoughts_that_are_never_closed_leave_no_answer(opening: str):
    assert strip_thoughts(f"{opening}Hm. Six times seven") == ""


def test_an_answer_in_several_elements_is_not_unwrapped():
    assert (
        strip_thoughts("<think>h</think><answer>A</answer>\n<answer>B</answer>")
        == "<answer>A</answer>\n<answer>B</answer>"
    )


@pytest.mark.parametrize("text", ["so </think> b ", "</think>\n", "It. <think>a</think> ", "<think>a</think> "])
def test_a_reply_of_nothing_but_marks_is_read_soon(text: str):
    assert len(strip_thoughts("Hm " * (text[0] != "<") + text * 20_000)) < 20_000 * len(text) + 10


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning", "reasoning_details"])
def test_where_the_server_put_thoughts_apart_nothing_is_taken_away(field: str):
    text = "<think> opens and\n</think>\ncloses thoughts."
    message = {"role": "assistant", "content": text, field: "They ask of tags."}
    body = {"choices": [{"message": message, "finish_reason": "stop"}]}
    assert read_completion(json.dumps(body), Endpoint("", 1)).outcome.text == text


@pytest.mark.parametrize(
    ("text", "mark"),
    [
        ("<pondering>\nHm.", "<pondering>"),
        ("<|inner_voice|>Hm.", "<|inner_voice|>"),
        ("[PLAN] Hm.", "[PLAN]"),
        ("◁muse▷", "◁muse▷"),
        ("【思考】Hm.", "【思考】"),
        ("<think>Hm.", ""),
        ("Plain.", ""),
        ("a < b > c", ""),
        ("[1] A note.", ""),
    ],
)
def test_a_mark_in_no_table_is_told(text: str, mark: str):
    assert unknown_mark(text) == mark
