"""The schemas of replies are as recorded: they stand in the keys of what was paid for, and a library writes them."""

import pytest

from tapir_core.curriculum.teacher import label_reply
from tapir_core.json_reply import JsonReply
from tapir_core.judging.verdict import PairReply, PointReply
from tapir_core.task_types import TASK_TYPES
from tapir_core.text import digest


@pytest.mark.parametrize(
    ("form", "recorded"),
    [(PairReply, "8b953f9c726e"), (PointReply, "606a388e8e15"), (label_reply(TASK_TYPES), "d0ba45f7e06e")],
)
def test_a_schema_is_as_recorded(form: type[JsonReply], recorded: str) -> None:
    assert digest(form.schema_text())[:12] == recorded, form.schema_text()
