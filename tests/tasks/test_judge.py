"""Stage `judge` with several judges, through its tasks."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tapir_core.data.dataset import read_part, write_part
from tapir_core.errors import ConfigError
from tapir_core.reporting.judge_report import judge_tables, summarise_judge
from tapir_core.run_folder import RunFolder, open_run
from tapir_core.stages import StageAt
from tasks._task import seal
from tasks.judge import check_stored, difficulty, forget_unscored, judge_shard
from tasks.outcomes import Made, Piece, ShardIncomplete, ShardOutcome
from tasks.runtime import close_all
from tests.doubles.provider import FakeProvider, FakeReply, RecordedCall, Status, Text
from tests.doubles.standin import StandinServer
from tests.run_builder import build_run
from tests.run_config import make_config

ANSWER, JUDGE, DIFFICULTY = StageAt("answer", 1), StageAt("judge", 1), StageAt("difficulty", 1)
PROVIDER_CALLS = {"max_attempts": 1, "max_missing_share": 0.5, "concurrency": 4}


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    close_all()


class Judges:
    """Behind one address: `contrary` names the other winner; `silent` and `absent` have no verdict until fixed."""

    def __init__(self) -> None:
        self.fixed = False
        self.asked: list[str] = []

    def __call__(self, call: RecordedCall) -> FakeReply:
        model = call.body["model"]
        self.asked.append(model)
        if model == "absent" and not self.fixed:
            return Status(500)
        if model == "silent" and not self.fixed:
            return Text("Well …")
        return Text("Scores: [[9, 2]]" if model == "contrary" else "Scores: [[4, 7]]")


def endpoint(base_url: str, model: str, identity: str = "i") -> dict[str, Any]:
    return {"type": "openai", "base_url": base_url, "model": model, "identity": identity, "api_key_env": ""}


def answered_run(root: Path, first: dict[str, Any], *panel: dict[str, Any], **judge: Any) -> RunFolder:
    """A run that has everything but verdicts."""
    judges = {"endpoint": first, "panel": list(panel), "reasks": 0, **judge}
    data = {"pool": {"type": "standin", "rows": 40}}
    return build_run(root, until=ANSWER, config=make_config(root, data=data, judge=judges, calls=PROVIDER_CALLS))


def judge(run: RunFolder) -> ShardOutcome:
    """Judge the run's answers as its flow does; gives what the shard made."""
    done = judge_unsealed(run)
    seal.fn(run.ref, JUDGE, [done], 0.0)
    return done


def judge_unsealed(run: RunFolder) -> ShardOutcome:
    """The same, killed before the seal."""
    answers = run.manifest(ANSWER)
    assert answers is not None
    done = judge_shard.fn(run.ref, JUDGE, Piece(0, 1), ShardOutcome(answers.parts[0]))
    assert isinstance(done, Made)
    return done


def test_every_judge_scores_every_pair_and_the_report_compares_them(tmp_path: Path) -> None:
    with StandinServer(position_bias=0.0, noise=0.2) as fair, StandinServer(position_bias=2.0, noise=1.0) as biased:
        judges = [endpoint(each.base_url, "standin-judge", name) for each, name in ((fair, "a"), (biased, "b"))]
        run = answered_run(tmp_path, *judges)
        judge(run)
        difficulty.fn(run.ref, StageAt("difficulty", 1))
    names = ["standin-judge (a)", "standin-judge (b)"]
    verdicts = run.rows(JUDGE)
    assert verdicts.group_by("instruction_id", "order").len()["len"].unique().to_list() == [2]
    assert verdicts["judge"].unique().sort().to_list() == names
    found = summarise_judge(run, 1)
    gaps = [each.agreement.gap.value for each in found.single.values() if each.agreement is not None]
    assert gaps[0] < 1 < gaps[1]
    [row] = judge_tables(found)["judge-panel"].rows
    assert list(row[:2]) == names
    mfd = run.rows(DIFFICULTY).sort("instruction_id")["mfd"].to_list()
    assert found.whole.scores.sort("instruction_id")["mfd"].to_list() == mfd


def test_another_rule_changes_the_difficulty_and_asks_nobody(tmp_path: Path) -> None:
    judges = Judges()
    with FakeProvider(judges) as provider:
        panel = [endpoint(provider.base_url, name) for name in ("strict", "alike", "contrary")]
        run = answered_run(tmp_path, *panel, orders=["teacher_first"])
        judge(run)
        difficulty.fn(run.ref, StageAt("difficulty", 1))
        assert run.rows(DIFFICULTY)["mfd"].unique().to_list() == [pytest.approx((-3 - 3 + 7) / 3)]
        judges.asked.clear()
        close_all()
        ruled = run.config.judge.model_copy(update={"panel_rule": "majority"})
        changed = open_run(run.config.model_copy(update={"judge": ruled}), run.record.ingredients, amend=True)
        assert changed.holds(JUDGE)
        assert not changed.holds(DIFFICULTY)
        difficulty.fn(changed.ref, StageAt("difficulty", 1))
    assert changed.rows(DIFFICULTY)["mfd"].unique().to_list() == [-3.0]
    assert judges.asked == []


def test_a_silent_judge_leaves_the_others_scores_and_is_alone_asked_again(tmp_path: Path) -> None:
    judges = Judges()
    with FakeProvider(judges) as provider:
        run = answered_run(tmp_path, *(endpoint(provider.base_url, name) for name in ("strict", "silent")))
        judge(run)
        scored = difficulty.fn(run.ref, StageAt("difficulty", 1)).rows
        assert scored == run.rows(ANSWER).height, "one judge is enough"
        assert set(run.rows(JUDGE).filter(status="unscored")["judge"]) == {"silent"}
        judges.fixed = True
        judges.asked.clear()
        assert forget_unscored(run, JUDGE) == run.rows(ANSWER).height * 2
        judge(run)
    assert set(judges.asked) == {"silent"}
    assert run.rows(JUDGE)["status"].unique().to_list() == ["scored"]


