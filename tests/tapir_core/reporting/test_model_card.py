import json
import re
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml

from tapir_core.reporting.report import model_card
from tapir_core.run_folder import RunFolder
from tapir_core.stages import StageAt
from tests.benchmark_runs import ALPACA, VICUNA
from tests.run_builder import build_run
from tests.run_config import make_config

USE = "## Use\n\nLoad it."


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = tmp_path_factory.mktemp("runs")
    (folder / "mine.json").write_text('[{"instruction": "What is a tapir, and where may it be seen?"}]')
    config = make_config(
        folder,
        evaluation={"benchmarks": {"mine": {"questions": str(folder / "mine.json")}}},
        student={"backbone": str(folder / "secret-place" / "base-1b")},
    )
    return build_run(folder, config=config, backbone="b" * 64)


def front_matter(card: str) -> dict[str, Any]:
    """What stands above the card's text, as a hub reads it."""
    read: dict[str, Any] = yaml.safe_load(card.split("---\n")[1])
    return read


def rows(card: str, heading: str) -> list[list[str]]:
    """The cells of the first table after a heading."""
    table = card.split(f"## {heading}\n", 1)[1]
    lines = re.findall(r"(?:^\|.*\n)+", table, re.M)[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in [lines[0], *lines[2:]]]


@pytest.mark.parametrize(
    ("number", "rounds", "words"),
    [
        (0, {}, "after basic fine-tuning with TAPIR"),
        (1, {"selection": {"type": "hard_share"}}, "after basic fine-tuning and 1 round of curriculum with TAPIR"),
        (
            1,
            {"alpha": 0.0, "selection": {"type": "random", "share": 0.0}},
            "and 1 round in which nothing was judged with TAPIR",
        ),
    ],
)
def test_the_card_names_a_judge_and_a_curriculum_only_where_there_was_one(
    tmp_path: Path, number: int, rounds: dict[str, object], words: str
) -> None:
    config = make_config(tmp_path, rounds={"default": {"examples": 32, **rounds}})
    card = model_card(build_run(tmp_path, config=config, until=StageAt("train", 1)), number, USE)
    assert words in card
    assert (", judged by" in card) is ("curriculum" in words)


def test_the_card_says_what_it_was_taught_what_it_scores_and_what_it_is_made_of(run: RunFolder) -> None:
    card = model_card(run, 2, USE)
    assert (front_matter(card)["library_name"], front_matter(card)["license"]) == ("transformers", "unknown")
    assert "\n# example, S_2\n" in card
    assert "base-1b after basic fine-tuning and 2 rounds of curriculum" in card
    assert re.findall(r"^## (.*)$", card, re.M) == [
        "Use",
        "Training data",
        "Scores",
        "Decontamination",
        "Terms",
        "Limits",
        "How it was made",
    ]
    assert "the stand-in" in card
    made = dict(rows(card, "How it was made"))
    assert made["Backbone, digest"] == "b" * 64
    config = run.config
    rate, epochs, batch = config.learning_rate(2), config.round(2).epochs, config.batch_size(2)
    recipe = f"learning rate {rate:g}, {epochs:g} epochs, batch of {batch}"
    assert made["Training of S_2"] == f"imitate, {recipe}"
    assert "has that teacher's errors" in card.split("## Limits")[1]
    assert made["config.resolved.json, SHA-256"] == run.storage.sha256("config.resolved.json")


def test_hubs_read_every_figure_of_a_whole_split_in_the_front_matter(run: RunFolder) -> None:
    [of_student] = front_matter(model_card(run, 2, USE))["model-index"]
    assert of_student["name"] == "example, S_2"
    told = {each["dataset"]["split"]: each["metrics"][0] for each in of_student["results"]}
    whole = run.rows(StageAt("evaluate", 2)).filter(metric="accuracy", category="all")
    assert {split: each["value"] for split, each in told.items()} == dict(whole.select("split", "value").rows())
    assert {each["type"] for each in told.values()} == {"accuracy"}


def test_the_mixtures_are_those_of_the_rounds_up_to_this_one(run: RunFolder) -> None:
    header, *rounds = rows(model_card(run, 1, USE), "Training data")
    assert header == ["Round", "Examples", "Asked for", "Pool", "Seeds", "Expansion", "Easy", "Refined"]
    assert [row[0] for row in rounds] == ["S_0", "round 1"]
    for row, number in zip(rounds, (0, 1), strict=True):
        mixture = run.rows(StageAt("mix", number))
        assert int(row[1]) == mixture.height
        assert sum(int(cell) for cell in row[3:7] if cell != "–") == mixture.height
    assert "| Task type | Natural | Target | S_0 | round 1 |" in model_card(run, 1, USE)


def test_scores_have_split_interval_and_numbers_and_say_which_split_decides(run: RunFolder) -> None:
    card = model_card(run, 2, USE)
    header, *scores = rows(card, "Scores")
    assert header == ["Benchmark", "Split", "Category", "Metric", "Value", "95 % interval", "n", "Failed"]
    whole = run.rows(StageAt("evaluate", 2)).filter(split="test", category="all").row(0, named=True)
    figure = [f"{whole['value']:.3f}", f"{whole['low']:.3f} to {whole['high']:.3f}", str(whole["n"]), "0"]
    told = ["heldout", "test", "all", "accuracy", *figure]
    assert told in scores[:2]
    assert len(scores) == run.rows(StageAt("evaluate", 2)).height
    assert "figures of test splits are read by no decision" in card


