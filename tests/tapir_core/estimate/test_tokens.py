import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapir_core.estimate.evidence import estimate_tokens, mean_tokens

ENGLISH = (
    "The committee met on Tuesday to discuss the new library. Most members agreed that the building should stay open "
    "in the evening, but nobody could say who would pay for the light and the heating in winter."
)
CODE = "def add(first, second):\n    if first is None:\n        return second\n    return first + second\n"


@given(st.text(min_size=1))
def test_a_text_that_is_not_empty_has_at_least_one_token(text: str) -> None:
    assert estimate_tokens(text) >= 1


@given(st.text(), st.text())
def test_a_longer_text_never_has_fewer_tokens(text: str, more: str) -> None:
    assert estimate_tokens(text + more) >= estimate_tokens(text)


@given(st.text(max_size=400))
def test_tokens_are_at_most_two_a_character(text: str) -> None:
    assert estimate_tokens(text) <= 2 * len(text) + 1


def test_an_empty_text_has_none() -> None:
    assert estimate_tokens("") == 0
    assert mean_tokens([]) == 0


@pytest.mark.parametrize(
    ("text", "low", "high"),
    [
        (ENGLISH, 33, 48),
        (CODE, 20, 33),
        ("委员会星期二开会讨论新图书馆的事情。", 10, 24),
        ("Комитет собрался во вторник, чтобы обсудить новую библиотеку.", 12, 32),
        ("🦌🦌🦌", 3, 9),
    ],
)
def test_known_texts_have_about_the_tokens_that_tokenizers_give_them(text: str, low: int, high: int) -> None:
    assert low <= estimate_tokens(text) <= high


def test_a_mean_is_taken_over_texts() -> None:
    assert mean_tokens(["a", "a"]) == estimate_tokens("a")
