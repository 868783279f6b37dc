"""The task types of the paper, their target shares and their refinement families (method.md, Decisions).

The paper speaks of 33 categories and names 32 in its released recipe; the 32 stand here. Target shares are
configuration: ``TARGET_SHARES`` is only the default.
"""

from typing import Literal

RefinementFamily = Literal["steps", "code", "prose"]

_LARGE = {"Math": 0.167, "Reasoning": 0.167, "Code Generation": 0.083, "Code Debug": 0.083, "Others": 0.041}
_SMALL = (
    "Writing",
    "Computer Science",
    "Complex Format",
    "Common-Sense",
    "Counterfactual",
    "Multilingual",
    "Roleplay",
    "Biology",
    "Technology",
    "Ethics",
    "Sport",
    "Law",
    "Medicine",
    "Literature",
    "Entertainment",
    "Art",
    "Music",
    "Toxicity",
    "Economy",
    "Physics",
    "History",
    "Chemistry",
    "Philosophy",
    "Health",
    "Ecology",
    "Grammar",
    "Paraphrase",
)

TARGET_SHARES: dict[str, float] = {**_LARGE, **dict.fromkeys(_SMALL, 0.017)}
"""Task type → share of a mixture's hard part; sums to 1."""

TASK_TYPES: tuple[str, ...] = tuple(TARGET_SHARES)
"""The 32 task types, in the order of the recipe."""

REFINEMENT_FAMILY: dict[str, RefinementFamily] = {
    "Math": "steps",
    "Reasoning": "steps",
    "Common-Sense": "steps",
    "Counterfactual": "steps",
    "Code Generation": "code",
    "Code Debug": "code",
}
"""Task types whose answers are refined in a style of their own; all others are ``prose``."""


def family_of(task_type: str) -> RefinementFamily:
    """The refinement family of a task type.

    Raises:
        KeyError: the task type is none of the 32.
    """
    if task_type not in TARGET_SHARES:
        raise KeyError(f"{task_type!r} is not a task type; the 32 are: {', '.join(TASK_TYPES)}")
    return REFINEMENT_FAMILY.get(task_type, "prose")
