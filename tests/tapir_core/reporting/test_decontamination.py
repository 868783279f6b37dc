import json
from pathlib import Path

import pytest

from tapir_core.reporting.report import run_card, write_report
from tapir_core.reporting.tables import contaminated_table, decontamination_table, left_out_table
from tapir_core.run_folder import RunFolder
from tapir_core.sources import standin_pool
from tapir_core.stages import StageAt
from tapir_core.summary import RunReader, summarise
from tests.run_builder import build_run
from tests.run_config import make_config


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """Questions of one benchmark are instructions of pool and expansion; those of the other are not."""
    folder = tmp_path_factory.mktemp("runs")
    names = {name: {"questions": str(folder / f"{name}.json")} for name in ("mine", "strange")}
    pool = standin_pool(240, 3, 1)["instruction"].to_list()
    texts = {"mine": [pool[0], f"{pool[1]} Please."], "strange": ["What is a tapir, and where may it be seen?"]}
    for name in ("first", "second"):
        for benchmark, asked in texts.items():
            (folder / f"{benchmark}.json").write_text(json.dumps([{"instruction": text} for text in asked]))
        config = make_config(folder, run={"name": name}, evaluation={"benchmarks": names})
        run = build_run(folder, config=config, until=StageAt("expand", 1))
        texts["mine"].append(run.rows(StageAt("expand", 1))["instruction"][0])
    return run


def test_every_benchmark_has_its_questions_and_hits_those_without_a_hit_too(run: RunFolder) -> None:
    found = summarise(run).decontamination
    assert found is not None
    rows = {row["benchmark"]: row for row in found.benchmarks.rows(named=True)}
    assert list(rows) == ["heldout", "mine", "strange"]
    assert (rows["heldout"]["questions"], rows["mine"]["questions"], rows["strange"]["questions"]) == (120, 3, 1)
    assert rows["mine"]["pool"] == run.manifest(StageAt("contaminated")).counts["hits: mine"] > 0
    assert rows["mine"]["expansion"] > 0
    assert (rows["strange"]["pool"], rows["strange"]["expansion"]) == (0, 0)
    assert decontamination_table(found).rows[2] == ("strange", "1", "0", "0")
    cells = ("pool", "holds an evaluation question", "mine", str(rows["mine"]["pool"]))
    assert cells in left_out_table(summarise(run)).rows


def test_the_least_similar_are_listed_first_with_instruction_and_question(run: RunFolder) -> None:
    table = contaminated_table(summarise(run).decontamination)
    similar = [float(row[-1]) for row in table.rows]
    assert similar == sorted(similar)
    assert {row[0] for row in table.rows} >= {"pool", "expansion, round 1"}
    assert table.rows[-1][2] == "equal" != table.rows[0][2]
    assert table.note.startswith(f"{len(table.rows)} of ")


def test_report_and_run_card_show_it(run: RunFolder) -> None:
    assert "\n## Decontamination\n" in run_card(summarise(run), RunReader(run))
    page = Path(write_report(run)).read_text()
    assert "<h2>Decontamination</h2>" in page
    assert "Instructions that hold an evaluation question" in page


def test_a_run_that_looks_for_nothing_shows_nothing(tmp_path: Path) -> None:
    config = make_config(tmp_path, data={"pool": {"type": "standin", "rows": 60}}, run={"rounds": 1})
    run = build_run(tmp_path, config=config, until=StageAt("label"))
    summary = summarise(run)
    assert summary.decontamination is None
    assert decontamination_table(None).rows == contaminated_table(None).rows == ()
    assert "Decontamination" not in run_card(summary, RunReader(run))
