from pathlib import Path

import polars as pl

from tapir_core.reporting.judge_report import summarise_judge
from tapir_core.stages import StageAt
from tests.run_builder import build_run
from tests.tapir_core.reporting.judged_rounds import judged_run, only, unscored_for


def test_the_widest_gaps_and_unscored_ones_are_there_to_read(tmp_path: Path) -> None:
    run = build_run(tmp_path, until=StageAt("judge", 1))
    found = summarise_judge(run, 1)
    assert [each.why == "unscored" for each in found.to_read] == [False] * 5 + [True] * 5
    widest = found.whole.pairs["order_gap"].abs().max()
    assert found.to_read[0].why in (f"order gap {widest:+.1f}", f"order gap {-widest:+.1f}")
    whose = ["teacher's answer", "student's answer"]
    assert [shown.who for shown in found.to_read[0].answers] == [*whose, "teacher first:", "student first:"]
    assert found.to_read[5].answers[2].outcome == "unscored: no verdict in the reply"
    taught, written = (
        {text for (text,) in run.rows(at).select("response").iter_rows()}
        for at in (StageAt("teach"), StageAt("answer", 1))
    )
    for each in found.to_read:
        assert each.answers[0].text in taught
        assert each.answers[1].text in written


def test_every_reason_is_shown_before_one_is_shown_again(tmp_path: Path) -> None:
    reasons = ("a", "a", "b", "c", "d", "e")
    found = summarise_judge(judged_run(tmp_path, unscored_for(*reasons)), 1)
    outcomes = [{reply.outcome for reply in each.answers[2:]} for each in found.to_read]
    assert set().union(*outcomes) == {f"unscored: {reason}" for reason in reasons}


def test_a_long_reply_is_shown_without_its_middle(tmp_path: Path) -> None:
    def change(rows: pl.DataFrame) -> pl.DataFrame:
        return only(1)(rows).with_columns(raw=pl.lit("a" * 100_000 + "[[2, 9]]"), status=pl.lit("unscored"))

    (each,) = summarise_judge(judged_run(tmp_path, change), 1).to_read
    assert each.answers[-1].text.endswith("a[[2, 9]]")
    assert "characters left out" in each.answers[-1].text
    assert len(each.answers[-1].text) < 2_100
