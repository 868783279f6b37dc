"""A stage beside the product. Registration is for a whole process, so each test has one of its own."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


def python(*arguments: str) -> tuple[int, str]:
    """Exit code and all that a child says."""
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def test_the_longest_answers_are_left_out_and_of_equal_ones_the_last() -> None:
    code = """
import polars as pl
from tests.examples.trim import trimmed
rows = pl.DataFrame({"instruction_id": list("abcde"), "response": ["1", "55555", "333", "333", "22"]})
print(trimmed(rows, 0.4)["instruction_id"].to_list(), trimmed(rows, 0.1).height)
"""
    assert python("-c", code) == (0, "['a', 'c', 'e'] 5\n")


@pytest.mark.operations
def test_a_whole_run_goes_through_it() -> None:
    code, said = python("-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/examples/trimmed_run.py")
    assert code == 0, said


def test_without_its_field_no_run_has_it_and_until_knows_it_with_it(tmp_path: Path) -> None:
    command = ["-m", "tests.examples.tapir", "trim", "run", "configs/quickstart.toml", "--until", "trim@9"]
    overrides = ["--set", f"run.root={tmp_path}"]
    code, said = python(*command, *overrides)
    assert (code, "trim" in said.partition("it has ")[2]) == (2, False)
    code, said = python(*command, *overrides, "--set", "curriculum.trim={}")
    assert (code, "trim@1-2" in said) == (2, True), said


def test_its_field_is_read_with_its_bounds(tmp_path: Path) -> None:
    command = ["-m", "tests.examples.tapir", "trim", "estimate", "configs/quickstart.toml"]
    code, said = python(*command, "--set", f"run.root={tmp_path}", "--set", "curriculum.trim.share=2")
    assert code == 2
    assert "curriculum.trim.share: value 2" in " ".join(said.split())
