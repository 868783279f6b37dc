import math
import random
import re

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapir_core.config import HELDOUT
from tapir_core.config.benchmarks import DecontaminationConfig
from tapir_core.data.decontamination import EvaluationQuestions, check_left, loss_in_words
from tapir_core.data.readers import heldout_questions
from tapir_core.errors import ConfigError
from tapir_core.stages import CONTAMINATED
from tapir_core.turns import Turn, pack_turns
from tests.builders import FOOTER, GOODS, mails, make_pool, make_questions, rouge_l

BAKER = "A baker sells twelve rolls in the morning and thirty in the afternoon. How many rolls is that?"
FORTY = "How many rolls does a baker sell who bakes forty and eats three?"
AIRSPEED = "What is the airspeed velocity of an unladen swallow?"


def rules(question: str, text: str, **settings: object) -> list[str]:
    return make_questions(question, **settings).find(make_pool(text))["rule"].to_list()


@pytest.mark.parametrize(
    ("question", "text", "rule"),
    [
        (BAKER, BAKER, "equal"),
        (BAKER, BAKER.upper().replace(".", "!"), "equal"),
        (BAKER, f"Read this. {BAKER} Then write a story of the baker, his rolls and his mill.", "shared_words"),
        (BAKER, "Read: twelve rolls in the morning and thirty in the afternoon. How many rolls? Why?", "shared_words"),
        (BAKER, "Read: twelve rolls in the morning and thirty in the afternoon. How many buns? Why?", None),
        (FORTY, FORTY.replace("sell", "give away"), "near_duplicate"),
        (BAKER, "that is rolls many how afternoon the in thirty and morning the in rolls twelve sells baker a", None),
        (AIRSPEED, f"Use the tool to find out: {AIRSPEED} Say how you found it, step by step.", "shared_words"),
        (AIRSPEED, "Use the tool to find out what is the airspeed velocity of an unladen goose, and say how.", None),
        ("Name three rivers.", "name three rivers", "equal"),
        ("Name three rivers.", "Name three large rivers.", None),
        ("Name three rivers.", "Name three rivers and the seas that each of them ends in.", None),
        (BAKER, BAKER.replace("rolls", "ro\u00adl\u200bls").replace("twelve", "\ufefftwelve"), "equal"),
        (AIRSPEED.replace("velocity", "efficiency"), AIRSPEED.replace("velocity", "e\ufb03ciency"), "equal"),
        (BAKER, "".join(chr(ord(each) + 0xFEE0) if "!" <= each <= "~" else each for each in BAKER), "equal"),
        (BAKER, "", None),
        ("写一首关于秋天的短诗,要押韵,不超过四行。", "写一首关于冬天的短诗,要押韵,不超过六行。", "near_duplicate"),
    ],
)
def test_what_holds_a_question_is_found_by_the_first_rule_that_applies(
    question: str, text: str, rule: str | None
) -> None:
    assert rules(question, text) == ([] if rule is None else [rule])


def test_the_settings_say_how_many_words_and_how_near() -> None:
    text = "Read: twelve rolls in the morning and thirty in the afternoon. How many buns? Why?"
    assert rules(BAKER, text, overlap_words=12) == ["shared_words"]
    changed = FORTY.replace("sell", "keep").replace("three", "two")
    assert rules(FORTY, changed) == ["near_duplicate"]
    assert rules(FORTY, changed, max_rouge_l=0.9) == []
    assert rules(FORTY, f"{FORTY} Why?", max_rouge_l=1.0) == ["shared_words"]


def test_a_held_out_instruction_has_no_near_duplicates_since_its_like_is_what_is_trained_on() -> None:
    assert rules("Add the numbers 17, 12 and 25 for me.", "Add the numbers 18, 12 and 25 for me.") != []
    assert (
        rules("Add the numbers 17, 12 and 25 for me.", "Add the numbers 18, 12 and 25 for me.", benchmark=HELDOUT) == []
    )
    assert rules(BAKER, BAKER, benchmark=HELDOUT) == ["equal"]


def test_a_question_in_the_system_text_is_found_for_it_is_trained_on_too() -> None:
    system = f"The user asks: {BAKER}"
    pool = pl.concat([make_pool("Answer it.", system=system), make_pool("Answer it.", "Be brief.")])
    [row] = make_questions(BAKER).find(pool).rows(named=True)
    assert (row["instruction_id"], row["rule"]) == (pool["instruction_id"][0], "shared_words")
    assert row["instruction"] == system, "the text that holds it, for a reader to compare"
    both = make_pool(BAKER, system=BAKER)
    assert make_questions(BAKER).find(both).height == 1, "a row for each instruction and benchmark"


