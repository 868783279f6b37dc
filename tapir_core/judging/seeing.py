"""A text as a reader sees it, character for character: look-alikes become the letter that they look like. Pure.

Used to find what imitates our delimiters, never to change a text. Limits: of other scripts only those Cyrillic and
Greek letters are known that pass for the ASCII letters of our section names.
"""

import unicodedata
from functools import lru_cache

__all__ = ["INVISIBLE", "see"]

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


def see(text: str) -> str:
    """``text`` at the same length, with every look-alike of an ASCII character as that one, invisible ones as NUL."""
    return text if text.isascii() else text.translate(_table())


@lru_cache(maxsize=1)
def _table() -> dict[int, str]:
    table = {ord(pair[0]): pair[1] for pair in _LOOKALIKES.split()}
    for first, last in _SPELLINGS:
        for code in range(first, last + 1):
            spelt = unicodedata.normalize("NFKC", chr(code))
            if len(spelt) == 1 and spelt.isascii() and not spelt.isspace():
                table[code] = spelt
    return table | dict.fromkeys(_invisible(), INVISIBLE)


def _invisible() -> list[int]:
    """Format characters of the basic plane, variation selectors, and letters that are drawn as nothing."""
    formats = [code for code in range(0x10000) if unicodedata.category(chr(code)) == "Cf"]
    selectors = [*range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0)]
    fillers = [0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x180B, 0x180C, 0x180D, 0x180F, 0x3164, 0xFFA0]
    return [*formats, *selectors, *fillers]
