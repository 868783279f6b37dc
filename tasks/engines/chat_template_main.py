"""Render a conversation with a checkpoint's chat template; a child process, so that the driver loads no transformers.

Run as ``python -m tasks.engines.chat_template_main FOLDER [TEMPLATE]`` by `chat_template.py`; prints one line of JSON.
"""

import json
import sys
from pathlib import Path

from jinja2 import TemplateError
from transformers import AutoTokenizer

__all__ = ["render"]

_SYSTEM = {"role": "system", "content": "Be brief."}
_CONVERSATION = [
    {"role": "user", "content": "What is two plus two?"},
    {"role": "assistant", "content": "It is four."},
    {"role": "user", "content": "And one more?"},
]


def render(folder: Path, template: Path | None = None) -> dict[str, object]:
    """The rendered conversation, and whether it may begin with a system message.

    Raises:
        ValueError: the template leaves out what was said.
    """
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    if template is not None:
        tokenizer.chat_template = template.read_text()
    text = tokenizer.apply_chat_template(_CONVERSATION, tokenize=False, add_generation_prompt=True)
    lost = [each["content"] for each in _CONVERSATION if each["content"] not in text]
    if lost:
        raise ValueError(f"the template leaves out {lost[0]!r}")
    return {"text": text, "takes_system": _takes_system(tokenizer)}


def _takes_system(tokenizer: AutoTokenizer) -> bool:
    try:
        text = tokenizer.apply_chat_template([_SYSTEM, *_CONVERSATION], tokenize=False, add_generation_prompt=True)
    except TemplateError:  # how a template refuses a role
        return False
    return _SYSTEM["content"] in text


if __name__ == "__main__":
    print(json.dumps(render(Path(sys.argv[1]), *map(Path, sys.argv[2:3]))))
