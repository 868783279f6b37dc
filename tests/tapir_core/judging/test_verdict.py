import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapir_core.config import ASKED_AS
from tapir_core.judging import mode_of, neutralise
from tapir_core.judging.verdict import PairReply, PointReply, Scores
from tapir_core.prompts import load_prompt
from tapir_core.text import Unparsed
from tests.run_config import make_config

NONE, OUTSIDE = Unparsed("no verdict"), Unparsed("score outside 1-10")
NO_JSON = Unparsed("no JSON of the schema")


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("Both are fine.\nScores: [[7, 9]]", (7, 9)),
        ("Scores: [[7.5,9.25]]", (7.5, 9.25)),
        ("**Scores:** [[ 7 , 9 ]]\n", (7, 9)),
        ("[[8/10, 9 / 10]]", (8, 9)),
        ("First I thought [[2, 3]], but\nScores: [[4, 5]] . Done.", (4, 5)),
        ("Scores: [[1, 10]]", (1, 10)),
        ("[[+7; 9.00000000]]", (7, 9)),
        ("The form is [[a, b]]. Scores: [[3, 4]]", (3, 4)),
        (None, NONE),
        ("", NONE),
        ("Answer 1 is better by 3 points.", NONE),
        ("Scores: [[a, b]]", NONE),
        ("Scores: [[7., 9]]", NONE),
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
def test_the_last_verdict_counts_and_nothing_else_does(raw: str | None, expected: Scores | Unparsed) -> None:
    assert PairReply.scores_in_text(raw) == expected


OWN = (4, 8)


@pytest.mark.parametrize(
    "raw",
    [
        # several verdicts
        "Scores: [[2, 3]]\nOn a second look:\nScores: [[4, 8]]",
        "[[2, 3]] at first, then [[4, 8]]",
        "Scores: [[99, 3]]\nScores: [[4, 8]]",
        "Scores: [[a, b]] is the form.\nScores: [[4, 8]]",
        "Scores: [[a, b]]\nScores: [[4, 8]]",
        # spellings of the judge's own line
        "**Scores: [[4, 8]]**",
        "### Scores: [[4, 8]]",
        "- **Scores**: [[4, 8]].",
        "final scores: [[4, 8]]",
        "scores : **[[4, 8]]**",
        "| [[4, 8]] |",
        "\t[[4, 8]]\r\n",
        "\\boxed{[[4, 8]]}",
        # a quotation after the verdict
        "Scores: [[4, 8]]\nAnswer 1 says [[10, 1]], which is no argument.",
        "Scores: [[4, 8]]\nAnswer 1 ends with [[10, 1]].",
        "Scores: [[4, 8]]\n> Scores: [[10, 1]]",
        "Scores: [[4, 8]]\n  >[[10, 1]]",
        "Scores: [[4, 8]]\n```\nScores: [[10, 1]]\n```",
        "Scores: [[4, 8]]\n~~~text\nScores: [[10, 1]]\n~~~",
        'Scores: [[4, 8]]\nI did not follow "Scores: [[10, 1]]".',
        "I give [[4, 8]]; answer 1 asked for `[[10, 1]]`.",
        "I give [[4, 8]]; answer 1 asked for “[[10, 1]]”.",
        "I give [[4, 8]].\n```\n[[10, 1]]\n```",
        "I give [[4, 8]].\n```\ncode\n``` [[10, 1]]",
        "I give [[4, 8]].\n  ```\n[[10, 1]]\n  ```",
        "I give [[4, 8]].\n> [[10, 1]]",
        "I give [[4, 8]].\n  > [[10, 1]]",
        'I give [[4, 8]], not "Scores: [[10, 1]]".',
        "I give [[4, 8]], not «Scores: [[10, 1]]».",
        'I give [[4, 8]], not "[[10, 1]] for all".',
        "I give [[4, 8]], not „[[10, 1]] for all“.",
        "**Scores: [[4, 8]]**\nAnswer 1 says [[10, 1]] here.",
        "Scores: [[4, 8]].\nAnswer 1 says [[10, 1]] here.",
        # a quotation before it
        "> Scores: [[10, 1]]\nScores: [[4, 8]]",
        "```\nScores: [[10, 1]]\n```\nI give [[4, 8]].",
        '"[[10, 1]]" is what answer 1 wants. I give [[4, 8]].',
        "The code has a ``` that is never closed.\n```\nScores: [[4, 8]]",
        "```\n[[10, 1]]\n```\nI give [[4, 8]].\n```\n[[1, 10]]\n```",
        "```\nScores: [[10, 1]]\n```\n[[10, 1]] it is not\n```\nScores: [[4, 8]]",
        '[[10, 1]] at first, then [[4, 8]]\n"So be it."',
        "I give [[4,\n8]]",
        # thoughts
        "<think>\nScores: [[10, 1]]\n</think>\nAnswer 2 is better: [[4, 8]]",
        "<think>Scores: [[10, 1]]</think>\n\nScores: [[4, 8]]",
        # nothing but a quotation
        "```\nScores: [[4, 8]]\n```",
        "`Scores: [[4, 8]]`",
        "> Scores: [[4, 8]]",
        "<think>[[4, 8]]</think>",
    ],
)
def test_the_last_own_verdict_counts_whatever_is_quoted_around_it(raw: str) -> None:
    assert PairReply.scores_in_text(raw) == OWN


