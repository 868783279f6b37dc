"""A further backbone goes through the same curriculum, and teacher and judge are asked only for what is new."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tapir_core.run_folder import RunFolder
from tapir_core.stages import StageAt
from tests.harness.flow_run import State
from tests.harness.processes import REPOSITORY
from tests.harness.stand_ins import StandinProcess, endpoints
from tests.harness.standing_root import StandingRoot
from tests.students import make_tiny_students

RUN_SECONDS = 1200
"""For a sweep with real engines on a slow machine."""

pytestmark = [pytest.mark.operations, pytest.mark.timeout(4 * RUN_SECONDS)]

ONCE = (StageAt("label"), StageAt("teach"))
"""What belongs to the curriculum and not to a backbone."""
ENDED = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


@pytest.fixture
def standin(tmp_path: Path) -> Iterator[StandinProcess]:
    with StandinProcess(tmp_path) as standin:
        yield standin


@pytest.fixture
def root(tmp_path: Path) -> Iterator[StandingRoot]:
    with StandingRoot(tmp_path, patience_seconds=RUN_SECONDS) as root:
        root.up()
        yield root


def write_curriculum(folder: Path, standin: StandinProcess) -> Path:
    """The test preset in one round, with teacher and judge outside the run; no backbone is listed yet.

    Students answer at random: at temperature 0 two that have learned nothing can give the same answers throughout, a
    line's end again and again, and then there is nothing new to ask of one.
    """
    text = (REPOSITORY / "configs/test.toml").read_text()
    assert "max_tokens = 16\n" in text
    text = text.replace("max_tokens = 16\n", "max_tokens = 16\ntemperature = 1.0\n")
    for field, outside in endpoints(standin.base_url).items():
        section = f'[{field}]\ntype = "standin"'
        assert section in text
        text = text.replace(section, f"[{field.partition('.')[0]}]\nendpoint = {outside}")
    (folder / "curriculum.toml").write_text(text.replace("rounds = 2", "rounds = 1"))
    (folder / "backbones.toml").write_text('config = "curriculum.toml"\n')
    return folder / "backbones.toml"


def list_backbone(listed: Path, name: str) -> None:
    listed.write_text(f'{listed.read_text()}\n[[backbones]]\nname = "{name}"\nbackbone = "{name}"\n')


def wait_for_sweeps(root: StandingRoot, count: int) -> str:
    """Wait until so many sweeps were started, and all have ended well; gives the last one's message."""

    def ended() -> list[State]:
        states = [each.state() for each in root.flow_runs("sweep-backbones")]
        over = len(states) >= count and all(each.type in ENDED for each in states)
        return states if over else []

    states = root.wait_until(ended, f"{count} sweeps have not ended", every=1)
    assert [each.type for each in states] == ["COMPLETED"] * count, states[-1].message
    return states[-1].message


def asked_and_stored(run: RunFolder, at: StageAt) -> tuple[float, float]:
    manifest = run.manifest(at)
    assert manifest is not None
    return manifest.counts.get("calls", 0), manifest.counts.get("stored", 0)


def test_further_backbones_repeat_no_label_and_no_teacher_call_and_one_that_is_registered_starts_by_itself(
    root: StandingRoot, standin: StandinProcess
) -> None:
    first, second, third = [each.name for each in make_tiny_students(root.folder, 3)]
    listed = write_curriculum(root.folder, standin)

    list_backbone(listed, first)
    root.start("sweep-backbones", backbones="backbones.toml")
    wait_for_sweeps(root, 1)
    rows = root.run("test-tiny-1").rows(StageAt("pool")).height
    assert [asked_and_stored(root.run("test-tiny-1"), at) for at in ONCE] == [(rows, 0), (rows, 0)]
    of_first = standin.log.answered()

    list_backbone(listed, second)
    root.start("sweep-backbones", backbones="backbones.toml")
    assert "1 finished before" in wait_for_sweeps(root, 2)
    of_second = standin.log.answered()[len(of_first) :]
    assert 0 < len(of_second) < len(of_first)

    told = root.tapir("backbone", "add", third, third, "--file", "backbones.toml")
    assert "tapir.backbone.registered" in told
    assert "2 finished before" in wait_for_sweeps(root, 3)

    for name in ("test-tiny-2", "test-tiny-3"):
        assert [asked_and_stored(root.run(name), at) for at in ONCE] == [(0, rows), (0, rows)]
        assert root.run(name).holds(StageAt("evaluate", 1)) is not None
    answered = standin.log.answered()
    assert len(answered) == len(set(answered)), "no request was answered twice, whoever asked"
