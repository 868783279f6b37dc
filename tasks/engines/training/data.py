"""From messages to tokens with their loss mask: the loss is on the last assistant message and its closing token.

What stands before that message is the prompt, rendered as the student server renders it. Text that a chat template
puts after the closing token is left off: the student never writes it. Needs a tokenizer, no torch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from tapir_core.errors import ConfigError

__all__ = [
    "IGNORED",
    "Corpus",
    "Example",
    "closing_token",
    "encode",
    "mark_trained",
    "read_conversations",
]

IGNORED = -100
"""The label of a token without loss."""

Conversation = list[dict[str, str]]

_BATCH = 1024


@dataclass(frozen=True, slots=True)
class Example:
    """One tokenized conversation; the tokens from ``prompt_length`` on are trained."""

    tokens: list[int]
    prompt_length: int

    @property
    def labels(self) -> list[int]:
        """The tokens, with `IGNORED` in place of the prompt's."""
        return [IGNORED] * self.prompt_length + self.tokens[self.prompt_length :]


@dataclass(frozen=True, slots=True)
class Corpus:
    """The examples that fit, and how many did not."""

    examples: list[Example]
    left_out: int
    closing: int
    """Id of the token that ends an answer."""

    @property
    def lengths(self) -> list[int]:
        """Tokens of each example."""
        return [len(example.tokens) for example in self.examples]


def read_conversations(files: Sequence[Path]) -> list[Conversation]:
    """The ``messages`` of every row, in order.

    Raises:
        ConfigError: a conversation does not end with an answer.
    """
    tables = [pl.read_parquet(file, columns=["messages"]) for file in files]
    rows: list[Conversation] = pl.concat(tables)["messages"].to_list() if tables else []
    for number, messages in enumerate(rows):
        roles = [message["role"] for message in messages or []]
        if len(roles) < 2 or roles[-1] != "assistant":
            raise ConfigError(
                f"row {number} of the mixture ({files[0].parent}) has the roles {roles}; a training example is a "
                "prompt and, last, an assistant message"
            )
    return rows


def closing_token(tokenizer: Any) -> int:
    """The token that ends an answer: the template's last special token after one, else the end-of-sequence token.

    Raises:
        ConfigError: there is no chat template, or neither token exists.
    """
    if not tokenizer.chat_template:
        raise ConfigError(
            f"{tokenizer.name_or_path} has no chat template, so an instruction cannot be shown to it; "
            "set student.chat_template to a Jinja file"
        )
    prompt = [{"role": "user", "content": "a"}]
    prompt_ids, whole_ids = _render(tokenizer, [[*prompt, {"role": "assistant", "content": "b"}]])[0]
    special = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
    after = whole_ids[_shared_length(prompt_ids, whole_ids) :]
    closing = next((token for token in reversed(after) if token in special), tokenizer.eos_token_id)
    if closing is None:
        raise ConfigError(
            f"the chat template of {tokenizer.name_or_path} puts no special token after an answer and its tokenizer "
            "has no end-of-sequence token, so the student could not learn to stop; give one of the two"
        )
    return int(closing)


def encode(tokenizer: Any, conversations: Sequence[Conversation], *, max_length: int) -> Corpus:
    """Tokenize; an example longer than ``max_length`` is left out and counted, never cut.

    Raises:
        ConfigError: no example is left.
    """
    closing = closing_token(tokenizer)
    examples = [_example(prompt, whole, closing) for prompt, whole in _render(tokenizer, conversations)]
    kept = [example for example in examples if len(example.tokens) <= max_length]
    if not kept:
        shortest = min((len(example.tokens) for example in examples), default=0)
        raise ConfigError(
            f"none of the {len(examples)} examples fits training.max_length = {max_length}; "
            f"the shortest has {shortest} tokens"
        )
    return Corpus(kept, len(examples) - len(kept), closing)


def mark_trained(tokenizer: Any, example: Example) -> str:
    """The example's text with its trained tokens between ⟦ and ⟧."""
    prompt, answer = example.tokens[: example.prompt_length], example.tokens[example.prompt_length :]
    return f"{tokenizer.decode(prompt)}⟦{tokenizer.decode(answer)}⟧"


def _render(tokenizer: Any, conversations: Sequence[Conversation]) -> list[tuple[list[int], list[int]]]:
    """Token ids of each prompt and of each whole conversation."""
    pairs: list[tuple[list[int], list[int]]] = []
    for start in range(0, len(conversations), _BATCH):
        batch = conversations[start : start + _BATCH]
        prompts = tokenizer.apply_chat_template(
            [each[:-1] for each in batch], tokenize=False, add_generation_prompt=True
        )
        wholes = tokenizer.apply_chat_template(list(batch), tokenize=False)
        # The template writes the beginning-of-sequence token itself; the tokenizer must not add a second one.
        ids = tokenizer([*prompts, *wholes], add_special_tokens=False)["input_ids"]
        pairs += zip(ids[: len(batch)], ids[len(batch) :], strict=True)
    return pairs


def _example(prompt_ids: list[int], whole_ids: list[int], closing: int) -> Example:
    # Tokens may merge across the boundary; then the answer begins where the two part.
    prompt_length = _shared_length(prompt_ids, whole_ids)
    answer = whole_ids[prompt_length:]
    ends = [place for place, token in enumerate(answer, start=1) if token == closing]
    answer = answer[: ends[-1]] if ends else [*answer, closing]
    return Example(whole_ids[:prompt_length] + answer, prompt_length)


def _shared_length(first: list[int], second: list[int]) -> int:
    differing = (place for place, (one, other) in enumerate(zip(first, second, strict=False)) if one != other)
    return next(differing, min(len(first), len(second)))
