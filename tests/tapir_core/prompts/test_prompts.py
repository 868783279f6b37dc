from pathlib import Path

import jinja2
import pytest

from tapir_core.errors import ConfigError
from tapir_core.prompts import PROMPT_NAMES, load_prompt

SECTIONS = {
    "alpaca_eval": {"instruction": "ASK", "output_1": "ONE", "output_2": "TWO"},
    "expand": {"seed": "SEED", "task_type": "Math"},
    "judge": {"instruction": "ASK", "system": "", "answer_1": "ONE", "answer_2": "TWO", "reference": ""},
    "judge_pointwise": {"instruction": "ASK", "system": "", "answer": "ONE", "reference": ""},
    "label": {"instruction": "ASK", "task_types": "Math\nLaw"},
    "discover": {"instructions": "- ASK"},
    "mt_bench_single": {
        "question": "ASK",
        "answer": "ONE",
        "reference": "RIGHT",
        "follow_up": "MORE",
        "follow_up_answer": "TWO",
        "follow_up_reference": "SO",
    },
    "refine_code": {"instruction": "ASK", "system": "", "answer": "ONE"},
    "refine_prose": {"instruction": "ASK", "system": "", "answer": "ONE"},
    "refine_steps": {"instruction": "ASK", "system": "", "answer": "ONE"},
    "vicuna": {"kind": "", "question": "ASK", "response_1": "ONE", "response_2": "TWO"},
}


@pytest.mark.parametrize("name", PROMPT_NAMES)
def test_every_shipped_prompt_loads_and_shows_all_its_sections(name: str) -> None:
    prompt = load_prompt(name)
    assert name in SECTIONS, "add its sections, each with a text of its own, to SECTIONS above"
    message = prompt.render(**SECTIONS[name])
    assert len(prompt.version) == 12
    assert all(text in message for text in SECTIONS[name].values())
    assert "{{" not in message


def test_section_tags_stand_on_lines_of_their_own() -> None:
    message = load_prompt("judge").render(**SECTIONS["judge"] | {"reference": "REF", "system": "SYS"})
    for section, text in {"system": "SYS", "answer_1": "ONE", "answer_2": "TWO", "reference": "REF"}.items():
        assert f"\n<{section}>\n{text}\n</{section}>\n" in message


def test_an_optional_section_without_text_is_not_shown() -> None:
    message = load_prompt("judge").render(**SECTIONS["judge"])
    assert "<reference>" not in message
    assert "<system>" not in message


def test_each_family_names_its_style() -> None:
    for family in ("steps", "code", "prose"):
        assert f"<style>{family}</style>" in load_prompt(f"refine_{family}").render(**SECTIONS[f"refine_{family}"])


def test_jinja_in_a_section_is_text_and_not_a_template() -> None:
    assert "{{ 7 * 7 }}" in load_prompt("expand").render(seed="{{ 7 * 7 }}", task_type="Math")


def test_a_section_that_is_not_given_is_an_error() -> None:
    with pytest.raises(jinja2.UndefinedError, match="task_type"):
        load_prompt("expand").render(seed="x")


def test_a_folder_replaces_the_prompt_of_the_same_name_and_no_other(tmp_path: Path) -> None:
    (tmp_path / "expand.jinja2").write_text("{{ seed }} / {{ task_type }}")
    own, shipped = load_prompt("expand", str(tmp_path)), load_prompt("expand")
    assert own.render(seed="a", task_type="b") == "a / b"
    assert own.version != shipped.version
    assert load_prompt("label", str(tmp_path)) == load_prompt("label")


def test_the_version_follows_the_bytes_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "expand.jinja2").write_text("{{ seed }}{{ task_type }}")
    first = load_prompt("expand", str(tmp_path)).version
    assert load_prompt("expand", str(tmp_path)).version == first
    (tmp_path / "expand.jinja2").write_text("{{ seed }}{{ task_type }} ")
    assert load_prompt("expand", str(tmp_path)).version != first


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{{ seed }", "line 1"),
        (b"{{ seed }}{{ task_type | no_such_filter }}", "no_such_filter"),
        (b"{{ seed }}{{ task_typ }}", "task_typ, which is no section"),
        (b"{{ seed }}", "lacks {{ task_type }}"),
        (b"{{ seed }}{{ task_type }}\xff", "not UTF-8"),
        (b"{{ seed }}{{ task_type }}{% include 'other' %}", "cannot be filled in"),
    ],
)
def test_a_broken_prompt_is_refused_with_its_file(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "expand.jinja2").write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load_prompt("expand", str(tmp_path))
    assert message in str(caught.value)
    assert "expand.jinja2" in str(caught.value)


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no such folder"):
        load_prompt("expand", str(tmp_path / "absent"))


def test_a_misspelt_prompt_file_is_refused_rather_than_ignored(tmp_path: Path) -> None:
    (tmp_path / "jugde.jinja2").write_text("…")
    with pytest.raises(ConfigError, match=r"jugde\.jinja2"):
        load_prompt("judge", str(tmp_path))


def test_a_folder_in_the_place_of_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "judge.jinja2").mkdir()
    with pytest.raises(ConfigError, match="cannot be read"):
        load_prompt("judge", str(tmp_path))


def test_an_unknown_name_is_our_own_bug() -> None:
    with pytest.raises(KeyError, match="nothing"):
        load_prompt("nothing")
