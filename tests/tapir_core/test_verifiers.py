"""The final result of an answer, and the shipped verifiers on answers that are right, wrong, and not theirs to tell."""

import json

import jsonschema
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tapir_core import verifiers
from tapir_core.config import SHIPPED
from tapir_core.verifiers import final_result, is_correct, normalise_result, states_result

SCHEMA = json.dumps({"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]})
ADD = "Here it is:\n\n```python\ndef add(a, b):\n    return a + b\n```\n"


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
    assert states_result(line) or is_correct(f"Some words.\nAnswer: {line}", line) == (result != "")


def test_every_name_is_a_function() -> None:
    assert all(callable(getattr(verifiers, name)) for name in SHIPPED)


@pytest.mark.parametrize("name", SHIPPED)
def test_without_a_reference_none_can_say(name: str) -> None:
    assert getattr(verifiers, name)("Add 1 and 2.", "3", None) is None


@pytest.mark.parametrize(
    ("answer", "reference", "score"),
    [("So\nAnswer: 1,000", "1000", 1.0), ("It is 1000 in all.", "1000", 0.0), ("", "1000", 0.0)],
)
def test_exact(answer: str, reference: str, score: float) -> None:
    assert verifiers.exact("", answer, reference) == score


@pytest.mark.parametrize(
    ("answer", "reference", "score"),
    [
        ("The sum is 91.", "91", 1.0),
        ("Answer: $1,234.50", "1234.5", 1.0),
        ("Answer: 3/4", "0.75", 1.0),
        ("75 %", "0.75", 1.0),
        ("75", "75%", 0.0),
        ("0.3333333", "1/3", 1.0),
        ("0.333", "1/3", 0.0),
        ("1.2e3 m", "1200", 1.0),
        ("-5", "5", 0.0),
        ("\u22125", "5", 0.0),
        ("Answer: \u22125", "-5", 1.0),
        ("3,14", "314", 0.0),
        ("3,14", "3.14", 1.0),
        ("0,5", "5", 0.0),
        ("0,500", "0.5", 1.0),
        ("1,2", "12", 0.0),
        ("1,2,3", "3", 1.0),
        ("1,2,3", "123", 0.0),
        ("1,00,000", "100000", 1.0),
        ("1_000 and 12,345,678.9", "12345678.9", 1.0),
        ("First 3, then 4.\nAnswer: 7", "7", 1.0),
        ("7\nand no more", "7", 0.0),
        ("1/0", "7", 0.0),
        ("9" * 400, "7", 0.0),
        ("Paris", "7", 0.0),
        ("Paris", "Paris", None),
        ("It is 72.", "He has 24 * 3 = 72 apples.\n#### 72", 1.0),
        ("5 m^2", "5", 1.0),
        ("7 m^2", "5 m^2", 0.0),
        ("5 m^{-2}", "5 m^{-2}", 1.0),
        (r"\frac{3}{2}", r"\frac{1}{2}", None),
        ("3 1/2", "2 1/2", None),
        ("2 000 000", "1 000 000", None),
        ("9.9 × 10^3", "1.2 × 10^3", None),
        ("11:30", "12:30", None),
        ("2019-12-01", "2024-05-01", None),
        ("0", "0", 1.0),
    ],
)
def test_numeric(answer: str, reference: str, score: float | None) -> None:
    assert verifiers.numeric("", answer, reference) == score


@pytest.mark.parametrize(
    ("answer", "reference", "score"),
    [
        ('{"age": 3}', SCHEMA, 1.0),
        ('Sure.\n```json\n{"age": 3}\n```\nAnything else?', SCHEMA, 1.0),
        ('{"age": "three"}', SCHEMA, 0.0),
        ("{'age': 3}", SCHEMA, 0.0),
        ("[" * 100_000, SCHEMA, 0.0),
        ('{"name": "Ada", "age": 3}', "name, age", 1.0),
        ('{"name": "Ada"}', '["name", "age"]', 0.0),
        ("[]", "name", 0.0),
        ('{"kg": "nonsense"}', '{"kg": 250}', None),
        ("[]", "true", None),
        ("[]", "250", None),
    ],
)
def test_json_schema(answer: str, reference: str, score: float | None) -> None:
    assert verifiers.json_schema("", answer, reference) == score


def test_a_reference_that_is_no_schema_is_an_error() -> None:
    with pytest.raises(jsonschema.SchemaError):
        verifiers.json_schema("", "{}", '{"type": "number of things"}')


@pytest.mark.parametrize(
    ("answer", "reference", "score"),
    [
        (ADD, "assert add(1, 2) == 3", 1.0),
        (ADD, "assert add(1, 2) == 4", 0.0),
        ("def add(a, b): return a + b", "assert add(1, 2) == 3", 1.0),
        ("I would add them.", "assert add(1, 2) == 3", 0.0),
        ("```python\nimport sys\nsys.exit(0)\n```", "assert add(1, 2) == 3", 0.0),
        ("```python\nprint('add')\ndef add(a, b):\n    return 3\n```", "assert add(1, 2) == 3", 1.0),
        (f"```bash\npip install numpy\n```\n{ADD}", "assert add(1, 2) == 3", 1.0),
        (f"{ADD}\n```\n>>> add(1, 2)\n3\n```\n```text\nThe sum is 3\n```", "assert add(1, 2) == 3", 1.0),
        (f"{ADD}\n```py\ndef add(a, b):\n    return 0\n```", "assert add(1, 2) == 3", 0.0),
        ("```\ndef add(a, b):\n    return a + b\n```", "assert add(1, 2) == 3", 1.0),
    ],
)
def test_python_tests(answer: str, reference: str, score: float) -> None:
    assert verifiers.python_tests("", answer, reference) == score


def test_code_that_does_not_end_is_wrong() -> None:
    assert verifiers.python_tests("", "while True: pass", "assert True", seconds=0.5) == 0.0


@pytest.mark.parametrize("mark", ["**Answer:** 91", "**Answer**: 91", "**Final Answer**: 91", "Answer : 91"])
def test_a_result_is_stated_in_bold_or_not(mark: str) -> None:
    assert is_correct(f"They add up.\n{mark}\nI hope that helps.", "91")
