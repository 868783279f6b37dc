"""A conversation as the student sees it: the prompt as its server renders it, and what it is to write after that.

Where the two do not fit each other, or a tokenizer is larger than its model, `tapir doctor` says so; a run is refused
before it pays for anything. Loads no torch.
"""

import json
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from jinja2 import TemplateError

from tapir_core import errors, thoughts, tools
from tapir_core.config.student import PRESETS, shipped

Conversation = list[dict[str, str]]


def load_tokenizer(base: Path, chat_template: Path | None = None) -> Any:
    """The base's tokenizer, with ``chat_template`` in place of its own if there is one.

    Raises:
        ConfigError: the base is no checkpoint, or its tokenizer cannot be loaded.
    """
    if not (base / "config.json").exists():
        raise errors.ConfigError(
            f"{base} holds no config.json; a student is a folder of config, safetensors and tokenizer"
        )
    from transformers import AutoTokenizer  # only here: the driver reads batches, and loads none of it

    try:
        tokenizer = AutoTokenizer.from_pretrained(base, trust_remote_code=False)
    except (OSError, ValueError, ImportError, KeyError) as error:
        raise errors.ConfigError(
            f"the tokenizer of {base} cannot be loaded ({error}); give a folder with a tokenizer.json that "
            "transformers reads (`save_pretrained` writes one, where the packages of an older format are installed)"
        ) from error
    if chat_template is not None:
        tokenizer.chat_template = chat_template.read_text()
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def closing_token(tokenizer: Any) -> int:
    """The token that ends an answer: the template's last special token after one, else the end-of-sequence token.

    Raises:
        ConfigError: there is no chat template, or neither token exists.
    """
    if not tokenizer.chat_template:
        raise errors.ConfigError(
            f"{tokenizer.name_or_path} has no chat template, so an instruction cannot be shown to it; "
            "set student.chat_template to a Jinja file"
        )
    [(_, written)] = render(tokenizer, [EXCHANGE])
    special = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
    after = token_ids(tokenizer, written.rpartition(EXCHANGE[-1]["content"])[2])
    closing = next((token for token in reversed(after) if token in special), tokenizer.eos_token_id)
    if closing is None:
        raise errors.ConfigError(
            f"the chat template of {tokenizer.name_or_path} puts no special token after an answer and its tokenizer "
            "has no end-of-sequence token, so the student could not learn to stop; give one of the two"
        )
    return int(closing)


EXCHANGE: Conversation = [
    {"role": "user", "content": "What is two plus two?"},
    {"role": "assistant", "content": "It is four."},
]
"""A question and its answer, by which a chat template is judged."""

_THOUGHT = "(think(?:ing)?|thought|reasoning)"
_OPENED = re.compile(rf"<(?:{_THOUGHT}>\s*(?:</\1>\s*)?|\|channel>thought\s*<channel\|>\s*)\Z")
"""The thought at the end of a generation prompt: to be written, or empty."""
_EMPTY = re.compile(rf"\s*(?:<{_THOUGHT}>\s*)?</{_THOUGHT}>\s*")
"""The thought at the beginning of an answer."""


_MARK = re.compile(r"<[^<>\s]+>|\[/?INST\]")


