"""Presets: a configuration over a shipped one, and the chat templates that they name."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import jinja2
import pytest

from tapir_core.config.load import load_config, resolved_json
from tapir_core.config.student import PRESETS, EndpointEngine, StudentConfig
from tapir_core.errors import ConfigError

REST = """
[run]
name = "mine"
[data.pool]
type = "standin"
[teacher.endpoint]
type = "standin"
[judge.endpoint]
type = "standin"
"""
FAMILIES = sorted(each.stem for each in PRESETS.glob("*.toml"))
TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "2 + 3?"},
    {"role": "assistant", "content": "5"},
]


def written(folder: Path, text: str) -> Path:
    file = folder / "mine.toml"
    file.write_text(text + REST)
    return file


@pytest.mark.parametrize("family", FAMILIES)
def test_a_configuration_over_a_preset_has_its_backbone_and_a_template_that_is_there(
    tmp_path: Path, family: str
) -> None:
    config = load_config(written(tmp_path, f'extends = "presets/{family}"\n'))
    assert "/" in config.student.backbone
    assert config.student.template is not None
    assert config.student.template.parent == PRESETS
    assert config.training.max_length <= (config.student.room or 0)


def test_what_the_configuration_says_goes_before_the_preset_and_the_resolved_one_shows_both(tmp_path: Path) -> None:
    own = 'extends = "presets/qwen2.5"\n[student]\nbackbone = "org/other"\n[training]\nbatch_size = 16\n'
    found = json.loads(resolved_json(load_config(written(tmp_path, own), ["rounds.default.learning_rate=3e-5"])))
    assert (found["student"]["backbone"], found["student"]["chat_template"]) == ("org/other", "chatml")
    assert (found["training"]["batch_size"], found["training"]["max_length"]) == (16, 2048)
    assert (found["basic_tuning"]["learning_rate"], found["rounds"]["default"]["learning_rate"]) == (1e-5, 3e-5)
    assert "extends" not in found


def test_adapters_do_not_take_the_presets_rates_for_all_weights(tmp_path: Path) -> None:
    own, lora = 'extends = "presets/qwen2.5"\n', "[training]\nlora = { rank = 8 }\n"
    for config in (
        load_config(written(tmp_path, own + lora)),
        load_config(written(tmp_path, own), ["training.lora={ rank = 8 }"]),
    ):
        assert [config.learning_rate(number) for number in (0, 1)] == [2e-4, 2e-4]
    config = load_config(written(tmp_path, f"{own}{lora}[rounds.default]\nlearning_rate = 5e-5\n"))
    assert [config.learning_rate(number) for number in (0, 1)] == [2e-4, 5e-5]
    (tmp_path / "lab.toml").write_text(f"{lora}[basic_tuning]\nlearning_rate = 3e-4\n")
    config = load_config(written(tmp_path, 'extends = "lab.toml"\n[training.lora]\nrank = 4\n'))
    assert config.learning_rate(0) == 3e-4, "a preset with adapters has rates for them"


def test_an_engine_of_another_type_takes_the_presets_place_whole(tmp_path: Path) -> None:
    own = 'extends = "presets/qwen2.5"\n[student.engine]\ntype = "endpoint"\nbase_url = "http://127.0.0.1:9/v1"\n'
    assert isinstance(load_config(written(tmp_path, own)).student.engine, EndpointEngine)


def test_a_section_that_is_none_is_refused_beside_a_preset_too(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="training: value 5"):
        load_config(written(tmp_path, 'training = 5\nextends = "presets/qwen2.5"\n'))


def test_a_preset_of_ones_own_lies_beside_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "lab.toml").write_text("[training]\nbatch_size = 24\n")
    assert load_config(written(tmp_path, 'extends = "lab.toml"\n')).training.batch_size == 24
    (tmp_path / "lab.toml").write_text('extends = "presets/qwen3"\n')
    with pytest.raises(ConfigError, match="one level"):
        load_config(written(tmp_path, 'extends = "lab.toml"\n'))


@pytest.mark.parametrize("name", ['"presets/gpt-5"', '"nothing.toml"', "3"])
def test_a_preset_that_is_not_there_is_told_with_those_that_are(tmp_path: Path, name: str) -> None:
    with pytest.raises(
        ConfigError, match=r"no such preset; shipped are presets/gemma3, presets/llama2, presets/llama2-chat, "
    ):
        load_config(written(tmp_path, f"extends = {name}\n"))


def test_a_template_is_a_shipped_one_by_its_name_and_else_a_file() -> None:
    assert StudentConfig(chat_template="llama3.2").template == PRESETS / "llama3.2.jinja"
    assert StudentConfig(chat_template="./chatml").template == Path("chatml")
    assert StudentConfig(chat_template="my.jinja").template == Path("my.jinja")
    assert StudentConfig().template is None


def rendered(template: Path, messages: list[dict[str, str]], **fields: Any) -> str:
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)

    def refuse(text: str) -> None:
        raise jinja2.TemplateError(text)

    environment.globals["raise_exception"] = refuse
    tokens = {"bos_token": "<s>", "eos_token": "</s>"}
    return environment.from_string(template.read_text()).render(messages=messages, **tokens | fields)


@pytest.mark.parametrize("template", sorted(PRESETS.glob("*.jinja")), ids=lambda each: each.stem)
def test_an_answer_continues_its_prompt_and_so_does_the_next_turn(template: Path) -> None:
    more = [*TALK, {"role": "user", "content": "And 4?"}, {"role": "assistant", "content": "9"}]
    for turns in (more[:3], more[1:3], more):
        prompt, whole = rendered(template, turns[:-1], add_generation_prompt=True), rendered(template, turns)
        assert whole.startswith(prompt)
        assert turns[-1]["content"] in whole.removeprefix(prompt)
        assert whole.removeprefix(prompt).strip() != turns[-1]["content"], "an end is marked"


@pytest.mark.parametrize(
    ("ours", "theirs", "fields"),
    [
        ("chatml", "qwen2_5", {}),
        ("qwen3", "qwen3", {"enable_thinking": False}),
        ("llama3.2", "llama3_2", {"date_string": "26 Jul 2024"}),
        ("gemma3", "gemma3", {}),
    ],
)
def test_a_prompt_reads_as_the_models_own_template_writes_it(ours: str, theirs: str, fields: dict[str, Any]) -> None:
    trl = importlib.util.find_spec("trl")
    assert trl is not None
    assert trl.origin is not None
    of_model = Path(trl.origin).parent / "chat_templates" / f"{theirs}.jinja"
    prompt = {"add_generation_prompt": True, **fields}
    assert rendered(PRESETS / f"{ours}.jinja", TALK[:2], **prompt) == rendered(of_model, TALK[:2], **prompt)
    more = [*TALK, {"role": "user", "content": "And 4?"}]
    if (
        ours != "qwen3"
    ):  # whose own template leaves thoughts out of earlier turns: there an answer would continue no prompt
        assert rendered(PRESETS / f"{ours}.jinja", more, **prompt) == rendered(of_model, more, **prompt)


def test_gemmas_roles_alternate() -> None:
    with pytest.raises(jinja2.TemplateError, match="alternate"):
        rendered(PRESETS / "gemma3.jinja", [TALK[1], TALK[1]])
