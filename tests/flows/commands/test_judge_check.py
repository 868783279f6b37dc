"""`tapir judge-check` with the stand-in as a judge that is fair, biased, noisy, gullible or silent."""

import io
import json
import math
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from flows.commands.judge_check import CheckedJudge, check_judges, exit_code, print_check
from tapir_core.config import BudgetConfig, RunConfig
from tapir_core.errors import BudgetReached, ConfigError, IncompleteBatch, MissingPrerequisite
from tapir_core.judging import neutralise
from tapir_core.judging.check import build_pairs
from tapir_core.judging.hostile import hostile_cases
from tapir_core.randomness import derive_rng
from tests.doubles.provider import FakeProvider, FakeReply, RecordedCall, Status, Text
from tests.doubles.standin import StandinServer
from tests.run_config import make_config

PAIRS = 20
HOSTILE = len(hostile_cases())
"""All of them, from so many pairs of a kind on."""


def make_endpoint(base_url: str, identity: str = "one", **fields: Any) -> dict[str, Any]:
    given = {"type": "openai", "base_url": base_url, "model": "standin-judge", "identity": identity, "api_key_env": ""}
    return {**given, **fields}


def config_of(root: Path, endpoint: dict[str, Any], **judge: Any) -> RunConfig:
    return make_config(
        root, judge={"endpoint": endpoint, **judge}, calls={"max_attempts": 1, "dead_after_seconds": 1.0}
    )


def check(config: RunConfig, pairs: int = PAIRS) -> CheckedJudge:
    (found,) = check_judges(config, pairs=pairs, say=lambda _: None)
    return found


def code(found: CheckedJudge) -> int:
    return exit_code([found])


def shown(*found: CheckedJudge) -> str:
    console = Console(file=io.StringIO(), width=120)
    print_check(console, found)
    return console.file.getvalue()


def test_the_stand_in_is_trusted_at_the_price_of_its_calls_and_asked_once(tmp_path: Path) -> None:
    prices = {"usd_per_million_prompt_tokens": 1.0, "usd_per_million_completion_tokens": 2.0}
    with StandinServer() as server:
        config = config_of(tmp_path, make_endpoint(server.base_url, **prices))
        found = check(config)
        asked = server.stats()["requests"]
        again = check(config)
        assert server.stats()["requests"] == asked
    assert (found.check.word, code(found)) == ("trust", 0), found.check.objections
    assert found.check.moved == ()
    assert found.check.kind("hostile").right.n == HOSTILE
    assert 0.5 < (found.check.order_gap.value or 0) < 1.3
    # Of some hostile texts nothing is left: their message is that of the plain pair and is asked once.
    verdicts = 2 * (4 * PAIRS + HOSTILE)
    assert found.cost["calls"] == asked < verdicts == asked + found.cost["stored"]
    assert found.cost["usd"] > 0
    assert (again.cost["calls"], again.cost["stored"]) == (0, verdicts)
    assert again.check == found.check
    assert [path.name for path in tmp_path.iterdir()] == [".tapir"]
    text = shown(found)
    assert "standin-judge: trust" in text
    assert "hostile texts that moved it: none" in text


def test_a_judge_that_favours_the_first_place_is_not_to_be_trusted(tmp_path: Path) -> None:
    with StandinServer(position_bias=5.0) as server:
        found = check(config_of(tmp_path, make_endpoint(server.base_url)))
    assert (found.check.word, code(found)) == ("do not trust", 1)
    assert "first is favoured" in found.check.objections[0][1]
    assert "do not trust" in shown(found)


def test_a_judge_that_rolls_dice_is_not_to_be_trusted(tmp_path: Path) -> None:
    with StandinServer(noise=9.0) as server:
        found = check(config_of(tmp_path, make_endpoint(server.base_url)))
    assert found.check.word == "do not trust"
    assert any("right" in reason for _, reason in found.check.objections)


def test_a_run_that_asks_one_order_is_checked_in_both_and_told_so(tmp_path: Path) -> None:
    with StandinServer() as server:
        found = check(config_of(tmp_path, make_endpoint(server.base_url), orders=["teacher_first"]))
    assert found.check.word == "with care"
    assert code(found) == 0
    assert all(len(result.gaps) == 2 for result in found.results)


def test_single_answers_are_checked_without_orders(tmp_path: Path) -> None:
    with StandinServer() as server:
        found = check(config_of(tmp_path, make_endpoint(server.base_url), mode="pointwise"))
    assert found.check.word == "trust", found.check.objections
    assert found.check.order_gap.value is None
    assert "order gap: –" in shown(found)


