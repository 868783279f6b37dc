"""The README is short, its commands work as they stand there, and its figures come from what it names.

Commands are the lines of ``sh`` blocks, and `tapir …` and `make …` in the text. Figures are numbers outside code and
plots. A comment ``<!-- figures: SOURCE; … -->`` below a paragraph or picture, or above an output, names the commands or
files of the repository that they come from.
"""

import json
import random
import re
import shlex
import sys
import tomllib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from textwrap import dedent

import pytest
import typer

from flows.cli import app
from tapir_core.config import BudgetConfig, RunConfig
from tapir_core.prices import missing_prices
from tapir_core.standin.families import FAMILIES, draw_problem
from tasks.engines.tiny_student import tiny_student
from tests.conftest import StandingServer
from tests.doubles.standin import StandinServer
from tests.harness.forked import Forked
from tests.harness.processes import REPOSITORY
from tests.run_builder import build_run
from tests.run_config import make_config
from tests.students import needs_student_env

README = (REPOSITORY / "README.md").read_text()
MOST_WORDS = 900
COPIED = REPOSITORY / "configs/local_endpoints.toml"
"""What docs/own-data.md copies."""
OUTPUT = re.compile(r"^ *```text\n(.*?)```$", re.MULTILINE | re.DOTALL)
COMMANDS = [
    line.strip() for block in re.findall(r"^ *```sh\n(.*?)^ *```$", README, re.M | re.S) for line in block.splitlines()
]
MENTIONED = re.findall(r"`((?:tapir|make) [^`]+)`", README)
FIGURES = re.compile(r"<!-- figures: (.*?) -->", re.DOTALL)
NUMBER = re.compile(r"(?<![\w.-])\d+(?:\.\d+)?")

Run = Callable[..., str]
TAUGHT_ONLY = ("--until", "teach", "--set", "run.root=taught", "--set", f"student.engine.python={sys.executable}")
"""Options that end `tapir run` before it needs an engine."""


def sources(comment: str) -> list[str]:
    return [" ".join(source.split()) for source in comment.split(";")]


def figures(paragraph: str) -> list[str]:
    """The numbers that a reader sees in a paragraph, inline code left out."""
    seen = re.sub(r"<!--.*?-->|\]\([^)]*\)|`[^`]*`|^\d+\. ", " ", paragraph, flags=re.MULTILINE | re.DOTALL)
    return NUMBER.findall(seen)


def check_command(line: str) -> None:
    """Fails unless a line is a target of the Makefile, or the real command line takes its words and options."""
    program, *words = shlex.split(line)
    if program == "make":
        assert re.search(rf"^{re.escape(words[0])}:", (REPOSITORY / "Makefile").read_text(), re.MULTILINE), line
    elif program == "tapir":
        command = typer.main.get_command(app)
        while hasattr(command, "resolve_command"):
            _, command, words = command.resolve_command(typer.Context(command), words)
        command.make_context(command.name, words)
    else:
        assert line in ("source .venv/bin/activate", "cp configs/local_endpoints.toml my_run.toml")


def test_the_readme_has_at_most_900_words() -> None:
    """All that is not a target of a link or picture counts: code, output, tables, alt texts, comments."""
    assert len(re.sub(r"\]\([^)]*\)", "]", README).split()) <= MOST_WORDS


@pytest.mark.parametrize("line", [*COMMANDS, *MENTIONED])
def test_a_command_is_one_that_make_or_the_command_line_takes(line: str) -> None:
    check_command(line)


def test_no_command_stands_in_a_block_that_is_not_checked() -> None:
    assert set(re.findall(r"^ *```(.+)$", README, re.MULTILINE)) == {"sh", "text"}
    assert re.findall(r"^ {4}\S.*", OUTPUT.sub("", README), re.MULTILINE) == []
    assert {"make quickstart", "make setup"} <= set(COMMANDS)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("make quickstarts", "quickstarts"),
        ("tapir exports quickstart", "exports"),
        ("tapir ask quickstart", "text"),
        ("tapir doctor --file my_run.toml", "--file"),
        ("tapir export quickstart --round", "--round"),
    ],
)
def test_a_command_that_is_none_is_noticed(wrong: str, message: str) -> None:
    with pytest.raises(Exception, match=message):
        check_command(wrong)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the commands are given in: a clone after the quickstart and after a run on instructions of one's own."""
    folder = tmp_path_factory.mktemp("clone")
    for name in ("configs", "benchmarks"):
        (folder / name).symlink_to(REPOSITORY / name)
    problems = [
        draw_problem(family, 2, "pool", random.Random(seed)) for family in FAMILIES.values() for seed in range(5)
    ]
    rows = [{"instruction": problem.instruction} for problem in problems]
    (folder / "my_instructions.json").write_text(json.dumps(rows))
    student = tiny_student(folder / "tiny")
    build_run("", config=make_config(folder / "runs", run={"name": "quickstart"}), student=student)
    build_run("", config=make_config(folder / "runs", run={"name": "mine"}), student=student)
    return folder


