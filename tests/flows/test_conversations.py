"""A run on conversations of a user's own: every turn reaches whoever it is for, and given answers are not asked for."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from flows.distill import distill
from flows.driver import hold_run
from tapir_core.config import RunConfig
from tapir_core.paths import judge_report_file
from tapir_core.reporting import sentences
from tapir_core.reporting.judge_report import summarise_judge, write_judge_report
from tapir_core.reporting.report import write_report
from tapir_core.run_folder import RunFolder
from tapir_core.stages import StageAt
from tapir_core.summary import summarise
from tapir_core.text import digest, instruction_id
from tapir_core.turns import messages_of
from tasks.runtime import close_all
from tests.doubles.provider import FakeProvider, FakeReply, RecordedCall, Text
from tests.golden.adapter import drive
from tests.run_config import make_config

pytestmark = pytest.mark.usefixtures("prefect_server")

POOL, TEACH = StageAt("pool"), StageAt("teach")


def answer(call: RecordedCall) -> FakeReply:
    """Of the student, whose model name is a folder; of the judge; or of the teacher, by what its prompt asks for."""
    model, prompt = str(call.body["model"]), call.prompt
    words = digest(call.body["messages"])[:12]
    if "/" in model:
        return Text(f"The student says {words}.")
    if model == "a-judge":
        student_first = "The student says" in prompt.partition("<answer_2>")[0]
        return Text("Scores: [[2, 9]]" if student_first else "Scores: [[9, 3]]")
    if "<task_types>" in prompt:
        return Text("Task type: Writing")
    if "<seed>" in prompt:
        return Text(f"<new_instruction>\n{' '.join(words)}\n</new_instruction>")
    return Text(f"Refined {words}." if "<style>" in prompt else f"The teacher says {words}.")


@pytest.fixture
def provider() -> Iterator[FakeProvider]:
    with FakeProvider(answer) as provider:
        yield provider
        close_all()


def said(number: int, turn: int) -> str:
    return f"Words {digest([number, turn])[:8]} of turn {turn}."


def turns_of(number: int) -> int:
    """2 to 8; an even number ends with an answer."""
    return 2 + number % 7


def sharegpt(folder: Path) -> Path:
    """Sixteen conversations with a system text."""
    rows = []
    for number in range(16):
        values = [{"from": ("human", "gpt")[turn % 2], "value": said(number, turn)} for turn in range(turns_of(number))]
        rows.append({"conversations": [{"from": "system", "value": f"Be brief {number}."}, *values]})
    file = folder / "pool.json"
    file.write_text(json.dumps(rows))
    return file


def make_run(folder: Path, provider: FakeProvider, backbone: Path, **pool: Any) -> RunConfig:
    endpoint = {"type": "openai", "base_url": provider.base_url, "api_key_env": ""}
    return make_config(
        folder,
        run={"name": "talk", "rounds": 1},
        data={"pool": {"type": "file", **pool}, "heldout": None},
        student={"backbone": str(backbone), "engine": {"type": "endpoint", "base_url": provider.base_url}},
        teacher={"endpoint": {**endpoint, "model": "a-teacher"}},
        judge={"endpoint": {**endpoint, "model": "a-judge"}},
        curriculum={
            "target_shares": {"Writing": 1.0},
            "alpha_start": 0.5,
            "refine": True,
            "expansion": {"max_waves": 1},
        },
        basic_tuning={"examples": 99},
        rounds={"default": {"examples": 20, "selection": {"type": "hard_share", "share": 0.3}}},
    )


Messages = list[tuple[str, str]]


def sent(provider: FakeProvider, model: str, part: str = "") -> list[Messages]:
    """Messages of the calls to a model whose last message has ``part``."""
    calls = [call for call in provider.calls if model in str(call.body["model"]) and part in call.prompt]
    return [[(each["role"], each["content"]) for each in call.body["messages"]] for call in calls]


def prompts_have(provider: FakeProvider, model: str, part: str, conversation: Messages) -> bool:
    """Whether some prompt shows every turn of a conversation."""
    prompts = [prompt for [(_, prompt)] in sent(provider, model, part)]
    return any(all(text in prompt for role, text in conversation if role != "system") for prompt in prompts)


def trained(run: RunFolder, number: int) -> dict[str, Messages]:
    """Instruction → messages of its example in a mixture; of the pool's own instructions."""
    rows = run.rows(StageAt("mix", number)).filter(pl.col("origin") != "expansion").to_dicts()
    return {row["instruction_id"]: [(each["role"], each["content"]) for each in row["messages"]] for row in rows}


