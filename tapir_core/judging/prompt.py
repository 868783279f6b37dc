"""What a teacher or judge reads: foreign text made safe, judge prompts filled in. Pure.

Limits: a section longer than ``MAX_SECTION_CHARS`` is cut in its middle, because the final result stands at the end
of an answer. Neutralising changes a text as little as will do: our own tags and whatever could be read as a verdict.
"""

import re

from tapir_core.prompts import Prompt

__all__ = ["MAX_SECTION_CHARS", "neutralise", "render_pairwise", "render_pointwise"]

MAX_SECTION_CHARS = 32_000
"""Longest text in one section of a prompt; about 8,000 tokens of English."""

_TAGS = "system|instruction|answer|answer_1|answer_2|reference|seed|task_type|task_types|new_instruction|style"
# Blanks are bounded in every pattern: an unbounded run would be scanned again from each of its characters.
_OWN_TAG = re.compile(rf"<(?=\s{{0,3}}/?\s{{0,3}}(?:{_TAGS})\s{{0,3}}>)", re.IGNORECASE)
_VERDICT = re.compile(r"\[(?=\[\s{0,8}[-+]?\d)")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")


def neutralise(text: str) -> str:
    r"""Foreign text, fit to stand in a section of our prompts.

    Our own tags lose their ``<`` to ``‹`` and ``[[`` before a number becomes ``[ [``: neither can end a section or
    pass for a verdict, and code still means the same. Control characters go, lone surrogates become ``?``, line ends
    become ``\n``. Doing it twice changes nothing more.
    """
    text = text.encode("utf-8", "replace").decode("utf-8").replace("\r\n", "\n").replace("\r", "\n")
    text = _CONTROL.sub("", text)
    text = _VERDICT.sub("[ ", _OWN_TAG.sub("‹", text)).rstrip().lstrip("\n")
    if len(text) <= MAX_SECTION_CHARS:
        return text
    half = (MAX_SECTION_CHARS - 100) // 2
    return f"{text[:half]}\n… ({len(text) - 2 * half} characters left out) …\n{text[-half:]}"


def render_pairwise(
    prompt: Prompt,
    instruction: str,
    system: str | None,
    answer_1: str,
    answer_2: str,
    reference: str | None = None,
) -> str:
    """The judge's message for two answers in the order in which they are to be shown."""
    return prompt.render(
        instruction=neutralise(instruction),
        system=neutralise(system or ""),
        answer_1=neutralise(answer_1),
        answer_2=neutralise(answer_2),
        reference=neutralise(reference or ""),
    )


def render_pointwise(
    prompt: Prompt, instruction: str, system: str | None, answer: str, reference: str | None = None
) -> str:
    """The judge's message for one answer."""
    return prompt.render(
        instruction=neutralise(instruction),
        system=neutralise(system or ""),
        answer=neutralise(answer),
        reference=neutralise(reference or ""),
    )
