"""A whole run with the stage `trim`, on fakes; `test_trim` runs this in a child, as registering is for a process."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tapir_core.config.load import load_config
from tapir_core.run_files import take_over
from tapir_core.run_folder import RunFolder, open_run
from tapir_core.run_state import state_of
from tapir_core.stages import DRAW, MIX, REFINE, TRAIN
from tapir_core.summary import summarise
from tasks.input_files import gather_ingredients
from tests.doubles.provider import FakeProvider
from tests.examples.trim import TRIM
from tests.golden import fakes
from tests.golden.adapter import drive
from tests.golden.test_rows import plain_settings

pytestmark = pytest.mark.usefixtures("prefect_server")
ROOT = Path(__file__).parents[2]


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeProvider]:
    monkeypatch.chdir(ROOT)
    with FakeProvider(fakes.reply) as provider:
        yield provider


def test_a_run_goes_through_it(tmp_path: Path, provider: FakeProvider, monkeypatch: pytest.MonkeyPatch) -> None:
    # With "auto" an arm goes by its own probe, which nothing here makes.
    settings = [*plain_settings(tmp_path, provider), "curriculum.trim.share=0.25", "judge.replies=text"]
    run = drive(load_config("tests/golden/plain.toml", settings), monkeypatch)
    for number in run.config.round_numbers:
        drawn, kept = (set(run.rows(stage.at(number))["instruction_id"]) for stage in (DRAW, TRIM))
        assert len(drawn - kept) == int(0.25 * len(drawn)) > 0
        assert set(run.rows(MIX.at(number))["instruction_id"]) == kept
        assert set(run.rows(REFINE.at(number))["instruction_id"]) <= kept
        mixture = run.manifest(MIX.at(number))
        assert mixture is not None
        assert "shortfall: trimmed" not in mixture.counts
    first = summarise(run).round(1)
    assert first is not None
    assert "trim" in [stage.name for stage in first.stages]
    assert state_of(RunFolder(run.ref)).next_stage is None

    # An arm of a comparison that would make the same takes all of it over.
    arm = load_config("tests/golden/plain.toml", [*settings, "run.name=arm"])
    taken = take_over(run, open_run(arm, gather_ingredients(arm)))
    assert {DRAW.at(1), TRIM.at(1), MIX.at(1), TRAIN.at(1)} <= {*taken}

    # Another share makes it anew, and what reads it; what comes before stays.
    other = load_config("tests/golden/plain.toml", [*settings, "curriculum.trim.share=0.5"])
    amended = open_run(other, gather_ingredients(other), amend=True)
    assert state_of(amended).next_stage == TRIM.at(1)
    assert amended.holds(DRAW.at(1))