def test_figures_on_benchmarks_have_interval_number_failures_judge_prompt_and_settings(tmp_path: Path) -> None:
    evaluation = {"benchmarks": {"ae": ALPACA}, "each_round": ["ae"], "decontamination": {"max_rouge_l": 1.0}}
    at = StageAt("benchmark_scores", 0, benchmark="ae")
    run = build_run(tmp_path, config=make_config(tmp_path, evaluation=evaluation), until=at)
    card = model_card(run, 0, USE)
    header, *figures = rows(card, "Benchmarks")
    assert header[4:] == ["Value", "Standard error", "95 % interval", "n", "Failed"]
    rate = run.rows(at).row(0, named=True)
    told = [f"{rate['value']:.2f}", f"{rate['stderr']:.2f}", f"{rate['low']:.2f} to {rate['high']:.2f}", "20", "0"]
    assert figures[0] == ["ae", "win rate, %", "all", rate["note"], *told]
    for beside in ("Judged by standin-judge (", "prompt alpaca_eval ", "judge: temperature ", "student: temperature "):
        assert beside in card


def test_a_student_that_was_asked_no_benchmark_of_the_run_is_said_to_have_no_figures(tmp_path: Path) -> None:
    config = make_config(tmp_path, evaluation={"benchmarks": {"ae": ALPACA}, "decontamination": {"max_rouge_l": 1.0}})
    card = model_card(build_run(tmp_path, config=config, until=StageAt("train", 0)), 0, USE)
    assert "This student was asked none of the run's benchmarks (ae)." in card


def test_figures_of_two_judges_stand_in_two_tables(tmp_path: Path) -> None:
    benchmarks = {"ae": ALPACA, "vi": VICUNA}
    evaluation = {"benchmarks": benchmarks, "each_round": [*benchmarks], "decontamination": {"max_rouge_l": 1.0}}
    at = StageAt("benchmark_scores", 0, benchmark="vi")
    run = build_run(tmp_path, config=make_config(tmp_path, evaluation=evaluation), until=at)
    run.write(at, run.rows(at).with_columns(judge=pl.lit("big judge")))
    card = model_card(run, 0, USE)
    shown = card.split("## Benchmarks\n")[1].split("\n## ")[0]
    first, second = shown.split("### Benchmarks of S_0, judged by ")[1:]
    assert first.startswith("standin-judge (")
    assert second.startswith("big judge\n")
    assert ("| ae |" in first, "| vi |" in first, "| ae |" in second) == (True, False, False)


def test_decontamination_is_counted_and_its_absence_is_said(run: RunFolder, tmp_path: Path) -> None:
    table = rows(model_card(run, 0, USE), "Decontamination")
    assert [row[:2] for row in table[1:]] == [["heldout", "120"], ["mine", "1"]]
    config = make_config(tmp_path, data={"pool": {"type": "standin", "rows": 60}})
    card = model_card(build_run(tmp_path, config=config, until=StageAt("train", 0)), 0, USE)
    assert "Nothing was looked for" in card
    assert "This student was not scored." in card


def test_no_place_of_this_machine_is_in_the_card(run: RunFolder) -> None:
    card = model_card(run, 2, USE)
    assert run.ref.root not in card
    assert "secret-place" not in card


@pytest.mark.parametrize(
    ("teacher", "said"),
    [
        ({"terms": "CC BY-NC 4.0"}, "that it learnt from: CC BY-NC 4.0"),
        ({"terms": "\n# <b>mine</b>"}, r"that it learnt from: \# \<b\>mine\</b\>"),
        ({"terms": "  ", "endpoint": {"type": "openai", "model": "big", "identity": "p"}}, "are not stated"),
        ({}, "its teacher was the stand-in"),
        ({"endpoint": {"type": "openai", "model": "big", "identity": "p"}}, r"are not stated (`teacher.terms`)"),
    ],
)
def test_the_teachers_terms_are_those_of_the_configuration_or_missing_in_words(
    tmp_path: Path, teacher: dict[str, object], said: str
) -> None:
    config = make_config(tmp_path, teacher={"endpoint": {"type": "standin"}, **teacher})
    assert said in model_card(build_run(tmp_path, config=config, until=StageAt("train", 0)), 0, USE)


def test_a_hub_id_is_the_base_model_and_the_trainers_summary_gives_the_versions(tmp_path: Path) -> None:
    config = make_config(tmp_path, student={"backbone": "some-org/base", "revision": "abc"})
    run = build_run(tmp_path, config=config, until=StageAt("train", 0))
    summary = {"total_tokens": 2000, "trained_tokens": 900, "precision": "fp32", "versions": {"torch": "2.13.0"}}
    run.storage.write_bytes("round_00/checkpoint/training.json", json.dumps(summary).encode())
    card = model_card(run, 0, USE)
    front = front_matter(card)
    assert front["base_model"] == "some-org/base"
    assert (front["license"], front["license_link"]) == ("other", "https://huggingface.co/some-org/base")
    made = dict(rows(card, "How it was made"))
    assert made["Backbone"] == "some-org/base, revision abc"
    assert made["Tokens of the last fine-tune"] == "2,000, of answers 900"
    assert "torch 2.13.0" in made["Libraries"]
