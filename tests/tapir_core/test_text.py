import pytest

from tapir_core.text import instruction_id, shorten


@pytest.mark.parametrize(
    ("text", "shown"),
    [("", ""), ("four", "four"), (" two\n\tlines ", "two l…"), ("abcde", "abcde"), ("abcdef", "abcde…")],
)
def test_a_text_is_shown_on_one_line_and_cut_where_it_is_long(text: str, shown: str) -> None:
    assert shorten(text, 5) == shown


def test_the_id_of_one_turn_is_what_it_was_and_earlier_turns_make_another() -> None:
    assert instruction_id("What is a tapir?", "Be brief.") == "e1aad228ffbc419e"
    turns = [("user", "Hello."), ("assistant", "Yes?")]
    ids = {instruction_id("A?", None, each) for each in ([], turns, turns[::-1], [*turns, *turns])}
    assert len(ids) == 4
    assert instruction_id("A?", None, [("user", " Hello.\n"), ("assistant", "Yes?")]) in ids
