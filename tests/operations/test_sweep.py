"""A further backbone goes through the same curriculum, and teacher and judge are asked only for what is new."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tapir_core.run_folder import RunFolder
from tapir_core.stages import StageAt
from tests.operations.standing_root import ROOT, RUN_SECONDS, StandingRoot, StandinProcess, wait_until

pytestmark = [pytest.mark.operations, pytest.mark.timeout(4 * RUN_SECONDS)]

ONCE = (StageAt("label"), StageAt("teach"))
"""What belongs to the curriculum and not to a backbone."""


@pytest.fixture
def standin(tmp_path: Path) -> Iterator[StandinProcess]:
    standin = StandinProcess(tmp_path)
    standin.start()
    yield standin
    standin.stop()


@pytest.fixture
def system(tmp_path: Path) -> Iterator[StandingRoot]:
    with StandingRoot(tmp_path) as system:
        yield system


def write_curriculum(folder: Path, standin: StandinProcess) -> Path:
    """The test preset in one round, with teacher and judge outside the run; no backbone is listed yet."""
    text = (ROOT / "configs/test.toml").read_text()
    for role in ("teacher", "judge"):
        section = f'[{role}.endpoint]\ntype = "standin"'
        assert section in text
        text = text.replace(section, f"[{role}]\nendpoint = {standin.endpoint(f'standin-{role}')}")
    (folder / "curriculum.toml").write_text(text.replace("rounds = 2", "rounds = 1"))
    (folder / "backbones.toml").write_text('config = "curriculum.toml"\n')
    return folder / "backbones.toml"


def list_backbone(listed: Path, name: str) -> None:
    listed.write_text(f'{listed.read_text()}\n[[backbones]]\nname = "{name}"\nbackbone = "{name}"\n')


def sweeps(system: StandingRoot) -> list[dict[str, Any]]:
    """Flow runs of the deployment, oldest first."""
    deployment = system.ask("/deployments/name/sweep-backbones/sweep-backbones")
    chosen = {"deployments": {"id": {"any_": [deployment["id"]]}}, "sort": "EXPECTED_START_TIME_ASC"}
    found: list[dict[str, Any]] = system.ask("/flow_runs/filter", chosen)
    return found


def start_sweep(system: StandingRoot) -> None:
    deployment = system.ask("/deployments/name/sweep-backbones/sweep-backbones")
    start = {"parameters": {"backbones": "backbones.toml"}, "state": {"type": "SCHEDULED"}}
    system.ask(f"/deployments/{deployment['id']}/create_flow_run", start)


def wait_for_sweeps(system: StandingRoot, count: int) -> str:
    """Wait until so many sweeps were started and all have ended well; gives the last one's message."""
    over = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")

    def have_ended() -> bool:
        found = sweeps(system)
        return len(found) >= count and all(each["state_type"] in over for each in found)

    wait_until(have_ended, f"{count} sweeps have not ended", RUN_SECONDS)
    found = sweeps(system)
    assert [each["state_type"] for each in found] == ["COMPLETED"] * count, found[-1]["state"]["message"]
    return str(found[-1]["state"]["message"])


def asked_and_stored(run: RunFolder, at: StageAt) -> tuple[float, float]:
    manifest = run.manifest(at)
    assert manifest is not None
    return manifest.counts.get("calls", 0), manifest.counts.get("stored", 0)


def test_further_backbones_repeat_no_label_and_no_teacher_call_and_one_that_is_registered_starts_by_itself(
    system: StandingRoot, standin: StandinProcess
) -> None:
    first, second, third = system.make_students(3)
    listed = write_curriculum(system.folder, standin)

    list_backbone(listed, first)
    start_sweep(system)
    wait_for_sweeps(system, 1)
    rows = system.run("test-tiny-1").rows(StageAt("pool")).height
    assert [asked_and_stored(system.run("test-tiny-1"), at) for at in ONCE] == [(rows, 0), (rows, 0)]
    of_first = standin.answered()

    list_backbone(listed, second)
    start_sweep(system)
    assert "1 finished before" in wait_for_sweeps(system, 2)
    of_second = standin.answered()[len(of_first) :]
    assert 0 < len(of_second) < len(of_first)

    told = system.tapir("backbone", "add", third, third, "--file", "backbones.toml")
    assert "tapir.backbone.registered" in told
    assert "2 finished before" in wait_for_sweeps(system, 3)

    for name in ("test-tiny-2", "test-tiny-3"):
        assert [asked_and_stored(system.run(name), at) for at in ONCE] == [(0, rows), (0, rows)]
        assert system.run(name).holds(StageAt("evaluate", 1)) is not None
    answered = standin.answered()
    assert len(answered) == len(set(answered)), "no request was answered twice, whoever asked"
