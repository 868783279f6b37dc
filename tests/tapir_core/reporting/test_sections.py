"""Every part of report and run card has something to show, and whatever can be shown is shown somewhere."""

import ast
import inspect
import json
import re
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from tapir_core.config import NATURAL
from tapir_core.estimate.run import estimate_json, forecast
from tapir_core.estimate.workload import Pool
from tapir_core.paths import ESTIMATE
from tapir_core.reporting import benchmarks, estimate_table, plots, report, serving, tables
from tapir_core.reporting.report import CARD, SECTIONS, TOP, sections_of
from tapir_core.run_folder import RunFolder
from tapir_core.sources import standin_pool
from tapir_core.summary import RunReader, summarise
from tapir_core.summary.types import Baseline, RunSummary
from tests.benchmark_runs import ALPACA, MT_BENCH
from tests.estimates import measured
from tests.run_builder import build_run
from tests.run_config import make_config

ROOT = Path(__file__).parents[3]
LISTS = {"TOP": TOP, "SECTIONS": SECTIONS, "CARD": CARD}
MODULES = (tables, plots, benchmarks, serving, estimate_table)


def asked_benchmarks(root: Path) -> RunFolder:
    """With benchmarks, a pool that holds a question, an estimate and a training."""
    questions = root / "mine.json"
    questions.write_text(json.dumps([{"instruction": standin_pool(240, 3, 1)["instruction"][0]}]))
    asked = {"ae": ALPACA, "mt": MT_BENCH, "mine": {"questions": str(questions)}}
    evaluation = {"benchmarks": asked, "each_round": ["ae", "mt"], "decontamination": {"max_rouge_l": 1.0}}
    run = build_run(root, config=make_config(root, evaluation=evaluation))
    curve = [{"step": 1, "loss": 3.0, "learning_rate": 2e-4, "grad_norm": 1.5}]
    run.storage.write_bytes("round_00/checkpoint/training.json", json.dumps({"steps": 1, "loss_curve": curve}).encode())
    config = make_config("runs")
    estimate = forecast(config, Pool(240, 120), measured(config))
    run.storage.write_bytes(ESTIMATE, estimate_json(estimate).encode())
    return run


def with_what_no_builder_makes(run: RunFolder) -> RunSummary:
    """A baseline, a field that an endpoint refuses, scores at natural shares."""
    summary = summarise(run)
    rounds = [
        replace(each, scores=pl.concat([each.scores, each.scores.with_columns(metric=pl.lit(NATURAL))]))
        for each in summary.rounds
        if each.scores is not None
    ]
    baseline = Baseline("example-sft", None, 2, summary.round(2), 1000, 1000)
    settled = (("judge.sampling.temperature", "left out", "unsupported"),)
    return replace(summary, rounds=tuple(rounds), baselines=(baseline,), settled=settled)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[RunSummary, RunReader]]:
    root = tmp_path_factory.mktemp("judged")
    data = {"pool": {"type": "standin", "rows": 240}, "heldout": {"type": "judged"}}
    judged = build_run(root, config=make_config(root, data=data))
    everything = asked_benchmarks(tmp_path_factory.mktemp("runs"))
    return [
        (with_what_no_builder_makes(everything), RunReader(everything)),
        (summarise(judged), RunReader(judged)),
    ]


@pytest.mark.parametrize(("of", "name"), [(of, name) for of, parts in LISTS.items() for name in parts])
def test_every_part_of_report_and_run_card_is_shown(
    runs: list[tuple[RunSummary, RunReader]], of: str, name: str
) -> None:
    found = [section for each in runs for section in sections_of({name: LISTS[of][name]}, *each)]
    assert found, f"{name!r} of report.{of} shows nothing of any run here: let one of `runs` have what it shows"


def test_whatever_makes_a_table_or_a_plot_is_shown_somewhere() -> None:
    makers = {
        name: module.__name__
        for module in MODULES
        for name, made in inspect.getmembers(module, inspect.isfunction)
        if made.__module__ == module.__name__ and not name.startswith("_")
        if any(kind in str(made.__annotations__["return"]) for kind in ("Table", "Section"))
    }
    used = {
        node.id if isinstance(node, ast.Name) else node.attr
        for package in ("tapir_core", "tasks", "flows")
        for file in (ROOT / package).rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Name | ast.Attribute)
    }
    forgotten = [f"{makers[name]}.{name}" for name in sorted(makers.keys() - used)]
    assert forgotten == [], f"shown nowhere: give it a line in TOP, SECTIONS or CARD of {report.__name__}"


def test_every_part_of_the_report_has_its_row_in_the_docs() -> None:
    rows = re.findall(r"^\| (.+?) \| ", (ROOT / "docs/report.md").read_text().partition("How to read")[0], re.MULTILINE)
    named = [name for row in rows[1:] for name in row.split(" · ")]
    assert named == ["top", *TOP, "ten instructions", *SECTIONS], "docs/report.md has a row for each part, in order"
