"""A round whose seeds are drawn by how often the student's own answers are right: no judge is asked."""

import hashlib
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from flows.distill import distill
from tapir_core.config import ModelIdentity
from tapir_core.errors import ConfigError
from tapir_core.reporting.tables import rounds_table
from tapir_core.run_folder import RunFolder
from tapir_core.stages import StageAt, plan
from tapir_core.standin.families import recognise
from tapir_core.summary import summarise
from tasks.asking import conversation, message
from tasks.pool import round_pool
from tasks.runtime import close_all
from tasks.scoring import Scorer
from tests.doubles.provider import FakeProvider, FakeReply, RecordedCall, Text
from tests.run_builder import build_run
from tests.run_config import make_config

pytestmark = pytest.mark.usefixtures("prefect_server")


def kind_of(instruction: str) -> int:
    return hashlib.sha256(instruction.encode()).digest()[0] % 3


class HalfRight:
    """Right about a third of the instructions, wrong about a third, and right about the others every second time."""

    def __init__(self) -> None:
        self.asked = Counter[str]()

    def __call__(self, call: RecordedCall) -> FakeReply:
        self.asked[call.prompt] += 1
        problem = recognise(call.prompt)
        assert problem is not None
        right = (True, False, self.asked[call.prompt] % 2 == 0)[kind_of(call.prompt)]
        return Text(problem.plain if right else "Answer: no idea")


def built(root: Path, provider: FakeProvider, **sections: Any) -> RunFolder:
    engine = {"type": "endpoint", "base_url": provider.base_url, "model": "student"}
    rounds = {"default": {"examples": 60, "alpha": 1.0, "selection": {"type": "pass_rate", "share": 0.3}}}
    student = {"engine": engine}
    config = make_config(root, rounds=rounds, student=student, **sections)
    return build_run(root, config=config, until=StageAt("evaluate", 0))


@pytest.fixture
def provider() -> Iterator[FakeProvider]:
    with FakeProvider(HalfRight()) as asked:
        yield asked
        close_all()


def test_the_student_attempts_what_can_be_marked_and_seeds_are_what_it_half_knows(
    tmp_path: Path, provider: FakeProvider
) -> None:
    run = built(tmp_path, provider)
    distill(run.ref, until="mix")
    tried, pool = run.rows(StageAt("attempt", 1)), run.rows(StageAt("pool"))
    assert tried.group_by("instruction_id").len()["len"].unique().to_list() == [4]
    assert tried["instruction_id"].n_unique() > 150
    assert len(provider.calls) == tried.height
    texts = dict(pool.select("instruction_id", "instruction").iter_rows())
    rates = tried.group_by("instruction_id").agg(pl.col("correct").mean()).rows()
    assert all(rate == (1.0, 0.0, 0.5)[kind_of(texts[name])] for name, rate in rates)
    seeds = [kind_of(texts[name]) for name in run.rows(StageAt("select", 1))["instruction_id"]]
    assert seeds.count(2) / len(seeds) > 0.38, "1/4 beside 5/36 twice"
    assert run.manifest(StageAt("judge", 1)) is None
    [said] = [row[-1] for row in rounds_table(summarise(run)).rows if row[0] == "  not judged"]
    assert re.fullmatch(r"drawn by pass rate, [45]\d\.\d % of its answers right", said)
    asked = len(provider.calls)
    run.storage.remove("round_01/attempts/manifest.json")
    distill(run.ref, until="attempt")
    assert len(provider.calls) == asked, "what was answered is in the store"


def test_without_anything_to_mark_by_the_round_says_what_lacks_before_the_student_is_asked(
    tmp_path: Path, provider: FakeProvider
) -> None:
    run = built(tmp_path, provider)
    made = {at: [*run.sealed(at).parts] for at in plan(run.config) if run.holds(at) is not None and at.name != "pool"}
    run.write(StageAt("pool"), run.rows(StageAt("pool")).with_columns(reference=pl.lit(None, pl.String)))
    for at, parts in made.items():
        run.seal(at, parts)
    with pytest.raises(ConfigError, match=r"marks answers by 'exact', and of \d+ instructions 0 can be marked so"):
        distill(run.ref, until="attempt")
    assert provider.calls == []


def test_an_attempt_is_the_rollout_of_the_same_instruction(tmp_path: Path, provider: FakeProvider) -> None:
    run = built(tmp_path, provider)
    pool = {row["instruction_id"]: row for row in round_pool(run, 1).iter_rows(named=True)}
    asked = Scorer(lambda _: [], ModelIdentity("student", "1"))
    for row in run.rows(StageAt("mix", 0)).iter_rows(named=True):
        attempted = asked.drawing(conversation(pool[row["instruction_id"]]), 48, 1)
        rolled_out = asked.drawing(tuple(map(message, row["messages"][:-1])), 48, 1)
        assert attempted.key == rolled_out.key
