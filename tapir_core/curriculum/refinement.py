"""Refinement: the teacher rewrites an answer in the style of its task family, and the final result must survive.

A refined answer that loses the plain one's final result is rejected with a reason, and the plain one is kept. Code is
parsed, never run.

Limits: where the plain answer states no result after ``Answer:``, step-by-step answers are compared by their last
number and prose is not compared at all; what follows ``Answer:`` is a result up to 80 characters, past that it is
prose. Code is compared by the names it defines, and only when it is Python.
"""

import ast
import re
import warnings
from collections.abc import Iterable
from dataclasses import dataclass

from tapir_core.curriculum.usable import unusable_reason
from tapir_core.judging import neutralise
from tapir_core.prompts import Prompt
from tapir_core.task_types import family_of
from tapir_core.verifiable import final_result, normalise_result, states_result

__all__ = ["Refinement", "refinement_outcome", "refinement_prompt_name", "render_refinement"]

_MAX_RESULT_CHARS = 80
_NUMBER = re.compile(r"(?<![\w.])[-+]?\d[\d,]*(?:\.\d+)?", re.ASCII)
_FENCED = re.compile(r"^[ \t]*(?:```|~~~)([^\n]*)\n(.*?)^[ \t]*(?:```|~~~)", re.DOTALL | re.MULTILINE)
_PYTHON = frozenset({"python", "python3", "py"})


@dataclass(frozen=True, slots=True)
class Refinement:
    """Whether a refined answer replaces the plain one."""

    accepted: bool
    reason: str | None = None
    """Why it does not: refused, cut_off, empty, failed:<kind>, lost_result, lost_code, broken_code or lost_names."""


def refinement_prompt_name(task_type: str) -> str:
    """Name of the prompt that refines answers of this task type."""
    return f"refine_{family_of(task_type)}"


def render_refinement(prompt: Prompt, instruction: str, system: str | None, answer: str) -> str:
    """The teacher's message that asks for a refined answer."""
    return prompt.render(
        instruction=neutralise(instruction), system=neutralise(system or ""), answer=neutralise(answer)
    )


def refinement_outcome(
    plain: str, refined: str | None, task_type: str, finish_reason: str | None = "stop"
) -> Refinement:
    """Accept a refined answer that is complete and still comes to what the plain one came to."""
    reason = unusable_reason(refined, finish_reason)
    if reason is None:
        refined, family = refined or "", family_of(task_type)
        if not _keeps_result(plain, refined, by_number=family == "steps"):
            reason = "lost_result"
        elif family == "code":
            reason = _code_problem(plain, refined)
    return Refinement(reason is None, reason)


def _keeps_result(plain: str, refined: str, *, by_number: bool) -> bool:
    stated = final_result(plain) if states_result(plain) else ""
    if stated and len(stated) <= _MAX_RESULT_CHARS:
        return final_result(refined) == stated
    numbers = _last_numbers(plain) if by_number else []
    return not numbers or numbers[-1] in _last_numbers(refined)


def _last_numbers(text: str) -> list[str]:
    """Numbers of the last line that has any, in normal form."""
    for line in reversed(text.splitlines()):
        numbers = _NUMBER.findall(line)
        if numbers:
            return [normalise_result(number.rstrip(",")) for number in numbers]
    return []


def _code_problem(plain: str, refined: str) -> str | None:
    had_fence, has_fence = _FENCED.search(plain), _FENCED.search(refined)
    if had_fence and not has_fence:
        return "lost_code"
    before, after = _parsed(plain), _parsed(refined)
    if before and not after:
        return "broken_code"
    return "lost_names" if _names(before) - _names(after) else None


def _parsed(text: str) -> list[ast.Module]:
    """The blocks that parse as Python and are meant as Python: they say so, or define a name.

    The second half matters because almost any single word parses. A text without fences is one block.
    """
    modules = []
    for language, block in _FENCED.findall(text) or [("", text)]:
        try:
            with warnings.catch_warnings(action="ignore"):
                module = ast.parse(block)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            continue
        said = language.strip().lower()
        if said in _PYTHON or (not said and _names([module])):
            modules.append(module)
    return modules


def _names(modules: Iterable[ast.Module]) -> set[str]:
    """Functions and classes that the code defines at its top level; variables are the refiner's to rename."""
    return {
        node.name
        for module in modules
        for node in module.body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    }
