"""How alike two texts are, and what keeps evaluation questions out of pool and expansion.

**Alike** is ROUGE-L F1 over words. A text becomes a string with one character a word (`Vocabulary`); the longest common
subsequence of two such strings is ROUGE-L's, and rapidfuzz finds it bit-parallel. `NearDuplicates` compares only texts
of a length that can reach the limit at all, and that share enough of their rarest words.

**A question is held** where it is equal, shares words in a row, or is near. `overlap_words` words in a row without case
and punctuation are 13 by default, as in Brown et al. (2020, arXiv 2005.14165, appendix C). A question shorter than
that, but of at least 8 words, counts when all of it stands in a row in the instruction. Near is a ROUGE-L F1 above
`max_rouge_l`, for questions of at least 5 words. Held-out instructions are exempt from that: they come from where the
pool comes from, and may differ in a figure by design.

**Boilerplate**, such as the footer of every mail, gives no question away: `overlap_words` words in a row that stand in
more than 5 % of the pool's instructions (and in 10 at least), and in one question of a benchmark at most. Of the
held-out set in any number, for it comes from where the pool comes from. It is cut out of a question, and what is left
is looked for: words that run into a footer are no hit either. A question of which too little is left is held by what
has it whole; one of the held-out set only where it is half of that text, since it may be such a footer itself. So
copies of a benchmark are found however many they are: each has words of its own, or holds the question whole.

Candidates are found by hashes, and each is compared by its words: what is found is so, and nothing that is so is
missed. Two texts of m and n words, L of them in common, share at least 3L − 1 − (m + n) pairs of neighbouring words,
which is one or more where their ROUGE-L F1 is above 0.8: only the rarest pairs of a question must be looked for.

Limits: a question in other words, or in another language, is not found. Words are compared as they are, without
stemming; ligatures, wide letters and what is not seen (soft hyphens, blanks of no width) part no two texts, letters of
another script that look alike do. Scripts without blanks between words (Chinese, Japanese, Korean, Thai) count
character by character. Past 1,112,063 distinct words two rare ones can count as equal.
"""

import bisect
import math
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from difflib import SequenceMatcher

import numpy as np
import polars as pl
from numpy.typing import NDArray
from rapidfuzz import distance, process

from tapir_core import errors, stages, turns
from tapir_core.config.benchmarks import HELDOUT, DecontaminationConfig
from tapir_core.text import shorten

_UNSPACED = "\u0e00-\u0e7f\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff"
_MARKS = (
    "\u0300-\u036f\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u0610-\u061a\u064b-\u065f\u0670\u06d6-\u06dc"
    "\u06df-\u06e4\u06e7\u06e8\u06ea-\u06ed\u0900-\u0963\u0966-\u0dff"
)
"""Vowel signs and other marks within words, which `\\w` lacks; of India's scripts all but the full stop."""
_WORD = re.compile(rf"[{_UNSPACED}]|(?:[^\W_{_UNSPACED}]|[{_MARKS}])+")
_BLANKED = bytes(each if chr(each).isalnum() else ord(" ") for each in range(128)) + bytes(128)
"""What parts words, as a blank; of ASCII, where that takes half the time of `_WORD`."""
_SURROGATES = range(0xD800, 0xE000)
_CODES = 0x110000 - len(_SURROGATES) - 1
_UNKNOWN = "\0"

ROUNDING = 1e-9
"""What two similarities may differ by and still count as equal."""


