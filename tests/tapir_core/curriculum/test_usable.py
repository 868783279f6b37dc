import polars as pl
import pytest

from tapir_core.curriculum import split_usable, unusable_reason
from tapir_core.text import instruction_id
from tapir_core.turns import Turn, pack_turns
from tests.builders import EXAMPLES, make_labels, make_pool, make_teacher, shuffled


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


@pytest.mark.parametrize(
    ("answer", "is_refusal"),
    [
        ("I'm sorry, but I can't assist with that.", True),
        ("I’m sorry, but I cannot assist with this request.", True),
        ("As an AI language model I am not able to answer this question.", True),
        ("As an AI language model, I don't have personal opinions.", True),
        ("I am just an AI, so I do not have access to the internet.", True),
        ("Unfortunately, I'm unable to provide medical advice.", True),
        ("I will not write that.", True),
        ("I'm sorry to hear that. Here is what you can do: …", False),
        ("I'm sorry that we cannot come. I can't help but feel that I let you down.", False),
        ("Sorry, I am late! As an artist I do not own a watch.", False),
        ("I can't help but admire this poem.", False),
        ("I will not give up on you.", False),
        ("I won't give up until the work is done.", False),
        ("I can't provide anything of that kind.", True),
        ("I cannot wait to show you how this works.", False),
        ("Dear team, I am unable to provide the report by Friday.", False),
        ("The translation is: “I cannot answer you.”", False),
        ("I do not know.", False),
        ("I cannot give legal advice. " + "In general, a lease can be ended when both sides agree to it. " * 3, True),
        ("I cannot give legal advice. In general: " + ", ".join(f"ground {each}" for each in range(90)), False),
    ],
)
def test_an_answer_refuses_by_how_it_begins(answer: str, is_refusal: bool) -> None:
    assert unusable_reason(answer, "stop") == ("refused" if is_refusal else None)


LIST = "\n".join(f"{place}. The {name} is a bird of the north" for place, name in enumerate("ABCDEFGHIJKLMNOP"))


@pytest.mark.parametrize("answer", ["+", "***", "---", "#", " - ", "1.", "- \n- \n"])
def test_an_answer_of_marks_alone_is_an_answer(answer: str) -> None:
    assert unusable_reason(answer, "stop") is None


@pytest.mark.parametrize(
    "answer",
    [
        "The cat sat. " * 40,
        "Sure: " + "ha" * 300,
        "哈" * 300,
        "A beginning of its own.\n" + "- It is important to note the following facts\n" * 30 + "- It is imp",
        "\n".join(f"{place}. The bird is one of the most common birds" for place in range(1, 12)) + "\nThat is all.",
        ("a long paragraph, " * 3 + "which ends. ") * 5,
    ],
)
def test_an_answer_loops_by_how_it_ends_or_by_its_one_line(answer: str) -> None:
    assert unusable_reason(answer, "stop") == "looped"


@pytest.mark.parametrize(
    "answer",
    [
        LIST,
        "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30",
        "Row, row your boat\nGently down the stream\nMerrily, merrily, merrily, merrily\nLife is but a dream\n" * 2,
        "<table>\n" + "<tr><td>1</td></tr>\n" * 9 + "</table>",
        "ha " * 20,
        "| a | b |\n" + "|---" * 40 + "|\n| 1 | 2 |",
    ],
)
def test_lists_refrains_and_code_are_no_loops(answer: str) -> None:
    assert unusable_reason(answer, "stop") is None


def test_an_answer_copies_when_it_is_half_of_its_instruction() -> None:
    text = "The old house by the river was sold last week to a family from the south"
    asked = f"Rewrite this so that a child understands it:\n\n{text}."
    assert unusable_reason(text, "stop", asked) == "copied"
    assert unusable_reason(f"“{text.upper()}!”", "stop", asked) == "copied"
    assert unusable_reason(asked, "stop", asked) == "copied"
    assert unusable_reason("A family bought the old house by the river.", "stop", asked) is None
    assert unusable_reason("was sold last week to a family from the south", "stop", asked) is None, "an extract"
    assert unusable_reason("Yes", "stop", "Yes or no?") is None
    assert unusable_reason(text, "stop") is None


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


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("I'm sorry, I can't help with that. I only answer questions about your parcels.", None),
        ("The parcel was sent on Monday and should arrive on Friday at the latest.", None),
        ("No. " * 200, "looped"),
        ("Four.<|im_end|>", "control_token"),
        ("", "empty"),
    ],
)
def test_where_refusals_are_meant_they_and_unchanged_texts_are_usable(answer: str, reason: str | None) -> None:
    asked = "Correct: The parcel was sent on Monday and should arrive on Friday at the latest."
    assert unusable_reason(answer, "stop", asked, refusals=True) == reason
    assert unusable_reason(answer, "stop", asked) is not None


def test_copies_and_loops_are_seen_in_languages_without_blanks() -> None:
    asked = "请把下面的句子改写得更礼貌一些,让客户感到满意"
    assert unusable_reason(asked, "stop", asked) == "copied"
    assert unusable_reason("麻烦您稍等片刻,我们马上为您处理。", "stop", asked) is None
    line = "我们应该更加努力地学习和工作"
    assert unusable_reason("\n".join(f"{each}. {line}" for each in range(59)), "stop") == "looped"
    assert unusable_reason(f"{line}。" * 59, "stop") == "looped"
    assert unusable_reason("春天来了。花开了。鸟儿在树上唱歌。孩子们在公园里奔跑。", "stop") is None
