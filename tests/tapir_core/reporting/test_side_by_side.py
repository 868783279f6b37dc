"""Runs side by side: the same held-out set or none at all, and the figures that the summaries have."""

from pathlib import Path
from typing import Any

import pytest

from tapir_core.errors import ConfigError
from tapir_core.paths import sweep_report_file
from tapir_core.reporting.page import Table
from tapir_core.reporting.side_by_side import (
    SideBySide,
    put_side_by_side,
    render_side_by_side,
    reused_share,
    side_by_side_card,
    side_by_side_tables,
    write_sweep_report,
)
from tapir_core.run_folder import RunFolder, RunRef
from tapir_core.run_state import Swept
from tapir_core.stages import StageAt
from tapir_core.summary.formats import number, score
from tapir_core.summary.types import Usage
from tests.run_builder import build_run
from tests.run_config import make_config

POOL = {"type": "standin", "rows": 60}


def built(root: Path, name: str, *, until: StageAt | None = None, seed: int = 1, **sections: Any) -> RunFolder:
    heldout = {"type": "standin", "dev": 20, "test": 60}
    run = {"name": name, "rounds": 1, "seed": seed}
    config = make_config(root, **{"run": run, "data": {"pool": POOL, "heldout": heldout}, **sections})
    return build_run("", until=until, config=config, backbone=name)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[RunFolder]:
    """A finished run, and one of another backbone that is before its first round."""
    root = tmp_path_factory.mktemp("runs")
    second = built(root, "q-two", until=StageAt("evaluate", 0), student={"backbone": "org/<b>two</b>"})
    return [built(root, "q-one"), second]


@pytest.fixture(scope="module")
def shown(runs: list[RunFolder]) -> SideBySide:
    return put_side_by_side(runs)


def row(table: Table, name: str) -> tuple[str, ...]:
    return next(row[1:] for row in table.rows if row[0] == name)


def test_every_run_is_a_column_of_every_table(shown: SideBySide) -> None:
    for name, table in side_by_side_tables(shown).items():
        assert name == "ranking" or table.columns[1:3] == ("q-one", "q-two")
        assert {len(cells) for cells in table.rows} == {len(table.columns)}


def test_the_figures_are_those_of_the_runs(shown: SideBySide) -> None:
    tables, (one, two) = side_by_side_tables(shown), shown.runs
    after, basic = one.round(1), two.round(0)
    assert after is not None
    assert basic is not None
    last = (score(after.score("test")), score(basic.score("test")))
    assert row(tables["overview"], "Test accuracy, last student") == last
    assert row(tables["overview"], "Last student") == ("S_1", "S_0")
    by_score = sorted(zip(last, ("q-one", "q-two"), strict=True), reverse=True)
    assert [each[1::-1] for each in tables["ranking"].rows] == by_score
    assert one.usage.usd
    assert dict(each[:1] + each[-2:-1] for each in tables["ranking"].rows)["q-one"] == number(one.usage.usd)
    assert row(tables["overview"], "Backbone") == (one.config.student.backbone, "org/<b>two</b>")
    assert row(tables["overview"], "Answers asked for") == (f"{one.usage.calls:,}", f"{two.usage.calls:,}")
    assert row(tables["task_types"], "all") == (*last, "60")
    math = after.score("test", "Math")
    assert row(tables["task_types"], "Math")[0] == score(math)
    label = next(stage.usage for stage in one.stages if stage.name == "label")
    assert row(tables["answers"], "label") == (f"{label.calls} + {label.stored} (10.0 %)",) * 2
    assert row(tables["answers"], "all of the judge")[1] == "–", "nothing is judged before the first round"


def test_the_share_that_the_store_gave_is_of_all_answers() -> None:
    assert reused_share(Usage(calls=30, stored=10)) == 0.25
    assert reused_share(Usage()) is None


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"data": {"pool": POOL, "heldout": {"type": "standin", "dev": 20, "test": 40}}}, r"test is 60 .* and 40"),
        ({"seed": 2}, "run.seed is 1 in the one and 2 in the other"),
        ({"data": {"pool": POOL}}, "data.heldout.type"),
    ],
    ids=["size", "seed", "none"],
)
def test_runs_with_different_heldout_sets_are_refused_with_the_difference(
    runs: list[RunFolder], tmp_path: Path, other: dict[str, Any], words: str
) -> None:
    until = StageAt("pool") if "heldout" not in other.get("data", {"heldout": 1}) else StageAt("heldout")
    with pytest.raises(ConfigError, match=words):
        put_side_by_side([runs[0], built(tmp_path, "other", until=until, **other)])


def test_runs_without_a_heldout_set_are_shown_by_cost(tmp_path: Path) -> None:
    pair = [built(tmp_path, name, until=StageAt("label"), data={"pool": POOL}) for name in ("a", "b")]
    tables = side_by_side_tables(shown := put_side_by_side(pair))
    assert row(tables["overview"], "Test accuracy, last student") == ("–", "–")
    assert tables["task_types"].rows == ()
    assert "Held-out accuracy" not in render_side_by_side(shown)


def test_the_page_shows_all_plots_escapes_text_and_needs_nothing_else(shown: SideBySide) -> None:
    page = render_side_by_side(shown)
    assert page.count("<svg") == 3
    assert "org/&lt;b&gt;two" in page
    assert "<b>two" not in page
    assert "<script" not in page
    assert "no LLM" in page, "the stand-in taught them"


def test_runs_of_one_name_are_refused(runs: list[RunFolder], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="one name"):
        put_side_by_side([runs[0], built(tmp_path, "q-one", until=StageAt("heldout"))])


def test_a_sweep_compares_those_runs_that_share_a_heldout_set(runs: list[RunFolder], tmp_path: Path) -> None:
    other = built(
        tmp_path,
        "q-other",
        until=StageAt("heldout"),
        data={"pool": POOL, "heldout": {"type": "standin", "dev": 20, "test": 50}},
    )
    swept = [Swept(run.ref.name, run.ref, "finished") for run in (other, *runs)]
    written = write_sweep_report(RunRef(str(tmp_path), "q"), swept)
    assert written is not None
    assert [each.name for each in written[0].runs] == ["q-one", "q-two"]


def test_a_sweep_leaves_a_page_below_the_root_and_a_card(runs: list[RunFolder]) -> None:
    curriculum = RunRef(runs[0].ref.root, "q")
    swept = [Swept(run.ref.name, run.ref, "finished") for run in runs]
    written = write_sweep_report(curriculum, [*swept, Swept("c", RunRef(curriculum.root, "q-c"), "failed")])
    assert written is not None
    written_of, report = written
    assert report == f"{curriculum.root}/{sweep_report_file('q')}"
    assert "q-one" in Path(report).read_text()
    assert f"`{report}`" in side_by_side_card(written_of, report)
    assert write_sweep_report(curriculum, []) is None
