"""What a report says of a gain: difference, interval, p and what it shows."""

from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from tapir_core.reporting import sentences
from tapir_core.statistics import Estimate
from tapir_core.summary.types import Gain, RoundSummary, RunSummary, Score
from tests.run_config import make_config


def summary(paired: Estimate) -> RunSummary:
    """S_0 and S_2 with 20 and 50 % right of 240."""
    rounds = [
        RoundSummary(
            number,
            scores=pl.DataFrame(
                {
                    "split": "test",
                    "category": "all",
                    "value": value,
                    "low": value - 0.05,
                    "high": value + 0.05,
                    "n": 240,
                    "n_failed": 0,
                    "note": "",
                    "settings": "student: greedy",
                    "judge": "exact match",
                    "metric": "accuracy",
                }
            ),
        )
        for number, value in ((0, 0.2), (2, 0.5))
    ]
    words = dict.fromkeys(("name", "root", "created", "updated"), "")
    gain = Gain(0, 2, paired)
    return RunSummary(
        config=make_config(Path()), **words, next_stage=None, stopped=None, rounds=tuple(rounds), gain=gain
    )


@pytest.mark.parametrize(
    ("estimate", "said"),
    [
        (Estimate(30.0, 21.5, 38.5, 238), "+30.0 percentage points (95 % interval +21.5 to +38.5, p = 0.0120) on the "),
        (Estimate(30.0, 21.5, 38.5, 238), "same 238 instructions, 2 failed; the interval lies above 0."),
        (Estimate(-9.0, -15.0, -3.0, 238), "; the interval lies below 0."),
        (Estimate(1.0, -3.0, 5.0, 238), "; the interval holds 0, so no gain is shown."),
        (Estimate(50.0, n=2, note="2 rows only"), "+50.0 percentage points (2 rows only, p = 0.0120) on the same 2 "),
    ],
)
def test_a_gain_is_told_with_its_interval_and_what_it_shows(estimate: Estimate, said: str) -> None:
    told = sentences.gain(summary(replace(estimate, failed=2, p=0.012)))
    assert told.startswith("Test accuracy from S_0 to S_2: 20.0 to 50.0 %, ")
    assert said in told


def test_a_gain_without_a_figure_says_why() -> None:
    why = "40 of 240 instructions failed (16.7%), more than the 5.0% allowed"
    told = sentences.gain(summary(Estimate(None, n=200, failed=40, note=why)))
    assert told.endswith(f", no gain is told: {why}.")


def test_tables_say_how_answers_were_drawn_and_why_a_figure_lacks() -> None:
    known = Score(0.5, 0.4, 0.6, 100, 0, "", "student: greedy")
    lacking = Score(None, None, None, 60, 40, "40 of 100 answers failed", "student: greedy")
    note = sentences.score_note([known, None, lacking, known])
    assert note.count("student: greedy") == 1
    assert note.endswith("No figure: 40 of 100 answers failed.")
    assert sentences.score_note([None]) == ""
