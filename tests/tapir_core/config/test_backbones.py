"""The list of backbones: every problem at once, only a backbone's own settings, and entries that are added as text."""

import json
from pathlib import Path

import pytest

from tapir_core.config import EMBEDDED_STUDENT
from tapir_core.config.load import load_config
from tapir_core.config.presets import BackboneEntry, add_backbone, load_backbones, settings_of
from tapir_core.errors import ConfigError
from tests.tapir_core.config.test_load import SMALLEST

LIST = """\
# What we try this month.
config = "configs/test.toml"   # the curriculum

[[backbones]]
name = "first"    # the one that we know
backbone = "org/first"
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "backbones.toml"
    path.write_text(LIST)
    return path


def problems(path: Path, text: str) -> list[str]:
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_backbones(path)
    assert str(path) in str(caught.value)
    return caught.value.problems


def test_every_problem_is_reported_at_once_with_field_value_and_remedy(path: Path) -> None:
    found = problems(path, '[[backbones]]\nname = "a b"\nbackbone = ""\nprecison = "fp32"\nprecision = "fp8"\n')
    assert len(found) == 5
    for problem, words in zip(
        found,
        (
            ("config: missing", "The curriculum"),
            ("backbones.0.name", '"a b"', "at most 40"),
            ("backbones.0.backbone", "hub id"),
            ("backbones.0.precision", '"fp8"', '"bf16"'),
            ("backbones.0.precison", "did you mean `precision`"),
        ),
        strict=True,
    ):
        assert all(word in problem for word in words), problem


@pytest.mark.parametrize("override", ["run.rounds=2", "judge.orders=[]", "rounds.default.examples=3", "training.x"])
def test_a_backbone_cannot_change_the_curriculum(path: Path, override: str) -> None:
    (found,) = problems(path, f"{LIST}overrides = [{json.dumps(override)}]\n")
    assert override in found
    assert "training.FIELD" in found


@pytest.mark.parametrize(
    "text", [f'{LIST}[[backbones]]\nname = "first"\nbackbone = "x"\n', 'config = "c"\nbackbones = []']
)
def test_each_backbone_has_a_name_of_its_own_and_there_is_one(path: Path, text: str) -> None:
    assert "backbones: value" in problems(path, text)[0]


def test_an_entry_sets_what_is_its_own_and_takes_no_other_models_template(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text(f'{SMALLEST}[student]\nchat_template = "theirs.jinja"\nrevision = "r1"\n')
    entry = BackboneEntry(
        name="a", backbone="org/a", precision="bf16", overrides=("training.batch_size=16", "rounds.2.epochs=1")
    )
    found = load_config(config, settings_of(entry))
    assert (found.student.backbone, found.student.revision, found.student.chat_template) == ("org/a", None, None)
    assert (found.training.precision, found.training.batch_size) == ("bf16", 16)
    assert found.round(2).epochs == 1
    plain = load_config(config, settings_of(BackboneEntry(name="a", backbone="org/a", chat_template="its.jinja")))
    assert plain.student.chat_template == "its.jinja"
    assert plain.training == load_config(config).training


def test_an_added_backbone_is_read_again_and_the_rest_of_the_file_stays_as_it_is(path: Path, tmp_path: Path) -> None:
    template = tmp_path / 'its "own".jinja'
    template.write_text("{{ messages }}")
    entry = {"name": "new-2.5", "backbone": EMBEDDED_STUDENT, "chat_template": str(template), "precision": "fp32"}
    added = add_backbone(path, entry)
    assert added == BackboneEntry(**entry)
    assert load_backbones(path).backbones[1] == added
    assert path.read_text().startswith(LIST)


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"name": "first", "backbone": EMBEDDED_STUDENT}, "first"),
        ({"name": "b", "backbone": "./nowhere"}, "config.json"),
        ({"name": "b", "backbone": EMBEDDED_STUDENT, "precision": "fp8"}, "bf16"),
        ({"name": "b", "backbone": EMBEDDED_STUDENT, "chat_template": "nowhere.jinja"}, "nowhere.jinja"),
    ],
    ids=["taken", "no model", "precision", "no template"],
)
def test_a_wrong_entry_is_refused_and_nothing_is_written(path: Path, entry: dict[str, str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        add_backbone(path, entry)
    assert path.read_text() == LIST


def test_a_list_whose_end_takes_no_entry_says_how_to_write_it(path: Path) -> None:
    path.write_text('config = "c"\nbackbones = [{ name = "a", backbone = "org/a" }]\n')
    with pytest.raises(ConfigError, match=r"\[\[backbones\]\]"):
        add_backbone(path, {"name": "b", "backbone": EMBEDDED_STUDENT})


def test_a_list_that_is_not_there_is_said_not_to_be_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere"):
        add_backbone(tmp_path / "nowhere.toml", {"name": "b", "backbone": EMBEDDED_STUDENT})
