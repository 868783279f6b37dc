"""Task types: the paper's 32 with their shares and refinement families (method.md, Decisions), and those of a run.

The paper speaks of 33 categories and names 32 in its released recipe; the 32 stand here. Their definitions are ours.
A run has these or its own (`curriculum.task_types`), and always `OTHERS`, for what no other type fits.
"""

import difflib
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

RefinementFamily = Literal["steps", "code", "prose"]

OTHERS = "Others"
"""The task type of what fits no other. The label prompt names it, so that every run has it."""

_DEFINITIONS = {
    "Math": "a calculation, an equation, a proof or another problem of mathematics",
    "Reasoning": "a conclusion to be drawn from what is given: logic, puzzles, deduction, planning",
    "Code Generation": "a program, a function, a query or another piece of code to be written",
    "Code Debug": "given code to be corrected, explained, completed or made better",
    OTHERS: "what fits none of the other task types",
    "Writing": "a text to be written: a story, a letter, a speech, a post",
    "Computer Science": "a question on algorithms, data, systems or networks, without code to be written",
    "Complex Format": "an answer in a form with rules of its own: a table, JSON, a list with limits",
    "Common-Sense": "what everybody knows of daily life and of how things behave",
    "Counterfactual": "what would be if something were otherwise than it is",
    "Multilingual": "a translation, or a task set or to be answered in another language than English",
    "Roleplay": "an answer given as a person or a character, or a dialogue between some",
    "Biology": "a question on living things, their cells, genes and evolution",
    "Technology": "a question on devices, machines, engineering and their use",
    "Ethics": "what is right or wrong, and moral dilemmas",
    "Sport": "a question on sports, games, athletes and training for them",
    "Law": "a question on laws, rights, contracts and courts",
    "Medicine": "a question on illnesses, diagnoses, drugs and treatments",
    "Literature": "a question on books, poems, authors and their works",
    "Entertainment": "a question on films, shows, games, celebrities and leisure",
    "Art": "a question on painting, sculpture, design, photography and their makers",
    "Music": "a question on songs, instruments, musicians and the theory of music",
    "Toxicity": "harmful, hateful or unsafe content, to be recognised, refused or softened",
    "Economy": "a question on money, markets, trade, business and work",
    "Physics": "a question on matter, energy, forces, light and the universe",
    "History": "a question on past events, people and ages",
    "Chemistry": "a question on substances, elements and their reactions",
    "Philosophy": "a question on thinkers, ideas, knowledge and being",
    "Health": "fitness, food, sleep and well-being in daily life",
    "Ecology": "a question on environment, climate, species and how they live together",
    "Grammar": "a sentence to be corrected or analysed by the rules of its language",
    "Paraphrase": "a given text to be reworded, shortened or summed up with its meaning kept",
}
"""The paper's task types, in the order of the recipe → our definition of each."""

_LARGE_SHARES = {"Math": 0.167, "Reasoning": 0.167, "Code Generation": 0.083, "Code Debug": 0.083, OTHERS: 0.041}

TARGET_SHARES: dict[str, float] = {name: _LARGE_SHARES.get(name, 0.017) for name in _DEFINITIONS}
"""Task type → share of a mixture's hard part; sums to 1."""

TASK_TYPES: tuple[str, ...] = tuple(TARGET_SHARES)
"""The paper's 32 task types, in the order of the recipe."""

REFINEMENT_FAMILY: dict[str, RefinementFamily] = {
    "Math": "steps",
    "Reasoning": "steps",
    "Common-Sense": "steps",
    "Counterfactual": "steps",
    "Code Generation": "code",
    "Code Debug": "code",
}
"""The paper's task types whose answers are refined in a style of their own; all others are ``prose``."""


@dataclass(frozen=True, slots=True)
class TaskTypes:
    """The task types of a run."""

    definitions: Mapping[str, str]
    """Name → definition in one line, in the order in which a prompt lists them; empty where it gives the name alone."""
    families: Mapping[str, RefinementFamily]
    """Of those that are not refined as prose."""

    @property
    def names(self) -> tuple[str, ...]:
        """All of them."""
        return tuple(self.definitions)

    def described(self, name: str) -> str:
        """A task type as a prompt gives it: `Refund: asks for money back`, or its name alone."""
        definition = self.definitions.get(name)
        return f"{name}: {definition}" if definition else name

    def family_of(self, name: str) -> RefinementFamily:
        """The refinement family of a task type."""
        return self.families.get(name, "prose")


def unknown_type(name: str, known: Collection[str]) -> str:
    """What is said of a name that is no task type: the nearest that is, and all that are."""
    near = difflib.get_close_matches(name, known, 1)
    meant = f"did you mean {near[0]!r}? " if near else ""
    return f"unknown task type {name!r}; {meant}the {len(known)} are: {', '.join(known)}"


@lru_cache(1024)  # the names of a run are spelt for each of its labels
def spelling(name: str) -> str:
    """What is left of a name when case, blanks, marks and a plural s are forgiven."""
    return re.sub(r"[\W_]", "", name.casefold()).removesuffix("s")


def in_order(names: Iterable[str]) -> list[str]:
    """Task types as reports list them: in the order of the recipe, then others by name, `OTHERS` after these."""
    found = set(names)
    has_own = not found <= TARGET_SHARES.keys()
    places = {name: place for place, name in enumerate(TASK_TYPES)}
    return sorted(found, key=lambda name: (has_own and name == OTHERS, places.get(name, len(places)), name))


PAPER = TaskTypes(dict.fromkeys(TASK_TYPES, ""), REFINEMENT_FAMILY)
"""The paper's, given to the teacher by name as the paper does."""

DEFINED = TaskTypes(_DEFINITIONS, REFINEMENT_FAMILY)
"""The paper's, each with its definition."""
