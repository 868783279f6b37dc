"""Tokens of a text without its tokenizer: characters by kind of writing, each with its characters per token.

Limits: an estimate for budgets, not for context limits. The rates lie between those of older byte-pair tokenizers
(50,000 entries) and newer ones (200,000): pages of English and code come out within about 20 % of both, other writings
can be off by half with an older one, and so can a single line.
"""

import math
import re
from collections.abc import Iterable

__all__ = ["MESSAGE_TOKENS", "estimate_tokens", "mean_tokens"]

MESSAGE_TOKENS = 5
"""What a chat template adds for one message."""

_CHARS_PER_TOKEN: dict[str, tuple[str, float]] = {
    "letters of English": ("A-Za-z", 4.4),
    "letters with accents, whose words are split more finely": ("\u00c0-\u024f\u1e00-\u1eff", 0.5),
    "digits": ("0-9", 2.0),
    "signs": (r"!-/:-@\[-`{-~", 1.4),
    "Greek, Cyrillic": ("\u0370-\u052f", 2.4),
    "Hebrew, Arabic": ("\u0590-\u08ff", 2.0),
    "writings of India and its east": ("\u0900-\u109f", 1.6),
    "Chinese, Japanese, Korean": (
        "\u1100-\u11ff\u3001-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff\uff00-\uffef",
        1.2,
    ),
}
"""Kind of characters → their range, and how many make a token."""
_KINDS = [(re.compile(f"[{chars}]+"), rate) for chars, rate in _CHARS_PER_TOKEN.values()]
_BLANK = re.compile(r"\s+")
_NEW_LINES = re.compile(r"\n+")
_OTHER_CHARS_PER_TOKEN = 0.5
"""Of all other characters: signs, emoji and rare writings take two tokens and more each."""


def estimate_tokens(text: str) -> int:
    """About how many tokens ``text`` has: 0 for an empty text, at least 1 for any other.

    A blank between words belongs to the word after it and costs nothing; new lines are a token for each run of them.
    """
    if not text:
        return 0
    tokens, seen = float(len(_NEW_LINES.findall(text))), _length(_BLANK, text)
    for kind, chars_per_token in _KINDS:
        chars = _length(kind, text)
        tokens += chars / chars_per_token
        seen += chars
    tokens += (len(text) - seen) / _OTHER_CHARS_PER_TOKEN
    return max(1, math.ceil(tokens))


def mean_tokens(texts: Iterable[str]) -> float:
    """Tokens of a text on average; 0 without any."""
    counts = [estimate_tokens(text) for text in texts]
    return sum(counts) / len(counts) if counts else 0.0


def _length(kind: re.Pattern[str], text: str) -> int:
    return sum(len(run) for run in kind.findall(text))
