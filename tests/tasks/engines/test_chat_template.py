"""A chat template is proved by rendering a conversation."""

from pathlib import Path

import pytest
from jinja2 import TemplateError

from tapir_core.config.student import PRESETS
from tapir_core.errors import ConfigError
from tasks.engines.backbone import render, render_chat
from tasks.engines.tiny_student import CHAT_TEMPLATE


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """As much of a checkpoint as a conversation needs."""
    # Seconds, which processes that only collect these tests need not spend.
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()), eos_token="<|end|>")
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(tmp_path)
    return tmp_path


def template(folder: Path, text: str) -> Path:
    file = folder / "other.jinja"
    file.write_text(text)
    return file


def test_the_conversation_is_rendered_in_a_child(folder: Path) -> None:
    chat = render_chat(folder, timeout_seconds=120)
    assert chat.text.endswith("<|start|>assistant\n")
    assert "two plus two" in chat.text
    assert chat.takes_system


def test_a_template_that_fails_is_named_with_its_remedy(folder: Path) -> None:
    broken = template(folder, "{{ messages[0].content | no_such_filter }}")
    with pytest.raises(ConfigError, match=r"other\.jinja.*no_such_filter.*; fix it, or set student\.chat_template"):
        render_chat(folder, broken, timeout_seconds=120)


@pytest.mark.parametrize("file", sorted(PRESETS.glob("*.jinja")), ids=lambda file: file.stem)
def test_the_shipped_templates_render(folder: Path, file: Path) -> None:
    assert "two plus two" in str(render(folder, file)["text"])


def test_a_template_that_leaves_words_out_is_no_template(folder: Path) -> None:
    with pytest.raises(ValueError, match="leaves out"):
        render(folder, template(folder, "hello"))


def test_a_template_may_refuse_system_messages(folder: Path) -> None:
    refusing = (
        "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
        "{{ m['content'] }}{% endfor %}"
    )
    assert render(folder, template(folder, refusing))["takes_system"] is False


def test_a_template_that_refuses_everything_fails(folder: Path) -> None:
    with pytest.raises(TemplateError, match="never"):
        render(folder, template(folder, "{{ raise_exception('never') }}"))
