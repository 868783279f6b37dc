"""Each architecture of the presets goes the whole way: vLLM, full and LoRA training, export, transformers, vLLM again.

Tiny random models with their preset's own chat template learn one short answer to everything. So what answers in the
end shows that training, export and server agree on prompt and end of turn: it says that answer, and stops.
"""

import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import openai
import polars as pl
import pytest
from typer.testing import CliRunner

from flows.cli import app
from tapir_core.config import LoraConfig, RunConfig
from tapir_core.config.load import load_config
from tapir_core.stages import StageAt
from tasks.engines.student_server import Student
from tasks.engines.training.launch import Attempt, TrainingJob, train_student
from tasks.engines.vllm import VllmServer
from tests.harness.processes import REPOSITORY
from tests.presets.models import FAMILIES, Family
from tests.run_builder import build_run
from tests.students import needs_student_env

pytestmark = [pytest.mark.architectures, needs_student_env]

ANSWER = "Yes, that is so."
QUESTIONS = [f"Is {number} less than {number + 1}?" for number in range(16)]
CONFIG = """
extends = "presets/{family.preset}"
[run]
name = "mine"
root = "{folder}/runs"
rounds = 1
[data.pool]
type = "standin"
rows = 60
[student]
backbone = "{folder}/base"
engine = {{ python = "{python}", dtype = "float32", cpu_kv_cache_gib = 1, max_model_length = 512, concurrency = 4 }}
sampling = {{ max_tokens = 16 }}
[teacher.endpoint]
type = "standin"
[judge.endpoint]
type = "standin"
[basic_tuning]
examples = 20
[rounds.default]
examples = 20
[training]
precision = "fp32"
batch_size = 4
micro_batch_size = 4
max_length = 512
"""


@pytest.fixture(params=FAMILIES, ids=lambda each: each.preset)
def family(request: pytest.FixtureRequest) -> Family:
    found: Family = request.param
    return found


@pytest.fixture
def config(family: Family, tmp_path: Path) -> RunConfig:
    file = tmp_path / "mine.toml"
    python = REPOSITORY / ".venv-vllm" / "bin" / "python"
    file.write_text(CONFIG.format(family=family, folder=tmp_path, python=python))
    family.make(tmp_path / "base")
    assert json.loads((tmp_path / "base" / "config.json").read_text())["architectures"] == [family.architecture]
    return load_config(file)


@contextmanager
def served(config: RunConfig, checkpoint: Path, log: Path) -> Iterator[openai.OpenAI]:
    with closing(VllmServer(config.student, log, print)) as students:
        endpoint = students.endpoint(Student(0, checkpoint, ""))
        with openai.OpenAI(base_url=endpoint.base_url, api_key=endpoint.api_key, max_retries=0) as client:
            yield client


def ask(client: openai.OpenAI, question: str) -> Any:
    return client.chat.completions.create(
        model="student",
        messages=[{"role": "user", "content": question}],
        max_tokens=16,
        temperature=0,
        extra_body={"return_token_ids": True},
    )


def job_of(config: RunConfig, folder: Path) -> TrainingJob:
    talks = [
        [{"role": "user", "content": question}, {"role": "assistant", "content": ANSWER}] for question in QUESTIONS
    ]
    pl.DataFrame({"messages": talks}).write_parquet(folder / "part.parquet")
    return TrainingJob(
        base=folder / "base",
        mixture=(folder / "part.parquet",),
        output=folder / "full",
        training=config.training,
        epochs=30,
        learning_rate=5e-3,
        seed=7,
        log_path=folder / "train.log",
        chat_template=config.student.template,
    )


def exported(config: RunConfig, checkpoint: Path, folder: Path) -> Path:
    build_run(folder / "runs", config=config, student=checkpoint, until=StageAt("train", 0))
    words = ["export", "mine", "--round", "0", "--root", str(folder / "runs"), "--to", str(folder / "exported")]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    return folder / "exported"


def answer_in_transformers(checkpoint: Path, question: str) -> tuple[list[int], str, int]:
    """Tokens of the prompt, the answer, the token it ended with."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    model, loaded = AutoModelForCausalLM.from_pretrained(checkpoint, dtype="float32", output_loading_info=True)
    assert not any(loaded.values()), loaded
    chat = [{"role": "user", "content": question}]
    prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=True, return_tensors="pt")
    said = model.generate(**prompt, max_new_tokens=16, do_sample=False)[0, prompt["input_ids"].shape[1] :]
    return prompt["input_ids"][0].tolist(), tokenizer.decode(said, skip_special_tokens=True), int(said[-1])


def test_a_student_of_the_architecture_goes_the_whole_way(family: Family, config: RunConfig, tmp_path: Path) -> None:
    with served(config, tmp_path / "base", tmp_path / "base.log") as client:
        assert ask(client, QUESTIONS[0]).choices[0].message.content != ANSWER

    full = job_of(config, tmp_path)
    learnt = train_student(full)
    assert learnt.final_loss < 0.1 < learnt.loss_curve[0]["loss"]
    lora = config.training.model_copy(update={"lora": LoraConfig(rank=4, alpha=8)})
    base = Attempt(full.output).checkpoint
    adapted = replace(full, base=base, output=tmp_path / "lora", training=lora, epochs=2, learning_rate=1e-4)
    assert train_student(adapted).final_loss < 0.1

    student = exported(config, Attempt(adapted.output).checkpoint, tmp_path)
    prompt, said, last = answer_in_transformers(student, QUESTIONS[0])
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(student)
    assert (said, last) == (ANSWER, tokenizer.convert_tokens_to_ids(family.closing))
    assert prompt.count(tokenizer.bos_token_id) == int("bos_token" in family.tokens)
    own = config.model_copy(update={"student": config.student.model_copy(update={"chat_template": None})})
    with served(own, student, tmp_path / "exported.log") as client:
        reply = ask(client, QUESTIONS[0])
    assert reply.prompt_token_ids == prompt
    assert (reply.choices[0].message.content, reply.choices[0].finish_reason) == (ANSWER, "stop")