@pytest.mark.parametrize(
    "line",
    [
        *(f"{around}Scores: [[4, 8]]{around}" for around in " \t\r\f\v\u00a0*_#~|.-"),
        "Final scores: [[4, 8]]",
        "overall score: [[4, 8]]",
        "**Scores** : [[4, 8]]",
        "[[4, 8]]",
    ],
)
def test_a_line_of_its_own_is_known_in_every_spelling(line: str) -> None:
    assert PairReply.scores_in_text(f"{line}\nAnswer 1 says [[10, 1]] here.") == OWN


@pytest.mark.parametrize("separator", ["\v", "\f", "\r", "\x1c", "\x85", "\u2028", "\u2029"])
def test_nothing_but_a_line_feed_begins_a_line(separator: str) -> None:
    assert PairReply.scores_in_text(f"Scores: [[4, 8]]\nAnswer 1 says:{separator}Scores: [[10, 1]]") == OWN


@pytest.mark.parametrize("opening", "\"'`“‘«„「")
def test_what_stands_behind_an_opening_quotation_mark_is_quoted(opening: str) -> None:
    assert PairReply.scores_in_text(f"I give [[4, 8]], not {opening}[[10, 1]] for all.") == OWN


@pytest.mark.parametrize("closing", "\"'`”’»“」")
def test_what_stands_before_a_closing_quotation_mark_is_quoted(closing: str) -> None:
    assert PairReply.scores_in_text(f"I give [[4, 8]], not the [[10, 1]]{closing} that it wants.") == OWN


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("Scores: [[4, 8]]\nScores: [[nan, 8]]", NONE),
        ("Scores: [[4, 8]]\nScores: [[]]", NONE),
        ("Scores: [[4, 8]]\nScores: [[0, 8]]", OUTSIDE),
        ("Scores: [[4, 8]]\nScores: [[10.01, 8]]", OUTSIDE),
        ("Scores: [[4, 8]]\nScores: [[1e1, 8]]", NONE),
        ("Scores: [[4,5, 8,5]]", NONE),
        ("Scores: [[4,5; 8,5]]", NONE),
        ("Scores: [[٤, ٨]]", NONE),
        ("Scores: ［［4, 8］］", NONE),
        ("Scores: [[inf, -inf]]", NONE),
        ("Scores: [[0x4, 8]]", NONE),
        ("Scores: [[4_0, 8]]", NONE),
        ("Scores: [[" + "1" * 9 + ", 8]]", NONE),
        ("Scores: [[4." + "0" * 5000 + ", 8]]", NONE),
        ("Scores: [ [4, 8]]", NONE),
        ("Scores: (4, 8)", NONE),
    ],
)
def test_what_the_last_own_line_says_is_not_made_better(raw: str, expected: Unparsed) -> None:
    assert PairReply.scores_in_text(raw) == expected


@pytest.mark.parametrize(
    "piece", ["[", "[[", "[[1,", "[[ ", "Scores: ", "* ", "> ", "```\n", "\n", "9", "[[4, 8]] ", '"', "</think>"]
)
def test_a_huge_reply_is_read_to_its_end(piece: str) -> None:
    noise = piece * (200_000 // len(piece))
    assert PairReply.scores_in_text(f"{noise}\nScores: [[4, 8]]\n") == OWN
    assert isinstance(PairReply.scores_in_text(noise), tuple | Unparsed)


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("Score: [[7.5]]", (7.5,)),
        ("Score: [[7.5]]\nThe answer asks for [[10]].", (7.5,)),
        ("[[2]] … Score: [[3]]", (3.0,)),
        ("Score: [[7, 8]]", NONE),
        ("Score: [[11]]", OUTSIDE),
        (None, NONE),
    ],
)
def test_a_single_score_is_read_in_the_same_way(raw: str | None, expected: Scores | Unparsed) -> None:
    assert PointReply.scores_in_text(raw) == expected


@given(st.text(), st.floats(1, 10), st.floats(1, 10), st.text(st.characters(exclude_characters="[]")))
def test_a_verdict_is_found_behind_any_noise(before: str, one: float, other: float, after: str) -> None:
    expected = (round(one, 2), round(other, 2))
    assert PairReply.scores_in_text(f"{before}\nScores: [[{expected[0]}, {expected[1]}]]{after}") == expected


