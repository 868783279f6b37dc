import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapir_core.data import decontamination
from tapir_core.data.decontamination import NearDuplicates, word_runs, words_of
from tests.builders import rouge_l

WORDS = st.lists(
    st.sampled_from(["the", "cat", "sat", "on", "a", "mat", "and", "then", "left", "1", "2", "3", "4"]),
    min_size=1,
    max_size=14,
)


def longest_common_subsequence(one: list[str], other: list[str]) -> int:
    row = [0] * (len(other) + 1)
    for word in one:
        previous = 0
        for place, candidate in enumerate(other, 1):
            previous, row[place] = row[place], previous + 1 if word == candidate else max(row[place], row[place - 1])
    return row[-1]


@given(WORDS, WORDS)
def test_rouge_l_is_the_f1_of_the_longest_common_subsequence(one: list[str], other: list[str]) -> None:
    expected = 2 * longest_common_subsequence(one, other) / (len(one) + len(other))
    assert rouge_l(" ".join(one), " ".join(other)) == pytest.approx(expected)


@given(st.lists(WORDS.map(" ".join), max_size=12), WORDS.map(" ".join), st.sampled_from([0.3, 0.5, 0.7, 0.9, 1.0]))
def test_the_index_finds_exactly_what_comparing_with_each_text_finds(seen: list[str], text: str, limit: float) -> None:
    expected = any(rouge_l(each, text) > limit + 1e-9 for each in seen)
    assert NearDuplicates(seen, limit).contains_like(text) == expected
    grown = NearDuplicates([], limit)
    for each in seen:
        grown.add(each)
    assert grown.contains_like(text) == expected


def test_a_similarity_at_the_limit_passes() -> None:
    text, other = "a b c d e f g h i j", "a b c d e f g x y z"
    assert rouge_l(text, other) == pytest.approx(0.7)
    assert not NearDuplicates([other], 0.7).contains_like(text)
    assert NearDuplicates([other], 0.69).contains_like(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("What's 3 + 4?", ["what", "s", "3", "4"]),
        ("STRASSE Straße", ["strasse", "strasse"]),
        ("snake_case", ["snake", "case"]),
        ("写诗 now", ["写", "诗", "now"]),
        ("café cafe\u0301", ["café", "café"]),
        ("भारत की राजधानी क्या है?", ["भारत", "की", "राजधानी", "क्या", "है"]),
        ("தமிழ் மொழி", ["தமிழ்", "மொழி"]),
        ("مُحَمَّد رَسُول", ["مُحَمَّد", "رَسُول"]),
        ("काली। कौली", ["काली", "कौली"]),
        ("?! ?", ["?", "!", "?"]),
        ("", []),
    ],
)
def test_words_are_split_without_case_and_punctuation(text: str, words: list[str]) -> None:
    assert words_of(text) == words


def test_words_of_ascii_are_those_of_any_text() -> None:
    ascii_only = "".join(map(chr, range(128))) + " Snake_case, it's 3.5%\tnew\nline"
    assert words_of(ascii_only) == words_of(f"{ascii_only} \u00e9")[:-1]


def test_runs_are_words_in_a_row_and_of_a_short_text_all_of_it() -> None:
    assert word_runs("One, two and three.", 3) == {"one two and", "two and three"}
    assert word_runs("One, two.", 3) == {"one two"}


def test_two_texts_of_unknown_words_are_not_alike() -> None:
    assert not NearDuplicates(["alpha beta"], 0.5).contains_like("gamma delta")
    assert not NearDuplicates([""], 0.5).contains_like("")


@pytest.mark.parametrize("few", [0, 5, 1000])
@pytest.mark.parametrize("limit", [0.5, 0.7, 0.9])
def test_what_is_compared_by_words_in_common_is_found_as_if_all_were_compared(
    monkeypatch: pytest.MonkeyPatch, limit: float, few: int
) -> None:
    """Short and long texts, repeated and unknown words, words that stand in nearly all texts and in one."""
    monkeypatch.setattr(decontamination, "_FEW", few)
    rng = random.Random(few)

    def text(size: int) -> list[str]:
        return [f"w{int(rng.paretovariate(0.6))}" for _ in range(size)]

    seen = [text(rng.choice((1, 3, 8, 20, 60))) for _ in range(200)]
    asked = []
    for words in seen:
        kept = [word for word in words if rng.random() > 0.25]
        asked.append(kept + [f"new{each}" for each in range(rng.randrange(4))])
    texts, found = [" ".join(words) for words in seen], []
    index, grown = NearDuplicates(texts, limit), NearDuplicates(texts[:50], limit)
    for each in texts[50:]:
        grown.add(each)
    for query in map(" ".join, asked + [text(20) for _ in range(50)]):
        likest = max(rouge_l(query, each) for each in texts) if query else 0.0
        found.append(likest > limit + 1e-9)
        assert index.contains_like(query) == grown.contains_like(query) == found[-1], query
    assert 10 < sum(found) < len(found) - 10, "some are like, some are not"