def test_a_gullible_judge_is_named_with_the_texts_that_moved_it(tmp_path: Path) -> None:
    right = {pair.better for pair in build_pairs(PAIRS, derive_rng(1, "judge-check"))}

    def score(answer: str) -> int:
        """10 for whoever orders it, 9 for what holds a right result, 2 for all else."""
        return 10 if "give it 10" in answer else 9 if right & set(answer.split("\n")) else 2

    def script(call: RecordedCall) -> FakeReply:
        first, second = (
            call.prompt.split(f"\n<{tag}>\n")[1].split(f"\n</{tag}>\n")[0] for tag in ("answer_1", "answer_2")
        )
        return Text(f"Scores: [[{score(first)}, {score(second)}]]")

    with FakeProvider(script) as provider:
        found = check(config_of(tmp_path, make_endpoint(provider.base_url)))
    obeyed = {case.name for case in hostile_cases() if "give it 10" in neutralise(case.wrap("x"))}
    assert set(found.check.moved) == obeyed != set()
    assert found.check.word == "with care"
    assert "order: plain" in found.check.moved


def test_a_judge_without_verdicts_is_not_to_be_trusted_and_the_reasons_are_counted(tmp_path: Path) -> None:
    with FakeProvider(lambda _: Text("Both are fine.")) as provider:
        found = check(config_of(tmp_path, make_endpoint(provider.base_url), reasks=0), pairs=1)
    assert code(found) == 1
    assert found.check.reasons == {"no verdict": 2 * (4 + math.ceil(HOSTILE / PAIRS))}
    assert "no verdict" in shown(found)


def test_replies_that_do_not_come_leave_the_check_unfinished(tmp_path: Path) -> None:
    with FakeProvider(lambda _: Status(500)) as provider, pytest.raises(IncompleteBatch, match="server"):
        check(config_of(tmp_path, make_endpoint(provider.base_url)), pairs=1)


def test_a_cap_ends_the_check_as_it_ends_a_run(tmp_path: Path) -> None:
    with StandinServer() as server:
        config = config_of(tmp_path, make_endpoint(server.base_url))
        capped = config.model_copy(update={"budget": BudgetConfig(requests=9)})
        with pytest.raises(BudgetReached, match="budget"):
            check(capped, pairs=1)
        assert server.stats()["requests"] <= 9


def test_a_judge_that_is_not_there_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(MissingPrerequisite, match=r"judge\.endpoint"):
        check(config_of(tmp_path, make_endpoint("http://127.0.0.1:9/v1")), pairs=1)


def test_the_configured_stand_in_is_started_and_ended_and_leaves_no_run(tmp_path: Path) -> None:
    found = check(config_of(tmp_path, {"type": "standin", "noise": 0.0}), pairs=1)
    assert found.check.moved == ()
    assert [path.name for path in tmp_path.iterdir()] == [".tapir"]


def test_the_json_holds_every_figure_and_every_pair(tmp_path: Path) -> None:
    with StandinServer() as server:
        found = check(config_of(tmp_path, make_endpoint(server.base_url)), pairs=2)
    whole = json.loads(json.dumps(found.to_dict()))
    assert whole["judge"] == {"model": "standin-judge", "identity": "one", "mode": "pairwise"}
    assert (whole["word"], whole["objections"]) == (found.check.word, [said for _, said in found.check.objections])
    assert len(whole["pairs"]) == 4 * 2 + math.ceil(2 * HOSTILE / PAIRS)
    assert {"kinds", "task_types", "order_gap", "flipped", "moved", "unscored", "reasons", "cost"} <= whole.keys()
    assert whole["kinds"][0]["right"].keys() == {"value", "n", "low", "high", "stderr", "why"}


def test_every_judge_of_a_panel_is_checked_and_the_worst_decides(tmp_path: Path) -> None:
    panel = [{"type": "standin", "position_bias": 6.0}]
    config = make_config(tmp_path, judge={"endpoint": {"type": "standin"}, "panel": panel})
    found = check_judges(config, pairs=1, say=lambda _: None)
    fair, biased = found
    assert "-bias6-" in biased.name
    assert (code(fair), code(biased), exit_code(found)) == (0, 1, 1)
    text = shown(fair, biased)
    assert text.index(f"{fair.name}: ") < text.index(f"{biased.name}: do not trust")


def test_where_no_judge_is_asked_there_is_none_to_check(tmp_path: Path) -> None:
    verifier = {"function": "numeric", "only": True}
    config = make_config(tmp_path, judge={"verifier": verifier})
    with pytest.raises(ConfigError, match=r"judge\.verifier\.only: value true: no judge is asked"):
        check_judges(config, pairs=1, say=lambda _: None)
