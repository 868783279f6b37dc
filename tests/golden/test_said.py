"""Every recorded configuration is checked, estimated and said in words, so that no kind or field is forgotten there."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from tapir_core.config import RunConfig
from tapir_core.config.checks import check_config
from tapir_core.config.load import load_config
from tapir_core.config.presets import ComparisonConfig
from tapir_core.estimate.evidence import Evidence
from tapir_core.estimate.run import forecast
from tapir_core.estimate.workload import Asks, Pool, Prompts
from tapir_core.reporting.arms_report import conditions_of
from tapir_core.sources import settle_sizes
from tapir_core.text import digest
from tests.estimates import PROMPTS, measured
from tests.golden.variants import VARIANTS, overrides

ROOT = Path(__file__).parents[2]
COMPARISON = ComparisonConfig(name="c", config="keys.toml", run_seeds=(1, 2), primary=("multi_round", "random"))
FILES = {f"prompt:{name}": prompt.version for name, prompt in PROMPTS.items()} | {
    f"file:{name}": digest(name) for name in ("pool", "heldout", "chat_template")
}
BESIDE = ("there is no such file", "there is no such folder", "leaves no room for")
"""What is wrong with variants: their files are not there, and a served model has its default length."""


@pytest.fixture(autouse=True)
def _at_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@cache
def config_of(variant: str) -> RunConfig:
    return settle_sizes(load_config("tests/golden/keys.toml", overrides(variant)))[0]


def evidence_of(config: RunConfig) -> Evidence:
    benchmarks: dict[str, Asks] = {}
    for name in config.evaluation.each_round:
        benchmarks[name] = {"answer": Prompts(20.0, {"answer": 0.0}, 5)}
        if name in config.evaluation.judged:
            benchmarks[name] = {**benchmarks[name], "benchmark": Prompts(20.0, {"answer": 1.0}, 5)}
    return replace(measured(config), benchmarks=benchmarks)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_may_be_run(variant: str) -> None:
    problems = check_config(config_of(variant))
    assert [each for each in problems if "\n" in each or not any(known in each for known in BESIDE)] == []


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_is_estimated(variant: str) -> None:
    config = config_of(variant)
    found = forecast(config, Pool(600, 120), evidence_of(config))
    assert any(each.name == "benchmark_answers" for each in found.stages) == bool(config.evaluation.each_round)
    assert found.assumptions
    assert 0 < found.total.needed.calls.low <= found.total.needed.calls.likely <= found.total.needed.calls.high


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_is_said_in_words(variant: str) -> None:
    config = config_of(variant)
    said = conditions_of(config, FILES, COMPARISON, others={})
    said |= {field: endpoint.in_words("judge") for field, endpoint in config.endpoints.items()}
    said |= {name: each.answering_in_words(config.student.sampling) for name, each in config.evaluation.asked.items()}
    said |= {f"{name}, judged": each.judging_in_words for name, each in config.evaluation.judged.items()}
    assert [what for what, words in said.items() if not words.strip()] == []
