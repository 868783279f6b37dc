"""What makes a pair: seeds whose teacher's answer is ahead in every order, over a whole answer of the student."""

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from tapir_core.curriculum import preference_pairs

ORDERS = ("teacher_first", "student_first")


def verdicts(*rows: tuple[str, str, float | None, float | None]) -> pl.DataFrame:
    """Instruction, order, and the scores of student and teacher; unscored without."""
    table = [(*row, "scored" if row[2] is not None else "unscored") for row in rows]
    columns = ["instruction_id", "order", "student_score", "teacher_score", "status"]
    schema = dict.fromkeys(columns, pl.String) | dict.fromkeys(columns[2:4], pl.Float64)
    return pl.DataFrame(table, schema=schema, orient="row")


def answers(**given: tuple[str | None, str]) -> pl.DataFrame:
    rows = [(name, *said) for name, said in given.items()]
    schema = dict.fromkeys(("instruction_id", "response", "finish_reason"), pl.String)
    return pl.DataFrame(rows, schema=schema, orient="row")


def seeds(*names: str) -> pl.DataFrame:
    return pl.DataFrame({"instruction_id": list(names), "mfd": [1.0] * len(names)})


def test_both_orders_must_put_the_teacher_ahead_by_the_margin() -> None:
    said = verdicts(
        *(("both", order, 4.0, 6.0) for order in ORDERS),
        *(("one", order, 4.0, teacher) for order, teacher in zip(ORDERS, (8.0, 4.5), strict=True)),
        ("half", "teacher_first", 1.0, 9.0),
        *(("unscored", order, score, score) for order, score in zip(ORDERS, (None, None), strict=True)),
    )
    given_answers = answers(**dict.fromkeys(("both", "one", "half", "unscored"), ("Seven.", "stop")))
    pairs, why = preference_pairs(seeds("both", "one", "half", "unscored"), said, given_answers, ORDERS, 1.0)
    assert pairs["instruction_id"].to_list() == ["both"]
    assert pairs.columns == ["instruction_id", "mfd"]
    assert why == {"not_ahead": 3}


def test_a_margin_of_nothing_still_wants_the_teacher_ahead() -> None:
    said = verdicts(*(("a", order, 5.0, 5.0) for order in ORDERS), *(("b", order, 5.0, 5.1) for order in ORDERS))
    given_answers = answers(a=("Seven.", "stop"), b=("Eight.", "stop"))
    pairs, _ = preference_pairs(seeds("a", "b"), said, given_answers, ORDERS, 0.0)
    assert pairs["instruction_id"].to_list() == ["b"]


def test_an_answer_that_broke_off_is_no_answer_to_be_preferred_to() -> None:
    names = ("whole", "cut", "empty", "silent", "gone")
    said = verdicts(*((name, order, 1.0, 9.0) for name in names for order in ORDERS))
    given_answers = answers(
        whole=("Seven.", "stop"), cut=("Se", "length"), empty=(" ", "stop"), silent=(None, "refused")
    )
    pairs, why = preference_pairs(seeds(*names), said, given_answers, ORDERS, 1.0)
    assert pairs["instruction_id"].to_list() == ["whole"]
    assert why == {"cut_off": 1, "empty": 1, "failed": 1, "refused": 1}


@given(st.lists(st.tuples(st.floats(1, 10), st.floats(1, 10), st.floats(1, 10), st.floats(1, 10)), max_size=20))
def test_every_seed_is_a_pair_or_has_a_reason(scores: list[tuple[float, float, float, float]]) -> None:
    names = [f"i{number}" for number in range(len(scores))]
    said = verdicts(
        *((name, "teacher_first", a, b) for name, (a, b, _, _) in zip(names, scores, strict=True)),
        *((name, "student_first", c, d) for name, (_, _, c, d) in zip(names, scores, strict=True)),
    )
    pairs, why = preference_pairs(seeds(*names), said, answers(**dict.fromkeys(names, ("Seven.", "stop"))), ORDERS, 2.0)
    assert pairs.height + sum(why.values()) == len(names)
    ahead = [name for name, (a, b, c, d) in zip(names, scores, strict=True) if min(b - a, d - c) >= 2]
    assert pairs["instruction_id"].to_list() == ahead
