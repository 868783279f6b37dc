"""Training on the student's own answers: against a float64 reference in plain torch, however it is computed."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tapir_core.config import LoraConfig, OnPolicy, TrainingConfig
from tapir_core.errors import EngineError
from tapir_core.stages import ROLLOUT, SCORE
from tasks.engines.tiny_student import tiny_student
from tasks.engines.training.launch import TrainingJob, TrainingSummary, train_student
from tests.tasks.engines.training.test_trainer import at_step, kill_ranks

PROMPTS, TOKENS, TOP_K = 22, 14, 8
IMITATION = 0.5

MATERIAL = """
import json, sys
from pathlib import Path
import torch
from transformers import AutoModelForCausalLM
from tasks.engines.training import chat

base, teacher, prompts, tokens, k = *sys.argv[1:3], *map(int, sys.argv[3:])
tokenizer = chat.load_tokenizer(Path(base), None)
student, scorer = (AutoModelForCausalLM.from_pretrained(each, dtype=torch.float32).eval() for each in (base, teacher))
drawing, rows = torch.Generator().manual_seed(1), []
for number in range(prompts):
    talk = [{"role": "user", "content": f"What is {number} plus {number % 7}?"}]
    prompt = tokenizer.apply_chat_template(talk, add_generation_prompt=True, tokenize=True, return_dict=False)
    ids = list(prompt)
    with torch.no_grad():
        for _ in range(tokens + number % 5):
            said = student(torch.tensor([ids])).logits[0, -1].log_softmax(-1)
            ids.append(int(torch.multinomial(said.exp(), 1, generator=drawing)))
        said = (model(torch.tensor([ids])).logits[0, len(prompt) - 1 : -1] for model in (student, scorer))
        own, theirs = (each.log_softmax(-1) for each in said)
    answer = torch.tensor(ids[len(prompt) :])[:, None]
    top = theirs.topk(k, -1)
    rows.append([list(prompt), ids[len(prompt) :], *(each.gather(1, answer)[:, 0].tolist() for each in (own, theirs)),
                 top.indices.tolist(), top.values.tolist()])
print(json.dumps(rows))
"""

REFERENCE = """
import json, sys
import polars as pl
import torch
from transformers import AutoModelForCausalLM, get_cosine_schedule_with_warmup
from tasks.engines.training.data import plan_training
from tasks.engines.training.launch import TrainingJob

job = TrainingJob(**json.loads(sys.stdin.read()))
planned, objective = plan_training(job, 1), job.objective
corpus, plan = planned.corpus, planned.plan
student = AutoModelForCausalLM.from_pretrained(job.base, dtype=torch.float64).train()
drawn, scored = pl.read_parquet(job.rollouts[0]).to_dicts(), pl.read_parquet(job.scores[0]).to_dicts()
optimizer = torch.optim.AdamW(student.parameters(), lr=job.learning_rate, weight_decay=job.training.weight_decay)
schedule = get_cosine_schedule_with_warmup(optimizer, round(plan.steps * job.training.warmup_ratio), plan.steps)
curve = []

def said(tokens):
    return student(torch.tensor([tokens])).logits.log_softmax(-1)[0, :-1]

for first in range(0, len(plan.groups), plan.accumulation):
    examples = [each for group in plan.groups[first : first + plan.accumulation] for each in group[0]]
    learnt, rolled, imitated, taught = 0.0, 0, 0.0, 0
    for number in examples:
        if number >= corpus.rollouts:
            example = corpus.example(number)
            words = said(example.tokens).gather(1, torch.tensor(example.tokens[1:])[:, None])[:, 0]
            answer = words[example.prompt_length - 1 :]
            imitated, taught = imitated - answer.sum(), taught + len(answer)
            continue
        row, of = drawn[number], scored[number]
        begin, count = len(row["prompt_ids"]) - 1, len(of["log_probs"])
        words = said(row["prompt_ids"] + row["token_ids"])[begin : begin + count]
        ids = torch.tensor(row["token_ids"][:count])[:, None]
        q, t = torch.tensor(row["log_probs"][:count]).double(), torch.tensor(of["log_probs"]).double()
        s = words.gather(1, ids)[:, 0]
        if objective.loss == "policy":
            now = s.detach()
            ratio = torch.minimum((now - q).exp(), torch.tensor(2.0))
            weight = ratio * torch.clamp(t - now, -objective.clip, objective.clip)
            learnt = learnt - (weight * s).sum()
        else:
            top, log = torch.tensor(of["top_log_probs"]).double(), words.gather(1, torch.tensor(of["top_ids"]))
            rest = [(1 - each.exp().sum(-1)).clamp(min=1e-6) for each in (top, log)]
            others = rest[0] * (rest[0].log() - rest[1].log())
            learnt = learnt + ((top.exp() * (top - log)).sum(-1) + others).sum()
        rolled += count
    loss = learnt / max(1, rolled) + objective.imitation * imitated / max(1, taught)
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(student.parameters(), job.training.max_grad_norm)
    optimizer.step()
    schedule.step()
    curve.append(float(loss.detach()))