def words_of(text: str) -> list[str]:
    """Words of a text, without case and punctuation; a text without any word gives its characters instead."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    words = (
        folded.encode().translate(_BLANKED).decode().split()
        if folded.isascii()
        else _WORD.findall(re.sub(r"[\u00ad\u200b-\u200f\u2060\ufeff]", "", folded))
    )
    return words or [character for character in folded if not character.isspace()]


def word_runs(text: str, size: int) -> set[str]:
    """Every ``size`` words of a text that stand in a row; of a shorter one, all of it."""
    words = words_of(text)
    return {" ".join(words[start : start + size]) for start in range(max(1, len(words) - size + 1))}


class Vocabulary:
    """Words as characters, so that a text is a string with one character a word."""

    def __init__(self) -> None:
        self._codes: defaultdict[str, str] = defaultdict(lambda: _code(len(self._codes)))

    def learn(self, text: str) -> str:
        """The text, with a character for every word of it."""
        return "".join([self._codes[word] for word in words_of(text)])

    def encode(self, text: str) -> str:
        """The text in the characters known so far; a word that was not learnt matches nothing, whichever it is."""
        return "".join([self._codes.get(word, _UNKNOWN) for word in words_of(text)])


class NearDuplicates:
    """Texts seen so far, and whether a new one is too like any of them.

    Two texts of m and n words whose ROUGE-L F1 is t have t·(m+n)/2 words in common, and one of m words lacks no more
    than the others. So of any more words of it some must be there: only texts that have enough of the rarest are
    compared (the count filter of set-similarity joins).
    """

    def __init__(self, texts: Iterable[str], max_rouge_l: float) -> None:
        self.max_rouge_l = max_rouge_l
        self._ratio = max_rouge_l / (2 - max_rouge_l)
        self._words = Vocabulary()
        # By length, so that those of a length that can reach the limit stand together. None is more alike than 1.
        self._encoded: list[str] = []
        self._added = sorted(map(self._words.learn, texts if max_rouge_l < 1 else ()), key=len)
        self._index()

    def add(self, text: str) -> None:
        """Count ``text`` among those seen."""
        if self.max_rouge_l < 1:
            bisect.insort(self._added, self._words.learn(text), key=len)
        if len(self._added) > max(_FEW, len(self._encoded) // 10):
            self._index()

    def contains_like(self, text: str) -> bool:
        """True when the ROUGE-L F1 of ``text`` and some text seen is above the limit."""
        query = self._words.encode(text)
        if not query:
            return False
        added = self._added[slice(*self._range_of(self._added, query))]
        return self._is_like(query, self._candidates(query)) or self._is_like(query, added)

    def _candidates(self, query: str) -> list[str]:
        """The texts that may be like a query."""
        lowest, highest = self._range_of(self._encoded, query)
        codes = np.frombuffer(query.encode("utf-32-le"), dtype=np.uint32)
        held = self._counts[codes]
        # As many of the rarest as the shortest text may lack, and one more.
        asked = len(codes) - math.ceil(len(codes) * self._ratio - ROUNDING) + 1
        rarest = codes[np.argsort(held, kind="stable")[:asked]]
        if (self._counts[rarest] > self._most).any():
            return self._encoded[lowest:highest]
        lists = [self._having[self._begins[code] : self._begins[code] + self._counts[code]] for code in rarest]
        within = [each[np.searchsorted(each, lowest) : np.searchsorted(each, highest)] for each in lists]
        places, shared = np.unique(np.concatenate(within), return_counts=True)
        common = self.max_rouge_l * (len(codes) + self._lengths[places]) / 2
        enough = asked - len(codes) + common - ROUNDING
        return [self._encoded[place] for place in places[shared >= enough]]

    def _range_of(self, texts: Sequence[str], query: str) -> tuple[int, int]:
        """Where those begin and end whose length lets them reach the limit: F1 = 2·LCS/(m+n) and LCS ≤ min(m, n)."""
        lowest = bisect.bisect_left(texts, len(query) * self._ratio - ROUNDING, key=len)
        return lowest, bisect.bisect_right(texts, len(query) / self._ratio + ROUNDING, key=len)

    def _is_like(self, query: str, texts: Sequence[str]) -> bool:
        found = process.extractOne(
            query,
            texts,
            scorer=distance.Indel.normalized_similarity,
            score_cutoff=max(0.0, self.max_rouge_l - ROUNDING),
        )
        return found is not None and found[1] > self.max_rouge_l + ROUNDING

    def _index(self) -> None:
        """Take in the texts added; each word that is not in many of them all → those that have it, in their order."""
        self._encoded, self._added = sorted(self._encoded + self._added, key=len), []
        self._lengths = np.fromiter(map(len, self._encoded), dtype=np.int64, count=len(self._encoded))
        shape, chunks = _CODES + len(_SURROGATES) + 2, range(0, len(self._encoded), _CHUNK)
        self._counts, self._most = np.zeros(shape, dtype=np.int64), max(_FEW, len(self._encoded) // 10)
        for first in chunks:
            self._counts += np.bincount(self._words_of(first).astype(np.uint32), minlength=shape)
        having = [np.zeros(0, dtype=np.uint64)]
        for first in chunks:
            words = self._words_of(first)
            rare = words[self._counts[words.astype(np.uint32)] <= self._most]
            having.append(rare << np.uint64(32) | (rare >> np.uint64(32)) + np.uint64(first))
        whole = np.concatenate(having)
        whole.sort()
        self._having = whole.astype(np.uint32)  # the lower half: the places, by word
        self._begins = np.concatenate([[0], np.cumsum(np.where(self._counts <= self._most, self._counts, 0))])

    def _words_of(self, first: int) -> NDArray[np.uint64]:
        """Each different word of some texts from ``first`` on: the place of its text among them, and its code."""
        some, lengths = self._encoded[first : first + _CHUNK], self._lengths[first : first + _CHUNK]
        codes = np.frombuffer("".join(some).encode("utf-32-le"), dtype=np.uint32)
        words = np.repeat(np.arange(len(some), dtype=np.uint64), lengths) << np.uint64(32) | codes
        words.sort()  # faster than numpy's `unique`, which hashes
        return words[np.flatnonzero(np.diff(words, prepend=np.uint64(2**64 - 1)))]


_FEW = 1000
"""Texts that a word may stand in whatever their number, and still be looked for; that may wait to be indexed."""

_CHUNK = 20_000
"""Texts that are indexed at once, so that memory grows by the index alone."""


def _code(number: int) -> str:
    code = number % _CODES + 1
    return chr(code if code < _SURROGATES.start else code + len(_SURROGATES))


_BASE = np.uint64(0x9E3779B97F4A7C15)
_NO_RUNS = pl.DataFrame(schema={"size": pl.Int64, "hash": pl.UInt64, "row": pl.UInt32})
_MANY = 2**32
"""More than there are questions."""
_MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


def runs_of(encoded: Sequence[str], sizes: Collection[int]) -> Iterator[tuple[int, pl.DataFrame]]:
    """Each of ``sizes``, shortest first, with all runs of so many words: `hash`, and the place of its `text`."""
    codes = np.frombuffer("".join(encoded).encode("utf-32-le"), dtype=np.uint32)
    lengths = np.fromiter(map(len, encoded), dtype=np.int64, count=len(encoded))
    texts = np.repeat(np.arange(len(encoded)), lengths)
    left = np.cumsum(lengths)[texts] - np.arange(len(codes))
    hashes = words = _spread(codes)
    for size in range(1, max(sizes, default=0) + 1):
        if size > 1:
            hashes = hashes[:-1] * _BASE + words[size - 1 :]
        if size in sizes:
            whole = left[: len(hashes)] >= size
            yield size, pl.DataFrame({"hash": hashes[whole], "text": texts[: len(hashes)][whole]})


def _in_common(runs: pl.DataFrame, index: pl.DataFrame) -> NDArray[np.int64]:
    """Which texts have a run of which questions, by their hashes: rows of two columns, each row once."""
    # As one number: to tell rows of two columns apart takes longer than the join.
    pairs = runs.join(index, on="hash").select(pl.col("text") * _MANY + pl.col("question")).to_series()
    return np.column_stack(np.divmod(pairs.unique().to_numpy(), _MANY))


def _spread(codes: NDArray[np.uint32]) -> NDArray[np.uint64]:
    """Neighbouring codes as numbers far apart (the finaliser of SplitMix64)."""
    mixed = (codes.astype(np.uint64) + np.uint64(1)) * _BASE
    mixed = (mixed ^ (mixed >> np.uint64(30))) * _MIX[0]
    mixed = (mixed ^ (mixed >> np.uint64(27))) * _MIX[1]
    return mixed ^ (mixed >> np.uint64(31))


RULES = ("equal", "shared_words", "near_duplicate")

FEWEST_WORDS = 8
"""A shorter question says nothing when it stands in an instruction: so many words in a row occur by chance."""

FEWEST_NEAR = 5
"""A shorter question has no near-duplicates: one word makes another question of it."""

COMMON_SHARE, COMMON_ROWS = 0.05, 10
"""A run of words is boilerplate in more than this share of the pool, and in so many instructions at least."""

MUCH = 0.1
"""Share of a pool that is lost to evaluation questions, above which that is worth a warning."""

_LOOKED_AT, _SHOWN = 200, 200
"""Hits of which the shared words are taken, and characters of these that are shown."""

_PAIR = 2
_BATCH_CHARACTERS = 1_000_000

Hit = tuple[int, int, str, float]
"""Place of the instruction, place of the question, rule, similarity."""
_HIT = pl.Schema(
    {"place": pl.Int64(), "question_place": pl.Int64(), "rule": pl.Enum(RULES), "similarity": pl.Float64()}
)


class EvaluationQuestions:
    """Evaluation questions, ready to be looked for in any number of instructions."""

    def __init__(
        self, questions: pl.DataFrame, settings: DecontaminationConfig, pool: pl.DataFrame | None = None
    ) -> None:
        """``questions`` has the columns of `questions`, ``pool`` those that `find` takes.

        What is boilerplate of the pool gives no question away; without a pool nothing is.
        """
        self._names = questions.select("benchmark", "question_id", "question")
        self._limit = settings.max_rouge_l
        self._words = Vocabulary()
        self._texts = [self._words.learn(text) for text in questions["question"]]
        self._lengths = np.fromiter(map(len, self._texts), dtype=np.int64, count=len(self._texts))
        self._equal = pl.DataFrame({"text": self._texts}, schema={"text": pl.String}).with_row_index("question")
        self._runs = self._index_runs(settings.overlap_words, pool)
        self._rare_pairs = self._index_rarest_pairs()

    def find(self, instructions: pl.DataFrame) -> pl.DataFrame:
        """What ``instructions`` hold of the questions: the table ``contaminated/``.

        One row an instruction and benchmark that it holds a question of: the most similar one. `instruction` is the
        text that holds it, which may be the system text or an earlier turn. `rule` is the first of `RULES` that finds
        it, `similarity` the ROUGE-L F1 of the two.
        They have the columns instruction_id and instruction, and may have system and earlier_turns: system text and
        all that the user says are searched, for they are trained on. Sorted by instruction id and benchmark.
        """
        searched = _searched(instructions if self._texts else instructions.clear()).with_row_index("place")
        hits = [
            hit
            for some in _batches(searched)
            for hit in self._find(some["place"].to_list(), some["instruction"].to_list())
        ]
        rows = pl.DataFrame(hits, schema=_HIT, orient="row")
        named = pl.concat(
            [rows, searched[rows["place"]].drop("place"), self._names[rows["question_place"]]], how="horizontal"
        )
        best = named.sort("instruction_id", "benchmark", -pl.col("similarity"), "rule", "question_place")
        best = best.unique(["instruction_id", "benchmark"], keep="first", maintain_order=True)
        return best.select(*stages.CONTAMINATED.columns).cast(stages.CONTAMINATED.columns)

    def count(self, found: pl.DataFrame) -> dict[str, float]:
        """`hits: NAME` → rows of ``found``, of every benchmark; `instructions` → different instructions."""
        hits = Counter(found["benchmark"])
        by_benchmark = {f"hits: {name}": float(hits[name]) for name in self._names["benchmark"].unique().sort()}
        return {**by_benchmark, "instructions": float(found["instruction_id"].n_unique())}

    def _find(self, places: Sequence[int], texts: Sequence[str]) -> Iterator[Hit]:
        """Every question in every text, with the first rule that finds it."""
        encoded = [self._words.encode(text) for text in texts]
        own = pl.DataFrame({"text": encoded}, schema={"text": pl.String}).with_row_index("place")
        equal = own.join(self._equal, on="text").select("place", "question").iter_rows()
        pairs = dict(zip(RULES, (equal, self._shared_runs(encoded), self._near(encoded)), strict=True))
        rules = {pair: rule for rule in reversed(RULES) for pair in pairs[rule]}
        for (place, question), rule in rules.items():
            yield (
                places[place],
                question,
                rule,
                distance.Indel.normalized_similarity(encoded[place], self._texts[question]),
            )

    def _shared_runs(self, encoded: Sequence[str]) -> Iterator[tuple[int, int]]:
        """Texts and questions that share as many words in a row as give the question away."""
        for size, runs in runs_of(encoded, self._runs):
            for place, question in _in_common(runs, self._runs[size]).tolist():
                if self._gives_away(question, encoded[place], size):
                    yield place, question

    def _gives_away(self, question: int, text: str, size: int) -> bool:
        own = self._texts[question]
        if question not in self._whole:
            return any(own[start : start + size] in text for start in range(len(own) - size + 1))
        return own in text and (self._names["benchmark"][question] != HELDOUT or 2 * len(own) >= len(text))

    def _near(self, encoded: Sequence[str]) -> Iterator[tuple[int, int]]:
        """Texts and questions whose ROUGE-L F1 is above the limit."""
        lengths = np.fromiter(map(len, encoded), dtype=np.int64, count=len(encoded))
        for _, runs in runs_of(encoded, [_PAIR]):
            pairs = _in_common(runs, self._rare_pairs)
            words, of_question = lengths[pairs[:, 0]], self._lengths[pairs[:, 1]]
            # At most the shorter text is common to both, so texts that differ much in length need no closer look.
            pairs = pairs[2 * np.minimum(words, of_question) > self._limit * (words + of_question)]
            similar = process.cpdist(
                [encoded[place] for place in pairs[:, 0].tolist()],
                [self._texts[question] for question in pairs[:, 1].tolist()],
                scorer=distance.Indel.normalized_similarity,
                score_cutoff=self._limit,
                dtype=np.float64,
            )
            yield from map(tuple, pairs[similar > self._limit + ROUNDING].tolist())

    def _index_runs(self, overlap_words: int, pool: pl.DataFrame | None) -> dict[int, pl.DataFrame]:
        """Words in a row → the runs of that many words that give a question away.

        A run that several questions of a benchmark have stands for the first of them. A question of which boilerplate
        leaves too little is in ``_whole``, and found by its first run.
        """
        covered = self._boilerplate(overlap_words, pool)
        cut = [(question, each) for question, text in enumerate(self._texts) for each in _cut(text, covered[question])]
        pieces = [
            each for each, size in zip(cut, _sizes([text for _, text in cut], overlap_words), strict=True) if size
        ]
        self._whole = {question for question, words in covered.items() if words} - {question for question, _ in pieces}
        pieces += [(question, self._texts[question]) for question in sorted(self._whole)]
        texts = [text for _, text in pieces]
        of = pl.DataFrame({"question": [question for question, _ in pieces]}, schema={"question": pl.Int64})
        of = of.with_columns(
            self._names["benchmark"].gather(of["question"]),
            text=pl.int_range(pl.len()),
            whole=pl.col("question").is_in(self._whole),
        )
        indices = {}
        for size, runs in self._runs_in(texts, overlap_words):
            own = runs.join(of, on="text", maintain_order="left")
            first = own.filter(~pl.col("whole")).unique(["hash", "benchmark"], keep="first", maintain_order=True)
            indices[size] = pl.concat([first, own.filter("whole").unique("question", keep="first")]).select(
                "hash", "question"
            )
        return indices

    @staticmethod
    def _runs_in(texts: Sequence[str], overlap_words: int) -> Iterator[tuple[int, pl.DataFrame]]:
        """`runs_of` the texts, of each only those of the size that gives it away."""
        wanted = _sizes(texts, overlap_words)
        for size, runs in runs_of(texts, {*wanted} - {0}):
            yield size, runs.filter(pl.Series(wanted, dtype=pl.Int64).gather(runs["text"]) == size)

    def _boilerplate(self, overlap_words: int, pool: pl.DataFrame | None) -> defaultdict[int, set[int]]:
        """Question → places of its words that are boilerplate of the pool."""
        covered = defaultdict[int, set[int]](set)
        if pool is None or not self._texts:
            return covered
        own = dict(self._runs_in(self._texts, overlap_words))
        common = self._common_runs(own, pool)
        for size, runs in own.items():
            few = (pl.col("question").n_unique().over("hash", "benchmark") == 1) | (pl.col("benchmark") == HELDOUT)
            named = runs.select("hash", question="text", benchmark=self._names["benchmark"].gather(runs["text"]))
            placed = named.with_columns(start=pl.int_range(pl.len()).over("question"), few=few)
            ignored = placed.filter("few").join(common.filter(size=size), on="hash", how="semi")
            for question, start in ignored.select("question", "start").iter_rows():
                covered[question].update(range(start, start + size))
        return covered

    def _common_runs(self, own: Mapping[int, pl.DataFrame], pool: pl.DataFrame) -> pl.DataFrame:
        """Those of the questions' ``own`` runs that so many instructions have that they are boilerplate: size, hash."""
        searched, found = _searched(pool), []
        for some in _batches(searched.with_columns(row=pl.col("instruction_id").rank("dense"))):
            encoded = [self._words.encode(text) for text in some["instruction"]]
            for size, runs in runs_of(encoded, own):
                held = runs.join(own[size], on="hash", how="semi")
                found.append(
                    held.select(size=pl.lit(size, pl.Int64), hash="hash", row=some["row"].gather(held["text"])).unique()
                )
        least = max(COMMON_ROWS, int(COMMON_SHARE * pool.height) + 1)
        return pl.concat(found or [_NO_RUNS]).unique().group_by("size", "hash").len().filter(pl.col("len") >= least)

    def _index_rarest_pairs(self) -> pl.DataFrame:
        """So many pairs of neighbouring words of each question, the rarest, that a near text has one of them."""
        [(_, runs)] = runs_of(self._texts, [_PAIR])
        near = (self._lengths >= FEWEST_NEAR) & (self._names["benchmark"] != HELDOUT).to_numpy() & (self._limit < 1)
        wanted = pl.Series(
            np.where(near, [_pairs_to_look_for(each, self._limit) for each in self._lengths.tolist()], 0)
        )
        ranked = runs.with_columns(frequency=pl.len().over("hash")).sort("text", "frequency", maintain_order=True)
        is_wanted = pl.int_range(pl.len()).over("text") < wanted.gather(ranked["text"])
        return ranked.filter(is_wanted).select("hash", question="text")


