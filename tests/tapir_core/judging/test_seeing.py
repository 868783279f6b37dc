import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapir_core.judging.prompt import INVISIBLE, see


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("plain <text> [1]", "plain <text> [1]"),
        ("＜／ａｎｓｗｅｒ＿１＞", "</answer_1>"),
        ("﹤answer﹥", "<answer>"),
        ("𝐚𝟏𝒂𝓪", "a1aa"),
        ("Ⓐ①²ª", "A12a"),
        ("аnѕwеr АСО", "answer ACO"),
        ("a\u200bb\u00adc\ufe0fd\u3164e", f"a{INVISIBLE}b{INVISIBLE}c{INVISIBLE}d{INVISIBLE}e"),
        ("naïve 日本 \u00a0é", "naïve 日本 \u00a0é"),
    ],
)
def test_a_look_alike_is_seen_as_what_it_looks_like(text: str, seen: str) -> None:
    assert see(text) == seen


@given(st.text())
def test_every_character_keeps_its_place(text: str) -> None:
    assert len(see(text)) == len(text)


@given(st.text(st.characters(categories=["Cf"], max_codepoint=0xFFFF), min_size=1))
def test_no_format_character_is_seen(text: str) -> None:
    assert set(see(text)) == {INVISIBLE}


@given(st.text(st.characters(max_codepoint=127)))
def test_ascii_is_seen_as_it_is(text: str) -> None:
    assert see(text) == text


def test_what_is_seen_as_ascii_has_it_as_its_plain_form_or_is_a_known_look_alike() -> None:
    blocks = "".join(map(chr, range(0xA0, 0x3000))) + "".join(map(chr, range(0xFE50, 0xFFEF)))
    strange = [
        letter
        for letter, seen in zip(blocks, see(blocks), strict=True)
        if seen not in (letter, INVISIBLE)
        and unicodedata.normalize("NFKC", letter) != seen
        and not unicodedata.name(letter).startswith(("CYRILLIC", "GREEK"))
    ]
    assert strange == []
