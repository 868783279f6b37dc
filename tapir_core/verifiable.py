"""Exact scoring of verifiable answers: the final result that a response states, and whether it is the reference.

Pure and strict: a response is correct only when its whole final result equals the reference in normal form. A result
inside a sentence ("the sum is 91") does not count; a response that states its result as ``Answer: 91`` does. Letter
case is ignored, so nothing that differs by case alone can be told apart.
"""

import re

_STATED = re.compile(r"\banswer:(.*)", re.IGNORECASE)
_NUMBER = re.compile(r"[+-]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?", re.ASCII)
_QUOTES = ("`", '"', "'")


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
    bare = _unwrap(" ".join(text.split()))
    if bare.endswith("."):
        bare = _unwrap(bare[:-1])
    if _NUMBER.fullmatch(bare):
        return _canonical_number(bare)
    return bare.casefold()


def _unwrap(text: str) -> str:
    """Drop what is wrapped around the text; emphasis may have lost one of its ends to the split at ``Answer:``."""
    while True:
        bare = text.strip().removeprefix("**").removesuffix("**").strip()
        if len(bare) >= 2 and bare[0] == bare[-1] and bare[0] in _QUOTES:
            bare = bare[1:-1]
        if bare == text:
            return bare
        text = bare


def _canonical_number(text: str) -> str:
    """By characters, not by arithmetic: no digit of a long number may be rounded away."""
    whole, _, fraction = text.replace(",", "").lstrip("+-").partition(".")
    whole, fraction = whole.lstrip("0") or "0", fraction.rstrip("0")
    number = f"{whole}.{fraction}" if fraction else whole
    return f"-{number}" if text.startswith("-") and number != "0" else number