def render(tokenizer: Any, conversations: Sequence[Conversation]) -> Iterator[tuple[str, str]]:
    """Each prompt as the student server renders it, and what the student is to write after it.

    Raises:
        ConfigError: what the template makes of an example does not begin with the prompt.
    """
    for conversation in conversations:
        said, _ = tools.calls_in(conversation[-1]["content"])
        try:
            prompt = _apply(tokenizer, conversation[:-1], add_generation_prompt=True)
            whole = _apply(tokenizer, conversation)
        except TemplateError:
            if not any(each["role"] == tools.TOOLS for each in conversation):
                raise
            whole = ""
        if not whole or thoughts.split(said)[1].strip() not in whole:
            yield "", ""  # a template that takes one call a turn, or no text beside it
            continue
        written = _written(prompt, whole)
        if written is None and len(conversation) > 2:
            # Some templates move the system text to whichever turn of the user is last. An answer stays what it is.
            defined = [each for each in conversation[:-2] if each["role"] == tools.TOOLS]
            [(_, written)] = render(tokenizer, [[*defined, *conversation[-2:]]])
        if written is None:
            at = next(
                place for place, (one, other) in enumerate(zip(prompt, whole + "\0", strict=False)) if one != other
            )
            asked, trained = (f"{text[max(0, at - 20) : at + 60]!r}" for text in (prompt, whole))
            raise errors.ConfigError(
                f"the chat template of {tokenizer.name_or_path} renders an example otherwise than the prompt that the "
                f"student is asked: asked …{asked}, trained …{trained}; {other_template(tokenizer)}"
            )
        thought = thoughts.split(conversation[-1]["content"])[0]
        if thought and written.startswith("\n</think>"):  # opened by the prompt, and left out by the template
            written = thought + written
        if thought and (thought not in written or prompt.rstrip().endswith(("</think>", "<channel|>"))):
            raise errors.ConfigError(
                f"the chat template of {tokenizer.name_or_path} leaves no room for a thought before an answer; set "
                'student.chat_template = "" for its own, another template, or teacher.thinking = "drop"'
            )
        yield prompt, written


def unlearnt(prompt: str, written: str, answer: str) -> tuple[str, str]:
    """Prompt and what is learnt of a rendered example, whose thought before its ``answer`` is not.

    Nothing is learnt where the template writes the answer otherwise than it is.
    """
    thought, said = thoughts.split(answer)
    place = written.find(said.strip(), written.find(thought) + len(thought)) if thought else 0
    return prompt + written[:place], written[place:] if place >= 0 else ""


def _apply(tokenizer: Any, conversation: Conversation, **how: bool) -> str:
    messages, defined = tools.structured(((each["role"], each["content"]) for each in conversation), as_text=False)
    thought, answer = thoughts.split(conversation[-1]["content"])
    if thought and messages[-1]["role"] == "assistant":
        # As a template that knows thoughts writes them; else they are text of the answer.
        said = tools.calls_in(answer)[0] if "tool_calls" in messages[-1] else answer
        apart = [*messages[:-1], {**messages[-1], "content": said, "reasoning_content": thought}]
        text = str(tokenizer.apply_chat_template(apart, tools=[*defined] or None, tokenize=False, **how))
        if thought in text:
            return text
    return str(tokenizer.apply_chat_template(messages, tools=[*defined] or None, tokenize=False, **how))


def _written(prompt: str, whole: str) -> str | None:
    """What follows ``prompt`` in ``whole``; nothing where that goes another way."""
    if whole.startswith(prompt):
        return whole.removeprefix(prompt)
    thought = _OPENED.search(prompt)
    if thought is None or not whole.startswith(prompt[: thought.start()]):
        return None
    answer = whole[thought.start() :]
    answer = answer[empty.end() :] if (empty := _EMPTY.match(answer)) else answer
    # What is left open is closed empty: the student is asked to think, and there are no thoughts to train it on.
    return f"\n</{thought[1]}>\n\n{answer}" if thought[1] and "</" not in thought[0] else answer


def check_student(tokenizer: Any, base: Path) -> None:
    """Refuse a student that would be asked otherwise than it is trained, or has tokens without a weight.

    Raises:
        ConfigError: its chat template cannot be trained with, or its tokenizer is larger than its model.
    """
    closing_token(tokenizer)
    [(prompt, written)] = render(tokenizer, [EXCHANGE])
    head = written.partition(EXCHANGE[-1]["content"])[0]
    if head.strip() and prompt == tokenizer.apply_chat_template(EXCHANGE[:-1], tokenize=False):
        raise errors.ConfigError(
            f"the chat template of {tokenizer.name_or_path} has no generation prompt, so that the student would write "
            f"{head!r} before each answer; {other_template(tokenizer)}"
        )
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    config = config.get("text_config", config)
    size, ids = config.get("vocab_size", math.inf), set(tokenizer.get_vocab().values())
    used = {*token_ids(tokenizer, prompt + written), tokenizer.eos_token_id, tokenizer.pad_token_id}
    # Gemma 3 1B has one that only its larger sisters use.
    unused = {token for token, each in tokenizer.added_tokens_decoder.items() if each.special} - used
    if beyond := [token for token in sorted((ids | used) - unused - {None}) if token >= size]:
        raise errors.ConfigError(
            f"the tokenizer of {base} has {max(ids) + 1:,} tokens, the model {size:,} embeddings, and none for "
            f"{tokenizer.convert_ids_to_tokens(beyond[0])!r} ({beyond[0]}); resize them "
            "(`model.resize_token_embeddings(len(tokenizer))` of transformers, and save both), or give the tokenizer "
            "that the model was trained with"
        )


