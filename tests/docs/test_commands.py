"""Every `tapir` command of a page is one that the command line takes; those that estimate are given for real.

A command stands in a code block (fenced, or indented by four spaces) or between backticks in a sentence. A synopsis
(`tapir export RUN [--round best|N]`), and a sentence that only names a command, must name one that exists, with options
that it has.
"""

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import typer
from typer.testing import CliRunner

from flows.cli import COMMANDS, app, load_command
from tests.students import needs_student_env

ROOT = Path(__file__).parents[2]
PAGES = sorted({*(ROOT / "docs").glob("*.md")} - {ROOT / "docs" / "LOG.md"})
"""The log tells of the past, with the commit: files and options may be gone."""

FENCED = re.compile(r"^```[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"^(?: {4,}\S.*\n?)+", re.MULTILINE)
SPOKEN = re.compile(r"`(tapir\s[^`]+)`")
GIVEN = re.compile(r"\s*(?:\$ )?(?:[A-Z_]+=\S* )*(?:\.venv/bin/)?(tapir\s.*)")
OPTIONAL = re.compile(r"[\[\]…]")


class Command(NamedTuple):
    """A command as a page has it."""

    text: str
    in_block: bool

    @property
    def words(self) -> list[str]:
        """What the shell gives to the program, `tapir` left out."""
        lexer = shlex.shlex(self.text, posix=True, punctuation_chars="<>|;&") if self.in_block else None
        if lexer is None:
            return self.text.replace("\\|", "|").split()[1:]
        lexer.whitespace_split = True
        words = list(lexer)[1:]
        ends = [place for place, word in enumerate(words) if word[0] in "<>|;&"]
        return words[: ends[0]] if ends else words

    @property
    def is_whole(self) -> bool:
        """Given as it stands; a synopsis and a name in a sentence are not."""
        return not OPTIONAL.search(self.text) and (self.in_block or "-" in [word[0] for word in self.words[:-1]])


def commands_of(text: str) -> Iterator[Command]:
    blocks = [*FENCED.findall(text), *INDENTED.findall(FENCED.sub("", text))]
    for line in "\n".join(blocks).replace("\\\n", " ").splitlines():
        if found := GIVEN.match(line):
            yield Command(found[1], in_block=True)
    for spoken in SPOKEN.findall(INDENTED.sub("", FENCED.sub("", text))):
        yield Command(" ".join(spoken.split()), in_block=False)


def problem(command: Command) -> str | None:
    """Why the command line does not take the command; None where it does."""
    known: Any = typer.main.get_command(app)
    words = command.words
    while hasattr(known, "commands") and words and not words[0].isupper():
        if words[0] not in known.commands:
            return f"{command.text}: there is no command {words[0]!r}"
        name = words.pop(0)
        known = known.commands[name] if known.name in COMMANDS else load_command(name)
    if command.is_whole:
        try:
            known.make_context("tapir", ["1" if word == "N" else word for word in words])
        except Exception as error:  # typer brings its own copy of click's errors
            return f"{command.text}: {error}"
    options = {name for param in known.params for name in (*param.opts, *param.secondary_opts)} | {"--help"}
    strange = {option for word in words for option in re.findall(r"^\[?(--[a-z-]+)", word)} - options
    lost = [word for word in words if re.match(r"configs/(?!my_)", word) and not (ROOT / word).exists()]
    return f"{command.text}: {sorted(strange) + lost}" if strange or lost else None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_of_a_page_is_one_that_the_command_line_takes(page: Path) -> None:
    assert [*filter(None, map(problem, commands_of(page.read_text())))] == []


def texts_of(module: Path) -> Iterator[str]:
    """Every text of a module, with RUN for what is filled in."""
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.JoinedStr):
            yield "".join(part.value if isinstance(part, ast.Constant) else "RUN" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def test_every_command_that_a_message_names_is_there_with_its_options() -> None:
    modules = [each for room in ("tapir_core", "tasks", "flows") for each in (ROOT / room).rglob("*.py")]
    texts = [text for module in modules for text in texts_of(module)]
    pages = [page.read_text() for room in ("tapir_core", "flows") for page in (ROOT / room).rglob("*.jinja2")]
    texts += [re.sub(r"\{\{.*?\}\}", "RUN", re.sub(r"\{%.*?%\}", " ", page)) for page in pages]
    spoken = [f"{said} …" for text in texts for said in SPOKEN.findall(text) if not re.search("<|--help", said)]
    named = [Command(" ".join(said.replace("…", "RUN…").split()), in_block=False) for said in spoken]
    assert len(named) > 100
    assert [*filter(None, map(problem, named))] == []


@pytest.mark.parametrize(
    "text",
    [
        "    tapir estmate configs/quickstart.toml\n",
        "    tapir estimate\n",
        "```\ntapir estimate configs/gone.toml\n```\n",
        "    tapir run configs/quickstart.toml \\\n        --sed a.b=c\n",
        "Give `tapir evaluate RUN --rounds 2` again.",
        "See `tapir store\nprun`.",
        "    tapir export RUN [--rounds N]\n",
        "    tapir up --port many\n",
    ],
)
def test_a_command_that_is_wrong_is_found(text: str) -> None:
    assert [*filter(None, map(problem, commands_of(text)))]


def test_a_comment_a_pipe_and_an_address_in_a_page_are_no_part_of_a_command() -> None:
    text = "    $ A_KEY=x tapir estimate configs/quickstart.toml --json > file.json   # kept\n"
    [command] = commands_of(text)
    assert command.words == ["estimate", "configs/quickstart.toml", "--json"]
    assert problem(command) is None


ESTIMATES = {
    command.text: command.words
    for page in PAGES
    for command in commands_of(page.read_text())
    if command.in_block and command.words[:1] == ["estimate"] and "my_" not in command.text
}


@needs_student_env
@pytest.mark.parametrize("words", ESTIMATES.values(), ids=ESTIMATES)
def test_an_estimate_of_a_page_can_be_given_as_it_stands(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
