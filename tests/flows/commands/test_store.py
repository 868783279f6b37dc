"""`tapir store …` as a user meets it: what is printed, the exit codes, and that nothing is changed without --yes."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from flows.commands.store import store_app
from tapir_core.calls import root_store_url
from tapir_core.errors import MissingPrerequisite, TapirError
from tapir_core.paths import STORE
from tapir_core.stages import StageAt
from tests.harness.processes import REPOSITORY
from tests.run_builder import build_run
from tests.tapir_core.store_admin.store_rows import damage_file, fill, numbered, refusal, reply_of, sql


def tapir_store(*words: object) -> Result:
    # Wide, so that no table cell is folded.
    return CliRunner().invoke(store_app, [str(word) for word in words], env={"COLUMNS": "220"})


def printed(*words: object) -> str:
    done = tapir_store(*words)
    assert done.exception is None, done.exception
    return " ".join(done.output.split())


def failed(*words: object) -> TapirError:
    error = tapir_store(*words).exception
    assert isinstance(error, TapirError), error
    return error


@pytest.fixture
def root(tmp_path: Path) -> Path:
    url = root_store_url(str(tmp_path))
    fill(url, numbered(3), role="judge", prompt_version="abc", make_reply=lambda _: reply_of("good", usd=0.5))
    fill(url, ["x"], role="teach", model="[red]loud[/red]", make_reply=lambda _: refusal())
    return tmp_path


def rows(root: Path) -> int:
    found: Any = sql(root_store_url(str(root)), "SELECT count(*) FROM answers")[0][0]
    return int(found)


@pytest.mark.parametrize("words", [["stats"], ["stats", "--check"], ["prune", "--role", "judge"]])
def test_a_store_that_is_not_there_is_not_made(words: list[str], tmp_path: Path):
    error = failed(*words, "--root", tmp_path / "runs")
    assert isinstance(error, MissingPrerequisite)
    assert "--store" in str(error)
    assert list(tmp_path.iterdir()) == []


def test_stats_show_each_group_and_names_as_they_are(root: Path):
    shown = printed("stats", "--root", root)
    assert "4 rows in" in shown
    assert "3 answer, 1 refused" in shown
    assert "judge fake-model fake-1 abc 3 0" in shown
    assert "[red]loud[/red]" in shown


def test_stats_are_one_json_object(root: Path):
    found = json.loads(tapir_store("stats", "--root", root, "--json").output)
    assert (found["rows"], found["usd"], len(found["groups"]), found["reused"]) == (4, 1.5, 2, 0)


def test_another_store_is_named_by_its_url(root: Path, tmp_path: Path):
    assert "4 rows in" in printed("stats", "--store", f"sqlite:///{root / STORE}", "--root", tmp_path / "nowhere")


def test_a_store_is_copied_into_another_by_file_or_url(root: Path, tmp_path: Path):
    other = tmp_path / "other" / STORE
    assert "4 rows read: 4 added, 0 already there, 0 different, 0 damaged" in printed("copy", root / STORE, other)
    assert "0 added, 4 already there" in printed("copy", f"sqlite:///{root / STORE}", f"sqlite:///{other}")
    assert "4 rows in" in printed("stats", "--store", other)


def test_a_copy_of_a_store_that_is_not_there_makes_none(tmp_path: Path):
    error = failed("copy", tmp_path / "nothing.sqlite", tmp_path / "other" / "store.sqlite")
    assert isinstance(error, MissingPrerequisite)
    assert "nothing.sqlite" in str(error)
    assert list(tmp_path.iterdir()) == []


def test_a_copy_leaves_damaged_rows_out_and_names_them(root: Path, tmp_path: Path):
    sql(root_store_url(str(root)), "UPDATE answers SET usd = -1 WHERE role = 'teach'")
    shown = printed("copy", root / STORE, tmp_path / "other.sqlite")
    assert "3 added, 0 already there, 0 different, 1 damaged and left out" in shown
    assert "teach [red]loud[/red] a-run impossible count" in shown


def test_rows_that_differ_are_listed(root: Path, tmp_path: Path):
    other = f"sqlite:///{tmp_path}/other.sqlite"
    fill(other, numbered(1), role="judge", make_reply=lambda _: reply_of("bad"))
    shown = printed("copy", root / STORE, other)
    assert "3 added, 0 already there, 1 different" in shown
    assert "judge fake-model bad good" in shown


def test_a_damaged_file_is_copied_as_far_as_it_can_be_read(root: Path, tmp_path: Path):
    fill(root_store_url(str(root)), numbered(1000, start=10))
    damage_file(root / STORE)
    done = tapir_store("copy", root / STORE, tmp_path / "other.sqlite")
    assert isinstance(done.exception, TapirError)
    assert "reading stopped after" in str(done.exception)
    assert "docs/store.md" in str(done.exception)
    assert " added, 0 already there" in done.output
    assert "of them damaged" in printed("stats", "--check", "--store", tmp_path / "other.sqlite")


def test_prune_without_yes_says_what_would_go_and_changes_nothing(root: Path):
    shown = printed("prune", "--root", root, "--role", "judge")
    assert "judge fake-model fake-1 a-run 3" in shown
    assert "45 tokens; asking all of them again would cost 1.50 USD" in shown
    assert "nothing is changed; --yes removes these rows" in shown
    assert rows(root) == 4


def test_prune_names_the_runs_that_would_ask_again(root: Path):
    build_run(root, until=StageAt("judge", 1))
    sql(root_store_url(str(root)), "UPDATE answers SET run = 'example'")
    shown = printed("prune", "--root", root, "--role", "judge")
    assert "run example: asked first for 3 of these rows; would ask again in expand (round 1), judge (round 2)" in shown


def test_prune_with_yes_removes_the_rows_and_gives_the_room_back(root: Path):
    shown = printed("prune", "--root", root, "--role", "judge", "--older-than", "0h", "--yes")
    assert "removed 3 rows" in shown
    assert "the file went from" in shown
    assert rows(root) == 1
    kept = printed(
        "prune", "--root", root, "--model", "[red]loud[/red]", "--identity", "fake-1", "--yes", "--keep-room"
    )
    assert "removed 1 rows" in kept
    assert "the file" not in kept.split("removed")[1]


def test_prune_by_status_leaves_the_answers(root: Path):
    assert "removed 1 rows" in printed("prune", "--root", root, "--status", "refused", "--status", "too_long", "--yes")
    assert rows(root) == 3


def test_prune_of_nothing_changes_nothing(root: Path):
    assert "nothing is changed" in printed("prune", "--root", root, "--older-than", "30d", "--yes")


def test_prune_without_a_condition_is_a_usage_error(root: Path):
    assert failed("prune", "--root", root, "--yes").exit_code == 2
    assert rows(root) == 4


def test_a_check_says_that_a_sound_store_is_sound_before_what_it_holds(root: Path):
    shown = printed("stats", "--check", "--root", root)
    assert shown.index("4 rows read, 0 of them damaged") < shown.index("4 rows in")


def test_a_check_ends_with_1_and_a_table_of_damaged_rows(root: Path):
    sql(root_store_url(str(root)), "UPDATE answers SET text = 'forged' WHERE rowid = 2")
    done = tapir_store("stats", "--check", "--root", root)
    assert isinstance(done.exception, TapirError)
    assert done.exception.exit_code == 1
    assert "1 of 4 rows are damaged; `tapir store stats --check --delete`" in str(done.exception)
    assert "judge fake-model a-run reply gives another text" in " ".join(done.output.split())
    assert rows(root) == 4


def test_a_check_with_delete_lists_and_removes(root: Path):
    sql(root_store_url(str(root)), "UPDATE answers SET text = 'forged' WHERE rowid = 2")
    shown = printed("stats", "--check", "--delete", "--root", root)
    assert shown.index("reply gives another text") < shown.index("removed 1 rows") < shown.index("3 rows in")
    assert rows(root) == 3
    assert "0 of them damaged" in printed("stats", "--check", "--root", root)


def test_nothing_is_deleted_without_a_check(root: Path):
    sql(root_store_url(str(root)), "UPDATE answers SET text = 'forged' WHERE rowid = 2")
    error = failed("stats", "--delete", "--root", root)
    assert error.exit_code == 2
    assert "--check" in str(error)
    assert rows(root) == 4


def test_a_check_leaves_one_json_object(root: Path):
    done = tapir_store("stats", "--check", "--json", "--root", root)
    assert json.loads(done.stdout)["rows"] == 4
    assert "0 of them damaged" in done.stderr


def test_a_check_of_a_damaged_file_says_where_to_read_how_to_save_what_is_left(root: Path):
    fill(root_store_url(str(root)), numbered(300, start=10))
    damage_file(root / STORE)
    done = tapir_store("stats", "--check", "--root", root)
    assert "docs/store.md" in str(done.exception)
    assert "the database says" in done.output


def test_the_recipe_of_the_docs_saves_what_is_left_of_a_damaged_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    fill(root_store_url("runs"), numbered(1000))
    damage_file(Path("runs", STORE))
    page = (REPOSITORY / "docs/store.md").read_text()
    recipe = re.findall(r"^```\n(.*?)^```", page, re.MULTILINE | re.DOTALL)[-1].splitlines()
    assert [line.split()[0] for line in recipe] == ["mkdir", "tapir"]
    for line in recipe[:-1]:
        subprocess.run(["bash", "-c", line], check=False, capture_output=True, timeout=60)
    assert "The sound rows up to there are in" in str(failed(*recipe[-1].split()[2:]))
    checked = printed("stats", "--check")
    saved = int(re.findall(r"([\d,]+) rows read, 0 of them damaged", checked)[0].replace(",", ""))
    assert 200 < saved < 1000


@pytest.fixture
def teacher(tmp_path: Path) -> list[object]:
    """What names a configuration whose teacher is `gpt-x`, with its store under the test's folder."""
    file = tmp_path / "mine.toml"
    file.write_text((REPOSITORY / "configs/local_endpoints.toml").read_text())
    return ["--teacher-of", file, "--set", f"run.root={tmp_path}", "--set", "teacher.endpoint.model=gpt-x"]


