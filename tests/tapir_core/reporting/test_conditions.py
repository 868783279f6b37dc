"""The conditions of a comparison's figures: what made them is named, where they were made is not."""

from pathlib import Path

import pytest

from tapir_core.config import RunConfig
from tapir_core.config.presets import ComparisonConfig
from tapir_core.prompts import PROMPT_NAMES, load_prompt
from tapir_core.reporting.arms_report import conditions_lines, conditions_of, conditions_table
from tapir_core.standin import STANDIN_VERSION
from tests.run_config import make_config

FILES = {
    **{f"prompt:{name}": load_prompt(name).version for name in PROMPT_NAMES},
    **{f"file:{name}": letter * 64 for name, letter in (("pool", "a"), ("heldout", "b"), ("chat_template", "c"))},
}
COMPARISON = ComparisonConfig(
    name="c", config="q.toml", run_seeds=(7, 8), primary=("multi_round", "random"), exploratory=("no_mfd",)
)


def found(root: Path, files: dict[str, str] = FILES, **sections: object) -> dict[str, str]:
    return conditions_of(make_config(root, **sections), files, COMPARISON, others={})


def test_student_teacher_judge_prompts_sizes_and_run_seeds_are_named(tmp_path: Path) -> None:
    student = {
        "backbone": "org/model",
        "revision": "r1",
        "engine": {"type": "vllm", "dtype": "float16"},
        "sampling": {"temperature": 0.5, "max_tokens": 64},
    }
    told = found(tmp_path, student=student, training={"precision": "fp32"})
    assert told["Student"] == "org/model, revision r1, chat template cccccccccccc"
    assert told["Answers"] == "temperature 0.5, top_p 1, 64 tokens, by vLLM in float16"
    assert told["Training"].startswith("precision fp32, ")
    assert f"(standin-{STANDIN_VERSION}; rules, no LLM)" in told["Teacher"]
    assert f"standin-judge (standin-{STANDIN_VERSION}-bias" in told["Judge"]
    assert told["Judge"].endswith("; pairwise, teacher first and student first")
    assert told["Run seeds"] == "7, 8 (exploratory arms 7)"
    config = make_config(tmp_path)
    for size in (config.data.pool.rows, config.data.heldout.test, config.basic_tuning.examples):  # type: ignore[union-attr]  # both are the stand-in's here
        assert str(size) in told["Sizes"]


def test_a_model_is_named_with_its_identity_and_files_by_their_digests(tmp_path: Path) -> None:
    model = {"type": "openai", "model": "large-1", "identity": "provider-2026-10"}
    data = {"pool": {"type": "file", "path": str(tmp_path / "pool.json"), "limit": 5000}}
    data["heldout"] = {"type": "file", "path": str(tmp_path / "heldout.json")}
    told = found(tmp_path, teacher={"endpoint": model}, judge={"endpoint": model, "mode": "pointwise"}, data=data)
    assert told["Teacher"] == "large-1 (provider-2026-10)"
    assert told["Judge"] == "large-1 (provider-2026-10); pointwise"
    assert "judge_pointwise" in told["Prompts"]
    assert "pool file aaaaaaaaaaaa, 5,000 instructions of it" in told["Sizes"]
    assert "held-out file bbbbbbbbbbbb" in told["Sizes"]


def test_prompts_of_stages_that_the_runs_do_not_have_are_left_out(tmp_path: Path) -> None:
    told = found(tmp_path)["Prompts"]
    assert f"judge {load_prompt('judge').version}" in told
    assert f"expand {load_prompt('expand').version}" in told
    assert "mt_bench" not in told


@pytest.mark.parametrize(
    ("changed", "same"),
    [
        ({"run": {"root": "elsewhere"}}, True),
        ({"run": {"name": "other"}}, True),
        ({"calls": {"concurrency": 3}}, True),
        ({"run": {"seed": 5}}, False),
        ({"basic_tuning": {"examples": 5}}, False),
        ({"student": {"backbone": "org/other"}}, False),
    ],
    ids=str,
)
def test_the_digest_of_the_settings_changes_with_what_can_change_a_row(
    tmp_path: Path, changed: dict[str, object], *, same: bool
) -> None:
    config = make_config(tmp_path)
    fields = config.model_dump(mode="json")
    for section, values in changed.items():
        fields[section] |= values
    other = conditions_of(RunConfig.model_validate(fields), FILES, COMPARISON, others={})
    assert (other["Settings"] == found(tmp_path)["Settings"]) is same


def test_a_prompt_changes_the_digest_of_the_settings_where_it_is_used(tmp_path: Path) -> None:
    before = found(tmp_path)["Settings"]
    assert found(tmp_path, FILES | {"prompt:mt_bench_single": "edited"})["Settings"] == before
    assert found(tmp_path, FILES | {"prompt:expand": "edited"})["Settings"] != before


def test_conditions_are_a_table_and_three_lines_without_a_path_of_this_machine(tmp_path: Path) -> None:
    backbone = tmp_path / "folder" / "tiny"
    told = found(tmp_path, student={"backbone": str(backbone)})
    lines = conditions_lines(told)
    assert len(lines) == 3
    assert all(f"{name}: {words}." in "\n".join(lines) for name, words in told.items())
    assert dict(conditions_table(told).rows) == told
    assert str(tmp_path) not in "\n".join(lines)
    assert told["Student"].startswith("tiny")
