"""All that own data may bring, at once: conversations, given answers, own task types, a judged held-out set."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tapir_core.config import RunConfig
from tapir_core.reporting.report import write_report
from tapir_core.run_folder import RunFolder
from tapir_core.stages import StageAt
from tapir_core.text import digest
from tapir_core.turns import EARLIER
from tasks.runtime import close_all
from tests.doubles.provider import FakeProvider, FakeReply, RecordedCall, Text
from tests.golden.adapter import drive
from tests.run_config import make_config

pytestmark = pytest.mark.usefixtures("prefect_server")

TYPES = {"Refund": "asks for money back", "Delivery": "asks where a parcel is"}


def answer(call: RecordedCall) -> FakeReply:
    """Of student, judge and teacher; the student is better where a parcel is asked for."""
    words, prompt = digest(call.body["messages"])[:12], call.prompt
    if "/" in str(call.body["model"]):
        return Text(f"The student says {words}.")
    if call.body["model"] == "a-judge":
        student_first = "The student says" in prompt.partition("<answer_2>")[0]
        return Text("Scores: [[9, 4]]" if student_first == ("My parcel" in prompt) else "Scores: [[4, 9]]")
    if "Delivery: asks where a parcel is" in prompt and "<seed>" not in prompt:
        return Text(f"Task type: {'Refund' if 'I want my money' in prompt else 'Delivery'}")
    if "<seed>" in prompt:
        return Text(f"<new_instruction>\n{' '.join(words)}\n</new_instruction>")
    return Text(f"The teacher says {words}.")


@pytest.fixture
def provider() -> Iterator[FakeProvider]:
    with FakeProvider(answer) as provider:
        yield provider
        close_all()


def desk(folder: Path) -> Path:
    """Sixty conversations of three turns with the desk's answer."""
    rows = []
    for number in range(60):
        word = digest(number)[:6]
        asked = (
            f"Hello, order {word}.",
            "How can I help?",
            f"{'I want my money' if number % 3 else 'My parcel'} {word}!",
        )
        said = [{"role": ("user", "assistant")[turn % 2], "content": text} for turn, text in enumerate(asked)]
        rows.append({"messages": [*said, {"role": "assistant", "content": f"The desk answers {word}."}]})
    file = folder / "desk.json"
    file.write_text(json.dumps(rows))
    return file


def desk_config(tmp_path: Path, provider: FakeProvider, backbone: Path, **sections: Any) -> RunConfig:
    endpoint = {"type": "openai", "base_url": provider.base_url, "api_key_env": ""}
    return make_config(
        tmp_path,
        run={"name": "desk", "rounds": 1},
        data={
            "pool": {"type": "file", "path": str(desk(tmp_path)), "answers": "use", "answered_by": "the desk"},
            "heldout": {"type": "judged"},
        },
        student={"backbone": str(backbone), "engine": {"type": "endpoint", "base_url": provider.base_url}},
        teacher={"endpoint": {**endpoint, "model": "a-teacher"}},
        judge={"endpoint": {**endpoint, "model": "a-judge"}},
        curriculum={
            "task_types": TYPES,
            "target_shares": "equal",
            "alpha_start": 0.5,
            "refine": True,
            "expansion": {"max_waves": 1},
        },
        basic_tuning={"examples": 99},
        rounds={"default": {"examples": 20, "selection": {"type": "hard_share", "share": 0.3}}},
        **sections,
    )


@pytest.fixture
def run(tmp_path: Path, provider: FakeProvider, backbone: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    return drive(desk_config(tmp_path, provider, backbone), monkeypatch)


def test_a_support_desk_is_balanced_held_out_judged_and_told(run: RunFolder, provider: FakeProvider) -> None:
    prompts = [call.prompt for call in provider.calls]
    plain = [call for call in provider.calls if call.body["model"] == "a-teacher" and len(call.body["messages"]) > 1]
    assert plain == [], "each conversation brought its answer"

    labels = dict(run.rows(StageAt("label")).iter_rows())
    assert {*labels.values()} == {*TYPES}
    assert any("Refund: asks for money back" in prompt for prompt in prompts)

    held_out = run.rows(StageAt("judged_heldout"))
    assert held_out[EARLIER].null_count() == 0
    assert {*held_out["split"]} == {"dev", "test"}
    assert held_out.group_by("split").len()["len"].to_list() == [6, 6]
    for number in (0, 1):
        mixed = run.rows(StageAt("mix", number))
        assert not {*mixed["instruction_id"]} & {*held_out["instruction_id"]}
    own = run.rows(StageAt("mix", 0))["messages"].to_list()
    assert all([each["role"] for each in messages] == ["user", "assistant", "user", "assistant"] for messages in own)
    of_student = [call.body["messages"] for call in provider.calls if "/" in str(call.body["model"])]
    for text in held_out["instruction"]:
        given = [[each["role"] for each in messages] for messages in of_student if messages[-1]["content"] == text]
        assert given
        assert all(roles == ["user", "assistant", "user"] for roles in given), "students see the whole conversation"
    asked = held_out["instruction"][0]
    judged = [prompt for prompt in prompts if asked in prompt and "<answer_2>" in prompt]
    assert judged
    assert all("How can I help?" in prompt for prompt in judged), "the judge sees the whole conversation"

    scores = run.rows(StageAt("evaluate", 1)).filter(benchmark="judged_heldout", split="test", category="all")
    [retention] = scores.filter(metric="quality_retention")["value"]
    test = [labels[each] for each in held_out.filter(split="test")["instruction_id"]]
    assert retention == pytest.approx(test.count("Delivery") / len(test))
    assert {*run.rows(StageAt("evaluate", 1)).filter(pl.col("category").is_in([*TYPES]))["category"]} <= {*TYPES}
    html = (Path(run.ref.root) / run.ref.name / "report.html").read_text() if write_report(run) else ""
    assert all(words in html for words in ("uality retention", "the desk", "Refund", "Tokens, mean"))