def test_the_list_names_instruction_question_and_how_alike_they_are() -> None:
    text = FORTY.replace("sell", "keep")
    found = make_questions(AIRSPEED, FORTY).find(make_pool("Name three rivers.", text))
    assert found.schema == CONTAMINATED.columns
    [row] = found.rows(named=True)
    assert list(row.values())[1:6] == [text, "alpaca_eval", "2", FORTY, "near_duplicate"]
    assert row["similarity"] == pytest.approx(rouge_l(text, FORTY))


def test_of_a_benchmark_the_most_similar_question_is_listed() -> None:
    found = make_questions(f"{BAKER} Say it in French.", BAKER, f"{BAKER} Why?").find(make_pool(BAKER))
    assert found["question_id"].to_list() == ["2"]


def test_the_order_of_rows_changes_nothing() -> None:
    texts = [f"{word} {BAKER}" for word in ("One", "Two", "Three")]
    assert make_questions(BAKER).find(make_pool(*texts)).equals(make_questions(BAKER).find(make_pool(*texts[::-1])))


def test_nothing_to_look_in_and_nothing_to_look_for_are_no_special_cases() -> None:
    for found in (make_questions(BAKER).find(make_pool()), make_questions().find(make_pool(BAKER))):
        assert (found.height, found.schema) == (0, CONTAMINATED.columns)


def test_more_text_than_fits_a_batch_is_looked_at_whole() -> None:
    long = "word " * 300_000
    found = make_questions(BAKER).find(make_pool(long, BAKER, f"{long} {BAKER}", f"Well: {BAKER}"))
    assert found.height == 3


WORDS = st.lists(st.sampled_from([*"abcdefghij", "zz"]), min_size=5, max_size=30)


@given(WORDS, st.randoms(use_true_random=False), st.sampled_from([0.8, 0.85, 0.9]))
def test_no_near_duplicate_is_missed(question: list[str], rng: random.Random, limit: float) -> None:
    text = list(question)
    for _ in range(rng.randint(1, max(1, math.ceil(len(question) * (1 - limit) * 1.5)))):
        place = rng.randrange(len(text))
        change = rng.choice(["drop", "add", "replace"])
        text[place : place + (change != "add")] = [] if change == "drop" else [rng.choice([*"abcdefghij", "new"])]
        text = text or ["a"]
    one, other = " ".join(question), " ".join(text)
    near = rouge_l(one, other) > limit + 1e-9
    assert bool(rules(one, other, max_rouge_l=limit, overlap_words=40)) >= near


@given(st.lists(WORDS, min_size=1, max_size=4), st.lists(WORDS, min_size=1, max_size=4), st.integers(8, 13))
def test_shared_words_are_found_exactly_where_they_are(
    questions: list[list[str]], texts: list[list[str]], words: int
) -> None:
    def runs(text: list[str], size: int) -> set[tuple[str, ...]]:
        return {tuple(text[start : start + size]) for start in range(len(text) - size + 1)}

    pool = make_pool(*{" ".join(text) for text in texts})
    found = make_questions(*map(" ".join, questions), max_rouge_l=1.0, overlap_words=words).find(pool)
    sizes = [(question, min(len(question), words)) for question in questions]
    wanted = {
        " ".join(text)
        for text in texts
        for question, size in sizes
        if question == text or (size >= 8 and runs(question, size) & runs(text, size))
    }
    assert set(found["instruction"]) == wanted


def conversation(*texts: str) -> pl.DataFrame:
    """A pool of one conversation: the user's turns, each but the last with an answer."""
    turns = [turn for text in texts[:-1] for turn in (Turn("user", text), Turn("assistant", "Well."))]
    return make_pool(texts[-1]).with_columns(earlier_turns=pl.lit(pack_turns(turns), pl.String))


def test_every_turn_of_the_user_is_searched_and_no_given_answer() -> None:
    found = make_questions(AIRSPEED, "Well.").find(conversation("Hello there.", AIRSPEED, "Are you sure?"))
    assert found.select("instruction", "rule").rows() == [(AIRSPEED, "equal")]


def test_a_held_out_conversation_is_one_question_so_that_its_short_turns_strike_nobody() -> None:
    heldout = conversation(AIRSPEED, "Please go on.")
    questions = EvaluationQuestions(heldout_questions(heldout), DecontaminationConfig())
    assert questions.find(make_pool("Please go on.")).height == 0
    assert questions.find(conversation("Name three rivers.", "Please go on.")).height == 0
    assert questions.find(heldout)["rule"].to_list() == ["equal"]
    assert questions.find(make_pool(f"Tell me: {AIRSPEED} Please go on, and do not stop.")).height == 1


