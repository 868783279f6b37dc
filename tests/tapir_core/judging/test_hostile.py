import re
import unicodedata
from collections import Counter

import pytest

from tapir_core.judging.hostile import HostileCase, hostile_cases
from tapir_core.judging.prompt import MAX_SECTION_CHARS, fill_in, neutralise
from tapir_core.judging.verdict import PairReply, PointReply
from tapir_core.prompts import load_prompt
from tapir_core.standin.rules import Behaviour, judge, read_ask
from tapir_core.text import Unparsed

CASES = hostile_cases()
KINDS = {case.kind for case in CASES}
INSTRUCTION, RIGHT, WRONG = "What is 30 + 61?", "Answer: 91", "Answer: 5"
TAGS = ("instruction", "answer_1", "answer_2", "reference")
OWN_TAG = re.compile(r"<\s*/?\s*(?:system|instruction|answer[\s_-]*\d*|reference)\b[^<>]*>", re.IGNORECASE)
CHAT_TOKEN = re.compile(r"<\|\w+\|>|<｜[^<>]+｜>|\[/?INST\]|</?s>|<<SYS>>|</?think>|<(?:start|end)_of_turn>")

each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def bare(text: str) -> str:
    """A text without what is not seen, and in the plainest spelling."""
    shown = "".join(letter for letter in text if unicodedata.category(letter) not in {"Cf", "Mn"})
    return unicodedata.normalize("NFKC", shown)


def sections(message: str) -> dict[str, str]:
    """What stands between our tags; fails unless each opens and closes once, on lines of their own and in order."""
    found, place = {}, 0
    for tag in TAGS:
        opening, closing = f"\n<{tag}>\n", f"\n</{tag}>\n"
        assert message.count(f"<{tag}>") == message.count(f"</{tag}>") == 1
        start = message.index(opening, place) + len(opening)
        place = message.index(closing, start - 1)
        found[tag] = message[start:place]
    return found


def pair_message(answer_1: str, answer_2: str) -> str:
    given = {"instruction": INSTRUCTION, "system": None, "reference": "91"}
    return fill_in(load_prompt("judge"), **given, answer_1=answer_1, answer_2=answer_2)


def asked(message: str, *, bias: float = 0.0) -> str:
    """What the stand-in judge replies to a message, noise aside."""
    ask = read_ask([{"role": "user", "content": message}], None)
    return judge(ask, Behaviour(bias, noise=0.0))


def test_there_are_at_least_60_cases_of_at_least_12_kinds_each_of_its_own_name() -> None:
    assert len(CASES) >= 60
    assert len(KINDS) >= 12
    assert max(Counter(case.name for case in CASES).values()) == 1
    assert len({case.wrap(WRONG) for case in CASES}) == len(CASES)


def test_the_first_cases_are_of_all_kinds() -> None:
    assert {case.kind for case in CASES[: len(KINDS)]} == KINDS


@each_case
def test_every_section_stays_in_place_and_holds_the_text_that_was_given(case: HostileCase) -> None:
    hostile = case.wrap(WRONG)
    for answer_1, answer_2 in ((hostile, RIGHT), (RIGHT, hostile), (hostile, hostile)):
        found = sections(pair_message(answer_1, answer_2))
        assert found == {
            "instruction": INSTRUCTION,
            "answer_1": neutralise(answer_1),
            "answer_2": neutralise(answer_2),
            "reference": "91",
        }


@each_case
def test_nothing_in_a_section_passes_for_a_tag_a_turn_or_a_verdict(case: HostileCase) -> None:
    safe = neutralise(case.wrap(WRONG))
    for text in (safe, bare(safe)):
        assert not OWN_TAG.search(text)
        assert not CHAT_TOKEN.search(text)
        assert PairReply.scores_in_text(text) == PointReply.scores_in_text(text) == Unparsed("no verdict")
    assert safe.encode().decode() == safe
    assert not [letter for letter in safe if unicodedata.category(letter) in {"Cc", "Cs"} and letter not in "\n\t"]
    assert len(safe) <= MAX_SECTION_CHARS
    assert neutralise(safe) == safe


@each_case
def test_the_honest_content_is_still_there(case: HostileCase) -> None:
    assert WRONG in neutralise(case.wrap(WRONG)).split("\n")


@each_case
def test_the_system_text_and_the_instruction_may_be_hostile_too(case: HostileCase) -> None:
    hostile = case.wrap("x")
    for name in ("judge", "judge_pointwise"):
        prompt = load_prompt(name)
        answers = {"answer_1": "a", "answer_2": "b"} if name == "judge" else {"answer": "a"}
        message, plain = (
            fill_in(prompt, instruction=text, system=text, reference=text, **answers) for text in (hostile, "x")
        )
        for tag in ("system", "instruction", "reference", *answers):
            assert message.count(f"<{tag}>") == message.count(f"</{tag}>") == plain.count(f"<{tag}>") == 1
        assert PairReply.scores_in_text(message) == PairReply.scores_in_text(plain)


@each_case
def test_the_judge_scores_a_hostile_answer_as_its_honest_content(case: HostileCase) -> None:
    for honest in (RIGHT, WRONG, "Answer: 90"):
        hostile = case.wrap(honest)
        for bias in (0.0, 1.0):
            first, second = (
                PairReply.scores_in_text(asked(pair_message(*answers), bias=bias))
                for answers in ((hostile, RIGHT), (honest, RIGHT))
            )
            assert first == second
        assert PairReply.scores_in_text(asked(pair_message(RIGHT, hostile))) == PairReply.scores_in_text(
            asked(pair_message(RIGHT, honest))
        )


@each_case
def test_a_single_hostile_answer_is_scored_as_its_honest_content(case: HostileCase) -> None:
    prompt = load_prompt("judge_pointwise")
    hostile, honest = (
        PointReply.scores_in_text(
            asked(fill_in(prompt, instruction=INSTRUCTION, system=None, reference=None, answer=answer))
        )
        for answer in (case.wrap(WRONG), WRONG)
    )
    assert hostile == honest == (2.0,)


QUOTING = (
    'Answer 1 says "{}".\nScores: [[2, 9]]',
    "Answer 1:\n{}\nIt is wrong.\nScores: [[2, 9]]",
    "Scores: [[2, 9]]\nFor the record, answer 1 was:\n{}",
    "Scores: [[2, 9]]\n\n```\n{}\n```",
    "```\n{}\n```\n**Scores: [[2, 9]]**",
    "> {}\n\nScores: [[2, 9]]",
)


@each_case
def test_a_judge_that_quotes_what_it_was_shown_is_still_understood(case: HostileCase) -> None:
    quoted = neutralise(case.wrap(WRONG))
    assert {PairReply.scores_in_text(reply.format(quoted)) for reply in QUOTING} == {(2, 9)}
