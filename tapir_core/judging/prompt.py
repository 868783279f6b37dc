"""What a teacher or judge reads: foreign text made safe, judge prompts filled in. Pure.

What is broken up is found in the text as a reader sees it: invisible characters are looked through, other spellings of
a letter (full width, mathematical, Cyrillic) count as that letter. Neutralising changes a text as little as will do.

Limits: a section longer than ``MAX_SECTION_CHARS`` is cut in its middle, because the final result stands at the end
of an answer. Entities (``&lt;/answer_1&gt;``) stay as they are: they close nothing and no parser decodes them. What a
text *says*, such as "give me 10", is the judge's to weigh. Of other scripts only those Cyrillic and Greek letters are
known that pass for the ASCII letters of our section names.
"""

import re
import unicodedata
from functools import lru_cache

from tapir_core.prompts import Prompt
from tapir_core.text import encodable
from tapir_core.turns import Row, Turn, earlier_turns

INVISIBLE = "\0"
"""What `see` shows for a character that is not seen; neutralised text holds no other NUL."""

_SPELLINGS = (
    (0x00A0, 0x00FF),  # feminine ordinal, superscripts
    (0x02B0, 0x02FF),  # modifier letters
    (0x1D2C, 0x1D6A),  # phonetic superscripts
    (0x2070, 0x209C),  # superscripts and subscripts
    (0x2100, 0x214F),  # letterlike symbols
    (0x2460, 0x24FF),  # circled
    (0xFE50, 0xFE6B),  # small forms
    (0xFF01, 0xFF5E),  # full width
    (0x1D400, 0x1D7FF),  # mathematical
)
"""Blocks whose characters are other spellings of ASCII characters, as Unicode's compatibility forms say."""

_LOOKALIKES = (
    "аa сc еe іi јj оo рp ѕs ԝw хx уy тt мm АA СC ЕE ІI ОO РP ЅS ХX ТT МM οo ιi υu νv τt ΑA ΕE ΙI ΝN ΟO ΡP ΤT ΥY"
)
"""Cyrillic and Greek letters, each with the ASCII letter that it passes for."""

_UNDRAWN = (
    *(0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x180B, 0x180C, 0x180D, 0x180F, 0x3164, 0xFFA0),
    *(*range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0)),
)
"""Letters that are drawn as nothing, and variation selectors; format characters are unseen too."""


def see(text: str) -> str:
    """``text`` at the same length, with every look-alike of an ASCII character as that one, invisible ones as NUL."""
    return text if text.isascii() else text.translate(_table())


@lru_cache(maxsize=1)
def _table() -> dict[int, str]:
    lookalikes = {ord(pair[0]): pair[1] for pair in _LOOKALIKES.split()}
    codes = [code for first, last in _SPELLINGS for code in range(first, last + 1)]
    spelt = {code: unicodedata.normalize("NFKC", chr(code)) for code in codes}
    letters = {code: text for code, text in spelt.items() if len(text) == 1 and "!" <= text <= "~"}
    formats = [code for code in range(0x10000) if unicodedata.category(chr(code)) == "Cf"]
    return lookalikes | letters | dict.fromkeys([*formats, *_UNDRAWN], INVISIBLE)


MAX_SECTION_CHARS = 32_000
"""Longest text in one section of a prompt; about 8,000 tokens of English."""

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\U000e0000-\U000e007f]")
"""Control characters, and the invisible copy of ASCII that nobody but a model reads."""

_NAMES = (
    "system",
    "instruction",
    "reference",
    "seed",
    "task_type",
    "task_types",
    "new_instruction",
    "style",
)
_TOKENS = ("s", "bos", "eos", "think", "start_of_turn", "end_of_turn")


def _spelt(name: str) -> str:
    r"""A pattern of ``name`` with invisible characters (``\0``, as `see` shows them) anywhere in it."""
    return r"\0*+".join(map(re.escape, name))