def _pairs_to_look_for(words: int, limit: float) -> int:
    """Of a question of ``words`` words: pairs of which every text whose ROUGE-L F1 is above ``limit`` has one."""
    lengths = np.arange(int(words * limit / (2 - limit)) + 1, int(words * (2 - limit) / limit) + 1)
    common = np.floor(limit * (words + lengths) / 2 - ROUNDING) + 1
    return words - max(1, int((3 * common - 1 - words - lengths).min(initial=words)))


def _sizes(texts: Sequence[str], overlap_words: int) -> list[int]:
    """How many words in a row give each text away; 0 where it is too short."""
    lengths = (min(len(text), overlap_words) for text in texts)
    return [length if length >= min(FEWEST_WORDS, overlap_words) else 0 for length in lengths]


def _cut(text: str, covered: Collection[int]) -> list[str]:
    """What is left of a text without the words at the places ``covered``."""
    kept = "".join(_UNKNOWN if place in covered else word for place, word in enumerate(text)) if covered else text
    return kept.split(_UNKNOWN)


def shared_words(found: pl.DataFrame) -> list[str]:
    """The words in a row that most rows of ``found`` (of `EvaluationQuestions.find`) share with their question."""
    longest = Counter[tuple[str, ...]]()
    for text, question in found.head(_LOOKED_AT).select("instruction", "question").iter_rows():
        words, asked = words_of(text), words_of(question)
        match = SequenceMatcher(None, words, asked, autojunk=False).find_longest_match()
        longest[tuple(words[match.a : match.a + match.size])] += 1
    return [*max(longest, key=lambda words: (longest[words], words), default=())]


