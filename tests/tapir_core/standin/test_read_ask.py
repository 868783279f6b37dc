import pytest

from tapir_core.standin.rules import Refusal, read_ask
from tests.tapir_core.standin.asks import SUM, ask, expand_text, label_text, pair_text, refine_text, single_text


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (SUM, "answer"),
        (label_text(), "label"),
        (pair_text("Answer: 91", "Answer: 90"), "judge"),
        (single_text("Answer: 91"), "judge"),
        (expand_text(), "expand"),
        (refine_text(), "refine"),
    ],
)
def test_a_request_of_our_prompts_is_told_by_its_sections(text: str, kind: str) -> None:
    assert ask(text).kind == kind


def test_all_other_words_of_a_prompt_may_be_edited() -> None:
    text = f"Bitte bewerte!\n<instruction>{SUM}</instruction>\nund\n<answer_1>a</answer_1>\n<answer_2>\n\n</answer_2>"
    read = ask(text)
    assert read.kind == "judge"
    assert read.sections == {"instruction": SUM, "answer_1": "a", "answer_2": ""}


def test_a_tag_inside_a_line_opens_no_section() -> None:
    assert ask("Explain <seed>what</seed> <task_type>HTML</task_type> tags are.").kind == "answer"


def test_sections_keep_the_lines_inside_them() -> None:
    read = ask(pair_text("one\n\ntwo <b>bold</b>", "x"))
    assert read.sections["answer_1"] == "one\n\ntwo <b>bold</b>"


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "system", "content": "Be brief."}, {"role": "user", "content": SUM}],
        [{"role": "user", "content": SUM}, {"role": "assistant", "content": "91"}, {"role": "user", "content": SUM}],
        [{"role": "user", "content": [{"type": "text", "text": SUM}]}],
        [{"role": "user", "content": f"<system>\nBe brief.\n</system>\n<instruction>\n{SUM}\n</instruction>"}],
        [{"role": "assistant", "content": "91"}],
        [{"role": "user"}],
    ],
)
def test_anything_but_one_user_message_of_text_is_refused(messages: list[dict[str, object]]) -> None:
    with pytest.raises(Refusal, match="system message"):
        read_ask(messages, None)


def test_an_empty_system_message_changes_nothing() -> None:
    read = read_ask([{"role": "system", "content": ""}, {"role": "user", "content": SUM}], 3)
    assert read == read_ask([{"role": "user", "content": SUM}], 3)
