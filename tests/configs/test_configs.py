"""Every shipped configuration loads, says what it is, and fits the parts it names."""

import json
import re
from pathlib import Path

import jinja2
import pytest

from tapir_core.comparison.plan import open_comparison
from tapir_core.config.checks import check_config, missing_prerequisites
from tapir_core.config.load import load_config, load_resolved, resolved_json
from tapir_core.config.presets import load_backbones, settings_of
from tapir_core.config.student import PRESETS
from tapir_core.paths import BACKBONES
from tapir_core.prices import missing_prices
from tapir_core.sources import read_pool_of, settle_sizes
from tapir_core.standin.families import FAMILIES, recognise

ROOT = Path(__file__).parents[2]
LIST = ROOT / BACKBONES
COMPARISONS = sorted((ROOT / "configs").glob("compare_*.toml"))
CONFIGS = sorted(path for path in (ROOT / "configs").glob("*.toml") if path not in (LIST, *COMPARISONS))
BROUGHT_BY_THE_USER = ("data.pool.path",)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_shipped_configuration_loads_and_resolves(path: Path) -> None:
    config = load_config(path)
    assert load_resolved(resolved_json(config)) == config
    assert all(config.round(number).alpha is not None for number in config.round_numbers)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_shipped_configuration_lacks_nothing_but_what_the_user_brings(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    problems = check_config(load_config(path))
    assert [problem for problem in problems if not problem.startswith(BROUGHT_BY_THE_USER)] == []


@pytest.mark.parametrize("path", [*CONFIGS, *COMPARISONS, LIST], ids=lambda path: path.stem)
def test_the_header_is_the_manual(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    header = "\n".join(line for line in lines[: next(i for i, line in enumerate(lines) if not line.startswith("#"))])
    for word in ("Does:", "Needs:", "Costs:", "Launch:", "Change:", "Limits:"):
        assert f"# {word}" in header
    assert f"configs/{path.name}" in header
    assert "--set" in header


def test_the_shipped_backbones_fit_their_curriculum(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    listed = load_backbones(LIST)
    (embedded,) = [load_config(listed.config, settings_of(each)) for each in listed.backbones]
    assert check_config(embedded) == []
    assert embedded == load_config(listed.config), "the list begins with the curriculum's own backbone"


@pytest.mark.parametrize("path", COMPARISONS, ids=lambda path: path.stem)
def test_every_arm_of_a_shipped_comparison_fits_the_parts_it_names(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    plan = open_comparison(path)
    assert [problem for each in plan.runs for problem in check_config(plan.config(each))] == []


def test_seven_configurations_are_shipped() -> None:
    assert [path.stem for path in CONFIGS] == [
        "alpaca_llama2",
        "alpaca_qwen1.5",
        "local_endpoints",
        "local_teacher",
        "openai_one_gpu",
        "quickstart",
        "test",
    ]


@pytest.mark.parametrize("name", ["local_teacher", "openai_one_gpu"])
def test_a_configuration_for_own_instructions_is_sized_by_them(name: str, tmp_path: Path) -> None:
    path, file = ROOT / "configs" / f"{name}.toml", tmp_path / "mine.json"
    file.write_text(json.dumps([{"instruction": f"Say {number} in words."} for number in range(3000)]))
    found, said = settle_sizes(load_config(path, [f"data.pool.path={file}"]))
    assert [found.examples(number) for number in (0, 1)] == [635, 2540]
    assert len(said) == 2
    assert found.data.judged is not None


def test_one_gpu_has_adapters_with_a_rate_of_theirs_and_a_cap_that_can_be_held() -> None:
    path = ROOT / "configs" / "openai_one_gpu.toml"
    config = load_config(path)
    assert len(path.read_text().splitlines()) <= 40
    assert config.training.lora is not None
    assert [config.learning_rate(number) for number in (0, 1)] == [2e-4, 2e-4]
    assert config.budget.usd is not None
    assert missing_prices(config) == []
    assert config.judge.identities != (config.teacher.endpoint.answers_as("teacher"),)
    assert "OPENAI_API_KEY" in missing_prerequisites(config, {})[0]


def test_a_local_teacher_needs_no_key_and_has_the_card_in_turn_with_the_student() -> None:
    config = load_config(ROOT / "configs" / "local_teacher.toml")
    assert config.teacher.endpoint.takes_turns
    assert config.judge.endpoint == config.teacher.endpoint
    assert config.student.engine.served_by == "driver"
    assert [line for line in missing_prerequisites(config, {}) if "environment variable" in line] == []


def test_no_configuration_or_page_has_a_model_ask_that_its_provider_ends() -> None:
    """OpenAI's of which the end was announced by November 2026."""
    ended = re.compile(r'model = "(gpt-(3\.5|4|4o|4\.1|5|5\.1)(-[\w-]+)?|o[134](-[\w-]+)?)"')
    pages = [*(ROOT / "configs").glob("*.toml"), *(ROOT / "docs").glob("*.md"), ROOT / "README.md"]
    assert len(pages) > 30
    assert {path.name: found[1] for path in pages if (found := ended.search(path.read_text()))} == {}


def test_the_quickstart_aims_at_exactly_the_task_types_of_the_stand_in() -> None:
    config = load_config(ROOT / "configs" / "quickstart.toml")
    rows = read_pool_of(config.data.pool, config.data, config.run.seed).rows
    found = {problem.task_type for text in rows["instruction"] if (problem := recognise(text))}
    assert config.curriculum.target_shares == "equal"
    assert found == {family.task_type for family in FAMILIES.values()}


def test_no_shipped_configuration_writes_equal_shares_out() -> None:
    written = [load_config(path).curriculum.target_shares for path in CONFIGS]
    assert [
        shares for shares in written if isinstance(shares, dict) and len({*shares.values()}) == 1 < len(shares) > 4
    ] == []


def test_the_test_configuration_aims_at_task_types_of_the_stand_in() -> None:
    shares = load_config(ROOT / "configs" / "test.toml").curriculum.target_shares
    assert set(shares) <= {family.task_type for family in FAMILIES.values()}


@pytest.mark.parametrize("name", ["quickstart", "test", "local_endpoints"])
def test_an_offline_configuration_needs_no_key(name: str) -> None:
    missing = missing_prerequisites(load_config(ROOT / "configs" / f"{name}.toml"), {})
    assert [line for line in missing if "environment variable" in line] == []


def test_the_paper_scale_configuration_has_the_papers_values() -> None:
    config = load_config(ROOT / "configs" / "alpaca_llama2.toml")
    assert [config.round(number).alpha for number in (1, 2, 3)] == [0.3, 0.5, 0.7]
    assert {config.round(number).examples for number in (1, 2, 3)} == {70_000}
    assert (config.basic_tuning.epochs, config.round(1).epochs) == (3.0, 2.0)
    assert (config.training.batch_size, config.training.max_length, config.training.precision) == (128, 2048, "bf16")
    assert (config.teacher.expanding.temperature, config.judge.sampling.temperature) == (1.0, 0.0)


def test_the_shipped_chat_template_continues_a_prompt_with_the_answer_and_the_end_token() -> None:
    source = (PRESETS / "plain.jinja").read_text(encoding="utf-8")
    template = jinja2.Environment(undefined=jinja2.StrictUndefined).from_string(source)
    question = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "2 + 3?"}]
    answer = {"role": "assistant", "content": "5"}
    tokens = {"bos_token": "<s>", "eos_token": "</s>"}
    prompt = template.render(messages=question, add_generation_prompt=True, **tokens)
    whole = template.render(messages=[*question, answer], add_generation_prompt=False, **tokens)
    assert prompt == "<s>### System:\nBe brief.\n\n### User:\n2 + 3?\n\n### Assistant:\n"
    assert whole == f"{prompt}5</s>"
