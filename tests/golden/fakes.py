"""Teacher, judge, student and trainer of the golden runs: what they give depends on nothing but what they get."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tapir_core.comparison.matching import steps_of
from tapir_core.paths import TRAINING_SUMMARY
from tapir_core.standin.families import recognise
from tapir_core.standin.rules import Behaviour
from tapir_core.standin.server import reply_to
from tapir_core.storage import file_sha256
from tapir_core.text import canonical_json, digest
from tasks.engines.training import launch
from tasks.engines.training.launch import TrainingJob, TrainingSummary
from tests.doubles.provider import FakeReply, RecordedCall, Status, Text
from tests.students import make_checkpoint

__all__ = ["replace_trainer", "reply", "train", "train_counted"]

SKILL = {"backbone": 0.1, "round_00": 0.3, "round_01": 0.5, "round_02": 0.7}
"""Share of right answers, by a word of the folder that a student lies in."""


def replace_trainer(monkeypatch: pytest.MonkeyPatch, train: Callable[..., TrainingSummary]) -> None:
    """Have ``train`` train, on a backbone whose tokenizer nothing loads."""
    monkeypatch.setattr(launch, "train_student", train)
    monkeypatch.setattr(launch, "render_chat", _render_chat)


def reply(call: RecordedCall) -> FakeReply:
    """Of a student, whose model name is the folder of its checkpoint; or of the stand-in, which sometimes refuses."""
    model = str(call.body["model"])
    return _student(model, call.prompt) if "/" in model else _teacher_or_judge(model, call)


def _render_chat(_base: Path, template: Path | None = None, **_: Any) -> launch.RenderedChat:
    takes_tools = template is None or template.stem == "chatml-tools"
    return launch.RenderedChat("", takes_system=True, takes_tools=takes_tools)


def train(job: TrainingJob, **_: Any) -> TrainingSummary:
    """A checkpoint whose weights are the training job: what shapes it, seed, digests of base and messages."""
    given = job.to_json()
    messages = [each for file in job.mixture for each in pl.read_parquet(file)["messages"].to_list()]
    weights = {name: given[name] for name in ("epochs", "learning_rate", "seed")}
    weights |= {
        "training": job.training.shaping(),
        "base": file_sha256(job.base / "model.safetensors"),
        "messages": digest(messages),
        "examples": len(messages),
    }
    folder = make_checkpoint(job.output / "checkpoint", model__safetensors=canonical_json(weights))
    summary = TrainingSummary(4, 8, 1.0, 32, 0, 900, 2000, 0.1, 8.0, 250.0, 1.5, [], 1, "cpu", "fp32", 2, [], {})
    (folder / TRAINING_SUMMARY).write_text(json.dumps(asdict(summary)))
    return summary


def train_counted(job: TrainingJob, **more: Any) -> TrainingSummary:
    """As the fake trainer, with the examples, tokens (a character each) and steps of the job."""
    made = train(job, **more)
    rows = [each for file in job.mixture for each in pl.read_parquet(file)["messages"].to_list()]
    size = sum(len(message["content"]) for each in rows for message in each)
    told = {"examples": len(rows), "total_tokens": round(job.epochs * size), "epochs": job.epochs}
    told |= {"steps": steps_of(len(rows), job.epochs, job.training.batch_size)}
    file = job.output / "checkpoint" / TRAINING_SUMMARY
    file.write_text(json.dumps(json.loads(file.read_text()) | told))
    return made


def _teacher_or_judge(model: str, call: RecordedCall) -> FakeReply:
    chance = _chance(model, call.prompt, call.body.get("seed"))
    if chance < 0.04:
        return Text(None, refusal="I would rather not.")
    if chance < 0.08:
        return Text("To begin with", finish_reason="length")
    if chance < 0.12:
        return Text("That is a good question.")
    said = reply_to(json.dumps({**call.body, "model": "standin-teacher"}).encode(), Behaviour())
    return Status(said.status, said.body)


def _student(folder: str, prompt: str) -> FakeReply:
    [student] = [each for each in SKILL if each in folder]
    problem, chance = recognise(prompt), _chance(student, prompt)
    assert problem is not None, prompt
    if chance > 0.95:
        return Text(None, refusal="I cannot say.")
    return Text(problem.plain if chance < SKILL[student] else "Answer: unknown")


def _chance(*words: object) -> float:
    """From 0 to 1, the same of the same words."""
    return int(digest(list(words))[:8], 16) / 2**32
