"""The shipped verifiers, each on answers that are right, wrong, and nothing that it can tell."""

import json

import pytest

from tapir_core import verifiers
from tapir_core.config import SHIPPED

SCHEMA = json.dumps({"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]})
ADD = "Here it is:\n\n```python\ndef add(a, b):\n    return a + b\n```\n"


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
        ("First 3, then 4.\nAnswer: 7", "7", 1.0),
        ("7\nand no more", "7", 0.0),
        ("1/0", "7", 0.0),
        ("9" * 400, "7", 0.0),
        ("Paris", "7", 0.0),
        ("Paris", "Paris", None),
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
    ],
)
def test_json_schema(answer: str, reference: str, score: float) -> None:
    assert verifiers.json_schema("", answer, reference) == score


def test_a_reference_that_is_no_schema_is_an_error() -> None:
    with pytest.raises(verifiers.jsonschema.SchemaError):
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
    ],
)
def test_python_tests(answer: str, reference: str, score: float) -> None:
    assert verifiers.python_tests("", answer, reference) == score


def test_code_that_does_not_end_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verifiers, "_TEST_SECONDS", 0.5)
    assert verifiers.python_tests("", "while True: pass", "assert True") == 0.0
