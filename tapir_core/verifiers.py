"""The final result that an answer states, whether it equals the reference, and the shipped verifiers.

A verifier (`judge.verifier = "numeric"`) has the arguments of a user's own: ``(instruction, answer, reference)`` → a
score from 0 to 1, or None if it cannot score: without a reference, or with one that is not of its kind.

Pure and strict: a result is read by its form; the same result in other words is wrong. A response is correct only when
its whole final result equals the reference in normal form. A result inside a sentence ("the sum is 91") does not count;
a response that states its result as ``Answer: 91`` does. Letter case is ignored.
"""

import json
import math
import re
import secrets
import subprocess
import sys
from decimal import Context, Decimal
from fractions import Fraction
from typing import Any

_STATED = re.compile(r"\banswer[*_ ]*:(.*)", re.IGNORECASE)
_WHOLE_RESULT = re.compile(r"[+-]?(?:(?!0)\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?", re.ASCII)
"""A number that is all of a result."""
_QUOTES = ("`", '"', "'")
_NUMBER = re.compile(
    r"[-+]?(?:\d{1,3}(?:[,_]\d{2,3})*[,_]\d{3}(?!\d)(?:\.\d+)?|(?<!\d,)\d+,\d+(?![,\d])|\d[\d_]*(?:\.\d+)?|\.\d+)"
    r"(?:e[-+]?\d{1,3})?(?:\s*/\s*\d+)?\s*%?",
    re.ASCII,
)
"""Digits in groups, with a decimal comma, or neither; lakhs have groups of two."""
_BETWEEN = re.compile(r"(?<!\b0),(?=\d{3}(?!\d)|\d\d,)|[_\s]")
"""What groups the digits of a number."""
_EXPONENT = re.compile(r"(?<=[A-Za-z])\^\{?-?\d+\}?")
"""Of a unit."""
_FENCED, _PYTHON = (
    re.compile(rf"^[ \t]*(?:```|~~~){said}[^\n]*\n(.*?)^[ \t]*(?:```|~~~)", re.DOTALL | re.MULTILINE | re.IGNORECASE)
    for said in ("", r"[ \t]*py")
)
"""Any fenced block, and one that says it is Python."""


def final_result(response: str) -> str:
    """The result that ``response`` ends in, in normal form: after the last ``Answer:``, else its last non-empty line.

    Empty when the response is, or when nothing follows the last ``Answer:`` on its line.
    """
    said = _STATED.findall(response) or [line for line in response.splitlines() if line.strip()]
    return normalise_result(said[-1]) if said else ""


def states_result(response: str) -> bool:
    """True when the response states its result after ``Answer:``."""
    return _STATED.search(response) is not None


def is_correct(response: str, reference: str) -> bool:
    """True when the final result of ``response`` is ``reference``, a bare result. An empty result is never correct."""
    result = final_result(response)
    return result != "" and result == normalise_result(reference)


def normalise_result(text: str) -> str:
    """One spelling for one result: no outer quotes, backticks or ``**``, one full stop dropped, numbers canonical."""
    bare = _unwrap(_unwrap(" ".join(text.split())).removesuffix(".")).replace("\N{MINUS SIGN}", "-")
    if _WHOLE_RESULT.fullmatch(bare):
        # As long as the text, so that no digit is rounded away; `plus` makes 0 of -0.
        context = Context(prec=len(bare))
        return f"{context.normalize(context.plus(Decimal(bare.replace(',', '')))):f}"
    return bare.casefold()


def exact(_instruction: str, answer: str, reference: str | None) -> float | None:
    """1 where the final result of the answer is the reference, as the held-out set is scored without a verifier."""
    return None if reference is None else float(is_correct(answer, reference))


def numeric(_instruction: str, answer: str, reference: str | None) -> float | None:
    """1 where the last number of the answer's final result is that of the reference, to a millionth of it.

    ``1,234.50``, ``3,14``, ``3/4`` and ``1.2e3`` are numbers, ``75%`` is 0.75; units and other words around are
    ignored. A reference that ends in several numbers, such as a date or ``2 1/2``, is none.
    """
    stated = final_result(reference or "")
    if (wanted := _last_number(stated)) is None or len(_NUMBER.findall(_EXPONENT.sub("", stated))) > 1:
        return None
    found = _last_number(final_result(answer))
    return float(found is not None and math.isclose(found, wanted, rel_tol=1e-6, abs_tol=1e-12))


def json_schema(_instruction: str, answer: str, reference: str | None) -> float | None:
    """1 where the answer's JSON (its last fenced block, or all of it) is as the reference says.

    That is a JSON schema, or the names of the fields that an object must have, as a JSON list or between commas. JSON
    that demands nothing, such as an expected answer, is neither.
    """
    if reference is None:
        return None
    import jsonschema  # slow to import, and rarely needed

    try:
        document = json.loads((_FENCED.findall(answer) or [answer])[-1])
    except (ValueError, RecursionError):
        return 0.0
    checker = jsonschema.validators.validator_for(schema := _schema(reference))
    if checker.VALIDATORS.keys().isdisjoint(schema):
        return None
    checker.check_schema(schema)
    return float(checker(schema).is_valid(document))


def python_tests(_instruction: str, answer: str, reference: str | None, *, seconds: float = 5.0) -> float | None:
    """1 where the tests in the reference (Python, such as ``assert`` lines) pass after the answer's fenced code: the
    blocks that say they are Python, else all.

    They run in a Python of their own under the limits of the verifier's process, for at most so many seconds.
    """
    if reference is None:
        return None
    # A program that ends itself early is told from one whose tests were reached.
    passed, code = secrets.token_hex(8), "\n".join(_PYTHON.findall(answer) or _FENCED.findall(answer) or [answer])
    program = f"{code}\n\n{reference}\n\nprint('\\n{passed}')\n"
    try:
        done = subprocess.run([sys.executable, "-I", "-"], input=program.encode(), capture_output=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        return 0.0
    return float(done.returncode == 0 and done.stdout.decode(errors="replace").rstrip().endswith(passed))


def _last_number(text: str) -> float | None:
    plain = _EXPONENT.sub("", text.replace("\N{MINUS SIGN}", "-"))
    bare = _BETWEEN.sub("", (_NUMBER.findall(plain) or [""])[-1]).replace(",", ".")
    try:
        return float(Fraction(bare.removesuffix("%"))) / (100 if bare.endswith("%") else 1)
    except (ZeroDivisionError, OverflowError, ValueError):
        return None


def _schema(reference: str) -> Any:
    try:
        found = json.loads(reference)
    except ValueError:
        found = [name.strip() for name in reference.split(",")]
    if isinstance(found, list):
        return {"type": "object", "required": found}
    return found if isinstance(found, dict) else {}


def _unwrap(text: str) -> str:
    """Drop what is wrapped around the text; emphasis may have lost one of its ends to the split at ``Answer:``."""
    while True:
        bare = text.strip().removeprefix("**").removesuffix("**").strip()
        if len(bare) >= 2 and bare[0] == bare[-1] and bare[0] in _QUOTES:
            bare = bare[1:-1]
        if bare == text:
            return bare
        text = bare
