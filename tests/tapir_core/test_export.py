"""An exported student is the checkpoint, whole and verified, or is known to be unfinished; nothing else is touched."""

import json
from pathlib import Path

import pytest

from tapir_core.errors import ConfigError, TapirError
from tapir_core.paths import EXPORT_RECORD, MODEL_CARD
from tapir_core.run_files import copy_run, export_student
from tapir_core.run_folder import RunFolder, RunRef
from tapir_core.stages import StageAt
from tapir_core.storage import Storage
from tests.run_builder import build_run
from tests.s3_server import S3Server


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A run with S_0, whose checkpoint has three files."""
    model = tmp_path / "model"
    model.mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (model / name).write_text(f"the {name}")
    return build_run(tmp_path / "runs", until=StageAt("train", 0), student=model)


def export(run: RunFolder, to: Storage, card: str = "# A card", **more: str) -> list[str]:
    told: list[str] = []
    export_student(run, 0, to, {MODEL_CARD: card, **more}, on_file=told.append)
    return told


def test_the_checkpoints_files_and_the_card_are_there_and_the_record_says_what_they_are(
    run: RunFolder, tmp_path: Path
) -> None:
    to = Storage(tmp_path / "there")
    assert export(run, to) == ["config.json", "model.safetensors", "tokenizer.json"]
    assert set(to.files()) == {"config.json", "model.safetensors", "tokenizer.json", EXPORT_RECORD, MODEL_CARD}
    assert to.read_bytes(MODEL_CARD) == b"# A card"
    assert to.read_bytes("tokenizer.json") == b"the tokenizer.json"
    record = json.loads(to.read_bytes(EXPORT_RECORD))
    assert (record["run"], record["round"], record["complete"]) == ("example", 0, True)
    assert record["checkpoint"] == run.manifest(StageAt("train", 0)).digest
    assert record["files"]["config.json"] == to.sha256("config.json")


def test_an_export_on_another_leaves_nothing_of_that_and_everything_of_the_users(
    run: RunFolder, tmp_path: Path
) -> None:
    to = Storage(tmp_path / "there")
    export(run, to)
    record = json.loads(to.read_bytes(EXPORT_RECORD))
    record["files"]["model-00002.safetensors"] = "0" * 64
    to.write_bytes(EXPORT_RECORD, json.dumps(record).encode())
    for name in ("model-00002.safetensors", "config.json", "my-notes.txt"):
        to.write_bytes(name, b"of the one before")
    export(run, to, "# Another card")
    assert to.read_bytes("config.json") == b"the config.json"
    assert to.read_bytes(MODEL_CARD) == b"# Another card"
    assert to.exists("my-notes.txt")
    assert not to.exists("model-00002.safetensors")


def test_a_file_of_the_users_in_an_export_is_not_replaced_by_one_of_its_name(run: RunFolder, tmp_path: Path) -> None:
    to = Storage(tmp_path / "there")
    export(run, to)
    to.write_bytes("Modelfile", b"my own")
    with pytest.raises(ConfigError, match="there/Modelfile is not of an export"):
        export(run, to, Modelfile="FROM .")
    assert to.read_bytes("Modelfile") == b"my own"
    assert json.loads(to.read_bytes(EXPORT_RECORD))["complete"], "what was there is as it was"


def test_a_modelfile_goes_when_the_next_student_has_none(run: RunFolder, tmp_path: Path) -> None:
    to = Storage(tmp_path / "there")
    export(run, to, Modelfile="FROM .")
    assert to.read_bytes("Modelfile") == b"FROM ."
    export(run, to)
    assert not to.exists("Modelfile")
    to.write_bytes("Modelfile", b"FROM the user")
    export(run, to)
    assert to.read_bytes("Modelfile") == b"FROM the user"


def test_what_is_no_export_is_left_as_it_is(run: RunFolder, tmp_path: Path) -> None:
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters/mother.txt").write_text("dear")
    with pytest.raises(ConfigError, match=r"something else than an export \(mother\.txt, 1 files .*--to"):
        export(run, Storage(tmp_path / "letters"))
    with pytest.raises(ConfigError, match="is a file; name a folder"):
        export(run, Storage(tmp_path / "letters/mother.txt"))
    with pytest.raises(ConfigError, match="something else than an export"):
        export(run, run.storage)
    assert [file.name for file in (tmp_path / "letters").iterdir()] == ["mother.txt"]


def test_a_damaged_checkpoint_leaves_no_whole_export_and_a_mended_one_goes_on(run: RunFolder, tmp_path: Path) -> None:
    to, damaged = Storage(tmp_path / "there"), f"{StageAt('train', 0).folder}/model.safetensors"
    good = run.storage.read_bytes(damaged)
    run.storage.write_bytes(damaged, b"rotten")
    with pytest.raises(TapirError, match=r"model\.safetensors did not arrive"):
        export(run, to)
    assert json.loads(to.read_bytes(EXPORT_RECORD))["complete"] is False
    assert not to.exists("model.safetensors")
    run.storage.write_bytes(damaged, good)
    export(run, to)
    assert json.loads(to.read_bytes(EXPORT_RECORD))["complete"] is True


def test_a_run_on_s3_is_exported_to_a_disk_and_to_s3(run: RunFolder, tmp_path: Path, s3: S3Server) -> None:
    copy_run(run.storage, Storage("s3://runs/all/example"), on_file=lambda *_: None)
    remote = RunFolder(RunRef("s3://runs/all", "example"))
    for to in (Storage(tmp_path / "there"), Storage("s3://runs/exports/mine")):
        export(remote, to)
        assert to.read_bytes("model.safetensors") == b"the model.safetensors"
        assert to.exists(MODEL_CARD)
