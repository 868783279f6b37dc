"""How alike two instructions are: ROUGE-L F1 over words, and an index that finds a near-duplicate in a pool.

A text becomes a string with one character a word; the longest common subsequence of two such strings is ROUGE-L's,
and rapidfuzz finds it bit-parallel. Only texts of a length that can reach the limit at all are compared: for a pool of
50,000 instructions about 4 ms a candidate.

Limits: words are compared as they are, without stemming. Scripts without blanks between words (Chinese, Japanese,
Korean, Thai) count character by character. Past 1,112,063 distinct words two rare ones can count as equal.
"""

import bisect
import re
import unicodedata
from collections.abc import Iterable

from rapidfuzz import process
from rapidfuzz.distance import Indel

__all__ = ["NearDuplicates", "rouge_l", "words_of"]

_UNSPACED = "\u0e00-\u0e7f\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W_{_UNSPACED}]+")
_SURROGATES = range(0xD800, 0xE000)
_CODES = 0x110000 - len(_SURROGATES) - 1
_UNKNOWN = "\0"
_ROUNDING = 1e-9


def words_of(text: str) -> list[str]:
    """Words of a text, without case and punctuation; a text without any word gives its characters instead."""
    folded = unicodedata.normalize("NFC", text).casefold()
    return _WORD.findall(folded) or [character for character in folded if not character.isspace()]


def rouge_l(one: str, other: str) -> float:
    """ROUGE-L F1 of two texts, 0–1. Two empty texts count as equal."""
    return float(Indel.normalized_similarity(words_of(one), words_of(other)))


class NearDuplicates:
    """Texts seen so far, and whether a new one is too like any of them."""

    def __init__(self, texts: Iterable[str], max_rouge_l: float) -> None:
        self.max_rouge_l = max_rouge_l
        self._codes: dict[str, str] = {}
        self._encoded = sorted((self._encode(text, learn=True) for text in texts), key=len)

    def add(self, text: str) -> None:
        """Count ``text`` among those seen."""
        bisect.insort(self._encoded, self._encode(text, learn=True), key=len)

    def contains_like(self, text: str) -> bool:
        """True when the ROUGE-L F1 of ``text`` and some text seen is above the limit."""
        query = self._encode(text, learn=False)
        if not query:
            return False
        # F1 = 2·LCS/(m+n) and LCS ≤ min(m, n), so a text that differs much in length cannot exceed the limit.
        ratio = self.max_rouge_l / (2 - self.max_rouge_l)
        lowest = bisect.bisect_left(self._encoded, len(query) * ratio - _ROUNDING, key=len)
        highest = bisect.bisect_right(self._encoded, len(query) / ratio + _ROUNDING, key=len)
        found = process.extractOne(
            query,
            self._encoded[lowest:highest],
            scorer=Indel.normalized_similarity,
            score_cutoff=max(0.0, self.max_rouge_l - _ROUNDING),
        )
        return found is not None and found[1] > self.max_rouge_l + _ROUNDING

    def _encode(self, text: str, *, learn: bool) -> str:
        if learn:
            return "".join(self._codes.setdefault(word, _code(len(self._codes))) for word in words_of(text))
        # A word that no text seen has matches nothing, whichever it is.
        return "".join(self._codes.get(word, _UNKNOWN) for word in words_of(text))


def _code(number: int) -> str:
    code = number % _CODES + 1
    return chr(code if code < _SURROGATES.start else code + len(_SURROGATES))
