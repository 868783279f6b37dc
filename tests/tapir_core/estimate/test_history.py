from pathlib import Path

import pytest

from tapir_core.calls import Answer, AnswerStore
from tapir_core.calls.wire import Reply
from tapir_core.config import ModelIdentity
from tapir_core.estimate.history import past_seconds, store_exists, stored_lengths
from tests.doubles.provider import make_request
from tests.run_builder import build_run, make_config

VOICE = ModelIdentity("fake-model", "fake-1")


def fill(url: str, answers: int, tokens: int) -> None:
    with AnswerStore(url) as store:
        for number in range(answers):
            request = make_request(f"question {number}")
            answer = Answer("fine", "stop", 10, tokens)
            store.put(request.key, request, Reply(answer, prompt_tokens=10, completion_tokens=tokens)).result(30)


def test_lengths_are_those_of_the_same_model_in_the_same_role(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'store.sqlite'}"
    fill(url, 30, 17)
    found = stored_lengths(
        url, [("teach", VOICE), ("judge", VOICE), ("teach", ModelIdentity("fake-model", "another revision"))]
    )
    assert list(found) == [("teach", VOICE)]
    assert (found["teach", VOICE].tokens, found["teach", VOICE].answers) == (17.0, 30)


def test_a_few_answers_are_no_history(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'store.sqlite'}"
    fill(url, 5, 17)
    assert stored_lengths(url, [("teach", VOICE)]) == {}


def test_a_store_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    assert not store_exists(f"sqlite:///{tmp_path / 'store.sqlite'}")
    assert store_exists("postgresql://someone@host/store")


def test_seconds_are_those_of_earlier_runs_with_the_same_models(tmp_path: Path) -> None:
    build_run(tmp_path)
    found = past_seconds(make_config(tmp_path, run={"name": "next"}))
    assert {"label", "teach", "answer", "judge", "expand", "refine", "evaluate", "train"} == set(found)
    assert found["label"] == pytest.approx(0.15 / 0.9, rel=0.6)
    assert all(seconds > 0 for seconds in found.values())


def test_runs_with_other_models_and_broken_ones_tell_nothing(tmp_path: Path) -> None:
    build_run(tmp_path)
    other = make_config(tmp_path, run={"name": "next"}, student={"backbone": "another/model"})
    assert past_seconds(other) == {}
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "run.json").write_text("{")
    assert past_seconds(make_config(tmp_path, run={"name": "next"}))
    assert past_seconds(make_config(tmp_path / "empty")) == {}