@pytest.mark.parametrize("footer", [FOOTER, " ".join(FOOTER.split()[:13]), f"{FOOTER} {FOOTER.upper()}"])
def test_a_footer_of_every_row_is_no_question_though_every_held_out_mail_has_it(footer: str) -> None:
    pool, held_out = make_pool(*mails(60, footer)), mails(8, footer, first=900)
    assert make_questions(*held_out, benchmark=HELDOUT).find(pool).height == 60, "without the pool nobody knows"
    questions = make_questions(*held_out, benchmark=HELDOUT, pool=pool)
    assert questions.find(pool).height == 0
    new = f"Hello! {held_out[3]} Thank you."
    assert questions.find(make_pool(*mails(5, footer, first=500), new))["instruction"].to_list() == [new]


def test_boilerplate_may_stand_in_one_question_of_a_benchmark_and_not_in_two() -> None:
    pool = make_pool(*mails(40))
    others = [BAKER, AIRSPEED]
    assert make_questions(*mails(1, first=900), *others, pool=pool).find(pool).height == 0
    assert make_questions(*mails(2, first=900), *others, pool=pool).find(pool).height == 40


def test_a_rare_run_and_any_run_of_a_small_pool_gives_a_question_away() -> None:
    held_out = mails(3, first=900)
    for with_footer, others in ((9, 0), (9, 91), (10, 200)):
        pool = make_pool(*mails(with_footer), *mails(others, "Yours, Anna", first=300))
        found = make_questions(*held_out, benchmark=HELDOUT, pool=pool).find(pool)
        assert found.height == with_footer


@pytest.mark.parametrize("benchmark", ["alpaca_eval", HELDOUT])
@pytest.mark.parametrize("count", [1, 3, 30])
def test_a_pool_of_copies_is_found_however_often_each_question_is_copied(benchmark: str, count: int) -> None:
    template = "You are given a task of the exam below. Read it with care and write the answer to it in one sentence."
    asked = [f"{template} Why does the {GOODS[number % 10]} number {number} not work?" for number in range(count)]
    pool = make_pool(*(f"Variant {copy}. {text} Please." for text in asked for copy in range(12)), *asked)
    questions = make_questions(*asked, benchmark=benchmark, pool=pool)
    assert questions.find(pool)["instruction_id"].n_unique() == pool.height


def test_a_held_out_mail_of_nothing_but_the_footer_leaves_longer_mails_alone() -> None:
    pool = make_pool(*mails(60, f"Kind regards from all of us. {FOOTER} {FOOTER}"))
    assert make_questions(f"{FOOTER}", benchmark=HELDOUT, pool=pool).find(pool).height == 0
    assert make_questions(f"{FOOTER}", pool=pool).find(pool).height == 60, "of a benchmark it is the question"


@given(st.lists(WORDS, min_size=1, max_size=4), st.lists(WORDS, min_size=1, max_size=9))
def test_a_pool_without_boilerplate_changes_nothing(questions: list[list[str]], texts: list[list[str]]) -> None:
    pool, asked = make_pool(*{" ".join(text) for text in texts}), [" ".join(question) for question in questions]
    assert make_questions(*asked, pool=pool).find(pool).equals(make_questions(*asked).find(pool))


def test_what_is_lost_is_told_with_the_words_and_a_setting_that_helps() -> None:
    pool, held_out = make_pool(*mails(8)), mails(3, first=900)
    found = make_questions(*held_out, benchmark=HELDOUT, pool=pool).find(pool)
    with pytest.raises(
        ConfigError, match=r'each of its 8 instructions holds .* the \d+ words ".*this message is meant'
    ) as said:
        check_left(found, pool.height, "an evaluation question")
    [size] = re.findall(r"evaluation\.decontamination\.overlap_words = (\d+)", str(said.value))
    assert make_questions(*held_out, benchmark=HELDOUT, overlap_words=int(size)).find(pool).height < 8
    assert loss_in_words(found.head(2), 20, "it") == ""
    assert loss_in_words(found.head(3), 20, "it").startswith(
        "3 of 20 instructions leave the pool, since they hold it; most"
    )


def test_one_question_under_many_system_texts_is_told_as_that() -> None:
    pool = pl.concat([make_pool("Summarise this mail.", system=f"The mail: {each}.") for each in GOODS[:4]])
    found = make_questions("Summarise this mail.", benchmark=HELDOUT).find(pool)
    with pytest.raises(ConfigError, match="most are word for word a question, under whatever system text: write"):
        check_left(found, pool.height, "an evaluation question")
