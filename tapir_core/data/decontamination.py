"""How alike two texts are, and what keeps evaluation questions out of pool and expansion.

**Alike** is ROUGE-L F1 over words. A text becomes a string with one character a word (`Vocabulary`); the longest common
subsequence of two such strings is ROUGE-L's, and rapidfuzz finds it bit-parallel. `NearDuplicates` compares only texts
of a length that can reach the limit at all: for a pool of 50,000 instructions about 4 ms a candidate.

**A question is held** where it is equal, shares words in a row, or is near. `overlap_words` words in a row without case
and punctuation are 13 by default, as in Brown et al. (2020, arXiv 2005.14165, appendix C). A question shorter than
that, but of at least 8 words, counts when all of it stands in a row in the instruction. Near is a ROUGE-L F1 above
`max_rouge_l`, for questions of at least 5 words. Held-out instructions are exempt from that: they come from where the
pool comes from, and may differ in a figure by design.

Candidates are found by hashes, and each is compared by its words: what is found is so, and nothing that is so is
missed. Two texts of m and n words, L of them in common, share at least 3L − 1 − (m + n) pairs of neighbouring words,
which is one or more where their ROUGE-L F1 is above 0.8: only the rarest pairs of a question must be looked for.

Limits: a question in other words, or in another language, is not found. Words are compared as they are, without
stemming. Scripts without blanks between words (Chinese, Japanese, Korean, Thai) count character by character. Past
1,112,063 distinct words two rare ones can count as equal.
"""

import bisect
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray
from rapidfuzz import process
from rapidfuzz.distance import Indel

from tapir_core.config import HELDOUT
from tapir_core.config.benchmarks import DecontaminationConfig
from tapir_core.turns import EARLIER, user_texts

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


_BASE = np.uint64(0x9E3779B97F4A7C15)
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


CONTAMINATED = pl.Schema(
    {
        "instruction_id": pl.String(),
        "instruction": pl.String(),
        "benchmark": pl.String(),
        "question_id": pl.String(),
        "question": pl.String(),
        "rule": pl.String(),
        "similarity": pl.Float64(),
    }
)
"""One row per instruction and benchmark that it holds a question of: the most similar one. `instruction` is the text
that holds it, which may be the system text or an earlier turn. `rule` is the first of `RULES` that finds it,
`similarity` the ROUGE-L F1 of the two."""

RULES = ("equal", "shared_words", "near_duplicate")

FEWEST_WORDS = 8
"""A shorter question says nothing when it stands in an instruction: so many words in a row occur by chance."""

FEWEST_NEAR = 5
"""A shorter question has no near-duplicates: one word makes another question of it."""

_PAIR = 2
_BATCH_CHARACTERS = 1_000_000

Hit = tuple[int, int, str, float]
"""Place of the instruction, place of the question, rule, similarity."""
_HIT = pl.Schema(
    {"place": pl.Int64(), "question_place": pl.Int64(), "rule": pl.Enum(RULES), "similarity": pl.Float64()}
)