def other_template(tokenizer: Any) -> str:
    """The remedy: the shipped templates that suit the tokenizer, those that use its own tokens first."""
    suiting = list[tuple[bool, str]]()
    tokens = {each.content for each in tokenizer.added_tokens_decoder.values()}
    for name in shipped("jinja"):
        template = (PRESETS / f"{name}.jinja").read_text()
        with suppress(TemplateError):  # without a token that ends an answer
            marks = {*_MARK.findall(tokenizer.apply_chat_template(EXCHANGE, chat_template=template, tokenize=False))}
            suiting += [(marks <= {tokenizer.bos_token, tokenizer.eos_token}, name)] if marks <= tokens else []
    names = " or ".join(f'"{name}"' for _, name in sorted(suiting))
    return f"set student.chat_template to {names or 'a Jinja file that does not'} (docs/backbones.md)"


_SYSTEM = {"role": "system", "content": "Be brief."}
_WITH_TOOLS = [
    {"role": tools.TOOLS, "content": tools.definitions([{"name": "weigh", "parameters": {"type": "object"}}])},
    {"role": "user", "content": "How heavy is it?"},
    {"role": "assistant", "content": tools.Call("weigh", {"animal": "tapir"}).text},
    {"role": "user", "content": tools.result_text("250 kg")},
]
_CONVERSATION = [*EXCHANGE, {"role": "user", "content": "And one more?"}]


def render_sample(base: Path, chat_template: Path | None = None) -> dict[str, object]:
    """The fields of a `RenderedChat` of the student in ``base``.

    Raises:
        ConfigError: the template renders no conversation, or as `check_student`.
    """
    tokenizer = load_tokenizer(base, chat_template)
    try:
        text = tokenizer.apply_chat_template(_CONVERSATION, tokenize=False, add_generation_prompt=True)
        lost = [each["content"] for each in _CONVERSATION if each["content"] not in text]
        if lost:
            raise TemplateError(f"it leaves out {lost[0]!r}")
        check_student(tokenizer, base)
    except (TemplateError, TypeError, ValueError) as error:
        raise errors.ConfigError(
            f"the chat template of {chat_template or base} renders no conversation ({error}); fix it, or "
            f"{other_template(tokenizer)}"
        ) from error
    with_system = ""
    with suppress(TemplateError):  # how a template refuses a role
        with_system = tokenizer.apply_chat_template([_SYSTEM, *_CONVERSATION], tokenize=False)
    takes_system = _SYSTEM["content"] in with_system
    with_tools = ""
    with suppress(TemplateError, TypeError):
        with_tools = _apply(tokenizer, _WITH_TOOLS)
    return {
        "text": text,
        "takes_system": takes_system,
        "takes_tools": all(each in with_tools for each in ("object", "tapir", "250 kg")),
        "other": "" if takes_system else other_template(tokenizer),
    }


def special_texts(tokenizer: Any) -> re.Pattern[str]:
    """Finds the text of a special token."""
    tokens = tokenizer.added_tokens_decoder.values()
    return re.compile("|".join(re.escape(each.content) for each in tokens if each.special) or r"(?!)")


def token_ids(tokenizer: Any, text: str | list[str], **settings: bool) -> Any:
    """Token ids of a rendered text, or of several."""
    # The template writes the beginning-of-sequence token itself; the tokenizer must not add a second one.
    return tokenizer(text, add_special_tokens=False, **settings)["input_ids"] if text else []
