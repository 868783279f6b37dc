"""`tapir export`: which student goes where, and that transformers loads it with its chat template.

Of a trained student, and with vLLM: `tests/end_to_end/test_export.py`.
"""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli import app
from tapir_core.config.student import PRESETS
from tapir_core.errors import ConfigError
from tapir_core.run_folder import RunFolder
from tapir_core.stages import StageAt
from tapir_core.summary import summarise
from tasks.engines.tiny_student import tiny_student
from tests.run_builder import build_run
from tests.run_config import make_config

CHAT = [{"role": "user", "content": "Name three rivers."}]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = tmp_path_factory.mktemp("ground")
    return build_run(folder / "runs", student=tiny_student(folder / "tiny"))


def export(run: RunFolder, *options: str) -> str:
    result = CliRunner().invoke(app, ["export", run.ref.name, "--root", run.ref.root, *options])
    if result.exception is not None:
        raise result.exception
    return " ".join(result.output.split())


def test_the_best_student_loads_in_transformers_and_is_asked_by_its_chat_template(
    run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Seconds, which processes that only collect this test need not spend.
    from transformers import AutoModelForCausalLM, AutoTokenizer

    monkeypatch.chdir(tmp_path)
    best = summarise(run).best
    folder = tmp_path / "exports" / f"example-S_{best}"
    assert f"S_{best} of run example is in exports/example-S_{best}" in export(run)
    assert f"# example, S_{best}\n" in (folder / "README.md").read_text()
    assert "AutoModelForCausalLM.from_pretrained" in (folder / "README.md").read_text()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="float32")  # torch in bf16 dies where AMX is broken
    asked = tokenizer.apply_chat_template(CHAT, tokenize=False, add_generation_prompt=True)
    assert asked == "<|start|>user\nName three rivers.<|end|>\n<|start|>assistant\n"
    prompt = tokenizer(asked, return_tensors="pt", add_special_tokens=False)
    answer = model.generate(**prompt, max_new_tokens=4, do_sample=False, pad_token_id=tokenizer.pad_token_id)
    assert answer.shape[1] > prompt["input_ids"].shape[1]


def test_a_round_is_exported_by_its_number_to_a_folder_by_name(run: RunFolder, tmp_path: Path) -> None:
    assert "S_1 of run example is in" in export(run, "--round", "1", "--to", str(tmp_path / "mine"))
    assert "# example, S_1\n" in (tmp_path / "mine" / "README.md").read_text()


def test_a_student_of_a_known_family_has_a_modelfile_and_another_is_told_why_not(
    run: RunFolder, tmp_path: Path
) -> None:
    said = export(run, "--round", "1", "--to", str(tmp_path / "mine"))
    assert "Modelfile for Ollama: none, for its chat template is not `llama3.2`" in said
    assert not (tmp_path / "mine/Modelfile").exists()
    model = tmp_path / "qwen"
    model.mkdir()
    (model / "config.json").write_text('{"architectures": ["Qwen2ForCausalLM"]}')
    (model / "tokenizer.json").write_text('{"added_tokens": [{"id": 1, "content": "<|im_end|>"}]}')
    (model / "generation_config.json").write_text('{"eos_token_id": 1}')
    (model / "chat_template.jinja").write_text((PRESETS / "chatml.jinja").read_text())
    qwen = build_run(tmp_path / "runs", until=StageAt("train", 0), student=model)
    assert "Modelfile for Ollama: never run with it" in export(qwen, "--round", "0", "--to", str(tmp_path / "mine"))
    assert 'PARAMETER stop "<|im_end|>"' in (tmp_path / "mine/Modelfile").read_text()


@pytest.mark.parametrize("parser", ["", "hermes"])
def test_the_card_of_a_student_that_calls_tools_says_how_its_calls_are_parsed(tmp_path: Path, parser: str) -> None:
    config = make_config(tmp_path / "runs", student={"engine": {"type": "vllm", "tool_parser": parser}})
    export(build_run(tmp_path / "runs", config=config, until=StageAt("train", 0)), "--round=0", f"--to={tmp_path}/mine")
    [served] = [each for each in (tmp_path / "mine/README.md").read_text().splitlines() if "vllm serve" in each]
    options = " --enable-auto-tool-choice --tool-call-parser hermes" if parser else ""
    assert served.endswith(f"`vllm serve FOLDER{options}`.")


@pytest.mark.parametrize("which", ["3", "backbone", "all"])
def test_a_student_that_was_not_trained_is_refused_with_those_that_were(
    run: RunFolder, tmp_path: Path, which: str
) -> None:
    with pytest.raises(ConfigError, match=rf"--round {which}: .* no such student; it has 0, 1, 2;"):
        export(run, "--round", which, "--to", str(tmp_path / "mine"))
    assert not (tmp_path / "mine").exists()


def test_without_a_dev_split_none_is_best_and_a_round_can_still_be_named(tmp_path: Path) -> None:
    config = make_config(tmp_path / "runs", data={"pool": {"type": "standin", "rows": 60}})
    run = build_run(tmp_path / "runs", config=config, until=StageAt("train", 0))
    with pytest.raises(ConfigError, match=r"--round best: .* it takes a dev split, .*; it has 0;"):
        export(run)
    assert "S_0 of run example is in" in export(run, "--round", "0", "--to", str(tmp_path / "mine"))