def remedy_of(found: pl.DataFrame) -> str:
    """What to do where ``found`` takes too much of a pool."""
    words = shared_words(found)
    if 2 * found.filter(rule="equal").height > found.height:
        return (
            "most are word for word a question, under whatever system text: write what tells them apart into "
            "`instruction`, or give another pool"
        )
    return (
        f'most share the {len(words)} words "{shorten(" ".join(words), _SHOWN)}" with a question: set '
        f"evaluation.decontamination.overlap_words = {max(len(words) + 1, 5)} where these give none away, or give "
        "another pool"
    )


def check_left(found: pl.DataFrame, rows: int, where: str) -> None:
    """Refuse a pool of ``rows`` instructions of which ``found`` leaves none.

    Raises:
        ConfigError: it leaves none; ``where`` says which questions they hold.
    """
    if rows and found["instruction_id"].n_unique() >= rows:
        raise errors.ConfigError(f"data.pool: each of its {rows:,} instructions holds {where}; {remedy_of(found)}")


def loss_in_words(found: pl.DataFrame, rows: int, where: str) -> str:
    """A warning where ``found`` takes much of a pool of ``rows`` instructions; else empty.

    Raises:
        ConfigError: as `check_left`.
    """
    check_left(found, rows, where)
    lost = found["instruction_id"].n_unique()
    return (
        ""
        if lost <= MUCH * rows
        else f"{lost:,} of {rows:,} instructions leave the pool, since they hold {where}; {remedy_of(found)}"
    )


