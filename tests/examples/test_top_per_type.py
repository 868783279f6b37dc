"""A selection rule beside the product. Registration is for a whole process, so each test has one of its own."""

from pathlib import Path

import pytest

from tests.harness.forked import Forked

COMMAND = "import runpy; runpy.run_module('tests.examples.tapir', run_name='__main__')"
CONFIG = """
[run]
name = "small"
[data.pool]
type = "standin"
rows = 40
[teacher.endpoint]
type = "standin"
[judge.endpoint]
type = "standin"
[rounds.default]
selection = { type = "top_per_type", share = 0.5 }
"""
RULE = """
from typing import Literal
from tapir_core.config import SelectionRule
class Fair(SelectionRule):
    '''A rule.'''
"""
HAS_TYPE = "    type: Literal['fair'] = 'fair'\n"


def command(forked: Forked, folder: Path, *overrides: str) -> tuple[int, str]:
    """What an estimate of the configuration says."""
    (folder / "config.toml").write_text(CONFIG)
    sets = [each for override in (f"run.root={folder}", *overrides) for each in ("--set", override)]
    done = forked.python(COMMAND, "top_per_type", "estimate", str(folder / "config.toml"), *sets)
    return done.returncode, done.stdout + done.stderr


def test_seeds_are_the_hardest_of_each_task_type(forked: Forked) -> None:
    code = """
import random
from tapir_core.curriculum import select_seeds
import polars as pl
from tests.builders import make_difficulty
from tests.examples.top_per_type import TopPerType
hard = make_difficulty({"a": 9.0, "b": 8.0, "c": 7.0, "d": 6.0}, "Math")
easy = make_difficulty({"e": 0.5, "f": 0.2, "g": 0.0}, "Law")
parts = select_seeds(TopPerType(share=0.5), pl.concat([hard, easy]), random.Random(1))
print(parts.seeds["instruction_id"].to_list(), parts.easy.height, parts.delta)
"""
    assert forked.python(code).stdout == "['a', 'b', 'e', 'f'] 3 0.2\n"


def test_it_has_keys_of_its_own_and_changes_those_of_no_stage_before_it(forked: Forked) -> None:
    code = """
from tapir_core.config import HardShare, RoundConfig, RunConfig
from tapir_core.stages import own_digest
from tapir_core.stages import StageAt
from tests.examples.top_per_type import TopPerType
def keys(rule):
    standin = {"type": "standin"}
    table = {"run": {"name": "small"}, "data": {"pool": standin}, "teacher": {"endpoint": standin}}
    table |= {"judge": {"endpoint": standin}, "rounds": {"default": {"selection": rule.model_dump()}}}
    return [own_digest(StageAt(name, 1), RunConfig.model_validate(table), {}) for name in ("judge", "select")]
(judge, one), (same, other), (also, hard) = keys(TopPerType()), keys(TopPerType(share=0.5)), keys(HardShare())
print(judge == same == also, len({one, other, hard}))
"""
    assert forked.python(code).stdout == "True 3\n"


def test_the_command_line_reads_it_and_says_what_is_wrong_with_it(tmp_path: Path, forked: Forked) -> None:
    code, estimate = command(forked, tmp_path)
    assert code == 0, estimate
    assert "The share of seeds is the configured one." in " ".join(estimate.split())
    code, wrong = command(forked, tmp_path, "rounds.default.selection.share=2")
    told = " ".join(wrong.split())
    assert code == 2
    assert "rounds.default.selection.share: value 2" in told
    assert "expected number > 0 and < 1 (Share q of the scored instructions of a task type" in told
    code, wrong = command(forked, tmp_path, 'rounds.default.selection={ type = "top_of_type" }')
    assert 'did you mean "top_per_type"?' in wrong


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (RULE, 'Fair lacks type; define what SelectionRule says of it (a type is written `type: Literal["'),
        (RULE + HAS_TYPE.replace("fair", "random"), "has type = 'random', which RandomShare has already"),
    ],
)
def test_a_class_that_lacks_a_part_is_refused_where_it_is_defined(rule: str, message: str, forked: Forked) -> None:
    assert message in forked.python(rule).stderr


def test_a_rule_that_chooses_nothing_is_told_what_to_add(forked: Forked) -> None:
    chosen = f"""{RULE}{HAS_TYPE}
import random
from tapir_core.curriculum import select_seeds
from tests.builders import make_difficulty
select_seeds(Fair(), make_difficulty({{"a": 1.0}}), random.Random(1))
"""
    told = forked.python(chosen).stderr
    assert "tapir_core.curriculum.selection.choose_rows does nothing for Fair yet" in told
    assert "@choose_rows.register\n    def _(rule: Fair, " in told
