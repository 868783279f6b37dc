"""How a student writes, and when that is an alarm."""

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tapir_core import run_state
from tapir_core.config import RandomShare, StopConfig
from tapir_core.curriculum import Habits, RoundHistory, alarm, best_round, habits_of, measure_rollouts, should_stop
from tapir_core.reporting import sentences
from tapir_core.reporting.tables import habits_table
from tapir_core.run_folder import RunFolder
from tapir_core.run_state import alarm_of, read_habits, state_of, stop_reason
from tapir_core.stages import ANSWER_HELDOUT, EVALUATE, HELDOUT, ROLLOUT, SCORE
from tapir_core.summary import summarise
from tests.run_builder import build_run
from tests.run_config import make_config

WELL = Habits(answers=400, length=100, unended=0.02, repeated=0.05, divergence=0.3, entropy=0.6)


def answers(*rows: tuple[str | None, str, int | None]) -> pl.DataFrame:
    columns = {"response": pl.String, "finish_reason": pl.String, "completion_tokens": pl.Int64}
    return pl.DataFrame(rows, schema=columns, orient="row")


def test_habits_are_of_whole_answers_ends_and_runs_of_four_words() -> None:
    found = habits_of(
        answers(
            ("one two three four five", "stop", 10),
            ("six seven eight nine", "stop", 20),
            ("a b c d a b c d a b c d", "length", 500),
            (None, "failed:timeout", None),
        )
    )
    assert found.length == 15, "of those that ended"
    assert found.unended == pytest.approx(1 / 3), "what failed is no answer"
    assert found.repeated == pytest.approx(5 / 12), "2 + 1 + 9 runs, 7 of them for the first time"
    assert habits_of(answers()) == Habits()
    assert habits_of(answers(("short", "stop", None))) == Habits(answers=1, unended=0.0)


def test_a_script_without_blanks_repeats_itself_too() -> None:
    assert (habits_of(answers(("天地玄黄" * 4, "stop", 16))).repeated or 0) > 0.5


def test_rollouts_say_how_far_a_student_is_from_its_teacher_and_how_sure_of_itself() -> None:
    drawn = pl.DataFrame({"instruction_id": ["a", "b"], "sample": [1, 1], "log_probs": [[-1.0, -2.0, -9.0], [-0.5]]})
    scores = pl.DataFrame({"instruction_id": ["b", "a"], "sample": [1, 1], "log_probs": [[-1.5], [-2.0, -2.0]]})
    found = Habits().with_rollouts(measure_rollouts(drawn, scores))
    assert found.divergence == pytest.approx((1.0 + 0.0 + 1.0) / 3), "of the first tokens, which are scored"
    assert found.entropy == pytest.approx((1.0 + 2.0 + 0.5) / 3)
    assert Habits().with_rollouts({}) == Habits()


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"length": 151}, "its whole answers grew from 100 to 151 tokens, max_growth = 0.5"),
        ({"unended": 0.13}, "the share of its answers that broke off went from 2% to 13%, max_unended = 0.1"),
        ({"repeated": 0.16}, "the share of its words that repeat themselves went from 5% to 16%, max_repeated = 0.1"),
        ({"divergence": 0.81}, "its distance to the teacher grew from 0.30 to 0.81 nats a token, max_divergence = 0.5"),
        ({"entropy": 0.05}, "its entropy fell from 0.60 to 0.05 nats a token, max_entropy_loss = 0.9"),
        ({"length": 149, "unended": 0.11, "repeated": 0.14, "divergence": 0.79, "entropy": 0.07}, None),
        ({"length": 20, "unended": 0.0, "repeated": 0.0, "divergence": 0.0, "entropy": 3.0}, None),
        ({name.name: None for name in fields(Habits) if name.name != "answers"}, None),
    ],
)
def test_each_figure_that_got_much_worse_is_an_alarm(changed: dict[str, Any], says: str | None) -> None:
    after = Habits(**{name.name: getattr(WELL, name.name) for name in fields(Habits)} | changed)
    assert alarm(WELL, after, StopConfig()) == says
    assert alarm(after if says is None else Habits(), after, StopConfig()) is None
    off = dict.fromkeys([name for name in StopConfig.model_fields if name.startswith("max_")])
    assert alarm(WELL, after, StopConfig.model_validate(off)) is None


def test_chance_and_a_lesson_are_no_alarm() -> None:
    few = replace(WELL, answers=19, length=900, unended=0.9, repeated=0.9)
    assert alarm(replace(WELL, answers=19), few, StopConfig()) is None
    broken = replace(WELL, unended=0.16)
    some = [replace(each, answers=40) for each in (WELL, broken)]
    assert alarm(*some, stop=StopConfig()) is None, "5 more of 40 break off by chance"
    assert alarm(WELL, broken, StopConfig()) is not None, "56 more of 400 do not"
    longer = replace(WELL, length=160)
    assert alarm(WELL, longer, StopConfig(), taught=lambda: 170) is None, "the teacher's are as long"
    assert alarm(WELL, longer, StopConfig(), taught=lambda: 150) is not None


