import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapir_core.judging import PairScores, parse_pointwise, parse_verdict
from tapir_core.replies import Unparsed

NONE, OUTSIDE = Unparsed("no verdict"), Unparsed("score outside 1-10")


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("Both are fine.\nScores: [[7, 9]]", PairScores(7, 9)),
        ("Scores: [[7.5,9.25]]", PairScores(7.5, 9.25)),
        ("**Scores:** [[ 7 , 9 ]]\n", PairScores(7, 9)),
        ("[[8/10, 9 / 10]]", PairScores(8, 9)),
        ("First I thought [[2, 3]], but\nScores: [[4, 5]] . Done.", PairScores(4, 5)),
        ("Scores: [[1, 10]]", PairScores(1, 10)),
        ("The form is [[a, b]]. Scores: [[3, 4]]", PairScores(3, 4)),
        (None, NONE),
        ("", NONE),
        ("Answer 1 is better by 3 points.", NONE),
        ("Scores: [[a, b]]", NONE),
        ("Scores: [[7]]", NONE),
        ("Scores: [[7, 8, 9]]", NONE),
        ("Scores: [[7, 8", NONE),
        ("[[7, nan]] [[inf, 2]]", NONE),
        ("[[0, 5]]", OUTSIDE),
        ("[[-1, 5]]", OUTSIDE),
        ("[[5, 10.5]]", OUTSIDE),
        ("[[5, 6]] or rather [[5, 60]]", OUTSIDE),
        ("[[99999999, 1]]", OUTSIDE),
        ("[[" + "9" * 400 + ", 1]]", NONE),
        ("[[" * 100_000, NONE),
        ("[[" + " " * 100_000 + "1, 2]]", NONE),
    ],
)
def test_the_last_verdict_counts_and_nothing_else_does(raw: str | None, expected: PairScores | Unparsed) -> None:
    assert parse_verdict(raw) == expected


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("Score: [[7.5]]", 7.5),
        ("[[2]] … Score: [[3]]", 3.0),
        ("Score: [[7, 8]]", NONE),
        ("Score: [[11]]", OUTSIDE),
        (None, NONE),
    ],
)
def test_a_single_score_is_read_in_the_same_way(raw: str | None, expected: float | Unparsed) -> None:
    assert parse_pointwise(raw) == expected


@given(st.text(), st.floats(1, 10), st.floats(1, 10), st.text(st.characters(exclude_characters="[]")))
def test_a_verdict_is_found_behind_any_noise(before: str, one: float, other: float, after: str) -> None:
    expected = PairScores(round(one, 2), round(other, 2))
    assert parse_verdict(f"{before}\nScores: [[{expected.answer_1}, {expected.answer_2}]]{after}") == expected


@given(st.text() | st.text("[]0123456789.,-/ "))
def test_no_reply_raises(raw: str) -> None:
    assert isinstance(parse_verdict(raw), PairScores | Unparsed)
    assert isinstance(parse_pointwise(raw), float | Unparsed)
