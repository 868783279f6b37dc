"""A support desk with task types of its own: they reach the teacher, are balanced over, and stand in the report."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.distill import distill
from flows.driver import hold_run, is_done
from tapir_core.config import RunConfig
from tapir_core.config.load import replace_values
from tapir_core.errors import ConfigError
from tapir_core.reporting.tables import shares_table
from tapir_core.stages import StageAt
from tapir_core.summary import summarise
from tasks.runtime import close_all
from tests.doubles.provider import FakeProvider, FakeReply, RecordedCall, Text
from tests.golden.fakes import replace_trainer, train
from tests.run_config import make_config
from tests.students import make_checkpoint

pytestmark = pytest.mark.usefixtures("prefect_server")

TYPES = {
    "Refund": "asks for money back",
    "Delivery": {"definition": "asks where a parcel is", "refinement": "steps"},
}
WORDS = {"parcel": "Delivery", "money": "Refund"}
NEW = {
    "Delivery": "Where is parcel {}?",
    "Refund": "I want my money back for order {}.",
    "Others": "Do you sell hat {}?",
}
ODD = "Where is parcel 3?"
"""The teacher gives it a task type of its own invention first."""


def ticket(task_type: str, number: int) -> str:
    return NEW[task_type].format(number)


POOL = [
    ticket(each, number)
    for each, count in {"Delivery": 16, "Refund": 6, "Others": 4}.items()
    for number in range(count)
]


class Desk:
    """Teacher, judge and student of the support desk; the student knows nothing."""

    def __init__(self) -> None:
        self.asked: dict[str, list[str]] = {"label": [], "expand": [], "refine": [], "discover": []}
        self.proposed = "Task type: Refund: wants money\nTask type: Delivery: wants a parcel"

    def reply(self, call: RecordedCall) -> FakeReply:
        prompt, named = call.prompt, dict(re.findall(r"<(\w+)>\s*(.*?)\s*</\1>", call.prompt, re.DOTALL))
        if "/" in str(call.body["model"]):
            return Text("I do not know.")
        if "answer_1" in named:
            return Text("Scores: [[2, 9]]" if "not know" in named["answer_1"] else "Scores: [[9, 2]]")
        role = next((role for role, tag in ROLES.items() if tag in named), None)
        if role is None:
            return Text(f"We look into it: {prompt}")
        self.asked[role].append(prompt)
        return Text(getattr(self, role)(named))

    def label(self, named: dict[str, str]) -> str:
        text = named["instruction"]
        first = sum(f"\n{ODD}\n" in each for each in self.asked["label"]) == 1
        if text == ODD and first:
            return "Task type: Shipping"
        return f"Task type: {next((of for word, of in WORDS.items() if word in text), 'Others')}"

    def discover(self, _: dict[str, str]) -> str:
        return self.proposed

    def expand(self, named: dict[str, str]) -> str:
        wanted = named["task_type"].partition(":")[0]
        return f"<new_instruction>{ticket(wanted, 100 + len(self.asked['expand']))}</new_instruction>"

    def refine(self, named: dict[str, str]) -> str:
        return f"{named['answer']} At once."


ROLES = {"label": "task_types", "expand": "seed", "refine": "style", "discover": "instructions"}


@pytest.fixture
def desk() -> Iterator[Desk]:
    yield Desk()
    close_all()


def make_desk(root: Path, provider: FakeProvider, **curriculum: object) -> RunConfig:
    (root / "tickets.json").write_text(json.dumps([{"instruction": text} for text in POOL]))
    endpoint = {"type": "openai", "base_url": provider.base_url, "model": "m", "identity": "m", "api_key_env": ""}
    return make_config(
        root,
        run={"name": "desk", "rounds": 1},
        data={"pool": {"type": "file", "path": str(root / "tickets.json")}, "heldout": None},
        student={
            "backbone": str(make_checkpoint(root / "backbone")),
            "engine": {"type": "endpoint", "base_url": provider.base_url},
        },
        teacher={"endpoint": endpoint},
        judge={"endpoint": endpoint},
        curriculum={
            "task_types": TYPES,
            "alpha_start": 0.5,
            "refine": True,
            "expansion": {"max_rouge_l": 1.0},
            **curriculum,
        },
        basic_tuning={"examples": 8},
        rounds={"default": {"examples": 24, "selection": {"type": "hard_share", "share": 0.2}}},
    )


def test_own_task_types_reach_the_teacher_and_are_balanced_over(
    tmp_path: Path, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace_trainer(monkeypatch, train)
    with FakeProvider(desk.reply) as provider:
        config = make_desk(tmp_path, provider, target_shares="equal")
        with hold_run(config, say=lambda _: None) as run:
            distill(run.ref)

    listed = (
        "Delivery: asks where a parcel is\nRefund: asks for money back\nOthers: what fits none of the other task types"
    )
    assert desk.asked["label"]
    assert all(f"<task_types>\n{listed}\n</task_types>" in each for each in desk.asked["label"])
    assert any("<task_type>Refund: asks for money back</task_type>" in each for each in desk.asked["expand"])
    labels = run.rows(StageAt("label"))["task_type"]
    assert Counter(labels) == {"Delivery": 16, "Refund": 6, "Others": 4}, "the odd one was asked for again"
    assert sum(f"\n{ODD}\n" in each for each in desk.asked["label"]) == 2

    mixed = run.rows(StageAt("mix", 1)).select("origin", "task_type").rows()
    hard = Counter(task_type for origin, task_type in mixed if origin != "easy")
    assert hard == {"Delivery": 4, "Refund": 4, "Others": 4}
    styles = Counter(name for each in desk.asked["refine"] for name in re.findall("<style>(.*)</style>", each))
    assert styles == {"steps": 4, "prose": 8}
    shown = shares_table(*summarise(run).rounds).rows
    assert [(row[0], row[2]) for row in shown] == [("Delivery", "33.3 %"), ("Refund", "33.3 %"), ("Others", "33.3 %")]


def test_a_heldout_file_names_the_task_types_of_the_run(tmp_path: Path, desk: Desk) -> None:
    (tmp_path / "heldout.json").write_text(
        json.dumps([{"instruction": "Where is it?", "reference": "There", "task_type": "Refunds"}])
    )
    with FakeProvider(desk.reply) as provider:
        config = make_desk(tmp_path, provider)
        with_file = {
            "data": {**config.data.model_dump(), "heldout": {"type": "file", "path": str(tmp_path / "heldout.json")}}
        }
        known = RunConfig.model_validate(config.model_dump(mode="json") | with_file)
        with (
            pytest.raises(ConfigError, match=r"did you mean 'Refund'[?] the 3 are: Delivery, Refund, Others"),
            hold_run(known, say=lambda _: None) as run,
        ):
            distill(run.ref, until="heldout")


def test_discovered_task_types_are_edited_before_anything_else_is_paid_for(tmp_path: Path, desk: Desk) -> None:
    with FakeProvider(desk.reply) as provider:
        config = make_desk(tmp_path, provider, task_types="discover", target_shares="equal")
        with hold_run(config, say=lambda _: None) as run:
            distill(run.ref)
        assert len(provider.calls) == len(desk.asked["discover"]) == 1, "a sample of the pool, and nothing else"
        assert all(f"- {text}" in desk.asked["discover"][0] for text in POOL)
        with hold_run(config, say=lambda _: None) as run:
            assert is_done(run, None)

        file = tmp_path / "desk" / "task_types.toml"
        file.write_text(file.read_text().replace("wants money", "asks for money back"))
        chosen = replace_values(config, [f"curriculum.task_types={file}"])
        with hold_run(chosen, say=lambda _: None, amend=True) as run:
            distill(run.ref, until="label")
    assert len(desk.asked["discover"]) == 1
    assert all("\nRefund: asks for money back\n" in each for each in desk.asked["label"])
    assert Counter(run.rows(StageAt("label"))["task_type"]) == {"Delivery": 16, "Refund": 6, "Others": 4}
    assert run.config.curriculum.types.described("Delivery") == "Delivery: wants a parcel"
    file.write_text("")
    assert RunConfig.model_validate(run.config.model_dump()) == run.config, "the run keeps what it was given"


def test_a_reply_without_task_types_is_asked_again_and_then_stops_the_run(tmp_path: Path, desk: Desk) -> None:
    desk.proposed = "They are all about the same."
    with FakeProvider(desk.reply) as provider:
        config = make_desk(tmp_path, provider, task_types="discover")
        with pytest.raises(ConfigError, match="held no task types"), hold_run(config, say=lambda _: None) as run:
            distill(run.ref)
    assert len(desk.asked["discover"]) == 1 + config.teacher.reasks
