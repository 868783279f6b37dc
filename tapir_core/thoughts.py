"""A thought before an answer, as text: in the marks of Qwen3 and DeepSeek, whatever the model's own are."""

import re

_MARKED = re.compile(r"<think>\n(.+?)\n</think>\n\n(.+)", re.DOTALL)


def join(thought: str, answer: str) -> str:
    """An answer behind its thought; alone where there is none, or one that could not be told from the answer again."""
    text = f"<think>\n{thought.strip()}\n</think>\n\n{answer}"
    return text if thought.strip() and split(text) == (thought.strip(), answer) else answer


def split(text: str) -> tuple[str, str]:
    """The thought that a text begins with, empty without one, and the answer."""
    found = _MARKED.fullmatch(text)
    return (found[1], found[2]) if found else ("", text)