@pytest.fixture(scope="module")
def run(folder: Path, forked: Forked) -> Run:
    """What a command prints, given as it stands in the README; fails unless it ends with code 0."""

    @cache
    def run(line: str, *more: str, api: str = "") -> str:
        done = forked.tapir(*shlex.split(line)[1:], *more, folder=folder, environment={"PREFECT_API_URL": api})
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


@pytest.fixture(scope="module")
def own_data(folder: Path, run: Run) -> Iterator[None]:
    """Step 2 of *Your own data*: the questions are answered for the stand-in behind an address."""
    with StandinServer() as standin:
        answers = {
            "--instructions": "my_instructions.json",
            "--student": "tiny",
            "--teacher": "standin-teacher",
            "--address": standin.base_url,
            "--usd": "20",
        }
        run("tapir init my_run.toml", *(word for answer in answers.items() for word in answer))
        yield


@pytest.mark.parametrize("line", [line for line in COMMANDS if line.startswith(("tapir export", "tapir estimate"))])
def test_a_command_runs_as_it_stands(line: str, run: Run, own_data: None) -> None:
    assert run(line)


@needs_student_env
def test_the_doctor_names_no_fault_for_instructions_of_ones_own(run: Run, own_data: None) -> None:
    assert "faults 0" in run("tapir doctor my_run.toml")


def test_instructions_of_ones_own_are_labelled_and_taught(
    folder: Path, run: Run, own_data: None, standing_prefect: StandingServer
) -> None:
    [line] = [line for line in COMMANDS if line.startswith("tapir run")]
    run(line, *TAUGHT_ONLY, api=standing_prefect.api)
    assert sorted(path.name for path in (folder / "taught/mine").glob("*er*")) == ["teacher"]


def test_the_example_for_an_api_key_loads_in_the_copy_and_its_price_is_known() -> None:
    page = (REPOSITORY / "docs/own-data.md").read_text()
    [block] = re.findall(r"^ {4}\[data\.pool\]\n(?:(?: {4}.*)?\n)+", page, re.MULTILINE)
    table, example = tomllib.loads(COPIED.read_text()), tomllib.loads(dedent(block))
    del table["data"]["heldout"]
    for section, tables in example.items():
        table[section] |= tables
    config = RunConfig.model_validate(table)
    assert config.teacher.endpoint != config.judge.endpoint, "nobody judges its own answers"
    assert missing_prices(config.model_copy(update={"budget": BudgetConfig(usd=20.0)})) == []


def text_of(source: str, run: Run) -> str:
    """What a source says: a file, the output of a quick command, or the README's own output of a slow one."""
    if source.startswith("tapir "):
        return run(source)
    if source.startswith("make "):
        check_command(source)
        return "\n".join(OUTPUT.findall(README))
    return (REPOSITORY / source).read_text()


def says(text: str, figure: str) -> bool:
    """Whether a text has, in any place, a number that is the figure, or one with more decimals that rounds to it."""
    numbers = set(re.findall(r"\d+(?:\.\d+)?", text))
    decimals = len(figure.partition(".")[2])
    return figure in numbers or (decimals > 0 and figure in {f"{float(number):.{decimals}f}" for number in numbers})


@pytest.mark.parametrize(
    "paragraph", [part for part in OUTPUT.sub("", README).split("\n\n") if figures(part)], ids=lambda part: part[:40]
)
def test_every_number_of_a_paragraph_stands_in_what_it_names(paragraph: str, run: Run) -> None:
    named = FIGURES.search(paragraph)
    assert named, f"{figures(paragraph)} have no source"
    text = "\n".join(text_of(source, run) for source in sources(named[1]))
    assert [figure for figure in figures(paragraph) if not says(text, figure)] == []


def test_every_output_and_plot_names_the_command_that_makes_it() -> None:
    outputs = re.findall(r"<!-- figures: (.*?) -->\n```text", README)
    plots = re.findall(r"\.png\)\n<!-- figures: (.*?) -->", README)
    assert len(outputs) == len(re.findall("```text", README)) > 0
    assert len(plots) == len(re.findall(r"\.png\)", README)) > 0
    for source in [*outputs, *plots]:
        check_command(source)
