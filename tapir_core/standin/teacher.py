"""The rule-based teacher: answers, labels, expands and refines the instructions of its families; refuses all others.

An expansion is a new problem of the seed's family and level, from the pool's stream, so no held-out problem can come
out. Its draw derives from the request's text and seed: the same request gives the same instruction again.
"""

from tapir_core.randomness import derive_rng
from tapir_core.standin.families import FAMILIES, Problem, families_of, recognise
from tapir_core.standin.sampling import draw_problem
from tapir_core.standin.sections import Ask, Refusal, Reply

__all__ = ["UNKNOWN", "answer", "expand", "label", "refine"]

UNKNOWN = Refusal("The stand-in does not know this kind of instruction.")


def answer(ask: Ask) -> Reply:
    """The plain answer."""
    problem = recognise(ask.sections.get("instruction", ask.text))
    return problem.plain if problem else UNKNOWN


def label(ask: Ask) -> Reply:
    """The task type, if it is among those offered."""
    problem = recognise(ask.sections["instruction"])
    if problem is None:
        return UNKNOWN
    offered = [line.strip() for line in ask.sections["task_types"].splitlines()]
    if problem.task_type not in offered:
        return Refusal(f"The stand-in knows this as {problem.task_type}, which is not among the task types offered.")
    return f"Task type: {problem.task_type}"


def refine(ask: Ask) -> Reply:
    """The refined answer; its style is the one that the instruction's task type needs."""
    problem = recognise(ask.sections["instruction"])
    return problem.refined if problem else UNKNOWN


def expand(ask: Ask) -> Reply:
    """A new instruction like the seed; of another family when another task type is wanted."""
    seed, wanted = recognise(ask.sections["seed"]), ask.sections["task_type"]
    if seed is None:
        return UNKNOWN
    families = [FAMILIES[seed.family]] if seed.task_type == wanted else families_of(wanted)
    if not families:
        return Refusal(f"The stand-in has no family of task type {wanted!r}.")
    rng = derive_rng(ask.seed, "expand", ask.text)
    family = rng.choice(families)
    new: Problem = seed
    while new.instruction == seed.instruction:
        new = draw_problem(family, seed.level, "pool", rng)
    return f"<new_instruction>\n{new.instruction}\n</new_instruction>"
