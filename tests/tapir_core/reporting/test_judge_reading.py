from pathlib import Path

import polars as pl

from tapir_core.reporting.judge_report import summarise_judge
from tapir_core.stages import StageAt
from tests.run_builder import build_run
from tests.tapir_core.reporting.judged_rounds import judged_run, only, unscored_for


def test_the_widest_gaps_and_unscored_ones_are_there_to_read(tmp_path: Path) -> None:
    found = summarise_judge(build_run(tmp_path, until=StageAt("judge", 1)), 1)
    assert [each.why == "unscored" for each in found.to_read] == [False] * 5 + [True] * 5
    widest = found.whole.pairs["order_gap"].abs().max()
    assert found.to_read[0].why in (f"order gap {widest:+.1f}", f"order gap {-widest:+.1f}")
    assert [reply.who for reply in found.to_read[0].answers] == ["teacher first:", "student first:"]
    assert found.to_read[5].answers[0].outcome == "unscored: no verdict in the reply"


def test_every_reason_is_shown_before_one_is_shown_again(tmp_path: Path) -> None:
    reasons = ("a", "a", "b", "c", "d", "e")
    found = summarise_judge(judged_run(tmp_path, unscored_for(*reasons)), 1)
    outcomes = [{reply.outcome for reply in each.answers} for each in found.to_read]
    assert set().union(*outcomes) == {f"unscored: {reason}" for reason in reasons}


def test_a_long_reply_is_shown_without_its_middle(tmp_path: Path) -> None:
    def change(rows: pl.DataFrame) -> pl.DataFrame:
        return only(1)(rows).with_columns(raw=pl.lit("a" * 100_000 + "[[2, 9]]"), status=pl.lit("unscored"))

    (each,) = summarise_judge(judged_run(tmp_path, change), 1).to_read
    assert each.answers[0].text.endswith("a[[2, 9]]")
    assert "characters left out" in each.answers[0].text
    assert len(each.answers[0].text) < 2_100