print(json.dumps(curve))
"""


def child(code: str, *words: object, given: str = "") -> Any:
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, words)], input=given, capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("on_policy")
    tiny_student(folder / "base")
    tiny_student(folder / "teacher", seed=2)
    made = child(MATERIAL, folder / "base", folder / "teacher", PROMPTS, TOKENS, TOP_K)
    names = [f"i{number:02}" for number in range(PROMPTS)]
    drawn = [(name, 1, row[0], row[1], row[2], "length") for name, row in zip(names, made, strict=True)]
    scored = [(name, 1, row[3], row[4], row[5]) for name, row in zip(names, made, strict=True)]
    pl.DataFrame(drawn, schema=ROLLOUT.columns, orient="row").write_parquet(folder / "rollouts.parquet")
    pl.DataFrame(scored, schema=SCORE.columns, orient="row").write_parquet(folder / "scores.parquet")
    talks = [
        [
            {"role": "user", "content": f"What is {number} plus {number % 7}?"},
            {"role": "assistant", "content": f"It is {number + number % 7}." + " Certainly." * (number % 5)},
        ]
        for number in range(PROMPTS)
    ]
    pl.DataFrame({"messages": talks}).write_parquet(folder / "part.parquet")
    return folder


def job(ground: Path, name: str, place: Path, objective: dict[str, Any], **training: Any) -> TrainingJob:
    fields = {"precision": "fp32", "batch_size": 8, "micro_batch_size": 4}
    return TrainingJob(
        base=ground / "base",
        mixture=(ground / "part.parquet",),
        output=place / name,
        training=TrainingConfig(**{**fields, **training}),
        epochs=2.0,
        learning_rate=1e-3,
        seed=7,
        log_path=place / f"{name}.log",
        objective=OnPolicy(top_k=TOP_K, **{"loss": "policy", **objective}),
        rollouts=(ground / "rollouts.parquet",),
        scores=(ground / "scores.parquet",),
    )


def losses(summary: TrainingSummary) -> list[float]:
    return [float(entry["loss"]) for entry in summary.loss_curve]


def expected(asked: TrainingJob) -> list[float]:
    found: list[float] = child(REFERENCE, given=json.dumps(asked.to_json()))
    return found


@pytest.mark.slow
def test_it_learns_as_the_reference_does_and_goes_on_after_a_kill(ground: Path, tmp_path: Path) -> None:
    asked = job(
        ground, "killed", tmp_path, {"imitation": IMITATION}, save_minutes=1e-6, processes=2, micro_batch_size=2
    )
    with pytest.raises(EngineError, match="was killed"):
        train_student(asked, on_progress=at_step(4, kill_ranks))
    done = train_student(asked)
    assert done.resumed_from_steps
    assert losses(done) == pytest.approx(expected(asked), rel=2e-3, abs=2e-3)
    assert done.examples == 2 * PROMPTS
    scored, drawn = (pl.read_parquet(ground / f"{name}.parquet")["log_probs"] for name in ("scores", "rollouts"))
    apart = scored.explode() - drawn.explode()
    assert done.loss_curve[0]["gap"] == pytest.approx(apart.mean(), abs=0.2), "of some of them"
    assert all(0 <= float(entry["clipped"]) <= 1 for entry in done.loss_curve)
    assert (done.changed or 0) > 0.9


@pytest.mark.slow
def test_a_rate_too_low_for_the_weights_as_they_are_written_is_told(ground: Path, tmp_path: Path) -> None:
    steps = [
        train_student(replace(job(ground, name, tmp_path, {}, precision=name), learning_rate=2e-6))
        for name in ("fp32", "bf16")
    ]
    assert (steps[0].changed or 0) > 0.9
    assert steps[1].changed is not None
    assert 0 < steps[1].changed < 0.5


@pytest.mark.slow
def test_tokens_that_were_sampled_otherwise_are_refused_before_a_step(ground: Path, tmp_path: Path) -> None:
    rows = pl.read_parquet(ground / "rollouts.parquet")
    warmer = rows.with_columns(pl.col("log_probs").list.eval(pl.element() * 0.7))
    warmer.write_parquet(tmp_path / "rollouts.parquet")
    asked = job(ground, "warm", tmp_path, {})
    asked = TrainingJob(**{**asked.to_json(), "rollouts": [str(tmp_path / "rollouts.parquet")]})
    with pytest.raises(EngineError, match=r"scores the student's own answers otherwise than it sampled them: by \d"):
        train_student(asked)


OBJECTIVES = [{}, {"loss": "forward_kl"}, {"loss": "forward_kl", "imitation": IMITATION}, {"clip": 0.1}]


@pytest.mark.operations
@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize(
    "training",
    [
        {},
        {"packing": True, "max_length": 64},
        {"zero_stage": 0},
        {"processes": 2, "zero_stage": 3, "micro_batch_size": 2},
    ],
)
def test_however_it_is_computed_it_learns_as_the_reference(
    ground: Path, tmp_path: Path, objective: dict[str, Any], training: dict[str, Any]
) -> None:
    asked = job(ground, "any", tmp_path, objective, **training)
    assert losses(train_student(asked)) == pytest.approx(expected(asked), rel=2e-3, abs=2e-3)


@pytest.mark.operations
def test_adapters_learn_too_and_the_first_tokens_alone(ground: Path, tmp_path: Path) -> None:
    scores = pl.read_parquet(ground / "scores.parquet")
    of_five = scores.with_columns(pl.col("log_probs", "top_ids", "top_log_probs").list.head(5))
    of_five.write_parquet(tmp_path / "scores.parquet")
    asked = job(ground, "adapters", tmp_path, {"loss": "forward_kl"}, lora=LoraConfig(rank=4))
    asked = TrainingJob(**{**asked.to_json(), "scores": [str(tmp_path / "scores.parquet")]})
    done = train_student(asked)
    assert done.trained_tokens == 5 * PROMPTS * 2
    assert losses(done)[-1] < losses(done)[0]
