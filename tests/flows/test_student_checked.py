"""A run whose student cannot be trained as it is asked is refused before its teacher is asked for anything."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.distill import distill
from flows.driver import hold_run
from tapir_core.errors import ConfigError
from tests.doubles.provider import FakeProvider, Text
from tests.run_config import make_config
from tests.students import make_tokenized

pytestmark = pytest.mark.usefixtures("prefect_server")

TURN = "<|start|>{{ m.role }}\n{{ m.content }}<|end|>\n"
ASKING = "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
LOOP = "{% for m in messages %}" + TURN + "{% endfor %}"
WITHOUT_SYSTEM = LOOP.replace("messages", "messages if m.role != 'system'")
BRIEF, PLAIN = "Be brief.", ""


@pytest.fixture
def provider() -> Iterator[FakeProvider]:
    with FakeProvider(lambda call: Text("Nothing of use.")) as provider:
        yield provider


def drive(root: Path, provider: FakeProvider, template: str, *tokens: str, system: str) -> None:
    """Drive a run on answers of no use, until it is refused."""
    (root / "chat.jinja").write_text(template)
    rows = [{"instruction": f"Describe river {number}.", "system": system} for number in range(4)]
    (root / "pool.json").write_text(json.dumps(rows))
    endpoint = {"type": "openai", "base_url": provider.base_url, "api_key_env": "", "model": "m", "identity": "m"}
    student = {"backbone": str(make_tokenized(root / "backbone", *tokens)), "chat_template": str(root / "chat.jinja")}
    config = make_config(
        root,
        data={"pool": {"type": "file", "path": str(root / "pool.json")}, "heldout": None},
        student={**student, "engine": {"type": "endpoint", "base_url": provider.base_url}},
        teacher={"endpoint": endpoint},
        judge={"endpoint": endpoint},
    )
    with hold_run(config, say=lambda _: None) as run:
        distill(run.ref, "train@0")


def of_rows(provider: FakeProvider) -> list[str]:
    """The prompts about the pool; others found out what the endpoint takes."""
    return [call.prompt for call in provider.calls if "river" in call.prompt]


@pytest.mark.parametrize(
    ("template", "tokens", "message"),
    [
        ("<|new|>" + LOOP + ASKING, ["<|new|>"], "has 513 tokens, the model 512 embeddings"),
        (LOOP + ASKING.replace("assistant", "bot"), [], "otherwise than the prompt that the student is asked"),
        (WITHOUT_SYSTEM + ASKING, [], "4 of 4 instructions have a system text.*; set student.chat_template to"),
    ],
    ids=["tokenizer", "template", "system texts"],
)
def test_nothing_is_asked_for_a_student_that_cannot_be_trained(
    tmp_path: Path, provider: FakeProvider, template: str, tokens: list[str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        drive(tmp_path, provider, template, *tokens, system=BRIEF)
    assert of_rows(provider) == []


def test_a_template_that_takes_no_system_text_is_as_good_as_another_where_there_is_none(
    tmp_path: Path, provider: FakeProvider
) -> None:
    with pytest.raises(ConfigError, match="4 no_task_type"):
        drive(tmp_path, provider, WITHOUT_SYSTEM + ASKING, system=PLAIN)
    assert of_rows(provider)
