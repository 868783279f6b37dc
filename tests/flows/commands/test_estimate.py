import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from flows.commands.run import memory_lines, print_estimate
from tapir_core.calls import Answer, AnswerStore, Spend, store_url
from tapir_core.calls.wire import Reply
from tapir_core.config import RunConfig
from tapir_core.errors import ConfigError
from tapir_core.estimate.evidence import pool_requests
from tapir_core.estimate.run import Estimate, Figures, estimate_run, load_estimate, save_estimate
from tapir_core.paths import ESTIMATE
from tapir_core.prompts import load_prompt
from tapir_core.run_folder import open_run
from tapir_core.sources import standin_pool
from tests.run_config import make_config
from tests.students import make_checkpoint

UNPRICED = {
    "endpoint": {
        "type": "openai",
        "base_url": "https://llm.example.com/v1",
        "model": "m",
        "identity": "i",
        "api_key_env": "",
    }
}


def test_the_memory_of_training_is_told_below_and_no_fault_of_it_ends_the_estimate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(tmp_path, student={"backbone": str(make_checkpoint(tmp_path / "backbone"))})
    monkeypatch.setattr("tasks.engines.training.prerequisites.look_ahead", lambda *_: ["1.00 GiB a process"])
    assert memory_lines(config) == ["Training memory: 1.00 GiB a process"]
    for wrong in ({"student": {"backbone": "nobody/no-model"}}, {"training": {"runs_on": "worker"}}):
        assert memory_lines(make_config(tmp_path, **wrong)) == []
    bare = {"backbone": str(make_checkpoint(tmp_path / "bare", chat_template__jinja=None))}
    assert "has no chat template" in memory_lines(make_config(tmp_path, student=bare))[0]


def stage(found: Estimate, name: str) -> Figures:
    return next(each for each in found.stages if each.name == name)


def estimated(config: RunConfig) -> Estimate:
    return estimate_run(config, source="a test", sample=20)


def printed(found: Estimate) -> str:
    shown = io.StringIO()
    print_estimate(Console(width=240, file=shown), found)
    return shown.getvalue()


def answer_first_rows(config: RunConfig, labels: int, answers: int) -> None:
    """Store the labels and plain answers of the first rows of the pool, as an earlier run would have."""
    source = config.data.pool
    texts = standin_pool(source.rows, source.max_level, config.run.seed)["instruction"].to_list()
    prompt = load_prompt("label")
    rows = [{"instruction": text, "system": None, "reference": None} for text in texts]
    requests = [pool_requests(config, prompt, row)[0] for row in rows[:labels]]
    requests += [pool_requests(config, prompt, row)[1] for row in rows[:answers]]
    with AnswerStore(store_url(config)) as store:
        for request in requests:
            reply = Reply(Answer("Task type: Math", "stop", 90, 33), spent=Spend(1, 90, 33))
            store.put(request.key, request, reply).result(30)