def _batches(searched: pl.DataFrame) -> list[pl.DataFrame]:
    """Texts in batches, which bound the memory."""
    batch = pl.col("instruction").str.len_chars().cum_sum() // _BATCH_CHARACTERS
    return searched.with_columns(batch=batch).partition_by("batch", maintain_order=True)


def texts_asked(instructions: pl.DataFrame) -> pl.DataFrame:
    """instruction_id, instruction: a row for each instruction, and for each earlier user turn of a conversation."""
    texts = instructions.select("instruction_id", pl.col("instruction").cast(pl.String))
    if turns.EARLIER not in instructions.columns:
        return texts
    earlier = [
        (row["instruction_id"], text)
        for row in instructions.drop_nulls(turns.EARLIER).iter_rows(named=True)
        for text in turns.user_texts(row)[:-1]
    ]
    return pl.concat([texts, pl.DataFrame(earlier, schema=texts.schema, orient="row")])


def whole_questions(instructions: pl.DataFrame) -> pl.DataFrame:
    """instruction_id, instruction: as one text all that the user says, in each row.

    Of a held-out conversation that is the question: a short turn of it, such as "Go on.", stands in many others.
    """
    if turns.EARLIER not in instructions.columns:
        return instructions.select("instruction_id", "instruction")
    whole = ["\n\n".join(turns.user_texts(row)) for row in instructions.iter_rows(named=True)]
    return instructions.select("instruction_id", instruction=pl.Series(whole, dtype=pl.String))


def _searched(instructions: pl.DataFrame) -> pl.DataFrame:
    """instruction_id, instruction: every text in which a question may stand."""
    systems = [pl.col("system").cast(pl.String)] if "system" in instructions.columns else []
    texts = [
        texts_asked(instructions),
        *([whole_questions(instructions.drop_nulls(turns.EARLIER))] if turns.EARLIER in instructions.columns else []),
        *(instructions.select("instruction_id", instruction=text) for text in systems),
    ]
    return pl.concat(texts).drop_nulls("instruction")
