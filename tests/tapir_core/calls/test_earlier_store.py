"""A store that commit db657cf1 made in the golden run: it opens, and what was paid for then is asked for no more."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from tapir_core.calls import Answer, AnswerStore, Message, Request
from tapir_core.calls.wire import Reply
from tapir_core.config import Sampling

MADE = Path(__file__).parents[2] / "data" / "db657cf1"


@pytest.fixture
def store_url(tmp_path: Path) -> str:
    (tmp_path / "store.sqlite").write_bytes(gzip.decompress((MADE / "store.sqlite.gz").read_bytes()))
    return f"sqlite:///{tmp_path}/store.sqlite"


def requests() -> list[Request]:
    """What teacher, judge and a benchmark's judge were asked in that run, and the probe of both."""
    rows: list[dict[str, Any]] = json.loads(gzip.decompress((MADE / "requests.json.gz").read_bytes()))
    return [
        Request(
            **row
            | {"messages": tuple(Message(*each) for each in row["messages"]), "sampling": Sampling(**row["sampling"])}
        )
        for row in rows
    ]


def test_every_answer_of_an_earlier_store_is_a_hit(store_url: str) -> None:
    asked = requests()
    with AnswerStore(store_url) as store:
        found = store.lookup([each.key for each in asked])
    assert [each for each in asked if each.key not in found] == []
    roles = {each.role for each in asked if isinstance(found[each.key], Answer)}
    assert roles == {"label", "teach", "expand", "refine", "judge", "benchmark", "probe"}
    assert sum(isinstance(each, Answer) for each in found.values()) == 227


def test_an_earlier_store_takes_new_answers(store_url: str) -> None:
    request = Request("teach", (Message("user", "Say yes."),), "m", "i", Sampling(max_tokens=8))
    with AnswerStore(store_url) as store:
        store.put(request.key, request, Reply(Answer("yes", "stop", 3, 1))).result(30)
    with AnswerStore(store_url) as store:
        [found] = store.lookup([request.key]).values()
    assert isinstance(found, Answer)
    assert found.text == "yes"
