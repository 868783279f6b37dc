"""What cannot be trained on, and what a report counts as of no use: one test of an answer for both. Pure.

How a reply ended says it first. A whole reply may still refuse in words, say one thing over and over, or give back what
it was given.

Limits: a refusal in words is known from the beginning of a short answer, in English alone. A loop is known from its
end, or from one line that is half of the answer; a copy from eight words on, where it is half of what was given. So a
text that shall repeat itself is lost, and an extract that is most of its source.
"""

import re
from collections import Counter

from tapir_core.data.decontamination import words_of
from tapir_core.turns import holds_control_token

_UNUSABLE = {"refused": "refused", "content_filter": "refused", "length": "cut_off"}
"""Ending of a reply → why it is unusable, beside `failed:<kind>`, which says it itself."""

_REFUSAL = re.compile(
    r"\W*(?:(?:i(?:['’]m| am) sorry|sorry|i apologi[sz]e|unfortunately)\b[^.!?\n]{0,40}?)?"
    r"(?:as an? (?:ai|artificial|language|large language)\b[^.!?\n]{0,40}?)?"
    r"\bi(?: can(?:no|['’])t| can not| won['’]t| will not| must decline to|(?: am|['’]m) (?:not able|unable) to) "
    r"(?:\w+ )?(?:answer|assist|complete|comply|create|discuss|engage|fulfil+|generate|give|help|produce|provide|"
    r"respond|share|support|write)\b(?! but| up\b)",
    re.IGNORECASE,
)
_NO_PERSON = re.compile(
    r"\W*(?:(?:i(?:['’]m| am) sorry|sorry|i apologi[sz]e|unfortunately)\b[^.!?\n]{0,20}?)?"
    r"(?:as|i(?:['’]m| am)(?: just)?) an? (?:ai|artificial|language|large language)\b[^.!?\n]{0,60}?"
    r"\b(?:i|and|so)\b[^.!?\n]{0,10}? (?:can(?:no|['’])t|can not|don['’]t|do not|am unable|am not able|lack)\b",
    re.IGNORECASE,
)
_LONGEST_REFUSAL = 600
"""Characters; a longer answer that begins so goes on to help."""

_TURNS, _LOOPED, _LOOKED_AT = 4, 200, 4000
"""Least turns and characters of a loop, and how many characters of the end are looked at."""
_ITS_END = 50
"""Characters that stand in a loop more than once."""
_LINES, _LINE_WORDS = 6, 5
"""How often a line stands there that is half of the answer, and its words."""
_NUMBERED = re.compile(r"\W*\d{1,4}[.):]?\s+|[\s*#>-]+")
_COPIED_WORDS = 8


def unusable_reason(
    response: str | None, finish_reason: str | None, asked: str = "", *, refusals: bool = False
) -> str | None:
    """Why an answer to ``asked`` cannot be trained on; nothing if it can.

    What `broken_reason` says, looped; and where ``refusals`` are not meant to be learnt, refused or copied.
    """
    text = (response or "").strip()
    if broken := broken_reason(text, finish_reason):
        return broken
    if "<tool_call>" in text or asked.startswith("<tool_response>"):
        return None  # arguments and reports of results repeat what was said
    if not refusals and len(text) <= _LONGEST_REFUSAL and any(each.match(text) for each in (_REFUSAL, _NO_PERSON)):
        return "refused"
    if _loops(text):
        return "looped"
    return "copied" if not refusals and _is_copy(text, asked) else None


def broken_reason(response: str | None, finish_reason: str | None) -> str | None:
    """Why an answer is none, whatever it says: refused, failed:<kind>, cut_off, empty or control_token."""
    ending, text = finish_reason or "", response or ""
    if ending in _UNUSABLE or ending.startswith("failed"):
        return _UNUSABLE.get(ending, ending)
    if not text.strip():
        return "empty"
    return "control_token" if holds_control_token(text) else None


def _loops(text: str) -> bool:
    end = text[-_LOOKED_AT:]
    return (end.count(end[-_ITS_END:]) > 1 and _is_periodic(end[::-1])) or _is_one_line(text)


def _is_periodic(backwards: str) -> bool:
    """Whether a text, from its end, is one piece again and again (the failure function of Knuth, Morris and Pratt)."""
    fallback = [0] * len(backwards)
    for place in range(1, len(backwards)):
        length = fallback[place - 1]
        while length and backwards[place] != backwards[length]:
            length = fallback[length - 1]
        fallback[place] = length + (backwards[place] == backwards[length])
    return any(chars >= max(_LOOPED, _TURNS * (chars - same)) for chars, same in enumerate(fallback, 1))


def _is_one_line(text: str) -> bool:
    lines = [_NUMBERED.sub("", line, count=1).strip() for line in re.split(r"\n|(?<=[.!?])\s|(?<=[。！？])", text)]
    line, times = max(Counter(lines).items(), key=lambda each: each[1] if each[0] else 0)
    words = line.split() if line.isascii() else words_of(line)
    return times >= _LINES and len(words) >= _LINE_WORDS and 2 * times * len(line) >= len(text)


def _is_copy(text: str, asked: str) -> bool:
    words, given = map(words_of, (text, asked))
    return len(words) >= max(_COPIED_WORDS, len(given) / 2) and f" {' '.join(words)} " in f" {' '.join(given)} "
