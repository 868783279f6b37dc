"""A teacher that is to score what a student samples: each check passes a pair that fits and fails one that does not."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tapir_core.errors import ConfigError
from tasks.engines.tiny_student import CHAT_TEMPLATE
from tasks.engines.training.launch import check_pair
from tasks.engines.training.pair import TEXTS, Compared, compare_pair
from tests.students import make_tokenized

Change = Callable[[Path], object]


def compared(tmp_path: Path, change: Change = lambda _: None, *, chat_template: Path | None = None) -> list[Compared]:
    teacher, student = make_tokenized(tmp_path / "teacher"), make_tokenized(tmp_path / "student")
    change(student)
    return list(compare_pair(teacher, student, chat_template))


def write(name: str, **values: object) -> Change:
    return lambda folder: (folder / name).write_text(json.dumps(values))


def other_merges(folder: Path) -> None:
    """The last merge is gone: what it joined is two tokens."""
    file = folder / "tokenizer.json"
    tokenizer = json.loads(file.read_text())
    tokenizer["model"]["merges"] = tokenizer["model"]["merges"][: len(tokenizer["model"]["merges"]) // 2]
    file.write_text(json.dumps(tokenizer))


def template(text: str) -> Change:
    return lambda folder: (folder / "chat_template.jinja").write_text(text)


THINKS = (
    CHAT_TEMPLATE
    + "{% if add_generation_prompt and enable_thinking is defined and enable_thinking %}<think>{% endif %}"
)
ENDS_OTHERWISE = CHAT_TEMPLATE.replace("<|end|>", "<|pad|>")


def test_a_pair_that_fits_has_no_fault(tmp_path: Path) -> None:
    found = compared(tmp_path)
    assert [each.remedy for each in found] == [""] * len(found)
    assert len({*TEXTS}) == 200


@pytest.mark.parametrize(
    ("part", "change", "said"),
    [
        ("tokens", other_merges, r"for the teacher and \[.*for the student"),
        ("special tokens", lambda folder: make_tokenized(folder, "<tool>"), "'<tool>' is no token for the teacher"),
        ("chat template", template(CHAT_TEMPLATE.replace("<|start|>", "<|pad|>")), "the student …"),
        ("end of an answer", template(ENDS_OTHERWISE), r"'<\|end\|>' for the teacher, '<\|pad\|>' for the student"),
        ("end of an answer", write("generation_config.json", eos_token_id=[0]), r"stops at \[0\]"),
        ("thinking", template(THINKS), "the teacher has no thinking mode, the student thinks only if asked to"),
        ("memory", lambda folder: sparse(folder.parent / "teacher"), "GiB of the teacher's weights"),
    ],
)
def test_each_difference_is_named_with_its_remedy(tmp_path: Path, part: str, change: Change, said: str) -> None:
    [fault, *_] = [each for each in compared(tmp_path, change) if each.part == part]
    assert re.search(said, fault.found), fault.found
    assert fault.remedy


def sparse(folder: Path) -> None:
    """Weights of four TiB that take no room."""
    with (folder / "model.safetensors").open("wb") as file:
        file.truncate(4 * 2**40)


REFUSES = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + CHAT_TEMPLATE


def test_a_template_that_refuses_a_system_text_is_a_difference_only_where_the_other_takes_it(tmp_path: Path) -> None:
    refuses = template(REFUSES)
    [alone] = [each for each in compared(tmp_path / "one", refuses) if each.part == "chat template"]
    assert "no system role" in alone.found
    given = tmp_path / "both.jinja"
    given.write_text(REFUSES)
    found = compared(tmp_path / "two", chat_template=given)
    assert [each.part for each in found if each.remedy] == []


def test_padded_embeddings_are_said_and_no_fault(tmp_path: Path) -> None:
    [found] = [each for each in compared(tmp_path, write("config.json", vocab_size=640)) if each.part == "embeddings"]
    assert (found.remedy, found.found) == ("", "512 and 640: padding, which is fine for stored ids")


def test_one_template_given_for_both_takes_the_place_of_their_own(tmp_path: Path) -> None:
    given = tmp_path / "one.jinja"
    given.write_text(CHAT_TEMPLATE)
    assert [
        each.part for each in compared(tmp_path, template(ENDS_OTHERWISE), chat_template=given) if each.remedy
    ] == []


def test_a_run_refuses_a_pair_with_every_difference_and_its_remedy(tmp_path: Path) -> None:
    teacher, student = make_tokenized(tmp_path / "teacher"), make_tokenized(tmp_path / "student")
    check_pair(teacher, student)
    other_merges(student)
    template("<|start|>system\nBe brief.<|end|>\n" + CHAT_TEMPLATE)(student)
    with pytest.raises(ConfigError, match=r"teacher .* cannot score .* student .* tokens: .*family.*chat template: .*"):
        check_pair(teacher, student)