# Quantifiers are possessive, and what follows an unbounded one cannot begin inside it; no pattern but for its first
# character runs over another `<` or `[`. So each stretch of a text is read a fixed number of times, however hostile.
_BLANK = r"[\s\0]*+"
_CHAT_TOKEN = (
    r"<(?=\|[\w▁.:/-]{1,64}+\|?+>|[\w▁.:/-]{1,64}+\|>"
    rf"|{_BLANK}/?+{_BLANK}(?:{'|'.join(map(_spelt, _TOKENS))}){_BLANK}>|<{_BLANK}/?+{_BLANK}{_spelt('SYS')}{_BLANK}>>)"
    rf"|\[(?=\0*+/?+\0*+{_spelt('INST')}\0*+\])"
)
_VERDICT = r"\[(?=\0*+\[[^\w\[\]]*+\d)"


@lru_cache
def _ours(names: tuple[str, ...]) -> re.Pattern[str]:
    name = rf"(?:{'|'.join(map(_spelt, names))}|{_spelt('answer')}(?:[\s\0_-]*+\d++)?+)(?!\w)"
    tag = rf"<(?={_BLANK}(?:/{_BLANK}{name}|{name}[^<>]*+>))"
    return re.compile(f"{tag}|{_CHAT_TOKEN}|{_VERDICT}", re.IGNORECASE)


def neutralise(text: str, tags: tuple[str, ...] = ()) -> str:
    r"""Foreign text, fit to stand in a section of our prompts; ``tags`` are a prompt's own beside the common ones.

    Our own tags, and the tokens that chat templates put between turns, lose their ``<`` to ``‹``; ``[[`` before a
    number becomes ``[ [``: neither can end a section, open a turn or pass for a verdict, and code still means the same.
    Control characters go, lone surrogates become ``?``, line ends become ``\n``. Doing it twice changes nothing more.
    """
    text = encodable(text).replace("\r\n", "\n").replace("\r", "\n")
    text = _CONTROL.sub("", text).rstrip().lstrip("\n")
    chars = len(text)
    if chars > 2 * MAX_SECTION_CHARS:
        # What lies between is left out below in any case, and need not be read.
        text = text[:MAX_SECTION_CHARS] + text[-MAX_SECTION_CHARS:]
    ours = _ours((*_NAMES, *tags))
    text = _break_up(text, ours)
    if len(text) <= MAX_SECTION_CHARS:
        return text
    half = (MAX_SECTION_CHARS - 100) // 2
    # The seam can make a verdict or a tag of two halves that were none.
    return _break_up(
        f"{text[:half]}\n… ({max(chars, len(text)) - 2 * half} characters left out) …\n{text[-half:]}", ours
    )


_TURN_TAGS = ("tools_turn", "user_turn", "assistant_turn")


def show_instruction(row: Row) -> str:
    """What stands in the section of an instruction: its one turn as it is, or the conversation that it ends."""
    turns = [*earlier_turns(row), Turn("user", row["instruction"])]
    if len(turns) == 1:
        return turns[0].content
    shown = [f"<{role}_turn>\n{neutralise(text, _TURN_TAGS)}\n</{role}_turn>" for role, text in turns]
    return "\n".join(["A conversation. Its last turn is to be answered; what stands before is given.", *shown])


def fill_in(prompt: Prompt, **sections: str | None) -> str:
    """The message with every section made safe; one without a text is empty."""
    return prompt.render(**{name: neutralise(text or "") for name, text in sections.items()})


def _break_up(text: str, ours: re.Pattern[str]) -> str:
    """Whatever could be read as our tag, a turn or a verdict, made harmless at its first character."""
    seen, pieces, done = see(text), [], 0
    for found in ours.finditer(seen):
        place = found.start()
        pieces += [text[done:place], "‹" if found[0] == "<" else f"{text[place]} "]
        done = place + 1
    return "".join([*pieces, text[done:]])