def test_it_needs_no_key_and_leaves_nothing_behind(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    assert stage(estimated(config), "label").paid.calls.likely == 240
    assert list(tmp_path.iterdir()) == []


def test_what_the_store_answers_is_not_paid_and_tells_lengths(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    answer_first_rows(config, labels=100, answers=60)
    found = estimated(config)
    assert stage(found, "label").paid.calls.likely == 140
    assert stage(found, "teach").paid.calls.likely == 180
    assert stage(found, "teach").needed.completion_tokens.likely == 240 * 33


def test_stored_labels_tell_what_the_pool_lacks(tmp_path: Path) -> None:
    config = make_config(tmp_path, teacher=UNPRICED)
    before = {each.name: each.needed.calls.likely for each in estimated(config).stages}
    answer_first_rows(config, labels=100, answers=0)
    after = {each.name: each.needed.calls.likely for each in estimated(config).stages}
    assert after["expand"] > before.get("expand", 0), "all of them are Math, so everything else lacks"


def test_a_pool_that_the_stand_in_does_not_know_is_not_learnt_from(tmp_path: Path) -> None:
    path = tmp_path / "pool.jsonl"
    path.write_text("".join(json.dumps({"instruction": f"Tell me of river {n}."}) + "\n" for n in range(50)))
    config = make_config(tmp_path / "runs", data={"pool": {"type": "file", "path": str(path)}})
    found = estimated(config)
    assert stage(found, "teach").needed.calls.likely == 50
    assert "answer" not in {each.name for each in found.stages}


def test_a_pool_of_ones_own_is_estimated_too(tmp_path: Path) -> None:
    path = tmp_path / "pool.jsonl"
    path.write_text("".join(json.dumps({"instruction": f"Tell me of river {n}."}) + "\n" for n in range(50)))
    config = make_config(tmp_path / "runs", data={"pool": {"type": "file", "path": str(path)}}, teacher=UNPRICED)
    found = estimated(config)
    assert stage(found, "teach").needed.calls.likely == 50
    assert stage(found, "judge_heldout").needed.calls.likely > 0, "a part of it is held out and judged"


def test_an_unknown_price_stands_in_the_table_with_its_remedy(tmp_path: Path) -> None:
    text = printed(estimated(make_config(tmp_path, teacher=UNPRICED)))
    assert "unknown" in text
    assert "usd_per_million_prompt_tokens" in text


def test_a_batched_teacher_costs_half(tmp_path: Path) -> None:
    endpoint = {**UNPRICED["endpoint"], "usd_per_million_prompt_tokens": 1.0, "usd_per_million_completion_tokens": 1.0}
    live, batch = (
        stage(estimated(make_config(tmp_path, teacher={"endpoint": {**endpoint, "mode": mode}})), "teach").paid.usd
        for mode in ("live", "batch")
    )
    assert live is not None
    assert batch is not None
    assert batch.likely == pytest.approx(live.likely / 2)


def test_the_assumptions_stand_under_the_table(tmp_path: Path) -> None:
    text = printed(estimated(make_config(tmp_path)))
    assert text.index("Assumptions") > text.index("by stage")
    assert "20 of 240 instructions" in text


def test_a_pool_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    config = make_config(tmp_path, data={"pool": {"type": "file", "path": str(tmp_path / "no.json")}})
    with pytest.raises(ConfigError, match=r"no\.json"):
        estimated(config)


def test_what_a_run_was_expected_to_take_is_kept_at_its_first_start(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    run = open_run(config, {})
    save_estimate(run)
    first = load_estimate(run.storage.read_bytes(ESTIMATE))
    assert stage(first, "label").paid.calls.likely == 240
    answer_first_rows(config, labels=100, answers=60)
    save_estimate(run)
    assert load_estimate(run.storage.read_bytes(ESTIMATE)) == first


def test_the_other_objectives_are_estimated_beside_the_own_one_or_say_what_they_lack(tmp_path: Path) -> None:
    own = estimated(make_config(tmp_path, rounds={"default": {"examples": 40, "alpha": 1.0}}))
    others = {each.objective: each for each in own.others}
    assert set(others) == {"prefer", "on_policy"}
    assert "cannot score token ids" in others["on_policy"].lacks
    prefer = {"examples": 40, "selection": {"type": "hard_share"}, "objective": "prefer"}
    alone = estimated(make_config(tmp_path, rounds={"default": prefer}))
    assert others["prefer"].usd == alone.charged.paid.usd
    assert others["prefer"].hours == alone.total.hours
    assert {each.objective for each in alone.others} == {"imitate", "on_policy"}
    shown = printed(own)
    assert "By the objective of the rounds" in shown
    assert "cannot score token ids" in " ".join(shown.split())


def test_prefer_is_estimated_by_its_own_seeds_where_the_sizes_are_open(tmp_path: Path) -> None:
    found = estimated(make_config(tmp_path, rounds={"default": {"examples": "auto", "alpha": 1.0}}))
    [prefer] = [each for each in found.others if each.objective == "prefer"]
    assert prefer.lacks == ""
    assert prefer.usd is not None
