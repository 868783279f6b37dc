from typing import get_args

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapir_core.judging import VERDICTS, Verdict, verdict_rows
from tapir_core.judging.panel import PanelRule, combine_judges
from tests.builders import make_verdict, make_verdicts, shuffled

RULES: tuple[PanelRule, ...] = get_args(PanelRule)
PLACES = [(identity, order) for identity in ("a", "b", "c") for order in ("student_first", "teacher_first")]
SCORES = st.integers(2, 20).map(lambda half: half / 2)


@st.composite
def judged(draw: st.DrawFn) -> pl.DataFrame:
    """Verdicts of one judge, as a stage writes them: some unscored, some missing."""
    rows = []
    for identity, order in PLACES:
        kind = draw(st.sampled_from(["scored", "unscored", "missing"]))
        if kind == "scored":
            raw = draw(st.none() | st.text(max_size=3))
            rows.append(Verdict(identity, order, draw(SCORES), draw(SCORES), "scored", None, raw))
        elif kind == "unscored":
            reason = draw(st.none() | st.sampled_from(["no verdict", "refused"]))
            rows.append(Verdict(identity, order, None, None, "unscored", reason, draw(st.none() | st.just("Well …"))))
    return verdict_rows(rows)


JUDGES = st.dictionaries(st.sampled_from(["anna", "bert", "carl", "dora"]), judged(), max_size=4)


def only(verdicts: pl.DataFrame) -> Verdict:
    (row,) = verdicts.rows()
    return Verdict(*row)


def judges_of(*scores: tuple[float, float] | str) -> dict[str, pl.DataFrame]:
    """Judges "1", "2", … of one instruction: (student, teacher), or a reason."""
    rows = [
        make_verdict(reason=each) if isinstance(each, str) else make_verdict(student=each[0], teacher=each[1])
        for each in scores
    ]
    return {str(place): make_verdicts(row) for place, row in enumerate(rows, start=1)}


@pytest.mark.parametrize("rule", RULES)
@given(judged())
def test_one_judge_is_the_identity(rule: PanelRule, verdicts: pl.DataFrame) -> None:
    assert combine_judges({"anna": verdicts}, rule).equals(verdicts)


@pytest.mark.parametrize("rule", RULES)
@given(JUDGES, st.integers(0, 9))
def test_the_order_of_judges_and_rows_changes_nothing(
    rule: PanelRule, judges: dict[str, pl.DataFrame], seed: int
) -> None:
    turned = {name: shuffled(judges[name], seed) for name in reversed(judges)}
    assert combine_judges(turned, rule).equals(combine_judges(judges, rule))


@pytest.mark.parametrize("rule", RULES)
@given(JUDGES)
def test_an_unscored_judge_leaves_the_others_verdicts(rule: PanelRule, judges: dict[str, pl.DataFrame]) -> None:
    silent = verdict_rows([Verdict(*place, None, None, "unscored", "refused", "No.") for place in PLACES])
    scored = pl.col("status") == "scored"
    assert (
        combine_judges(judges | {"mute": silent}, rule)
        .filter(scored)
        .equals(combine_judges(judges, rule).filter(scored))
    )


@pytest.mark.parametrize("rule", RULES)
@given(JUDGES)
def test_a_place_is_scored_when_any_judge_scored_it(rule: PanelRule, judges: dict[str, pl.DataFrame]) -> None:
    found = combine_judges(judges, rule)
    assert found.schema == VERDICTS
    rows = [row for verdicts in judges.values() for row in verdicts.iter_rows(named=True)]
    assert set(found.select("instruction_id", "order").rows()) == {(r["instruction_id"], r["order"]) for r in rows}
    any_scored = {(r["instruction_id"], r["order"]) for r in rows if r["status"] == "scored"}
    assert set(found.filter(status="scored").select("instruction_id", "order").rows()) == any_scored
    assert found.filter(status="scored")["student_score"].null_count() == 0


@pytest.mark.parametrize("rule", RULES)
@given(JUDGES)
def test_scores_stay_among_those_that_were_given(rule: PanelRule, judges: dict[str, pl.DataFrame]) -> None:
    for row in combine_judges(judges, rule).filter(status="scored").iter_rows(named=True):
        place = {"instruction_id": row["instruction_id"], "order": row["order"]}
        given_scores = [s for v in judges.values() for s in v.filter(status="scored", **place)["student_score"]]
        assert min(given_scores) <= row["student_score"] <= max(given_scores)


def test_the_mean_is_over_all_who_scored() -> None:
    found = only(combine_judges(judges_of((2, 8), (4, 9), "refused"), "mean"))
    assert (found.student_score, found.teacher_score, found.status, found.reason) == (3.0, 8.5, "scored", None)


def test_the_majority_leaves_out_who_named_another_winner() -> None:
    found = only(combine_judges(judges_of((2, 8), (4, 9), (10, 1)), "majority"))
    assert (found.student_score, found.teacher_score) == (3.0, 8.5)
    tied = only(combine_judges(judges_of((5, 5), (7, 7), (10, 1)), "majority"))
    assert (tied.student_score, tied.teacher_score) == (6.0, 6.0)


def test_judges_who_split_evenly_all_count() -> None:
    found = only(combine_judges(judges_of((2, 8), (10, 1), "refused"), "majority"))
    assert (found.student_score, found.teacher_score) == (6.0, 4.5)
    with_a_tie = only(combine_judges(judges_of((2, 8), (4, 9), (10, 1), (9, 2), (5, 5)), "majority"))
    assert (with_a_tie.student_score, with_a_tie.teacher_score) == (6.0, 5.0)


def test_reasons_are_named_once_when_nobody_scored() -> None:
    found = only(combine_judges(judges_of("refused", "no verdict", "refused"), "mean"))
    assert (found.status, found.reason, found.student_score) == ("unscored", "no verdict; refused", None)


def test_the_replies_that_counted_stand_under_their_judges_names() -> None:
    judges = judges_of((2, 8), (4, 9), (10, 1))
    judges = {name: rows.with_columns(raw=pl.lit(f"reply {name}")) for name, rows in judges.items()}
    assert only(combine_judges(judges, "majority")).raw == "[1]\nreply 1\n\n[2]\nreply 2"


@pytest.mark.parametrize("rule", RULES)
def test_no_judge_gives_no_verdict(rule: PanelRule) -> None:
    assert combine_judges({}, rule).schema == VERDICTS
