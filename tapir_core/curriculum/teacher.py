"""What the teacher says of the pool: usable answers, task types, and answers refined.

Where the teacher is to find the task types too, it reads a sample of the pool. They are written to a TOML file, as a
configuration has them, so that a user edits it and hands it back as `curriculum.task_types`.

Refinement rewrites an answer in the style of its task family, and the final result must survive: a refined answer that
loses the plain one's is rejected with a reason, and the plain one is kept. Code is parsed, never run.

Limits: usable means complete, not right; whether an answer is right is never asked of a plain teacher answer.
A task type is taken as it comes; only its spelling is forgiven. Of a large pool the teacher is shown the beginnings of
some instructions; a rare kind may not be among them, and goes to `Others`.

Where the plain answer states no result after ``Answer:``, step-by-step answers are compared by their last number and
prose is not compared at all; what follows ``Answer:`` is a result up to 80 characters, past that it is prose. Code is
compared by the names it defines, and only when it is Python.
"""

import ast
import json
import random
import re
import warnings
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import polars as pl
from polars import selectors as cs
from pydantic import Field, ValidationError, create_model

from tapir_core import tools, turns, verifiers
from tapir_core.config import ReplyForm
from tapir_core.config.curriculum import CurriculumConfig
from tapir_core.curriculum.usable import unusable_reason
from tapir_core.json_reply import JsonReply
from tapir_core.judging import neutralise
from tapir_core.prompts import Prompt
from tapir_core.task_types import TASK_TYPES, RefinementFamily, TaskTypes, spelling
from tapir_core.text import Unparsed, shorten

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
    pool: pl.DataFrame,
    teacher: pl.DataFrame,
    labels: pl.DataFrame,
    verified: pl.DataFrame | None = None,
    *,
    refusals: bool = False,
) -> Usable:
    """Keep what the teacher answered usably and gave a task type.

    An instruction without a row in ``teacher`` counts as ``missing``; one without a task type as ``no_task_type``,
    because nothing that follows can place it; one with a control token in its own text as ``MARKED``. ``verified`` is
    what a verifier says of the answers, if there is one. ``refusals`` is `teacher.takes_refusals`.
    """
    wrong = frozenset[str]() if verified is None else {*verified.filter(~pl.col("correct"))["instruction_id"]}
    more = cs.by_name("thoughts", "others", require_all=False)
    answers = teacher.select("instruction_id", "response", "finish_reason", more).with_columns(is_answered=True)
    rows = pool
    for given in (answers, labels.select("instruction_id", "task_type")):
        rows = rows.join(given, on="instruction_id", how="left", validate="1:1", maintain_order="left")
    reasons = pl.Series([_why_unusable(row, wrong, refusals) for row in rows.iter_rows(named=True)], dtype=pl.String)
    examples = rows.filter(reasons.is_null()).select(
        *("instruction_id", "instruction", "system", "task_type", "response"),
        cs.by_name(turns.EARLIER, require_all=False),
        more,
    )
    return Usable(examples.sort("instruction_id"), dict(sorted(Counter(reasons.drop_nulls()).items())))


def _why_unusable(row: Mapping[str, Any], wrong: Collection[str], refusals: bool) -> str | None:
    """The first reason against an instruction with its answer and task type."""
    if turns.asks_with_control_token(row):  # a pool read by an earlier version has some
        return turns.MARKED
    if not row["is_answered"]:
        return "missing"
    reason = unusable_reason(row["response"], row["finish_reason"], row["instruction"], refusals=refusals)
    unverified = UNVERIFIED if row["instruction_id"] in wrong else None
    return reason or unverified or (None if row["task_type"] else "no_task_type")


_NAMES = (
    re.compile(r"[^\W_][\w &/'\u2010-\u2014-]*"),
    re.compile(r"[A-Za-z][A-Za-z \u2010-\u2014-]*"),  # behind a number, or before other marks
)
_LINE = re.compile(r"task[ _-]?type\W{0,8}?[:=：](.*)", re.IGNORECASE)


