"""How alike two instructions are: ROUGE-L F1 over words, and an index that finds a near-duplicate in a pool.

A text becomes a string with one character a word (`Vocabulary`); the longest common subsequence of two such strings is
ROUGE-L's, and rapidfuzz finds it bit-parallel. Only texts of a length that can reach the limit at all are compared: for
a pool of 50,000 instructions about 4 ms a candidate.

Limits: words are compared as they are, without stemming. Scripts without blanks between words (Chinese, Japanese,
Korean, Thai) count character by character. Past 1,112,063 distinct words two rare ones can count as equal.
"""

import bisect
import re
import unicodedata
from collections.abc import Iterable

from rapidfuzz import process
from rapidfuzz.distance import Indel

_UNSPACED = "\u0e00-\u0e7f\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W_{_UNSPACED}]+")
_SURROGATES = range(0xD800, 0xE000)
_CODES = 0x110000 - len(_SURROGATES) - 1
_UNKNOWN = "\0"

ROUNDING = 1e-9
"""What two similarities may differ by and still count as equal."""


def words_of(text: str) -> list[str]:
    """Words of a text, without case and punctuation; a text without any word gives its characters instead."""
    folded = unicodedata.normalize("NFC", text).casefold()
    return _WORD.findall(folded) or [character for character in folded if not character.isspace()]


def word_runs(text: str, size: int) -> set[str]:
    """Every ``size`` words of a text that stand in a row; of a shorter one, all of it."""
    words = words_of(text)
    return {" ".join(words[start : start + size]) for start in range(max(1, len(words) - size + 1))}


def rouge_l(one: str, other: str) -> float:
    """ROUGE-L F1 of two texts, 0–1. Two empty texts count as equal."""
    return float(Indel.normalized_similarity(words_of(one), words_of(other)))


class Vocabulary:
    """Words as characters, so that a text is a string with one character a word."""

    def __init__(self) -> None:
        self._codes: dict[str, str] = {}

    def learn(self, text: str) -> str:
        """The text, with a character for every word of it."""
        return "".join(self._codes.setdefault(word, _code(len(self._codes))) for word in words_of(text))

    def encode(self, text: str) -> str:
        """The text in the characters known so far; a word that was not learnt matches nothing, whichever it is."""
        known = self._codes.get
        return "".join([known(word, _UNKNOWN) for word in words_of(text)])


class NearDuplicates:
    """Texts seen so far, and whether a new one is too like any of them."""

    def __init__(self, texts: Iterable[str], max_rouge_l: float) -> None:
        self.max_rouge_l = max_rouge_l
        self._words = Vocabulary()
        self._encoded = sorted(map(self._words.learn, texts), key=len)

    def add(self, text: str) -> None:
        """Count ``text`` among those seen."""
        bisect.insort(self._encoded, self._words.learn(text), key=len)

    def contains_like(self, text: str) -> bool:
        """True when the ROUGE-L F1 of ``text`` and some text seen is above the limit."""
        query = self._words.encode(text)
        if not query:
            return False
        # F1 = 2·LCS/(m+n) and LCS ≤ min(m, n), so a text that differs much in length cannot exceed the limit.
        ratio = self.max_rouge_l / (2 - self.max_rouge_l)
        lowest = bisect.bisect_left(self._encoded, len(query) * ratio - ROUNDING, key=len)
        highest = bisect.bisect_right(self._encoded, len(query) / ratio + ROUNDING, key=len)
        found = process.extractOne(
            query,
            self._encoded[lowest:highest],
            scorer=Indel.normalized_similarity,
            score_cutoff=max(0.0, self.max_rouge_l - ROUNDING),
        )
        return found is not None and found[1] > self.max_rouge_l + ROUNDING


def _code(number: int) -> str:
    code = number % _CODES + 1
    return chr(code if code < _SURROGATES.start else code + len(_SURROGATES))
