"""A teacher or judge that the run serves itself."""

from typing import Any

import pytest

from tapir_core.config import RunConfig
from tapir_core.config.checks import check_config, missing_prerequisites
from tests.run_config import make_config

SERVED: dict[str, Any] = {"type": "vllm", "model": "org/teacher", "max_model_length": 4096}


def configured(judge: dict[str, Any] = SERVED, **teacher: Any) -> RunConfig:
    return make_config("runs", teacher={"endpoint": SERVED | teacher}, judge={"endpoint": judge})


def test_one_model_may_teach_and_judge_and_costs_nothing() -> None:
    config = configured()
    assert check_config(config) == []
    assert config.judge.endpoint.takes_turns
    assert config.teacher.endpoint.base_urls == ()


def test_two_models_beside_the_student_are_refused() -> None:
    [problem] = check_config(configured({**SERVED, "model": "org/judge"}))
    assert problem.startswith('judge.endpoint: type = "vllm" with other fields than teacher.endpoint: a run serves one')


def test_answers_that_leave_no_room_for_a_prompt_are_refused() -> None:
    config = configured(SERVED | {"max_model_length": 2048}, max_model_length=2048)
    assert (
        "teacher.endpoint.max_model_length: value 2048: leaves no room for a prompt beside an answer of 2048"
        in (check_config(config)[0])
    )


def test_its_interpreter_is_looked_for_before_the_run_starts() -> None:
    said = missing_prerequisites(configured(SERVED | {"python": "/no/python"}, python="/no/python"), {})
    assert any(line.startswith("teacher.endpoint.python: /no/python is no interpreter") for line in said)


@pytest.mark.parametrize(
    "field",
    [{"dtype": "float32"}, {"max_model_length": 9}, {"revision": "b"}, {"chat_template": "b"}, {"identity": "b"}],
)
def test_what_shapes_its_answers_is_in_its_identity_and_the_rest_is_not(field: dict[str, Any]) -> None:
    def identity(**fields: Any) -> str:
        return configured(**fields).teacher.endpoint.identity_for("teacher")

    assert identity(**field) != identity()
    assert identity(concurrency=3, tensor_parallel=2, gpu_memory_utilization=0.5) == identity()


def test_a_stage_that_asks_all_of_them_at_once_is_refused() -> None:
    checked = {"expansion": {"check_difficulty": True}}
    config = make_config("runs", judge={"endpoint": SERVED}, curriculum=checked)
    [problem] = check_config(config)
    assert problem.startswith('judge.endpoint: type = "vllm" cannot be with curriculum.expansion.check_difficulty')


def test_a_judge_of_a_benchmark_has_room_for_what_that_asks() -> None:
    bench = {"type": "mt_bench", "questions": "q.jsonl", "sampling": {"max_tokens": 4096}}
    config = make_config("runs", judge={"endpoint": SERVED}, evaluation={"benchmarks": {"mt": bench}})
    assert [line for line in check_config(config) if line.startswith("judge.endpoint.max_model_length: value 4096")]


def test_asked_live_it_is_the_same() -> None:
    endpoint = configured().teacher.endpoint
    assert endpoint.live == endpoint
    assert endpoint.live.identity_for("teacher") == endpoint.identity_for("teacher")