class Labelling:
    """How the teacher is asked for the task type of an instruction."""

    def __init__(self, types: TaskTypes, replies: ReplyForm = "text") -> None:
        """``types`` are those of the run, ``replies`` is `teacher.label_replies`."""
        self._types = types
        self.is_open = len(types.names) > 1
        """Whether there is anything to ask: a run whose only task type is `OTHERS` labels nothing."""
        self._form = label_reply(types.names) if replies == "json" else None
        self.schema = self._form.schema_text() if self._form else ""
        """That a reply has to obey; empty where it is text."""

    def render(self, prompt: Prompt, instruction: str) -> str:
        """The teacher's message."""
        text = prompt.render(
            instruction=neutralise(instruction),
            task_types="\n".join(map(self._types.described, self._types.names)),
        )
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
    named = [found.group(1) for found in map(_LINE.search, lines) if found and spelling(found.group(1))]
    line = (named or lines or [""])[-1]
    candidates = [spelling(found.group()) for found in (pattern.search(line) for pattern in _NAMES) if found]
    known = {spelling(name): name for name in names}
    return next((known[each] for each in candidates if each in known), None) or Unparsed("no task type")


SHOWN, LONGEST, MOST = 60, 300, 24
"""Instructions that the teacher is shown, characters of each, and task types that it may name."""

_MARKS = ' -*_`"'
_HEAD = "# Task types that the teacher found in the pool. Change, remove or add some (docs/own-data.md)."


def sample_instructions(instructions: Sequence[str], rng: random.Random) -> str:
    """What the teacher is shown of the pool: some of the instructions, a line each."""
    return "\n".join(f"- {shorten(each, LONGEST)}" for each in rng.sample(instructions, min(SHOWN, len(instructions))))


def render_discovery(prompt: Prompt, sample: str) -> str:
    """The teacher's message that asks for task types."""
    return prompt.render(instructions=neutralise(sample, ("instructions",)))


def parse_task_types(raw: str | None) -> Mapping[str, str] | Unparsed:
    """Name → definition of the task types in a reply, if they can be those of a configuration, and are not too many."""
    lines = [
        [part.strip(_MARKS) for part in line.split(":", 2)] for line in (raw or "").replace("：", ":").splitlines()
    ]
    found = {line[1]: line[2] for line in lines if len(line) == 3 and spelling(line[0]).endswith("tasktype")}
    try:
        types = CurriculumConfig.model_validate({"task_types": found}).types
    except ValidationError:
        return Unparsed("no task types")
    return types.definitions if len(found) <= MOST else Unparsed(f"more than {MOST} task types")


def task_types_toml(types: Iterable[tuple[str, str]]) -> str:
    """The file that a user edits."""
    lines = (" = ".join(json.dumps(text, ensure_ascii=False) for text in pair) for pair in types)
    return "\n".join([_HEAD, "", "[curriculum.task_types]", *lines, ""])


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
    if tools.same_calls(plain, refined) == 0 or not _keeps_result(plain, refined, by_number=family == "steps"):
        return "lost_result"
    return _code_problem(plain, refined) if family == "code" else None


def _keeps_result(plain: str, refined: str, *, by_number: bool) -> bool:
    stated = verifiers.final_result(plain) if verifiers.states_result(plain) else ""
    if stated and len(stated) <= _MAX_RESULT_CHARS:
        # As it stood, or as the teacher was shown it.
        return verifiers.final_result(refined) in (stated, verifiers.final_result(neutralise(plain)))
    numbers = _last_numbers(plain) if by_number else []
    return not numbers or numbers[-1] in _last_numbers(refined)


def _last_numbers(text: str) -> list[str]:
    """Numbers of the last line that has any, in normal form."""
    lines: list[list[str]] = [_NUMBER.findall(line) for line in text.replace("\N{MINUS SIGN}", "-").splitlines()]
    last = next((numbers for numbers in reversed(lines) if numbers), [])
    return [verifiers.normalise_result(number.rstrip(",")) for number in last]


def _code_problem(plain: str, refined: str) -> str | None:
    # A tag of ours is shown to the teacher with this mark, and may come back with it.
    if (_FENCED.search(plain) and not _FENCED.search(refined)) or ("‹" in refined and "‹" not in plain):
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
