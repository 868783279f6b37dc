"""The root of all runs: each fault with its remedy, and nothing is made by looking."""

from pathlib import Path

from flows.commands.diagnosis.checks import Finding, checks_of, examine
from tapir_core.calls import AnswerStore, root_store_url
from tapir_core.paths import STORE
from tests.run_config import make_config


def look(root: Path | str, store_url: str | None = None) -> dict[str, Finding]:
    config = None if store_url is None else make_config(Path(root), calls={"store_url": store_url})
    wanted = [each for each in checks_of(str(root), config) if each.part in ("storage", "disk", "store")]
    return {each.part: each for each in examine(wanted)}


def test_a_root_with_a_store_is_well(tmp_path: Path) -> None:
    AnswerStore(root_store_url(str(tmp_path))).close()
    before = sorted(tmp_path.iterdir())
    found = look(tmp_path)
    assert {each.level for each in found.values()} <= {"ok", "warning"}, "the disk may be small"
    assert found["storage"].level == "ok"
    assert "0 answers, schema" in found["store"].found
    assert "tapir store stats --check" in found["store"].found
    assert sorted(tmp_path.iterdir()) == before


def test_a_root_that_is_not_there_yet_is_no_fault_and_is_not_made(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    found = look(root)
    assert found["storage"].level == "ok"
    assert found["store"].level == "warning"
    assert "--root" in found["store"].remedy
    [of_config] = examine([each for each in checks_of(str(root), make_config(root)) if each.part == "store"])
    assert of_config.level == "ok", "its first run makes it"
    assert not root.exists()


def test_a_root_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file in the way")
    found = look(tmp_path / "runs")["storage"]
    assert found.level == "fault"
    assert str(tmp_path / "runs") in found.found
    assert "--root" in found.remedy


def test_a_store_that_cannot_be_read_says_what_helps(tmp_path: Path) -> None:
    store = tmp_path / STORE
    store.parent.mkdir()
    store.write_bytes(b"no database at all" * 100)
    found = look(tmp_path)["store"]
    assert found.level == "fault"
    assert "not a database" in found.found
    assert "docs/store.md" in found.remedy


def test_a_store_elsewhere_is_looked_at_there(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/elsewhere.sqlite"
    AnswerStore(url).close()
    assert "elsewhere.sqlite: 0 answers" in look(tmp_path, url)["store"].found


def test_a_root_on_another_machine_is_written_read_and_left_as_it_was() -> None:
    found = look("memory://doctor/runs")
    assert found["storage"].level == "ok"
    assert found["store"].level == "warning"
    assert "configuration" in found["store"].remedy
    assert "disk" not in found