def test_answers_of_a_file_get_into_the_store_as_the_teachers_once(tmp_path: Path, teacher: list[object]):
    file = tmp_path / "answered.json"
    rows = [{"instruction": f"Say {number}.", "output": f"{number}" if number else ""} for number in range(5)]
    file.write_text(json.dumps(rows))
    said = printed("import", file, *teacher)
    assert "gpt-x" in said
    assert "left out for want of an answer: 1" in said
    assert "4 rows read: 4 added" in said
    assert "4 rows read: 0 added, 4 already there" in printed("import", file, *teacher)
    file.write_text(json.dumps([{"instruction": "Say 1.", "output": "one"}]))
    assert "1 different" in printed("import", file, *teacher)
    found = sql(root_store_url(str(tmp_path)), "SELECT role, model, text, usd FROM answers ORDER BY text")
    assert [tuple(each) for each in found] == [("teach", "gpt-x", str(number), 0) for number in range(1, 5)]
    assert "0 of them damaged" in printed("stats", "--check", "--root", tmp_path)


def test_answers_of_a_file_come_with_the_configuration_of_their_teacher(tmp_path: Path):
    assert tapir_store("import", tmp_path / "answered.json").exit_code == 2
    assert list(tmp_path.iterdir()) == []


def test_a_file_without_answers_makes_no_store(tmp_path: Path, teacher: list[object]):
    file = tmp_path / "bare.json"
    file.write_text(json.dumps([{"instruction": "Say 1."}]))
    assert "has no answers" in str(failed("import", file, *teacher))
    assert not (tmp_path / STORE).exists()