class EvaluationQuestions:
    """Evaluation questions, ready to be looked for in any number of instructions."""

    def __init__(self, questions: pl.DataFrame, settings: DecontaminationConfig) -> None:
        """``questions`` has the columns `tapir_core.data.readers.QUESTIONS`."""
        self._names = questions.select("benchmark", "question_id", "question")
        self._limit = settings.max_rouge_l
        self._words = Vocabulary()
        self._texts = [self._words.learn(text) for text in questions["question"]]
        self._lengths = np.fromiter(map(len, self._texts), dtype=np.int64, count=len(self._texts))
        self._equal = defaultdict[str, list[int]](list)
        for place, text in enumerate(self._texts):
            self._equal[text].append(place)
        self._runs = self._index_runs(settings.overlap_words)
        self._rare_pairs = self._index_rarest_pairs()

    def find(self, instructions: pl.DataFrame) -> pl.DataFrame:
        """What ``instructions`` hold of the questions: ``CONTAMINATED``.

        They have the columns instruction_id and instruction, and may have system and earlier_turns: system text and
        all that the user says are searched, for they are trained on. Sorted by instruction id and benchmark.
        """
        searched = _searched(instructions).with_row_index("place")
        hits: list[Hit] = []
        # In batches, which bound the memory.
        batch = pl.col("instruction").str.len_chars().cum_sum() // _BATCH_CHARACTERS
        for some in searched.with_columns(batch=batch).partition_by("batch"):
            hits += self._find(some["place"].to_list(), some["instruction"].to_list())
        rows = pl.DataFrame(hits, schema=_HIT, orient="row")
        texts = searched[rows["place"]].drop("place")
        named = pl.concat([rows, texts, self._names[rows["question_place"]]], how="horizontal")
        best = named.sort("instruction_id", "benchmark", -pl.col("similarity"), "rule", "question_place")
        best = best.unique(["instruction_id", "benchmark"], keep="first", maintain_order=True)
        return best.select(CONTAMINATED.names()).cast(CONTAMINATED)

    def count(self, found: pl.DataFrame) -> dict[str, float]:
        """`hits: NAME` → rows of ``found``, of every benchmark; `instructions` → different instructions."""
        hits = Counter(found["benchmark"])
        by_benchmark = {f"hits: {name}": float(hits[name]) for name in self._names["benchmark"].unique().sort()}
        return {**by_benchmark, "instructions": float(found["instruction_id"].n_unique())}

    def _find(self, places: Sequence[int], texts: Sequence[str]) -> Iterator[Hit]:
        """Every question in every text, with the first rule that finds it."""
        encoded = [self._words.encode(text) for text in texts]
        equal = ((place, question) for place, text in enumerate(encoded) for question in self._equal.get(text, ()))
        pairs = dict(zip(RULES, (equal, self._shared_runs(encoded), self._near(encoded)), strict=True))
        rules = {pair: rule for rule in reversed(RULES) for pair in pairs[rule]}
        for (place, question), rule in rules.items():
            alike = Indel.normalized_similarity(encoded[place], self._texts[question])
            yield places[place], question, rule, alike

    def _shared_runs(self, encoded: Sequence[str]) -> Iterator[tuple[int, int]]:
        """Texts and questions that share as many words in a row as give the question away."""
        for size, runs in runs_of(encoded, self._runs):
            for place, question in _in_common(runs, self._runs[size]).tolist():
                own = self._texts[question]
                if any(own[start : start + size] in encoded[place] for start in range(len(own) - size + 1)):
                    yield place, question

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
                scorer=Indel.normalized_similarity,
                score_cutoff=self._limit,
                dtype=np.float64,
            )
            yield from map(tuple, pairs[similar > self._limit + ROUNDING].tolist())

    def _index_runs(self, overlap_words: int) -> dict[int, pl.DataFrame]:
        """Words in a row → the runs of that many words that give a question away.

        A run that several questions of a benchmark have stands for the first of them.
        """
        whole = np.where(self._lengths >= FEWEST_WORDS, self._lengths, 0)
        words = np.where(self._lengths >= overlap_words, overlap_words, whole)
        questions = self._names.select("benchmark", words=words).with_row_index("question")
        indices = {}
        for size, runs in runs_of(self._texts, set(words[words > 0].tolist())):
            own = runs.rename({"text": "question"}).join(
                questions.filter(words=size).cast({"question": pl.Int64}), on="question", maintain_order="left"
            )
            first = own.unique(["hash", "benchmark"], keep="first", maintain_order=True)
            indices[size] = first.select("hash", "question")
        return indices

    def _index_rarest_pairs(self) -> pl.DataFrame:
        """So many pairs of neighbouring words of each question, the rarest, that a near text has one of them."""
        [(_, runs)] = runs_of(self._texts, [_PAIR])
        near = (self._lengths >= FEWEST_NEAR) & (self._names["benchmark"] != HELDOUT).to_numpy() & (self._limit < 1)
        needed = [_pairs_to_look_for(words, self._limit) for words in self._lengths.tolist()]
        wanted = pl.Series(np.where(near, needed, 0))
        ranked = runs.with_columns(frequency=pl.len().over("hash")).sort("text", "frequency", maintain_order=True)
        rank = pl.int_range(pl.len()).over("text")
        return ranked.filter(rank < wanted.gather(ranked["text"])).select("hash", question="text")


def _pairs_to_look_for(words: int, limit: float) -> int:
    """Of a question of ``words`` words: pairs of which every text whose ROUGE-L F1 is above ``limit`` has one."""
    lengths = np.arange(int(words * limit / (2 - limit)) + 1, int(words * (2 - limit) / limit) + 1)
    common = np.floor(limit * (words + lengths) / 2 - ROUNDING) + 1
    shared = int((3 * common - 1 - words - lengths).min(initial=words))
    return words - max(1, shared)


def texts_asked(instructions: pl.DataFrame) -> pl.DataFrame:
    """instruction_id, instruction: a row for each instruction, and for each earlier user turn of a conversation."""
    texts = instructions.select("instruction_id", pl.col("instruction").cast(pl.String))
    if EARLIER not in instructions.columns:
        return texts
    rows = instructions.drop_nulls(EARLIER).iter_rows(named=True)
    earlier = [(row["instruction_id"], text) for row in rows for text in user_texts(row)[:-1]]
    return pl.concat([texts, pl.DataFrame(earlier, schema=texts.schema, orient="row")])


def whole_questions(instructions: pl.DataFrame) -> pl.DataFrame:
    """instruction_id, instruction: as one text all that the user says, in each row.

    Of a held-out conversation that is the question: a short turn of it, such as "Go on.", stands in many others.
    """
    if EARLIER not in instructions.columns:
        return instructions.select("instruction_id", "instruction")
    whole = ["\n\n".join(user_texts(row)) for row in instructions.iter_rows(named=True)]
    return instructions.select("instruction_id", instruction=pl.Series(whole, dtype=pl.String))


def _searched(instructions: pl.DataFrame) -> pl.DataFrame:
    """instruction_id, instruction: every text in which a question may stand."""
    texts = [texts_asked(instructions)]
    if EARLIER in instructions.columns:
        texts.append(whole_questions(instructions.drop_nulls(EARLIER)))
    if "system" in instructions.columns:
        texts.append(instructions.select("instruction_id", instruction=pl.col("system").cast(pl.String)))
    return pl.concat(texts).drop_nulls("instruction")
