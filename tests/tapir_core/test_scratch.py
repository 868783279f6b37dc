"""Checkpoints of a run on S3: uploaded before they are declared whole, compared with their manifest when they come."""

import pytest

from tapir_core.data.dataset import Part
from tapir_core.errors import TapirError
from tapir_core.paths import SCRATCH_VARIABLE, log_file
from tapir_core.run_files import fetch_stage, publish_logs, publish_stage
from tapir_core.run_folder import RunFolder, RunRef
from tapir_core.stages import StageAt
from tapir_core.storage import file_sha256, on_this_machine
from tests.run_builder import build_run
from tests.s3_server import answer

AT = StageAt("train", 0)


@pytest.fixture
def machines(monkeypatch, tmp_path):
    """Makes this process stand on one machine or another."""
    return lambda name: monkeypatch.setenv(SCRATCH_VARIABLE, str(tmp_path / name))


@pytest.fixture
def run(s3, machines):
    """A run on S3 whose checkpoint an engine has just made, on the machine `trainer`."""
    machines("trainer")
    run = build_run("s3://runs/all", until=StageAt("mix", 0))
    for name in ("model.safetensors", "tokenizer.json", "training.json"):
        run.workplace.write_bytes(f"{AT.folder}/{name}", name.encode() * 1000)
    return run


def publish(run):
    publish_stage(run, AT)
    folder = run.workplace.local(AT.folder)
    return run.seal(AT, [Part(name, 0, file_sha256(folder / name)) for name in ("model.safetensors", "tokenizer.json")])


def test_a_checkpoint_travels_whole_from_the_machine_that_made_it_to_another(run, machines):
    made = publish(run)
    assert run.holds(AT) == made
    machines("server")
    folder = fetch_stage(RunFolder(run.ref), AT)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == {
        name: name.encode() * 1000 for name in ("model.safetensors", "tokenizer.json")
    }


def test_it_is_downloaded_once_and_again_only_where_it_changed(s3, run, machines):
    publish(run)
    s3.requests.clear()
    fetch_stage(run, AT)
    assert [each for each in s3.requests if "safetensors" in each] == []
    machines("server")
    there = RunFolder(run.ref)
    folder = fetch_stage(there, AT)
    (folder / "tokenizer.json").write_bytes(b"cut short")
    (folder / "chat_template.jinja").write_text("of a training before")
    s3.requests.clear()
    fetch_stage(there, AT)
    assert [each.rpartition("/")[2] for each in s3.requests if each.startswith("GET")] == [
        "manifest.json",
        "tokenizer.json",
    ]
    assert not (folder / "chat_template.jinja").exists()


def test_a_damaged_checkpoint_is_never_served(run, machines):
    publish(run)
    run.storage.write_bytes(f"{AT.folder}/model.safetensors", b"x" * 17_000)
    machines("server")
    with pytest.raises(TapirError, match=r"model\.safetensors did not arrive .* as its sha256 says.*makes it anew"):
        fetch_stage(RunFolder(run.ref), AT)
    assert not (on_this_machine("s3://runs/all").local(f"{run.ref.name}/{AT.folder}/model.safetensors")).exists()


def test_an_upload_that_breaks_off_leaves_no_checkpoint(s3, run):
    publish(run)
    run.storage.write_bytes(f"{AT.folder}/left-over.json", b"of an earlier training")

    def fail_from_the_second_file(app, environ, start_response):
        if environ["REQUEST_METHOD"] == "PUT" and "tokenizer" in environ["PATH_INFO"]:
            return answer("403 Forbidden", "AccessDenied")(app, environ, start_response)
        s3.faults.append(fail_from_the_second_file)
        return app(environ, start_response)

    s3.faults.append(fail_from_the_second_file)
    with pytest.raises(TapirError, match="AccessDenied"):
        publish_stage(run, AT)
    assert run.holds(AT) is None
    publish(run)
    assert run.holds(AT)
    assert "left-over.json" not in run.storage.names(AT.folder)


def test_logs_stay_on_the_machine_and_are_uploaded(run):
    run.workplace.write_bytes(log_file("student"), b"served")
    publish_logs(run)
    assert run.storage.read_bytes(log_file("student")) == b"served"


def test_a_run_does_not_fail_for_its_logs(s3, run, caplog):
    run.workplace.write_bytes(log_file("student"), b"served")
    s3.faults[:] = [answer("403 Forbidden", "AccessDenied")]
    publish_logs(run)
    assert "logs of run" in caplog.text


def test_a_local_run_is_its_own_workplace_and_nothing_is_copied(tmp_path):
    run = build_run(tmp_path, until=StageAt("mix", 0))
    assert run.workplace.url == run.storage.url
    assert fetch_stage(run, StageAt("mix", 0)) == tmp_path / run.ref.name / StageAt("mix", 0).folder
    before = run.storage.files()
    publish_stage(run, StageAt("mix", 0))
    publish_logs(run)
    assert run.storage.files() == before


def test_two_roots_never_share_a_workplace(tmp_path, monkeypatch):
    monkeypatch.setenv(SCRATCH_VARIABLE, str(tmp_path))
    places = {RunFolder(RunRef(root, "a")).workplace.url for root in ("s3://one/runs", "s3://two/runs", "s3://one")}
    assert len(places) == 3
