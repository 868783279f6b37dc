"""The thoughts that a reply begins with, and the marks that models put around them.

Thoughts stand before the answer and nowhere else: a mark further on is what the answer is about. Limits: where a reply
closes thoughts that it never opened (the opening mark stood in the prompt), the first closing mark counts unless it
stands in code or in the middle of a sentence.
"""

import re

_PAIRS = (
    *((f"<{each}>", f"</{each}>") for each in ("think", "thinking", "thought", "thoughts", "reasoning", "reason")),
    *((f"<{each}>", f"</{each}>") for each in ("reflection", "seed:think", "mm:think", "longcat_think", "scratchpad")),
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
"""What some of them put around the answer that follows their thoughts."""
_BY_OPENING = {opening.lower(): closing for opening, closing in _PAIRS}
_OPENING = re.compile("|".join(map(re.escape, sorted(_BY_OPENING, key=len, reverse=True))), re.IGNORECASE)
_LEFT_OPEN = re.compile(
    r"(</think>|\[/THINK\]|</thinking>|</thought>|</seed:think>|◁/think▷|</longcat_think>|<\|think:end\|>)"
)
"""Closing marks of models whose chat template opens the thoughts."""
_BEFORE, _BEHIND = re.compile(r"[\w,;:(][ \t]+$|[`'\"“]$"), re.compile(r"[ \t]+\w|[,;.`'\"”)]")
"""Around a mark in the middle of a sentence, which closes nothing."""
_MARK = re.compile(r"\s*(<[|/]?[\w:|-]{2,30}\|?>|\[[A-Z_ ]{4,30}\]|◁\w{2,20}▷)")


def strip_thoughts(text: str) -> str:
    """``text`` without the thoughts before the answer; empty where they are never closed."""
    rest, found = text.lstrip(), False
    while opening := _OPENING.match(rest):
        closing = _BY_OPENING[opening[0].lower()]
        thoughts, closed, after = rest[opening.end() :].partition(closing)
        if (not closed and opening[0][0].isalpha()) or (opening[0] in thoughts and "\n" not in thoughts):
            break  # words and no mark, or a sentence about the mark
        rest, found = after.lstrip(), True
    if found:
        return _unwrapped(rest)
    for mark in _LEFT_OPEN.finditer(text):
        thoughts, answer = text[: mark.start()], text[mark.end() :]
        opened = mark[1].replace("/", "", 1).replace("end", "start") in thoughts
        in_sentence = _BEFORE.search(thoughts) and _BEHIND.match(answer)
        if not opened and not in_sentence and thoughts.count("```") % 2 == 0:
            return _unwrapped(answer.lstrip())
    return text


def unknown_mark(text: str) -> str:
    """A mark that ``text`` begins with, which is in no table; empty where it begins otherwise."""
    found = _MARK.match(text)
    return found[1] if found and not _OPENING.match(text.lstrip()) else ""


def _unwrapped(answer: str) -> str:
    for opening, closing in _WRAPPERS:
        if answer.startswith(opening) and answer.rstrip().endswith(closing):
            return answer.rstrip()[len(opening) : -len(closing)].strip()
    return answer
