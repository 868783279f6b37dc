"""A newcomer's way on a laptop: `tapir init`, `doctor`, `estimate`, run. On small models in place of the engines."""

import json
import re
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from flows.cli import app
from flows.distill import distill
from flows.driver import read_config
from flows.whole_run import drive
from tapir_core.run_folder import RunFolder, RunRef
from tapir_core.stages import StageAt
from tests.doubles.provider import FakeProvider
from tests.flows.built_comparison import BuiltRuns
from tests.golden import fakes
from tests.harness.processes import overrides
from tests.students import make_checkpoint

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_server")]


@pytest.fixture
def provider() -> Iterator[FakeProvider]:
    with FakeProvider(fakes.reply) as provider:
        yield provider


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """What `tapir init` writes where every question is answered by return."""
    done = CliRunner().invoke(app, ["init", str(tmp_path / "laptop.toml")], input="\n\n\n")
    assert done.exit_code == 0, done.output
    return tmp_path / "laptop.toml"


def tapir(*words: str) -> Result:
    return CliRunner().invoke(app, [*words])


def test_the_file_of_init_is_well_is_estimated_and_runs_with_the_sizes_that_were_said(
    tmp_path: Path, file: Path, provider: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    fakes.replace_trainer(monkeypatch, fakes.train_counted)
    engine = f'{{ type = "endpoint", base_url = "{provider.base_url}" }}'
    settings = {"run.root": str(tmp_path / "runs"), "data.pool.rows": "160", "student.engine": engine}
    doctor = tapir("doctor", str(file), "--json", *overrides(settings))
    assert doctor.exit_code == 0, doctor.output
    estimate = tapir("estimate", str(file), *overrides(settings))
    assert estimate.exit_code == 0, estimate.output

    settings |= {"student.backbone": str(make_checkpoint(tmp_path / "backbone"))}
    told: list[str] = []
    given = [f"{field}={value}" for field, value in settings.items()]
    config = read_config(file, given, say=told.append)
    with BuiltRuns().counting():
        drive(config, lambda run, until: distill(run.ref, until), say=told.append)

    sizes = [config.examples(number) for number in (0, 1)]
    assert [*map(int, re.findall(r"examples = auto: (\d+)", "\n".join(told)))] == sizes
    for line in told[:2]:
        assert line in doctor.output
        assert line in estimate.output
    run = RunFolder(RunRef(str(tmp_path / "runs"), "laptop"))
    kept = json.loads(run.storage.read_bytes("config.resolved.json"))
    assert [kept["basic_tuning"]["examples"], *(kept["rounds"][each]["examples"] for each in "1")] == sizes
    assert run.rows(StageAt("mix", 0)).height == sizes[0]
    assert run.storage.exists("report.html")

    asked = len(provider.calls)
    drive(read_config(file, given), lambda *_: pytest.fail("nothing is left to do"), say=told.append)
    assert "nothing left to do" in told[-1]
    assert len(provider.calls) == asked


def test_the_same_file_with_a_student_for_gpus_is_refused_with_the_remedy(tmp_path: Path, file: Path) -> None:
    text = file.read_text().replace("presets/smollm2", "presets/qwen2.5")
    backbone = huge_checkpoint(tmp_path / "huge")
    file.write_text(re.sub(r"student\.backbone = .*", f'student.backbone = "{backbone}"', text))
    doctor = tapir("doctor", str(file), "--json", "--set", f"run.root={tmp_path / 'runs'}")
    assert doctor.exit_code == 1
    [training] = [each for each in json.loads(doctor.output)["findings"] if each["part"] == "training"]
    assert training["level"] == "fault"
    assert "GiB a process and" in training["found"]
    assert "take a smaller student.backbone" in training["remedy"]
    estimate = tapir("estimate", str(file), "--set", f"run.root={tmp_path / 'runs'}")
    assert "Training memory: the training needs about" in estimate.output


def huge_checkpoint(folder: Path) -> Path:
    """Of more weights than any machine of tests holds; the file has their names and sizes, and takes no room."""
    make_checkpoint(folder)
    shape = [72_000, 1_000_000]
    size = 2 * shape[0] * shape[1]
    header = json.dumps(
        {"model.layers.0.weight": {"dtype": "BF16", "shape": shape, "data_offsets": [0, size]}}
    ).encode()
    with (folder / "model.safetensors").open("wb") as weights:
        weights.write(struct.pack("<Q", len(header)) + header)
        weights.truncate(8 + len(header) + size)
    config = json.loads((folder / "config.json").read_text())
    shapes = {"num_hidden_layers": 80, "hidden_size": 8192, "vocab_size": 152064}
    (folder / "config.json").write_text(json.dumps(config | shapes))
    return folder