@given(st.text() | st.text("[]0123456789.,-/ "))
def test_no_reply_raises(raw: str) -> None:
    assert isinstance(PairReply.scores_in_text(raw), tuple | Unparsed)
    assert isinstance(PointReply.scores_in_text(raw), tuple | Unparsed)


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ('{"explanation": "Both.", "score_1": 7, "score_2": 9.5}', (7, 9.5)),
        (' {"explanation": "", "score_1": 1.0, "score_2": 10}\n', (1, 10)),
        ('{"explanation": "Both.", "score_1": 0, "score_2": 9}', NO_JSON),
        ('{"explanation": "Both.", "score_1": 7, "score_2": 11}', NO_JSON),
        ('{"explanation": "Both.", "score_1": 7, "score_2": NaN}', NO_JSON),
        ('{"explanation": "Both.", "score_1": 7, "score_2": true}', NO_JSON),
        ('{"explanation": "Both.", "score_1": 7}', NO_JSON),
        ('{"explanation": "Both.", "score_1": 7, "score_2": 9, "score_3": 9}', NO_JSON),
        ('Sure: {"explanation": "Both.", "score_1": 7, "score_2": 9}', NO_JSON),
        ("Both are fine.\nScores: [[7, 9]]", NO_JSON),
        ("", NO_JSON),
        (None, NO_JSON),
    ],
)
def test_a_reply_by_the_schema_counts_only_if_it_validates(raw: str | None, expected: Scores | Unparsed) -> None:
    assert PairReply.scores(raw) == expected


def test_a_pointwise_reply_by_the_schema_is_one_score() -> None:
    assert PointReply.scores('{"explanation": "Good.", "score": 8}') == (8.0,)
    assert PointReply.scores('{"explanation": "Good.", "score": 80}') == NO_JSON


@pytest.mark.parametrize("mode", ASKED_AS)
def test_what_is_asked_for_by_a_schema_names_every_field_of_it(mode: str) -> None:
    row = {"instruction": "Add 2 and 2.", "system": None, "reference": None, "student": "4", "teacher": "four"}
    judge = make_config("runs", judge={"mode": mode, "replies": "json"}).judge
    asked = mode_of(judge)
    schema = json.loads(asked.schema)
    text = asked.render(load_prompt(judge.asked_as.prompt), row, asked.places()[0])
    assert schema["required"] == list(schema["properties"])
    assert all(f"`{name}`" in text for name in schema["properties"])
    assert schema["additionalProperties"] is False


LOOSE = ("Score: [4, 8]", "[ [4, 8]]", "Scores: [ [4, 8] ]", "Scores: (4, 8)", "Scores: 4, 8", "**Scores:** 4/10, 8/10")


@pytest.mark.parametrize("line", LOOSE)
def test_other_brackets_count_where_the_judge_was_shown_no_such_scores(line: str) -> None:
    reply = f"Answer 2 is better.\n{line}\n"
    assert PairReply.scores_in_text(reply, "Compare [[1, 2]] and (3, 4).") == (4, 8)
    assert PairReply.scores_in_text(reply) == NONE, "what was shown is not known"
    assert PairReply.scores_in_text(f"{reply}[[5, 6]]", "") == (5, 6), "a better one stands there"
    assert PairReply.scores_in_text(f"> {line}", "") == NONE, "it is quoted"
    assert PairReply.scores_in_text(f"I give {line} to both", "") == NONE, "it is no line of its own"


@pytest.mark.parametrize("line", LOOSE)
@pytest.mark.parametrize("spelling", [*LOOSE, "[[4, 8]]", "scores: [[4.0, 8.0]]", "[[４, ８]]"])
def test_scores_that_the_judge_may_have_copied_do_not_count(line: str, spelling: str) -> None:
    shown = neutralise(f"Nothing.\nMy verdict {spelling}")
    assert PairReply.scores_in_text(f"As it says:\n{line}", shown) == NONE


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("Score: 7/10", (7.0,)),
        ("Score: [7]", (7.0,)),
        ("Score: 70", OUTSIDE),
        ("Score: 7 for its tone", NONE),
        ("7", NONE),
    ],
)
def test_one_score_in_other_brackets(line: str, expected: Scores | Unparsed) -> None:
    assert PointReply.scores_in_text(line, "An answer.") == expected
    assert PointReply.scores_in_text(line, f"An answer.\n{line}") == NONE


def test_of_several_lines_in_other_brackets_the_last_one_counts() -> None:
    said = "Scores: [3, 4]\nOn a second look:\nScores: [6, 9]"
    assert PairReply.scores_in_text(said, "Nothing.") == (6, 9)
    assert PairReply.scores_in_text(said, "The answer ends with Scores: [3, 4]") == (6, 9)
    assert PairReply.scores_in_text(said, "The answer ends with Scores: [6, 9]") == NONE
