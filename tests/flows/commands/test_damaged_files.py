"""A file of a run that is cut short, emptied or changed by a byte: it is named, and the next start makes it anew."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli import app
from flows.driver import hold_run
from tapir_core.errors import TapirError
from tapir_core.run_files import fetch_stage
from tapir_core.run_folder import RunFolder, RunRef
from tapir_core.stages import StageAt
from tasks.input_files import gather_ingredients
from tests.run_builder import build_run
from tests.run_config import make_config
from tests.students import make_checkpoint

LABEL, JUDGE, TRAIN = StageAt("label"), StageAt("judge", 1), StageAt("train", 0)

DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "halved": lambda content: content[: len(content) // 2],
    "emptied": lambda _: b"",
    "one byte changed": lambda content: bytes([*content[:9], content[9] ^ 0xFF, *content[10:]]),
    "another kind of content": lambda _: b"[1]",
}
damaged = pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of a run that has judged its first round."""
    root = tmp_path_factory.mktemp("runs")
    config = make_config(root, student={"backbone": str(make_checkpoint(root / "backbone"))})
    build_run(root, until=StageAt("evaluate", 1), config=config, **gather_ingredients(config))
    return root


@pytest.fixture
def run(made: Path, tmp_path: Path) -> RunFolder:
    """A copy of that run."""
    shutil.copytree(made, tmp_path / "runs")
    [name] = [each.parent.name for each in made.glob("*/run.json")]
    return RunFolder(RunRef(str(tmp_path / "runs"), name))


def part_of(run: RunFolder, at: StageAt) -> str:
    return f"{at.folder}/{run.sealed(at).parts[0].name}"


def break_file(run: RunFolder, path: str, damage: Callable[[bytes], bytes]) -> None:
    run.storage.write_bytes(path, damage(run.storage.read_bytes(path)))


def commands_of(run: RunFolder) -> dict[str, str]:
    """Command → what it says at its end, which is no traceback."""
    said = {}
    for words in (["status"], ["report"], ["export", "--round", "0", "--to", f"{run.ref.root}/out"]):
        done = CliRunner().invoke(app, [words[0], run.ref.name, "--root", run.ref.root, *words[1:]])
        assert done.exception is None or isinstance(done.exception, TapirError), done.exc_info
        said[words[0]] = str(done.exception or "")
    return said


@damaged
@pytest.mark.parametrize("path", ["run.json", "config.resolved.json"])
def test_a_damaged_record_is_named_by_every_command(
    run: RunFolder, path: str, damage: Callable[[bytes], bytes]
) -> None:
    break_file(run, path, damage)
    for said in commands_of(run).values():
        assert path in said


@damaged
@pytest.mark.parametrize(
    "path", [f"{LABEL.folder}/manifest.json", f"{TRAIN.folder}/manifest.json", f"{TRAIN.folder}/training.json"]
)
def test_no_damaged_file_of_a_stage_is_a_traceback(run: RunFolder, path: str, damage: Callable[[bytes], bytes]) -> None:
    if not run.storage.exists(path):
        run.storage.write_bytes(path, b'{"steps": 1, "epochs": 1}')
    break_file(run, path, damage)
    commands_of(run)


@damaged
@pytest.mark.parametrize("at", [LABEL, JUDGE])
def test_damaged_rows_are_never_read_and_are_made_anew_by_the_next_start(
    run: RunFolder, at: StageAt, damage: Callable[[bytes], bytes]
) -> None:
    rows, part, before = run.rows(at), part_of(run, at), run.holds(TRAIN)
    break_file(run, part, damage)
    with pytest.raises(TapirError, match=rf"{part} is damaged: .*give the command that made it again"):
        run.rows(at)
    commands_of(run)
    said: list[str] = []
    with hold_run(run.config, say=said.append) as opened:
        assert opened.holds(at) is None
        assert [line for line in said if "damaged" in line] == [
            f"{run.storage.url}/{part} is damaged: {at} is made anew, from the stored answers"
        ]
        opened.write(at, rows)
        assert opened.rows(at).equals(rows)
        assert opened.holds(TRAIN) == before


def test_a_start_that_finds_everything_as_it_was_made_says_nothing(run: RunFolder) -> None:
    said: list[str] = []
    with hold_run(run.config, say=said.append) as opened:
        assert opened.holds(JUDGE)
    assert [line for line in said if "damaged" in line] == []


@damaged
def test_a_damaged_checkpoint_is_not_served(run: RunFolder, damage: Callable[[bytes], bytes]) -> None:
    part = part_of(run, TRAIN)
    break_file(run, part, damage)
    with pytest.raises(TapirError, match=f"{part} is damaged"):
        fetch_stage(run, TRAIN)
    assert part.rpartition("/")[2] in commands_of(run)["export"]
