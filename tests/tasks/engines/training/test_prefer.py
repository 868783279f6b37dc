"""Training to prefer: against a float64 reference in plain torch, however it is computed, and when it is killed."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tapir_core.config import LoraConfig, Prefer, TrainingConfig
from tapir_core.errors import EngineError
from tasks.engines.tiny_student import tiny_student
from tasks.engines.training.launch import TrainingJob, TrainingSummary, train_student
from tests.tasks.engines.training.test_trainer import at_step, kill_ranks

PAIRS = 22
LENGTHS = {"batch_size": 4, "micro_batch_size": 4}
"""Two pairs are held at a time, and a step has four."""


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prefer")
    tiny_student(folder / "base")
    talks = [
        [
            {"role": "user", "content": f"What is {number} plus {number % 7}?"},
            {"role": "assistant", "content": f"It is {number + number % 7}." + " Certainly." * (number % 5)},
        ]
        for number in range(PAIRS)
    ]
    rejected = [f"I believe that it may be {number}" + "!" * (number % 3) for number in range(PAIRS)]
    pl.DataFrame({"messages": talks, "rejected": rejected}).write_parquet(folder / "part.parquet")
    return folder


def job(ground: Path, name: str, place: Path, **training: Any) -> TrainingJob:
    return TrainingJob(
        base=ground / "base",
        mixture=(ground / "part.parquet",),
        output=place / name,
        training=TrainingConfig(**{"precision": "fp32", **LENGTHS, **training}),
        epochs=2.0,
        learning_rate=1e-3,
        seed=7,
        log_path=place / f"{name}.log",
        objective=Prefer(beta=0.3, imitation=0.5),
    )


def losses(summary: TrainingSummary) -> list[float]:
    return [float(entry["loss"]) for entry in summary.loss_curve]


REFERENCE = """
import json, os, sys
import torch
from transformers import AutoModelForCausalLM, get_cosine_schedule_with_warmup
from tasks.engines.training.data import plan_training
from tasks.engines.training.launch import TrainingJob

job = TrainingJob(**json.loads(sys.stdin.read()))
planned = plan_training(job, 1)
corpus, plan, objective = planned.corpus, planned.plan, job.objective
student = AutoModelForCausalLM.from_pretrained(job.base, dtype=torch.float64).train()
base = AutoModelForCausalLM.from_pretrained(job.base, dtype=torch.float64).eval()

def answer(model, example):
    tokens = torch.tensor([example.tokens])
    log_probs = model(tokens).logits.log_softmax(-1)[0, :-1].gather(-1, tokens[0, 1:, None])[:, 0]
    return log_probs[example.prompt_length - 1 :].sum(), len(example.tokens) - example.prompt_length

optimizer = torch.optim.AdamW(student.parameters(), lr=job.learning_rate, weight_decay=job.training.weight_decay)
schedule = get_cosine_schedule_with_warmup(optimizer, round(plan.steps * job.training.warmup_ratio), plan.steps)
curve, margins = [], []
for first in range(0, len(plan.groups), plan.accumulation):
    pairs = [pair for group in plan.groups[first : first + plan.accumulation] for pair in group[0]]
    prefers, imitates, tokens, ahead = 0.0, 0.0, 0, []
    for pair in pairs:
        better, worse = corpus.example(pair), corpus.example(pair, 1)
        with torch.no_grad():
            before = answer(base, better)[0] - answer(base, worse)[0]
        (of_better, count), (of_worse, _) = answer(student, better), answer(student, worse)
        margin = objective.beta * (of_better - of_worse - before)
        prefers = prefers + torch.log1p(torch.exp(-margin))
        imitates, tokens = imitates - of_better, tokens + count
        ahead.append(float(margin.detach()))
    loss = prefers / len(pairs) + objective.imitation * imitates / tokens
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(student.parameters(), job.training.max_grad_norm)
    optimizer.step()
    schedule.step()
    curve.append(float(loss.detach()))
    margins.append(sum(ahead) / len(ahead))