def test_an_alarm_ends_the_run_and_its_student_is_not_the_best() -> None:
    history = [RoundHistory(0, None, 0.2), RoundHistory(1, None, 0.3), RoundHistory(2, None, 0.9, None, "it loops")]
    assert should_stop(history, StopConfig()) == "S_2: it loops"
    begun = [*history, RoundHistory(3, 100)]
    assert should_stop(begun, StopConfig()) == "S_2: it loops", "what rollouts show is known once a round has begun"
    assert should_stop([*begun, RoundHistory(4, 100)], StopConfig()) is None
    assert best_round(history) == 1
    assert best_round(history, RoundHistory(50, None, 0.95, None, "it loops")) == 1
    judged = [RoundHistory(each.number, None, each.dev_score, {"a": 1.0}, each.alarm) for each in history]
    assert best_round(judged) == 1, "the last that raised none"


def longer(run: RunFolder, number: int, times: int) -> None:
    """The same answers of the student after a round, said in so many times 40 tokens, and the same scores."""
    at, scores = ANSWER_HELDOUT.at(number), run.rows(EVALUATE.at(number))
    run.write(at, run.rows(at).with_columns(completion_tokens=pl.lit(40 * times)))
    run.write(EVALUATE.at(number), scores)


@pytest.mark.parametrize("objective", ["prefer", "imitate"])
def test_a_round_of_its_own_answers_is_marked_in_a_run(tmp_path: Path, objective: str) -> None:
    rounds = {"default": {"examples": 96, "selection": {"type": "hard_share", "share": 0.9}, "objective": objective}}
    run = build_run(tmp_path, config=make_config(tmp_path, rounds=rounds), until=EVALUATE.at(1))
    longer(run, 0, 1)
    longer(run, 1, 2)
    assert read_habits(run, 1).length == 80
    dev = run.rows(HELDOUT.at()).filter(split="dev").height
    assert 0 < dev < run.rows(ANSWER_HELDOUT.at(1)).height, "the test split is read by no rule"
    told = "its whole answers grew from 40 to 80 tokens, max_growth = 0.5" if objective == "prefer" else None
    assert alarm_of(run, 1) == told, "a teacher's answers may be longer"
    assert alarm_of(run, 0) is None
    assert stop_reason(run, 1) == (told and f"S_1: {told}")
    assert (state_of(run).best == 0) or not told
    summary = summarise(run)
    assert ("Alarm: S_1 is not to be the best" in sentences.best(summary)) is bool(told)
    assert [row[1] for row in habits_table(summary).rows][-2:] == ["40", "80"]


@pytest.fixture
def rolled_out(tmp_path: Path) -> RunFolder:
    config = make_config(
        tmp_path,
        run={"rounds": 3},
        rounds={
            "default": {
                "examples": 96,
                "alpha": 1.0,
                "objective": "on_policy",
                "selection": {"type": "hard_share", "share": 0.5},
            },
        },
        teacher={"endpoint": {"type": "vllm", "model": "teacher"}},
    )
    return build_run(tmp_path, config=config, until=SCORE.at(2))


def farther(run: RunFolder, by: float) -> None:
    """The tokens of round 2 are less likely by so much to the teacher."""
    scores = run.rows(SCORE.at(2))
    less = scores.with_columns(pl.col("log_probs").list.eval(pl.element() - by).cast(pl.List(pl.Float32)))
    run.write(SCORE.at(2), less, counts=measure_rollouts(run.rows(ROLLOUT.at(2)), less))


def test_what_is_wrong_with_rollouts_ends_the_round_that_drew_them(rolled_out: RunFolder) -> None:
    run = rolled_out
    assert (read_habits(run, 0).divergence, read_habits(run, 1).divergence) == pytest.approx((0.2, 0.3))
    assert 0 < (read_habits(run, 0).entropy or 0) < 1
    assert stop_reason(run, 2) is None
    farther(run, 0.6)
    told = "S_1: its distance to the teacher grew from 0.20 to 0.90 nats a token, max_divergence = 0.5"
    assert stop_reason(run, 2) == told
    state = state_of(run)
    assert (state.stopped, state.best) == (told, 0)


def test_rollouts_on_prompts_of_another_kind_are_not_compared(rolled_out: RunFolder) -> None:
    farther(rolled_out, 0.6)
    two = rolled_out.config.round(2)
    other = two.model_copy(update={"selection": RandomShare()})
    config = rolled_out.config.model_copy(update={"rounds": {"1": two, "2": other}})
    assert run_state._draws_alike(rolled_out.config, 1)
    assert not run_state._draws_alike(config, 1)


def test_a_student_that_is_answered_and_not_yet_scored_raises_no_alarm(tmp_path: Path) -> None:
    rounds = {"default": {"examples": 96, "selection": {"type": "hard_share", "share": 0.9}, "objective": "prefer"}}
    run = build_run(tmp_path, config=make_config(tmp_path, rounds=rounds), until=EVALUATE.at(1))
    longer(run, 0, 1)
    at = ANSWER_HELDOUT.at(1)
    run.write(at, run.rows(at).with_columns(completion_tokens=pl.lit(400)))
    assert state_of(run).stopped is None
    assert state_of(run).next_stage == EVALUATE.at(1), "it is scored before the rule speaks"
