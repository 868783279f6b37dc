"""Whom a run's teacher and judge ask, and how."""

from pathlib import Path
from typing import Any

import pytest

from tapir_core.calls import Answer, Message, Request
from tapir_core.errors import Stopped
from tapir_core.paths import BACKBONE
from tapir_core.run_folder import open_run
from tapir_core.stages import TEACH
from tasks.engines.vllm import VllmServer
from tasks.runtime import Runtime
from tests.doubles.batches import BatchRules
from tests.doubles.standin import StandinServer
from tests.run_config import make_config
from tests.students import make_checkpoint


def open_runtime(root: Path, **teacher: Any) -> Runtime:
    return Runtime(open_run(make_config(root, teacher={"endpoint": teacher}), {}))


def ask(runtime: Runtime, text: str) -> Answer:
    voice = runtime.teacher.identity
    sampling = runtime.config.teacher.answering
    request = Request("teach", (Message("user", text),), voice.model, voice.identity, sampling, run="example")
    (outcome,) = runtime.calls.ask([request], runtime.teacher.source)
    assert isinstance(outcome, Answer)
    return outcome


@pytest.mark.parametrize(("mode", "share"), [("live", 1.0), ("batch", 0.5)])
def test_a_batch_is_asked_where_the_endpoint_says_so_at_half_the_price(tmp_path: Path, mode: str, share: float) -> None:
    endpoint = {"type": "openai", "model": "standin-teacher", "identity": "one", "api_key_env": "", "mode": mode}
    prices = {"usd_per_million_prompt_tokens": 1e6, "usd_per_million_completion_tokens": 1e6}
    log_path = tmp_path / "log.jsonl"
    with StandinServer(batches=BatchRules(seconds=0.1), log_path=log_path) as server:
        runtime = open_runtime(tmp_path, **endpoint, **prices, base_url=server.base_url)
        answer = ask(runtime, "What is 30 + 61?")
        runtime.close()
    assert answer.text == "Answer: 91"
    assert answer.usd == share * (answer.prompt_tokens + answer.completion_tokens)
    assert ('"batch": null' in log_path.read_text()) is (mode == "live")


def test_work_that_waits_for_its_turn_when_a_run_is_interrupted_is_not_begun(tmp_path: Path) -> None:
    runtime = open_runtime(tmp_path, type="standin")
    runtime.check_stop(TEACH.at())
    runtime.abort()
    with pytest.raises(Stopped):
        runtime.check_stop(TEACH.at())
    runtime.close()


def test_replicas_answer_under_the_same_name_as_one_server(tmp_path: Path) -> None:
    backbone = make_checkpoint(tmp_path / "backbone")
    voices = []
    for kind in ("vllm", "replicas"):
        student = {"backbone": str(backbone), "engine": {"type": kind}}
        runtime = Runtime(open_run(make_config(tmp_path, student=student), {}))
        assert type(runtime.students) is VllmServer, "a run that has joined no fleet serves its students itself"
        voices.append(runtime.student(BACKBONE).identity)
        runtime.close()
    assert len(set(voices)) == 1