print(json.dumps([curve, margins]))
"""


Expected = tuple[list[float], list[float]]
"""Losses and mean margins of each step of the reference."""


@pytest.fixture(scope="module")
def expected(ground: Path, tmp_path_factory: pytest.TempPathFactory) -> Expected:
    return compute(job(ground, "reference", tmp_path_factory.mktemp("reference")))


def compute(asked: TrainingJob) -> Expected:
    given = json.dumps(asked.to_json())
    done = subprocess.run([sys.executable, "-c", REFERENCE], input=given, capture_output=True, text=True, check=True)
    curve, margins = json.loads(done.stdout.splitlines()[-1])
    return curve, margins


@pytest.mark.slow
def test_it_learns_as_the_reference_does_and_goes_on_after_a_kill(
    ground: Path, tmp_path: Path, expected: Expected
) -> None:
    asked = job(ground, "killed", tmp_path, save_minutes=1e-6, processes=2, micro_batch_size=2)
    with pytest.raises(EngineError, match="was killed"):
        train_student(asked, on_progress=at_step(4, kill_ranks))
    assert "the base scores both answers of 22 pairs" in asked.log_path.read_text()
    kept = json.loads((asked.output / "reference.json").read_text())
    done = train_student(asked)
    assert len(kept) == 2 * PAIRS + 1
    assert json.loads((asked.output / "reference.json").read_text()) == kept, "the base is measured once"
    assert done.resumed_from_steps
    assert asked.log_path.read_text().count("the base scores") == 1
    curve, margins = expected
    assert losses(done) == pytest.approx(curve, rel=2e-3)
    assert [entry["margin"] for entry in done.loss_curve] == pytest.approx(margins, abs=5e-3)
    assert done.loss_curve[0]["preferred"] == 0.5, "nothing has gained before the first step"
    assert done.loss_curve[-1]["preferred"] == 1.0
    assert (done.examples, done.steps) == (PAIRS, 11)
    log = asked.log_path.read_text()
    assert "one example, trained between ⟦ and ⟧" in log
    assert "what it is preferred to, between ⟦ and ⟧" in log


@pytest.mark.slow
def test_a_save_without_the_base_s_figures_is_no_ground_to_go_on_from(ground: Path, tmp_path: Path) -> None:
    asked = job(ground, "lost", tmp_path, save_minutes=1e-6)
    with pytest.raises(EngineError, match="was killed"):
        train_student(asked, on_progress=at_step(3, kill_ranks))
    (asked.output / "reference.json").unlink()
    with pytest.raises(EngineError, match=r"reference\.json is gone, .* remove .*lost to begin it anew"):
        train_student(asked)


@pytest.mark.operations
@pytest.mark.parametrize(
    ("name", "training", "within"),
    [
        ("two ranks", {"processes": 2, "zero_stage": 2, "micro_batch_size": 2}, 2e-3),
        ("zero 0", {"zero_stage": 0}, 2e-3),
        ("zero 3", {"processes": 2, "zero_stage": 3, "micro_batch_size": 2}, 2e-3),
        ("one at a time", {"micro_batch_size": 1}, 2e-3),
        ("bf16", {"precision": "bf16"}, 5e-2),
    ],
)
def test_however_it_is_computed_it_learns_the_same(
    ground: Path,
    tmp_path: Path,
    expected: Expected,
    name: str,
    training: dict[str, Any],
    within: float,
) -> None:
    assert losses(train_student(job(ground, name, tmp_path, **training))) == pytest.approx(expected[0], rel=within)


@pytest.mark.operations
def test_packed_pairs_learn_as_the_reference_does(ground: Path, tmp_path: Path) -> None:
    """Their steps have other pairs than padded ones."""
    asked = job(ground, "packed", tmp_path, packing=True, max_length=64)
    assert losses(train_student(asked)) == pytest.approx(compute(asked)[0], rel=2e-3)


@pytest.mark.operations
def test_adapters_learn_to_prefer(ground: Path, tmp_path: Path) -> None:
    asked = job(ground, "adapters", tmp_path, lora=LoraConfig(rank=4))
    done = train_student(asked)
    first, last = done.loss_curve[0], done.loss_curve[-1]
    assert first["margin"] == pytest.approx(0, abs=1e-4), "it begins as the base"
    assert last["margin"] > 0
    assert last["loss"] < first["loss"]
    assert (asked.output / "checkpoint" / "model.safetensors").exists()
