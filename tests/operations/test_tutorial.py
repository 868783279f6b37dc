"""Tutorials as they stand on their pages, typed into a shell in a folder of their own, on real engines."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.harness.processes import REPOSITORY, free_port
from tests.waiting import wait_until

DEADLINE_SECONDS = 3600
"""Of one command of the page."""
pytestmark = [pytest.mark.operations, pytest.mark.timeout(3 * DEADLINE_SECONDS)]


def commands(page: str) -> list[str]:
    return [line for block in re.findall(r"^```sh\n(.*?)^```$", page, re.M | re.S) for line in block.splitlines()]


PAGE = (REPOSITORY / "docs/tutorial.md").read_text()
COMMANDS = commands(PAGE)
[CONFIG] = re.findall(r"^```toml\n(.*?)^```$", PAGE, re.M | re.S)
[PROVIDER] = [line for line in COMMANDS if line.startswith("tapir standin serve")]
PORT = "8041"
"""What the page calls the provider's."""


class Shell:
    """A folder in which the page's commands are typed, with the page's port as a free one."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, str(free_port())
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self.environment = {**os.environ, "PATH": path, "PYTHONPATH": str(REPOSITORY)}

    def say(self, text: str) -> str:
        return text.replace(PORT, self.port)

    def start(self, line: str) -> subprocess.Popen[str]:
        command = ["bash", "-c", f"exec {self.say(line)}"]
        return subprocess.Popen(command, cwd=self.folder, env=self.environment, text=True)

    def run(self, line: str) -> str:
        done = subprocess.run(
            ["bash", "-c", self.say(line)],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=DEADLINE_SECONDS,
        )
        assert done.returncode == 0, f"{line}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done.stdout + done.stderr


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    shell = Shell(tmp_path)
    server = shell.start(PROVIDER)
    try:
        yield shell
    finally:
        server.terminate()
        server.wait(timeout=30)


def answers(shell: Shell) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{shell.port}/health").is_success
    except httpx.TransportError:
        return False


def test_the_page_is_typed_from_its_first_command_to_its_last(shell: Shell) -> None:
    wait_until(lambda: answers(shell), seconds=60)
    (shell.folder / "my_run.toml").write_text(shell.say(CONFIG))
    came = {line: shell.run(line) for line in COMMANDS if line != PROVIDER}

    [tried] = [text for line, text in came.items() if "--try" in line]
    assert "judge · judge.endpoint" in tried
    ran, given = (text for line, text in came.items() if line.startswith("tapir run"))
    for text in (ran, given):
        assert "Quality retention" in text
        assert "The curriculum added" in text
    assert (shell.folder / "runs/mine/report.html").is_file()
    assert (shell.folder / "exports/mine/config.json").is_file()


def test_a_fine_tune_is_moved_as_its_page_says(shell: Shell) -> None:
    wait_until(lambda: answers(shell), seconds=60)
    page = (REPOSITORY / "docs/adopt.md").read_text().partition("## Try it")[2]
    typed = [line for line in commands(page) if line != PROVIDER]
    *before, talked = typed
    came = {line: shell.run(line) for line in before}
    assert talked == "tapir chat my_moved", "the next talks with the student"
    assert "210 answers are trained on" in "".join(came.values())
    assert "Quality retention" in came["tapir run my_moved.toml"]
    report = (shell.folder / "runs/my_moved/report.html").read_text()
    assert "Seconds an answer, p50" in report
    assert "my_examples.json" in report, "whose answers are trained on"
    assert shell.run("printf 'What is 2 + 3?\\n' | tapir chat my_moved")
