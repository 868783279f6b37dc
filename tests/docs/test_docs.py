"""Docs describe the present: every command, stage, make target and exit code is in them, every link leads somewhere."""

import re
from pathlib import Path

import pytest
import typer

from flows.cli import app, load_command
from tapir_core import errors
from tapir_core.stages import STAGES

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "CHANGELOG.md"]


def page_id(page):
    return str(page.relative_to(ROOT))


def commands(group=None, prefix="tapir"):
    for name in (typer.main.get_command(app) if group is None else group).commands:
        command = load_command(name) if group is None else group.commands[name]
        if hasattr(command, "commands"):
            yield from commands(command, f"{prefix} {name}")
        else:
            yield f"{prefix} {name}", command


def test_every_command_stands_on_the_page_of_the_command_line():
    page = (ROOT / "docs/cli.md").read_text()
    assert [name for name, _ in commands() if name not in page] == []


def test_every_exit_code_stands_on_the_page_of_the_command_line():
    page = (ROOT / "docs/cli.md").read_text()
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.TapirError)]
    assert kinds
    codes = {kind.exit_code for kind in kinds} | {0, 130}
    assert [code for code in sorted(codes) if f"| {code} |" not in page] == []


def test_every_stage_stands_with_its_columns_on_the_page_of_the_run_folder():
    page = (ROOT / "docs/run-folder.md").read_text()
    shown = {name: stage for name, stage in STAGES.items() if not name.startswith("wave_") and stage.columns}
    rows = [
        f"| {name} | `{stage.folder}/` | {', '.join(stage.columns)} | {stage.row} |" for name, stage in shown.items()
    ]
    assert [row for row in rows if row not in page] == [], "put these rows into the table of docs/run-folder.md"


def test_every_make_target_has_a_word_of_help_and_the_readme_names_the_two_commands():
    makefile = (ROOT / "Makefile").read_text()
    helped = set(re.findall(r"^([a-z-]+):.*## ", makefile, re.MULTILINE))
    assert {"quickstart", "test", "check", "setup", "bench-student", "bench-calls"} <= helped
    readme = (ROOT / "README.md").read_text()
    assert "make quickstart" in readme
    assert "make test" in readme
    shown = re.compile(r"(?:`|^    )make ([a-z][a-z-]+)", re.MULTILINE)
    named = {target for page in PAGES for target in shown.findall(page.read_text())}
    assert named - set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE)) == set()


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_every_link_of_a_page_leads_somewhere(page):
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text())
    local = [target for target in targets if "://" not in target]
    assert [target for target in local if not (page.parent / target).exists()] == []


def test_every_page_of_the_docs_stands_in_the_index_that_the_readme_names():
    index = (ROOT / "docs/README.md").read_text()
    pages = {page.name for page in (ROOT / "docs").glob("*.md")} - {"README.md"}
    assert [page for page in sorted(pages) if f"]({page})" not in index] == []
    assert "](docs/README.md)" in (ROOT / "README.md").read_text()


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_every_section_that_a_link_names_is_there(page):
    for target, section in re.findall(r"\]\(([^)#\s:]*)#([^)\s]+)\)", page.read_text()):
        linked = page.parent / target if target else page
        headings = re.findall(r"^#+ (.+)$", linked.read_text(), re.MULTILINE)
        assert section in {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_changelog_is_a_list_of_what_the_version_does():
    lines = (ROOT / "CHANGELOG.md").read_text().splitlines()
    assert len([line for line in lines if line]) <= 20