def test_all_turns_reach_teacher_student_judge_and_training(
    tmp_path: Path, provider: FakeProvider, backbone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = drive(make_run(tmp_path, provider, backbone, path=str(sharegpt(tmp_path))), monkeypatch)
    whole = {row["instruction_id"]: [*map(tuple, messages_of(row))] for row in run.rows(POOL).to_dicts()}
    assert {len(messages) - 1 for messages in whole.values()} == {1, 3, 5, 7}
    for conversation in whole.values():
        assert conversation in sent(provider, "a-teacher")
        assert conversation in sent(provider, "/")
        assert prompts_have(provider, "a-teacher", "<task_types>", conversation)
        assert prompts_have(provider, "a-judge", "<answer_2>", conversation)
    seeds = [whole[identity] for identity in run.rows(StageAt("select", 1))["instruction_id"]]
    assert max(map(len, seeds)) > 2
    for seed in seeds:
        assert prompts_have(provider, "a-teacher", "<seed>", seed)
        assert prompts_have(provider, "a-teacher", "<style>", seed)

    assert trained(run, 0).keys() == whole.keys()
    for messages in (*trained(run, 0).items(), *trained(run, 1).items()):
        identity, [*conversation, (role, text)] = messages
        assert (conversation, role) == (whole[identity], "assistant")
        assert text.startswith(("The teacher says", "Refined"))
    given = [said(number, turns_of(number) - 1) for number in range(16) if turns_of(number) % 2 == 0]
    assert not any(answer in str(call.body) for answer in given for call in provider.calls)

    write_report(run)
    write_judge_report(run, summarise_judge(run, 1))
    for page in ("report.html", judge_report_file(1)):
        assert "_turn&gt;" in run.storage.read_bytes(page).decode()


def test_answers_of_the_file_are_the_teachers_and_only_what_lacks_is_asked(
    tmp_path: Path, provider: FakeProvider, backbone: Path
) -> None:
    file = sharegpt(tmp_path)
    config = make_run(tmp_path, provider, backbone, path=str(file), answers="use", answered_by="gpt-4")
    with hold_run(config, say=lambda _: None) as run:
        distill(run.ref, until="teach")
    taught = run.rows(TEACH).join(run.rows(POOL).select("instruction_id", "answer"), on="instruction_id")
    own = taught.filter(answered_by="gpt-4")
    asked = [messages for messages in sent(provider, "a-teacher") if messages[0][0] == "system"]
    assert own.height == 9
    assert own["response"].equals(own["answer"], null_equal=False)
    assert len(asked) == taught.height - own.height == 7
    assert run.manifest(TEACH).counts["from_pool"] == own.height
    assert "9 of the plain answers came with the pool: those of gpt-4." in sentences.outline(summarise(run))


def test_with_an_answer_in_every_row_the_teacher_is_not_asked_to_answer(
    tmp_path: Path, provider: FakeProvider, backbone: Path
) -> None:
    rows = [{"instruction": f"Say {digest(number)[:9]}.", "output": f"Said {number}."} for number in range(8)]
    file = tmp_path / "pool.json"
    file.write_text(json.dumps(rows))
    config = make_run(tmp_path, provider, backbone, path=str(file), answers="use")
    with hold_run(config, say=lambda _: None) as run:
        distill(run.ref, until="teach")
    assert len(provider.calls) == len(sent(provider, "a-teacher", "<task_types>")) == 8
    counts = run.manifest(TEACH).counts
    assert (counts.get("calls", 0), counts["from_pool"]) == (0, 8)
    assert set(run.rows(POOL)["instruction_id"]) == {instruction_id(row["instruction"]) for row in rows}

    file.write_text(json.dumps([{**row, "output": f"{row['output']} Indeed."} for row in rows]))
    with hold_run(config, say=lambda _: None, amend=True) as again:
        assert not again.holds(TEACH)
        distill(again.ref, until="teach")
    assert set(again.rows(TEACH)["response"]) == {f"Said {number}. Indeed." for number in range(8)}
    assert len(provider.calls) == 8, "labels come from the store"