def test_a_judge_without_verdicts_is_not_asked_to_the_end_and_once_mended_for_the_rest(tmp_path: Path) -> None:
    judges = Judges()
    with FakeProvider(judges) as provider:
        run = answered_run(tmp_path, endpoint(provider.base_url, "silent"), reasks=2)
        with pytest.raises(ConfigError, match=r"no more is asked.*'no .*Well …'.*retry-judge example --root .* --also"):
            judge(run)
        paid, pairs = len(judges.asked), run.rows(ANSWER).height * 2
        assert paid <= 40 * 3 < pairs * 3, "its first replies are asked for again before the rest is asked at all"
        judges.fixed = True
        assert forget_unscored(run, JUDGE) == paid, "what was in flight came in and is stored"
        close_all()
        judges.asked.clear()
        judge(run)
        assert len(judges.asked) == pairs
    assert run.rows(JUDGE)["status"].unique().to_list() == ["scored"]


def test_of_an_instruction_with_one_unscored_order_the_other_order_is_not_asked_again(tmp_path: Path) -> None:
    judges = Judges()

    def reply(call: RecordedCall) -> FakeReply:
        judges.asked.append(call.prompt)
        return Text("Well …" if len(judges.asked) % 2 and not judges.fixed else "Scores: [[4, 7]]")

    with FakeProvider(reply) as provider:
        run = answered_run(tmp_path, endpoint(provider.base_url, "strict"))
        judge(run)
        unscored = run.rows(JUDGE).filter(status="unscored").height
        assert 0 < unscored < run.rows(JUDGE).height
        judges.fixed = True
        assert forget_unscored(run, JUDGE) == unscored
        judges.asked.clear()
        judge_unsealed(run)
        assert len(judges.asked) == unscored
        assert run.rows(JUDGE).filter(status="unscored").height == unscored
        assert forget_unscored(run, JUDGE) == 0, "what was asked anew is not paid for again"
        judge(run)
        assert len(judges.asked) == unscored
    assert run.rows(JUDGE)["status"].unique().to_list() == ["scored"]


def test_scored_verdicts_that_the_store_lacks_are_not_paid_for_again_without_a_word(tmp_path: Path) -> None:
    """Pruned, or the run was moved: what retry-judge reads again it would ask again."""
    with FakeProvider(Judges()) as provider:
        run = answered_run(tmp_path, endpoint(provider.base_url, "strict"))
        judge(run)
        check_stored(run, JUDGE)
        close_all()
        for file in Path(run.ref.root).glob("**/*.sqlite*"):
            file.unlink()
        with pytest.raises(ConfigError, match=rf"lacks {run.rows(JUDGE).height} replies that have scores"):
            check_stored(run, JUDGE)


def test_a_judge_that_did_not_answer_is_alone_asked_by_the_same_command(tmp_path: Path) -> None:
    judges = Judges()
    with FakeProvider(judges) as provider:
        run = answered_run(tmp_path, *(endpoint(provider.base_url, name) for name in ("strict", "absent")))
        with pytest.raises(ShardIncomplete, match=r"judge \(round 1\), shard 0: .* server"):
            judge(run)
        judges.fixed = True
        judges.asked.clear()
        made = judge(run)
    assert set(judges.asked) == {"absent"}
    assert made.asked == run.rows(ANSWER).height * 4
    assert run.rows(JUDGE).height == run.rows(ANSWER).height * 4


def test_pointwise_every_judge_gives_one_verdict(tmp_path: Path) -> None:
    with StandinServer() as server:
        two = [endpoint(server.base_url, "standin-judge", name) for name in ("a", "b")]
        run = answered_run(tmp_path, *two, mode="pointwise")
        judge(run)
    assert run.rows(JUDGE)["order"].unique().to_list() == ["pointwise"]
    assert run.rows(JUDGE).height == run.rows(ANSWER).height * 2


@pytest.mark.parametrize("orders", [["teacher_first"], ["teacher_first", "student_first"]])
def test_two_equal_answers_are_a_draw_whatever_place_the_judge_likes(tmp_path: Path, orders: list[str]) -> None:
    with FakeProvider(Judges()) as provider:
        run = answered_run(tmp_path, endpoint(provider.base_url, "likes the second"), orders=orders)
        taught = dict(run.rows(StageAt("teach")).select("instruction_id", "response").iter_rows())
        answers = run.rows(ANSWER)
        alike = {*answers["instruction_id"][:10]}
        said = [
            f"{taught[identity]}\n" if identity in alike else f"Not {own}"
            for identity, own in answers.select("instruction_id", "response").iter_rows()
        ]
        part = write_part(run.storage, ANSWER.folder, answers.with_columns(response=pl.Series(said)))
        made = judge_shard.fn(run.ref, JUDGE, Piece(0, 1), ShardOutcome(part))
        assert isinstance(made, Made)
        verdicts = read_part(run.storage, JUDGE.folder, made.rows)
    assert verdicts.height == answers.height * len(orders)
    for identity, order, student, teacher in verdicts.select(
        "instruction_id", "order", "student_score", "teacher_score"
    ).iter_rows():
        apart = 0 if identity in alike else 3 if order == "teacher_first" else -3
        assert student - teacher == apart
        assert student + teacher == 11, "the level of what the judge said stays"
