import pytest

from tapir_core.text import shorten


@pytest.mark.parametrize(
    ("text", "shown"),
    [("", ""), ("four", "four"), (" two\n\tlines ", "two l…"), ("abcde", "abcde"), ("abcdef", "abcde…")],
)
def test_a_text_is_shown_on_one_line_and_cut_where_it_is_long(text: str, shown: str) -> None:
    assert shorten(text, 5) == shown
