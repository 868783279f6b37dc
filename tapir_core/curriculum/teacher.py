"""What the teacher says of the pool: usable answers, task types, and answers refined.

An answer that cannot be trained on leaves the pool, counted by reason (`usable`). Refinement rewrites an
answer in the style of its task family, and the final result must survive: a refined answer that loses the plain one's
is rejected with a reason, and the plain one is kept. Code is parsed, never run.

Limits: usable means complete, not right; whether an answer is right is never asked of a plain teacher answer. A task
type is taken as it comes; only its spelling is forgiven. Where the plain answer states no result after ``Answer:``,
step-by-step answers are compared by their last number and prose is not compared at all; what follows ``Answer:`` is a
result up to 80 characters, past that it is prose. Code is compared by the names it defines, and only when it is Python.
"""

import ast
import re
import warnings
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import polars as pl
from polars import selectors as cs
from pydantic import Field, create_model

from tapir_core.config import ReplyForm
from tapir_core.curriculum.usable import unusable_reason
from tapir_core.judging import neutralise
from tapir_core.prompts import Prompt
from tapir_core.task_types import TASK_TYPES, RefinementFamily, TaskTypes, spelling
from tapir_core.text import JsonReply, Unparsed
from tapir_core.turns import EARLIER, MARKED, asks_with_control_token
from tapir_core.verifiers import final_result, normalise_result, states_result

FROM_POOL = "from_pool"
"""In the counts of the plain answers: those that the pool brought with it."""

UNVERIFIED = "failed_verifier"
"""Why an answer is unusable that a verifier finds wrong."""


@dataclass(frozen=True, slots=True)
class Usable:
    """The instructions that stay, and why the others leave."""

    examples: pl.DataFrame
    """One row an instruction that can be trained on, by instruction id: instruction_id, instruction, system, task_type,
    response, and `earlier_turns` where the pool has it."""
    dropped: dict[str, int]
    """Reason → instructions."""


def split_usable(
    pool: pl.DataFrame, teacher: pl.DataFrame, labels: pl.DataFrame, verified: pl.DataFrame | None = None
) -> Usable:
    """Keep what the teacher answered usably and gave a task type.

    An instruction without a row in ``teacher`` counts as ``missing``; one without a task type as ``no_task_type``,
    because nothing that follows can place it; one with a control token in its own text as ``MARKED``. ``verified`` is
    what a verifier says of the answers, if there is one.
    """
    wrong = frozenset[str]() if verified is None else {*verified.filter(~pl.col("correct"))["instruction_id"]}
    answers = {row[0]: row[1:] for row in teacher.select("instruction_id", "response", "finish_reason").iter_rows()}
    labelled = set(labels.drop_nulls("task_type")["instruction_id"])
    reasons = []
    for row in pool.iter_rows(named=True):
        identity = row["instruction_id"]
        response, ending = answers.get(identity, (None, None))
        reason = unusable_reason(response, ending, row["instruction"]) if identity in answers else "missing"
        if asks_with_control_token(row):  # a pool read by an earlier version has some
            reason = MARKED
        reason = reason or (UNVERIFIED if identity in wrong else None)
        reasons.append(reason or (None if identity in labelled else "no_task_type"))
    kept = pool.filter(pl.Series([reason is None for reason in reasons], dtype=pl.Boolean))
    examples = kept.join(labels.select("instruction_id", "task_type"), on="instruction_id", validate="1:1").join(
        teacher.select("instruction_id", "response"), on="instruction_id", validate="1:1"
    )
    counts = Counter(reason for reason in reasons if reason is not None)
    columns = ("instruction_id", "instruction", "system", "task_type", "response")
    examples = examples.select(*columns, cs.by_name(EARLIER, require_all=False)).sort("instruction_id")
    return Usable(examples, dict(sorted(counts.items())))


_NAMES = (
    re.compile(r"[^\W_][\w &/'\u2010-\u2014-]*"),
    re.compile(r"[A-Za-z][A-Za-z \u2010-\u2014-]*"),  # behind a number, or before other marks
)
_LINE = re.compile(r"task[ _-]?type\W{0,8}?[:=](.*)", re.IGNORECASE)


