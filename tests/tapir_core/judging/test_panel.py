from typing import get_args

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapir_core.config import PanelRule
from tapir_core.judging import Verdict, verdict_rows
from tapir_core.judging.modes import combine_judges
from tapir_core.stages import JUDGE
from tests.builders import make_verdict, make_verdicts, shuffled

RULES: tuple[PanelRule, ...] = get_args(PanelRule)
PLACES = [(identity, order) for identity in ("a", "b", "c") for order in ("student_first", "teacher_first")]
SCORES = st.integers(2, 20).map(lambda half: half / 2)


@st.composite
def judged(draw: st.DrawFn, judge: str = "anna") -> list[Verdict]:
    """Verdicts of one judge, as a stage writes them: some unscored, some missing."""
    rows = []
    for identity, order in PLACES:
        kind = draw(st.sampled_from(["scored", "unscored", "missing"]))
        if kind == "scored":
            raw = draw(st.none() | st.text(max_size=3))
            rows.append(Verdict(identity, order, draw(SCORES), draw(SCORES), "scored", None, raw, judge))
        elif kind == "unscored":
            reason, raw = draw(st.sampled_from([None, "no verdict", "refused"])), draw(st.sampled_from([None, "Well"]))
            rows.append(Verdict(identity, order, None, None, "unscored", reason, raw, judge))
    return rows


@st.composite
def panels(draw: st.DrawFn) -> pl.DataFrame:
    """Verdicts of up to four judges in one table."""
    names = draw(st.lists(st.sampled_from(["anna", "bert", "carl", "dora"]), unique=True))
    return verdict_rows([row for name in names for row in draw(judged(name))])


def only(verdicts: pl.DataFrame) -> Verdict:
    (row,) = verdicts.rows()
    return Verdict(*row)


def panel_of(*scores: tuple[float, float] | str) -> pl.DataFrame:
    """Judges "1", "2", … of one instruction: (student, teacher), or a reason."""
    rows = []
    for place, each in enumerate(scores, start=1):
        given_scores = {"reason": each} if isinstance(each, str) else {"student": each[0], "teacher": each[1]}
        rows.append(make_verdict(judge=str(place), **given_scores))  # type: ignore[arg-type]
    return make_verdicts(*rows)


@pytest.mark.parametrize("rule", RULES)
@given(judged())
def test_one_judge_is_the_identity(rule: PanelRule, verdicts: list[Verdict]) -> None:
    assert combine_judges(verdict_rows(verdicts), rule).equals(verdict_rows(verdicts))


@pytest.mark.parametrize("rule", RULES)
@given(panels(), st.integers(0, 9))
def test_the_order_of_judges_and_rows_changes_nothing(rule: PanelRule, verdicts: pl.DataFrame, seed: int) -> None:
    assert combine_judges(shuffled(verdicts, seed), rule).equals(combine_judges(verdicts, rule))


@pytest.mark.parametrize("rule", RULES)
@given(panels())
def test_an_unscored_judge_leaves_the_others_verdicts(rule: PanelRule, verdicts: pl.DataFrame) -> None:
    silent = verdict_rows([Verdict(*place, None, None, "unscored", "refused", "No.", "mute") for place in PLACES])
    with_silent = combine_judges(pl.concat([verdicts, silent]), rule)
    assert with_silent.filter(status="scored").equals(combine_judges(verdicts, rule).filter(status="scored"))


@pytest.mark.parametrize("rule", RULES)
@given(panels())
def test_a_place_is_scored_when_any_judge_scored_it(rule: PanelRule, verdicts: pl.DataFrame) -> None:
    found = combine_judges(verdicts, rule)
    assert found.schema == JUDGE.columns
    rows = verdicts.rows(named=True)
    assert set(found.select("instruction_id", "order").rows()) == {(r["instruction_id"], r["order"]) for r in rows}
    any_scored = {(r["instruction_id"], r["order"]) for r in rows if r["status"] == "scored"}
    assert set(found.filter(status="scored").select("instruction_id", "order").rows()) == any_scored
    assert found.filter(status="scored")["student_score"].null_count() == 0


@pytest.mark.parametrize("rule", RULES)
@given(panels())
def test_scores_stay_among_those_that_were_given(rule: PanelRule, verdicts: pl.DataFrame) -> None:
    for row in combine_judges(verdicts, rule).filter(status="scored").iter_rows(named=True):
        place = {"instruction_id": row["instruction_id"], "order": row["order"]}
        given_scores = verdicts.filter(status="scored", **place)["student_score"].to_list()
        assert min(given_scores) <= row["student_score"] <= max(given_scores)


def test_the_mean_is_over_all_who_scored() -> None:
    found = only(combine_judges(panel_of((2, 8), (4, 9), "refused"), "mean"))
    assert (found.student_score, found.teacher_score, found.status, found.reason) == (3.0, 8.5, "scored", None)


def test_the_majority_leaves_out_who_named_another_winner() -> None:
    found = only(combine_judges(panel_of((2, 8), (4, 9), (10, 1)), "majority"))
    assert (found.student_score, found.teacher_score) == (3.0, 8.5)
    tied = only(combine_judges(panel_of((5, 5), (7, 7), (10, 1)), "majority"))
    assert (tied.student_score, tied.teacher_score) == (6.0, 6.0)


def test_judges_who_split_evenly_all_count() -> None:
    found = only(combine_judges(panel_of((2, 8), (10, 1), "refused"), "majority"))
    assert (found.student_score, found.teacher_score) == (6.0, 4.5)
    with_a_tie = only(combine_judges(panel_of((2, 8), (4, 9), (10, 1), (9, 2), (5, 5)), "majority"))
    assert (with_a_tie.student_score, with_a_tie.teacher_score) == (6.0, 5.0)


def test_reasons_are_named_once_when_nobody_scored() -> None:
    found = only(combine_judges(panel_of("refused", "no verdict", "refused"), "mean"))
    assert (found.status, found.reason, found.student_score) == ("unscored", "no verdict; refused", None)


def test_the_replies_that_counted_stand_under_their_judges_names() -> None:
    verdicts = panel_of((2, 8), (4, 9), (10, 1)).with_columns(raw=pl.lit("reply ") + pl.col("judge"))
    found = only(combine_judges(verdicts, "majority"))
    assert (found.judge, found.raw) == ("1, 2", "[1]\nreply 1\n\n[2]\nreply 2")


@pytest.mark.parametrize("rule", RULES)
def test_no_judge_gives_no_verdict(rule: PanelRule) -> None:
    assert combine_judges(make_verdicts(), rule).schema == JUDGE.columns
