"""The families of verifiable instructions that the stand-in knows, and how it recognises them."""

from tapir_core.standin.families import code, numbers, reasoning, records, science, words
from tapir_core.standin.families.family import LEVELS, STREAMS, Family, Problem, Stream

__all__ = ["FAMILIES", "LEVELS", "STREAMS", "Family", "Problem", "Stream", "families_of", "recognise"]

FAMILIES: dict[str, Family] = {
    family.name: family for module in (numbers, reasoning, code, words, records, science) for family in module.FAMILIES
}
"""Name → family."""

_LONGEST_CHARS = 300


def recognise(instruction: str) -> Problem | None:
    """The problem that ``instruction`` poses, or None when it is no family's.

    It is the very problem that a family draws with this text: level, stream and answers included.
    """
    text = instruction.strip()
    if len(text) > _LONGEST_CHARS:
        return None
    problems = (family.read(text) for family in FAMILIES.values())
    return next((problem for problem in problems if problem), None)


def families_of(task_type: str) -> list[Family]:
    """The families of a task type; none for most of the 32."""
    return [family for family in FAMILIES.values() if family.task_type == task_type]
