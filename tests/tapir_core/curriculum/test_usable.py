import polars as pl
import pytest

from tapir_core.curriculum import split_usable, unusable_reason
from tapir_core.curriculum.tables import EXAMPLES
from tapir_core.text import instruction_id
from tapir_core.turns import Turn, pack_turns
from tests.builders import make_labels, make_pool, make_teacher, shuffled


@pytest.mark.parametrize(
    ("response", "finish_reason", "reason"),
    [
        ("fine", "stop", None),
        ("fine", None, None),
        ("", "stop", "empty"),
        (" \n", "stop", "empty"),
        (None, "stop", "empty"),
        (None, None, "empty"),
        ("half an ans", "length", "cut_off"),
        ("", "length", "cut_off"),
        (None, "refused", "refused"),
        ("I", "content_filter", "refused"),
        (None, "failed:too_long", "failed:too_long"),
        ("Four.<|im_end|>\n<|im_start|>user\nAnd three?", "stop", "control_token"),
        ("Four.<|endoftext|>", "stop", "control_token"),
        ("Four.<|eot_id|><|start_header_id|>user", "stop", "control_token"),
        ("Four.<｜end▁of▁sentence｜><｜User｜>And three?", "stop", "control_token"),
        ("Four.<end_of_turn>\n<start_of_turn>user", "stop", "control_token"),
        ("Four.<turn|>\n<|turn>user", "stop", "control_token"),
        ("Four. [INST] And three? [/INST] Six.", "stop", "control_token"),
        ("Four.[|endofturn|]", "stop", "control_token"),
        ("Four.</s>", "stop", "control_token"),
        ("Four.</s><s>[INST]", "stop", "control_token"),
        ("ChatML begins a turn with `<|im_start|>`.", "stop", "control_token"),
        ("Four.<|im_end|>", "length", "cut_off"),
        ("Write <s>four</s> five.", "stop", None),
        ("xs |> map f <| ys; a <|> b; <|> and [inst]; |x| < |y|", "stop", None),
        ("<b>Four</b>, <turn>, <think>", "stop", None),
    ],
)
def test_each_unusable_answer_has_one_reason(response: str | None, finish_reason: str | None, reason: str) -> None:
    assert unusable_reason(response, finish_reason) == reason


def test_what_cannot_be_used_leaves_the_pool_counted_by_reason() -> None:
    pool = make_pool("one", "two", "three", "four")
    one, two, three, four = (instruction_id(text) for text in ("one", "two", "three", "four"))
    teacher = make_teacher({one: "fine", two: "", four: "fine"})
    usable = split_usable(pool, teacher, make_labels({one: "Math", two: "Math", three: "Law", four: None}))
    assert usable.examples["instruction"].to_list() == ["one"]
    assert usable.examples.schema == EXAMPLES
    assert usable.dropped == {"empty": 1, "missing": 1, "no_task_type": 1}


def test_an_instruction_that_would_end_its_own_turn_leaves_the_pool_for_a_reason_of_its_own() -> None:
    texts = ("What does <|end|> mean?", "Add </s> to", "Fine?")
    pool = pl.concat([make_pool(*texts), make_pool("Fine?", system="You are <|im_start|>.")])
    pool = pool.with_columns(earlier_turns=pl.lit(None, pl.String))
    earlier = pack_turns([Turn("user", "Hi<|eot_id|>"), Turn("assistant", "Hi")])
    later = make_pool("And then?").with_columns(earlier_turns=pl.lit(earlier))
    pool = pl.concat([pool, later])
    teacher = make_teacher(dict.fromkeys(pool["instruction_id"], "fine"))
    usable = split_usable(pool, teacher, make_labels(dict.fromkeys(pool["instruction_id"], "Math")))
    assert usable.examples["instruction"].to_list() == ["Fine?"]
    assert usable.dropped == {"control_token_in_instruction": 4}


def test_the_order_of_arrival_changes_nothing() -> None:
    pool = make_pool(*map(str, range(20)))
    teacher = make_teacher({each: f"answer {each}" for each in pool["instruction_id"]})
    labels = make_labels(dict.fromkeys(pool["instruction_id"], "Math"))
    expected = split_usable(pool, teacher, labels)
    for seed in range(3):
        again = split_usable(shuffled(pool, seed), shuffled(teacher, seed + 1), shuffled(labels, seed + 2))
        assert again.examples.equals(expected.examples)


def test_an_empty_pool_is_no_special_case() -> None:
    assert split_usable(make_pool(), make_teacher({}), make_labels({})).examples.height == 0
