"""More prompt tokens at once than one step of a server on a CPU takes: drawn samples are answered all the same.

There vLLM ends of a seed whose prompt is read in parts (seen with 0.32), so that a run sends it none.
"""

from dataclasses import replace
from pathlib import Path

from tapir_core.calls import Answer, AnswerStore, CallEngine, Message, Request
from tapir_core.config import CallsConfig, Sampling, VllmEndpoint
from tasks.engines.endpoints import Endpoints

STEP_TOKENS = 2048
"""Prompt tokens that vLLM reads in one step, as it comes."""
AT_ONCE = 16


def test_drawn_samples_with_more_prompt_tokens_than_one_step_takes_are_answered(
    tmp_path: Path, tiny_students: list[Path]
) -> None:
    settings = VllmEndpoint(model=str(tiny_students[0]), dtype="float32", cpu_kv_cache_gib=1)
    who, sampling = settings.answers_as("teacher"), Sampling(temperature=1.0, max_tokens=4)
    texts = [f"Case {case}. " + " ".join(f"word{case} {word}" for word in range(100)) for case in range(AT_ONCE)]
    asked = [
        Request("teach", (Message("user", text),), who.model, who.identity, sampling, sample_index=case + 1)
        for case, text in enumerate(texts)
    ]
    endpoints = Endpoints(64, lambda name: tmp_path / f"{name}.log", str(tmp_path))
    store = AnswerStore(f"sqlite:///{tmp_path}/store.sqlite")
    try:
        # All at once, where a run begins with few.
        served = replace(endpoints.model(settings, "teacher.endpoint"), is_slow=False)
        with CallEngine(store, CallsConfig(max_attempts=1), run="a-run") as engine:
            outcomes = engine.ask(asked, lambda: served)
    finally:
        endpoints.close()
    answers = [each for each in outcomes if isinstance(each, Answer)]
    assert len(answers) == AT_ONCE, outcomes
    assert sum(each.prompt_tokens for each in answers) > STEP_TOKENS
