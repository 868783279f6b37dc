"""How we know that hostile texts cost no more than their length: by the shape of the patterns, not by a clock.

A pattern is read in linear time when no unbounded repeat backtracks, none stands inside another repeat, and none runs
over a character with which the pattern begins, so that two beginnings never read the same stretch.
"""

import re
from collections.abc import Iterator
from typing import Any

import pytest

from tapir_core.judging import prompt, verdict

REPEATS = {re._constants.MAX_REPEAT, re._constants.MIN_REPEAT, re._constants.POSSESSIVE_REPEAT}
PATTERNS = {
    f"{module.__name__}.{name}": value
    for module in (prompt, verdict)
    for name, value in vars(module).items()
    if isinstance(value, re.Pattern)
}


def repeats(tree: Any, inside: int = 1) -> Iterator[tuple[Any, int, Any, int]]:
    """Kind, most turns and body of each repeat, with the most turns of the repeats around it."""
    for code, argument in tree:
        if code in REPEATS:
            _, most, body = argument
            yield code, int(most), body, inside
            yield from repeats(body, inside * int(most))
        elif code in {re._constants.ASSERT, re._constants.ASSERT_NOT}:
            yield from repeats(argument[1], inside)
        elif code is re._constants.SUBPATTERN:
            yield from repeats(argument[3], inside)
        elif code is re._constants.BRANCH:
            for branch in argument[1]:
                yield from repeats(branch, inside)
        else:
            assert code in {
                re._constants.LITERAL,
                re._constants.IN,
                re._constants.ANY,
                re._constants.AT,
                re._constants.NOT_LITERAL,
            }, f"this test does not know {code}"


def beginnings(tree: Any) -> list[tuple[str, Any]]:
    """First character and rest of each alternative of a pattern."""
    (code, argument), *rest = tree
    if code is re._constants.BRANCH and not rest:
        return [each for branch in argument[1] for each in beginnings(branch)]
    if code is re._constants.LITERAL:
        return [(chr(argument), rest)]
    return [("", list(tree))]


@pytest.mark.parametrize("name", sorted(PATTERNS))
def test_no_pattern_can_be_made_to_read_a_stretch_again_and_again(name: str) -> None:
    pattern = PATTERNS[name]
    tree = re._parser.parse(pattern.pattern, pattern.flags)
    unbounded = [each for each in repeats(tree) if each[1] >= re._constants.MAXREPEAT]
    bounded = [each for each in repeats(tree) if each[1] < re._constants.MAXREPEAT]
    assert all(code is re._constants.POSSESSIVE_REPEAT for code, *_ in unbounded)
    assert all(inside == 1 for *_, inside in unbounded)
    assert all(most * inside <= 64 for _, most, _, inside in bounded)


def test_what_is_searched_for_begins_with_a_character_that_no_unbounded_repeat_runs_over() -> None:
    pattern = prompt._ours(prompt._NAMES)
    tree = re._parser.parse(pattern.pattern, pattern.flags)
    found = beginnings(tree)
    assert {first for first, _ in found} == {"<", "["}
    for first, rest in found:
        for _, most, body, _ in repeats(rest):
            if most >= re._constants.MAXREPEAT:
                assert re._compiler.compile(body).match(first) is None
