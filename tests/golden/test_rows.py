"""The rows of three small runs are those that were recorded: what a rebuilding must not change.

Flows, tasks, calls and store are the real ones. Teacher, judge and student are servers that follow fixed rules, and the
trainer writes its job down in place of weights.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tapir_core.config.load import load_config
from tapir_core.run_folder import RunFolder
from tests.doubles.batches import BatchRules
from tests.doubles.lm_eval import make_fake_harness
from tests.doubles.provider import FakeProvider
from tests.doubles.standin import StandinServer
from tests.golden import fakes
from tests.golden.adapter import drive, rows_of
from tests.golden.recorded import MANIFESTS, Rows, check_rows, compare_rows, read_rows
from tests.postgres_server import needs_postgres, run_postgres
from tests.s3_server import S3Server
from tests.students import make_checkpoint

pytestmark = pytest.mark.usefixtures("prefect_server")

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _at_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@pytest.fixture
def provider() -> Iterator[FakeProvider]:
    with FakeProvider(fakes.reply) as provider:
        yield provider


def plain_settings(folder: Path, provider: FakeProvider) -> list[str]:
    models = [
        f"{each}.base_url={provider.base_url}" for each in ("student.engine", "teacher.endpoint", "judge.endpoint")
    ]
    return [*common_settings(folder), *models, f"evaluation.benchmarks.sums.python={make_fake_harness(folder)}"]


def common_settings(folder: Path) -> list[str]:
    return [f"run.root={folder / 'runs'}", f"student.backbone={make_checkpoint(folder / 'backbone')}"]


def found_in(run: RunFolder) -> Rows:
    manifests, rows = zip(*((manifest, (folder, rows)) for folder, manifest, rows in rows_of(run)), strict=True)
    return {MANIFESTS: list(manifests), **dict(rows)}


def test_a_plain_run(tmp_path: Path, provider: FakeProvider, monkeypatch: pytest.MonkeyPatch) -> None:
    config = load_config("tests/golden/plain.toml", plain_settings(tmp_path, provider))
    check_rows("plain", found_in(drive(config, monkeypatch)))


def test_a_run_with_a_panel_points_batches_and_own_data(
    tmp_path: Path, provider: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    student = f"student.engine.base_url={provider.base_url}"
    with StandinServer(batches=BatchRules(seconds=0.0)) as batched:
        asked = [f"{role}.endpoint.base_url={batched.base_url}" for role in ("teacher", "judge")]
        config = load_config("tests/golden/panel.toml", [*common_settings(tmp_path), student, *asked])
        run = drive(config, monkeypatch, compared=[2, "other"], benchmarks=["mt", "vicuna"])
    check_rows("panel", found_in(run))


@pytest.mark.operations
@needs_postgres
def test_on_s3_and_postgresql_rows_and_keys_are_those_of_the_plain_run(
    tmp_path: Path, provider: FakeProvider, s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TAPIR_SCRATCH", str(tmp_path / "scratch"))
    with run_postgres() as store:
        elsewhere = ["run.root=s3://runs/all", f"calls.store_url={store}", "run.rounds=1"]
        config = load_config("tests/golden/plain.toml", [*plain_settings(tmp_path, provider), *elsewhere])
        found = found_in(drive(config, monkeypatch))
    compare_rows("plain", found, up_to_round_1(read_rows("plain")))


def up_to_round_1(rows: Rows) -> Rows:
    kept = {dataset: lines for dataset, lines in rows.items() if not dataset.startswith("round_02/")}
    return {**kept, MANIFESTS: [line for line in rows[MANIFESTS] if '"round_02/' not in line]}
