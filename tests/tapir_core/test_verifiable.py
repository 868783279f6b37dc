import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tapir_core.verifiable import final_result, is_correct, normalise_result, states_result


@pytest.mark.parametrize(
    ("response", "result"),
    [
        ("Answer: 91", "91"),
        ("34 + 57 is not 90.\nAnswer: 91.", "91"),
        ("Answer: 90\nNo, wait.\nAnswer: 91\nThat is it.", "91"),
        ("**Answer:** 91", "91"),
        ("**Answer: 91**", "91"),
        ("Final answer: `91`.", "91"),
        ("answer:   red   Lamp ", "red lamp"),
        ("Some steps.\n\n91\n\n", "91"),
        ('Answer: "The wall is painted by Ann."', "the wall is painted by ann"),
        ("Answer: 1,000", "1000"),
        ("Answer: +1000.00", "1000"),
        ("Answer: -0", "0"),
        ("Answer: 0.880", "0.88"),
        ("Answer:", ""),
        ("Answer:\n91", ""),
        ("", ""),
        (" \n ", ""),
    ],
)
def test_the_final_result_is_what_stands_after_the_last_answer_or_on_the_last_line(response: str, result: str) -> None:
    assert final_result(response) == result


@pytest.mark.parametrize(
    ("response", "reference"),
    [
        ("Answer: 90", "91"),
        ("Answer: 910", "91"),
        ("Answer: 9 1", "91"),
        ("Answer: 91 or 92", "91"),
        ("Answer: not 91", "91"),
        ("The sum is 91.", "91"),
        ("Answer: 91\nAnswer: 92", "91"),
        ("Answer: 1,00", "100"),
        ("Answer: 1,000,00", "100000"),
        ("Answer: 1.000", "1000"),
        ("Answer: 123456789012345678901234567891", "123456789012345678901234567890"),
        ("Answer: 0.1000000000000000000000000000001", "0.1"),
        ("Answer: -5", "5"),
        ("Answer: b, a", "a, b"),
        ("Answer: x*2", "x**2"),
        ("Answer: 'a' + 'b", "a + b"),
        ("Answer: '' ''", ""),
        ("Answer: **", ""),
        ("", ""),
        ("Answer:", "91"),
    ],
)
def test_a_wrong_or_empty_result_is_never_correct(response: str, reference: str) -> None:
    assert not is_correct(response, reference)


def test_a_result_is_stated_only_after_the_word_answer_and_a_colon() -> None:
    assert states_result("so\nAnswer: 3")
    assert states_result("The answer: 3")
    assert not states_result("The answer is 3")
    assert not states_result("Nonanswer: 3")


@settings(deadline=None)
@given(st.integers(), st.integers())
def test_numbers_are_equal_exactly_when_they_are_equal(one: int, other: int) -> None:
    assert is_correct(f"Answer: {one:,}", str(other)) == (one == other)


@settings(deadline=None)
@given(st.decimals(allow_nan=False, allow_infinity=False, places=4), st.integers(min_value=0, max_value=5))
def test_trailing_zeros_change_no_number(number: object, zeros: int) -> None:
    assert is_correct(f"Answer: {number:f}{'0' * zeros}", f"{number:f}")


@settings(deadline=None)
@given(st.text())
@example("`'\"x\"'`")
@example("*** x ***")
@example("x..")
def test_every_text_is_the_final_result_of_itself_when_it_is_stated(text: str) -> None:
    line = " ".join(text.split())
    result = normalise_result(line)
    stated = "answer:" not in line.casefold()
    assert not stated or is_correct(f"Some words.\nAnswer: {line}", line) == (result != "")