class Labelling:
    """How the teacher is asked for the task type of an instruction."""

    def __init__(self, types: TaskTypes, replies: ReplyForm = "text") -> None:
        """``types`` are those of the run, ``replies`` is `teacher.label_replies`."""
        self._types = types
        self._form = label_reply(types.names) if replies == "json" else None
        self.schema = self._form.schema_text() if self._form else ""
        """That a reply has to obey; empty where it is text."""

    def render(self, prompt: Prompt, instruction: str) -> str:
        """The teacher's message."""
        listed = "\n".join(map(self._types.described, self._types.names))
        text = prompt.render(instruction=neutralise(instruction), task_types=listed)
        return self._form.asked_by(text) if self._form else text

    def parse(self, raw: str | None) -> str | Unparsed:
        """The task type of one reply."""
        if self._form is None:
            return parse_label(raw, self._types.names)
        reply = self._form.read(raw)
        return reply if isinstance(reply, Unparsed) else str(reply.model_dump()["task_type"])


@cache
def label_reply(names: tuple[str, ...]) -> type[JsonReply]:
    """What the teacher replies by a schema, as a form: one of the task types."""
    fields: dict[str, Any] = {"task_type": (Literal[names], Field(description="a name from the list"))}
    return create_model("LabelReply", __base__=JsonReply, **fields)


def parse_label(raw: str | None, names: Iterable[str] = TASK_TYPES) -> str | Unparsed:
    """The task type on the last ``Task type:`` line, or on the last line of a reply without one.

    Case, quotes, emphasis, hyphens and a plural s are forgiven; a name that is none of ``names`` is not.
    """
    lines = [line for line in (raw or "").splitlines() if line.strip()]
    named = [found.group(1) for found in map(_LINE.search, lines) if found]
    line = (named or lines or [""])[-1]
    candidates = [spelling(found.group()) for found in (pattern.search(line) for pattern in _NAMES) if found]
    known = {spelling(name): name for name in names}
    return next((known[each] for each in candidates if each in known), None) or Unparsed("no task type")


_MAX_RESULT_CHARS = 80
_NUMBER = re.compile(r"(?<![\w.])[-+]?\d[\d,]*(?:\.\d+)?", re.ASCII)
_FENCED = re.compile(r"^[ \t]*(?:```|~~~)([^\n]*)\n(.*?)^[ \t]*(?:```|~~~)", re.DOTALL | re.MULTILINE)
_PYTHON = frozenset({"python", "python3", "py"})


def refinement_prompt_name(family: RefinementFamily) -> str:
    """Name of the prompt that refines answers of this family."""
    return f"refine_{family}"


def render_refinement(prompt: Prompt, instruction: str, system: str | None, answer: str) -> str:
    """The teacher's message that asks for a refined answer."""
    return prompt.render(
        instruction=neutralise(instruction), system=neutralise(system or ""), answer=neutralise(answer)
    )


def refinement_problem(
    plain: str, refined: str | None, family: RefinementFamily, finish_reason: str | None = "stop"
) -> str | None:
    """Why a refined answer does not replace the plain one: it is unusable, or does not come to what that came to.

    What `unusable_reason` says, lost_result, lost_code, broken_code or lost_names; nothing if it does.
    """
    refined = refined or ""
    if reason := unusable_reason(refined, finish_reason):
        return reason
    if not _keeps_result(plain, refined, by_number=family == "steps"):
        return "lost_result"
    return _code_problem(plain, refined) if family == "code" else None


def _keeps_result(plain: str, refined: str, *, by_number: bool) -> bool:
    stated = final_result(plain) if states_result(plain) else ""
    if stated and len(stated) <= _MAX_RESULT_CHARS:
        return final_result(refined) == stated
    numbers = _last_numbers(plain) if by_number else []
    return not numbers or numbers[-1] in _last_numbers(refined)


def _last_numbers(text: str) -> list[str]:
    """Numbers of the last line that has any, in normal form."""
    lines: list[list[str]] = [_NUMBER.findall(line) for line in text.splitlines()]
    last = next((numbers for numbers in reversed(lines) if numbers), [])
    return [normalise_result(number.rstrip(",")) for number in last]


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
