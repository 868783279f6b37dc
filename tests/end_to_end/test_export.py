"""What `tapir export` writes of a trained student, given to transformers and to vLLM alone: asked as it was trained.

The student has a chat template of its own, which its backbone does not have.
"""

import json
import subprocess
from contextlib import closing
from typing import NamedTuple

import openai
import pytest

from tapir_core.config import StudentConfig
from tapir_core.paths import log_file
from tapir_core.stages import StageAt
from tasks.engines.student_server import Student
from tasks.engines.training.data import encode, mark_trained, read_conversations
from tasks.engines.vllm import VllmServer
from tests.harness.processes import REPOSITORY, tapir

ROUND = 1
ASKED = 8


@pytest.fixture(scope="module")
def exported(project, tmp_path_factory):
    """A folder with S_1, and nothing of the run beside it."""
    folder = tmp_path_factory.mktemp("exported") / "mine"
    words = ("export", "first", "--round", str(ROUND), "--root", str(project.root), "--to", str(folder))
    subprocess.run(tapir(*words), cwd=REPOSITORY, check=True, capture_output=True, timeout=120)
    return folder


class Answered(NamedTuple):
    """A question to this student, and what the run's own server made of it: tokens of the prompt, the answer."""

    conversation: list[dict[str, str]]
    prompt_tokens: int
    text: str


@pytest.fixture(scope="module")
def answered(project):
    """The first questions of the held-out set."""
    run = project.folder("first")
    assert run.config.student.sampling.temperature == 0
    answers = run.rows(StageAt("answer_heldout", ROUND))
    rows = run.rows(StageAt("heldout")).join(answers, on="instruction_id", maintain_order="left").head(ASKED)
    return [
        Answered([{"role": "user", "content": text}], prompt_tokens, said)
        for text, prompt_tokens, said in rows.select("instruction", "prompt_tokens", "response").rows()
    ]


def prompt_ids(tokenizer, conversation):
    return tokenizer.apply_chat_template(conversation, add_generation_prompt=True, return_dict=True)["input_ids"]


def test_transformers_asks_an_export_in_the_tokens_it_was_trained_on_and_gets_the_runs_own_answers(
    project, exported, answered, own_template
):
    # Seconds, which processes that only collect this test need not spend.
    from transformers import AutoModelForCausalLM, AutoTokenizer

    run, mixture = project.folder("first"), StageAt("mix", ROUND)
    parts = [project.root / "first" / mixture.folder / part.name for part in run.manifest(mixture).parts]
    conversations = list(read_conversations(parts))
    trainers = AutoTokenizer.from_pretrained(project.student)
    trainers.chat_template = own_template.read_text()
    corpus = encode(trainers, conversations, max_length=run.config.training.max_length)
    # What this test takes for the training's tokens is what the training counted, and showed of its first example.
    training = json.loads((project.root / "first" / StageAt("train", ROUND).folder / "training.json").read_text())
    assert sum(corpus.lengths) == training["total_tokens"]
    log = (project.root / "first" / log_file(f"train-{ROUND:02d}")).read_text()
    assert mark_trained(trainers, corpus.example(0)) in log

    tokenizer = AutoTokenizer.from_pretrained(exported)
    examples = [corpus.example(index) for index in range(len(corpus.lengths))]
    for conversation, example in zip(conversations, examples, strict=True):
        assert prompt_ids(tokenizer, conversation[:-1]) == example.tokens[: example.prompt_length]
        whole = tokenizer.apply_chat_template(conversation, return_dict=True)["input_ids"]
        assert whole[: len(example.tokens)] == example.tokens

    model = AutoModelForCausalLM.from_pretrained(exported, dtype="float32")
    for conversation, prompt_tokens, text in answered:
        prompt = tokenizer.apply_chat_template(
            conversation, add_generation_prompt=True, return_dict=True, return_tensors="pt"
        )
        assert "Be brief." in tokenizer.decode(prompt["input_ids"][0])
        assert prompt["input_ids"].shape[1] == prompt_tokens
        given = model.generate(**prompt, max_new_tokens=run.config.student.sampling.max_tokens, do_sample=False)
        assert tokenizer.decode(given[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True) == text


def test_vllm_asks_an_export_in_the_same_tokens_and_gets_the_runs_own_answers(project, exported, answered, tmp_path):
    from transformers import AutoTokenizer

    student = project.folder("first").config.student
    tokenizer = AutoTokenizer.from_pretrained(exported)
    served = StudentConfig(engine=student.engine)  # its template is the export's own
    with closing(VllmServer(served, tmp_path / "student.log", print)) as students:
        endpoint = students.endpoint(Student(ROUND, exported, ""))
        with openai.OpenAI(base_url=endpoint.base_url, api_key=endpoint.api_key, max_retries=0) as client:
            for conversation, prompt_tokens, text in answered:
                reply = client.chat.completions.create(
                    model="student",
                    messages=conversation,
                    max_tokens=student.sampling.max_tokens,
                    temperature=0,
                    extra_body={"return_token_ids": True},
                )
                assert reply.prompt_token_ids == prompt_ids(tokenizer, conversation)
                assert reply.usage.prompt_tokens == prompt_tokens
                assert reply.choices[0].message.content == text
