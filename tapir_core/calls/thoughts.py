"""Removes the thoughts at the beginning of a reply, by the marks that models put around them.

Thoughts come before the answer: a mark further on belongs to the answer. Limits: if a reply closes thoughts that it did
not open (the opening mark was in the prompt), the first closing mark counts that begins a line, or ends a sentence or a
line, and is not in code.
"""

import re
from itertools import islice

_PAIRS = (
    *((f"<{each}>", f"</{each}>") for each in ("think", "thinking", "thought", "reasoning")),
    *((f"<{each}>", f"</{each}>") for each in ("seed:think", "mm:think", "longcat_think")),
    *((f"<ifm|{each}>", f"</ifm|{each}>") for each in ("think", "think_fast", "think_faster")),
    *((f"<|{each}|>", f"</|{each}|>") for each in ("thinking", "thought")),
    ("[THINK]", "[/THINK]"),
    ("◁think▷", "◁/think▷"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|inner_prefix|>", "<|inner_suffix|>"),
    ("<|think:start|>", "<|think:end|>"),
    ("<|open|>think<|sep|>", "<|close|>think<|sep|>"),
    ("<|channel>thought", "<channel|>"),
    ("<|channel|>analysis<|message|>", "<|channel|>final<|message|>"),
    ("<unused94>thought", "<unused95>"),
    ("[unused16]", "[unused17]"),
    ("Here is my thought process:", "Here is my response:"),
    ("Here's my thought process:", "Here's my response:"),
    ("Here are my reasoning steps:", "[BEGIN FINAL RESPONSE]"),
    ("analysis", "assistantfinal"),  # the marks of gpt-oss where a server drops special tokens
)
"""Opening → closing, of DeepSeek, Qwen, GLM, Magistral, Seed-OSS, Kimi, OpenThinker, Cohere, Apertus, Solar, Gemma,
gpt-oss, MedGemma, Pangu, Granite, Apriel and prompts that ask for such marks."""
_WRAPPERS = (
    *((f"<{each}>", f"</{each}>") for each in ("answer", "response")),
    ("<|begin_of_solution|>", "<|end_of_solution|>"),
    ("<|START_RESPONSE|>", "<|END_RESPONSE|>"),
    ("<|open|>response<|sep|>", "<|close|>response<|sep|>"),
    *(("", each) for each in ("[END FINAL RESPONSE]", "<|return|>", "<|end|>")),
)
"""Marks that some of them put around the answer after their thoughts."""
_CLOSING = {opening.lower(): re.compile(re.escape(closing), re.IGNORECASE) for opening, closing in _PAIRS}
_CLOSING |= dict.fromkeys(("<think>", "<thinking>"), re.compile("</think(?:ing)?>", re.IGNORECASE))
_OPENING = re.compile("|".join(map(re.escape, sorted(_CLOSING, key=len, reverse=True))), re.IGNORECASE)
_LEFT_OPEN = re.compile(
    r"(</think>|\[/THINK\]|</thinking>|</thought>|</seed:think>|◁/think▷|</longcat_think>|<\|think:end\|>)"
)
"""Closing marks of models whose chat template opens the thoughts."""
_WORDS = ("<thinking>", "<thought>", "<reasoning>")
"""Openings that may also be an element that is the whole answer."""
_BEFORE = re.compile(r"(?:\A|\n) {0,3}\Z|(?<!\d)[.!?…][\"')\]]?[ \t]*\Z")
"""Text before a mark that closes thoughts: the beginning of a line, or the end of a sentence."""
_MOST_MARKS, _SEEN_BEFORE = 20, 80
"""Closing marks that are tried, and characters read before each."""
_NOT_BLANK = re.compile(r"\S")
_MARK = re.compile(r"\s*(<[|/]?[\w:|-]{2,30}\|?>|\[[A-Z_ ]{4,30}\]|◁\w{2,20}▷|【\w{1,20}】|<\w+ type=\"\w+\")")


def strip_thoughts(text: str) -> str:
    """``text`` without the thoughts before the answer; empty if they are never closed."""
    start = end = len(text) - len(text.lstrip())
    while opening := _OPENING.match(text, end):
        closing = _CLOSING[opening[0].lower()].search(text, opening.end())
        if closing is None and opening[0][0].isalpha():
            break  # words, not a mark
        last = closing.start() if closing else len(text)
        is_named_again = text.find(opening[0], opening.end(), last) >= 0 and text.find("\n", opening.end(), last) < 0
        if is_named_again or text[opening.end() : last].strip() in ("and", "or", "to", "&", ",", "/", "…", "..."):
            break  # a sentence about the mark
        rest = _NOT_BLANK.search(text, closing.end()) if closing else None
        end = rest.start() if rest else len(text)
    if end > start:
        is_element = end == len(text) and text[start:].lower().startswith(_WORDS) and text.rstrip().endswith(">")
        return text if is_element else _unwrapped(text[end:])
    return _after_left_open(text)


def _after_left_open(text: str) -> str:
    """``text`` after thoughts that the prompt opened; all of it if there are none."""
    fences = seen = 0
    for mark in islice(_LEFT_OPEN.finditer(text), _MOST_MARKS):
        fences, seen = fences + text.count("```", seen, mark.start()), mark.start()
        opened = text.find(mark[1].replace("/", "", 1).replace("end", "start"), 0, mark.start()) >= 0
        before, follows = text[max(0, mark.start() - _SEEN_BEFORE) : mark.start()], text[mark.end() : mark.end() + 1]
        is_alone = bool(_BEFORE.search(before)) or (follows in ("", "\n") and before[-1:].isalnum())
        if not opened and is_alone and fences % 2 == 0:
            return _unwrapped(text[mark.end() :].lstrip())
    return text


def unknown_mark(text: str) -> str:
    """An unknown mark at the beginning of ``text``; empty if there is none."""
    found = _MARK.match(text)
    return found[1] if found and not _OPENING.match(text.lstrip()) else ""


def _unwrapped(answer: str) -> str:
    for opening, closing in _WRAPPERS:
        if answer.startswith(opening) and answer.rstrip().endswith(closing) and answer.count(closing) == 1:
            return answer.rstrip()[len(opening) : -len(closing)].strip()
    return answer
