"""The student in this process, by plain torch: what it answers, how it is trained, the mean of several.

What is trained in which step is the product's own plan (`tasks.engines.training.data`): the same template, loss mask,
order and batches. AdamW, its rate and the clipping are as the trainer sets them, without DeepSpeed. Weights are
float32; where `training.precision` is `bf16`, or `auto` on a GPU, it computes and answers in bfloat16 and keeps float32
masters, as DeepSpeed does. A student is a folder of weights and config; the tokenizer is the backbone's.

Limits: one device, no packing, no LoRA, no micro-batches across devices. Batches of other sizes
round otherwise, so that an answer may differ from the student server's.
"""

import copy
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, DynamicCache, get_scheduler
from transformers.utils import logging

from tapir_core.errors import ConfigError
from tasks.engines.training.chat import closing_token
from tasks.engines.training.data import IGNORED, Example, PlannedTraining

logging.disable_progress_bar()

Say = Callable[[str], None]

_OPTIMIZER, _RECORD, _WEIGHTS = "optimizer.pt", "training.json", "model.safetensors"
_SAID_SECONDS = 30.0
_TEMPERATURE = 0.7
"""Of answers that are drawn."""
_PROMPTS_AT_ONCE = 256
_COMPACT_SHARE = 0.85
"""Rows that have ended leave the batch when no more than this share of it goes on."""


@dataclass(frozen=True, slots=True)
class Rate:
    """The learning rate of one training, as a part of a schedule."""

    peak: float
    scheduler: str
    """As `training.scheduler`."""
    warmup_ratio: float
    steps: int
    """Of the whole schedule."""
    done: int = 0
    """Steps of the schedule before this training."""

    def at_each_step(self) -> Callable[[int], float]:
        """Step of this training, from 0 → its rate: transformers' own schedule."""
        kind = self.scheduler if self.scheduler != "constant" else "constant_with_warmup"
        unused = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=self.peak)
        warmup = round(self.steps * self.warmup_ratio)
        factor = get_scheduler(kind, unused, warmup, self.steps).lr_lambdas[0]
        return lambda step: self.peak * float(factor(min(self.done + step, self.steps)))


def computes_in_bf16(precision: str, device: str) -> bool:
    """Whether a training of this `training.precision` computes in bfloat16 here; a CPU only where it is asked to."""
    return precision == "bf16" or (device != "cpu" and precision != "fp32")


def load_student(folder: Path, device: str) -> Any:
    """Its weights in float32."""
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, trust_remote_code=False, use_safetensors=True, attn_implementation="sdpa"
    )
    return model.to(device)


def is_trained(folder: Path, *, with_optimizer: bool) -> bool:
    """Whether a student is there whole, with what the next training is to go on with."""
    return (folder / _RECORD).exists() and (not with_optimizer or (folder / _OPTIMIZER).exists())


def trained(folder: Path) -> dict[str, Any]:
    """What its training came to: the fields of `TrainingCount`, seconds, loss_curve."""
    found: dict[str, Any] = json.loads((folder / _RECORD).read_text())
    return found


def train(
    base: Path,
    target: Path,
    planned: PlannedTraining,
    rate: Rate,
    *,
    device: str,
    say: Say,
    carried: Path | None = None,
    keep_optimizer: bool = False,
) -> None:
    """Fine-tune the student in ``base`` on what is planned, and give the new one its place in one step.

    Args:
        base: where it starts from.
        target: folder of the new student.
        planned: examples and batches, for one rank.
        rate: of each step.
        device: cpu or cuda.
        say: gets a line every half minute.
        carried: a student whose optimizer's moments and step count are gone on with; nothing begins with new ones.
        keep_optimizer: whether to write them beside the weights.
    """
    started, settings = time.monotonic(), planned.job.training
    torch.manual_seed(planned.job.seed)
    model = load_student(base, device)
    model.train()
    weights = [each for each in model.parameters() if each.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=rate.peak, weight_decay=settings.weight_decay, fused=True)
    if carried is not None:
        kept = torch.load(carried / _OPTIMIZER, weights_only=True, map_location=device)
        # Only the state: the groups would bring the rate of the training before.
        optimizer.load_state_dict({"state": kept["state"], "param_groups": optimizer.state_dict()["param_groups"]})
    rate_at, losses, said, count = rate.at_each_step(), [], time.monotonic(), planned.count()
    narrow = computes_in_bf16(settings.precision, device)
    for step, groups in enumerate(_steps(planned)):
        for group in optimizer.param_groups:
            group["lr"] = rate_at(step)
        answers = sum(len(each.tokens) - each.prompt_length for cell in groups for each in cell)
        loss = 0.0
        for cell in groups:
            with torch.autocast(device, torch.bfloat16, enabled=narrow):
                part = _loss(model, cell, device) / answers
            part.backward()
            loss += float(part.detach())
        torch.nn.utils.clip_grad_norm_(weights, settings.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(round(loss, 4))
        if time.monotonic() - said > _SAID_SECONDS or step + 1 == count.steps:
            said = time.monotonic()
            each = (said - started) / (step + 1)
            say(f"step {step + 1}/{count.steps}, loss {loss:.3f}, {each:.2f} s a step")
    assert len(losses) == count.steps, "other steps were made than planned"
    record = {**asdict(count), "seconds": round(time.monotonic() - started, 1), "loss_curve": losses}
    _publish(model.cpu(), target, record, optimizer.state_dict() if keep_optimizer else None)


def _steps(planned: PlannedTraining) -> Iterator[list[list[Example]]]:
    """The micro-batches of each optimizer step."""
    groups, size = planned.plan.groups, planned.plan.accumulation
    for start in range(0, len(groups), size):
        yield [[planned.corpus.example(index) for index in cell] for [cell] in groups[start : start + size] if cell]


def _loss(model: Any, cell: Sequence[Example], device: str) -> torch.Tensor:
    """Sum over the trained tokens; logits of no position before the first of them."""
    longest = max(len(each.tokens) for each in cell)
    tokens = [each.tokens + [0] * (longest - len(each.tokens)) for each in cell]
    labels = torch.tensor([each.labels + [IGNORED] * (longest - len(each.tokens)) for each in cell])[:, 1:].to(device)
    mask = [[1] * len(each.tokens) + [0] * (longest - len(each.tokens)) for each in cell]
    trained_tokens = labels != IGNORED
    first = int(trained_tokens.any(dim=0).int().argmax())
    width = labels.shape[1] - first
    inputs = {"input_ids": torch.tensor(tokens).to(device), "attention_mask": torch.tensor(mask).to(device)}
    logits = model(**inputs, use_cache=False, logits_to_keep=width + 1).logits[:, :-1]
    kept = trained_tokens[:, first:]
    return torch.nn.functional.cross_entropy(logits[kept].float(), labels[:, first:][kept], reduction="sum")


def unfinished(path: Path) -> Path:
    """Where this process writes what gets its place in one step: several may make the same S_0."""
    return path.with_name(f"{path.name}.{os.getpid()}.unfinished")


def _publish(model: Any, target: Path, record: Mapping[str, Any], optimizer: Mapping[str, Any] | None) -> None:
    folder = unfinished(target)
    model.save_pretrained(folder)
    if optimizer is not None:
        torch.save(optimizer, folder / _OPTIMIZER)
    (folder / _RECORD).write_text(json.dumps(record))
    if is_trained(target, with_optimizer=optimizer is not None):
        shutil.rmtree(folder)  # another process was first, and answers may lie there by now
        return
    shutil.rmtree(target, ignore_errors=True)
    folder.rename(target)


def average(students: Sequence[Path], target: Path) -> None:
    """The student whose weights are the mean of those of several."""
    first, *others = (load_file(each / _WEIGHTS) for each in students)
    mean = {name: weight.double() for name, weight in first.items()}
    for other in others:
        for name, weight in other.items():
            mean[name] += weight
    folder = unfinished(target)
    folder.mkdir(parents=True)
    save_file(
        {name: (weight / len(students)).float() for name, weight in mean.items()},
        folder / _WEIGHTS,
        {"format": "pt"},
    )
    for file in students[0].glob("*config.json"):
        shutil.copy2(file, folder)
    folder.rename(target)


def answer(
    folder: Path,
    tokenizer: Any,
    instructions: Sequence[str],
    *,
    most_tokens: int,
    device: str,
    in_bf16: bool,
    say: Say,
    sample: int = 0,
) -> list[str]:
    """The student's answers, in order; one that does not end is cut off after ``most_tokens``.

    Greedy, or with a ``sample`` from 1 drawn at temperature 0.7, each sample from a generator of its own.
    """
    model = load_student(folder, device).eval()
    if in_bf16:
        model = copy.deepcopy(model).to(torch.bfloat16)
    stops = torch.tensor(sorted({closing_token(tokenizer), tokenizer.eos_token_id}), device=device)
    conversations = [[{"role": "user", "content": each}] for each in instructions]
    texts = tokenizer.apply_chat_template(conversations, tokenize=False, add_generation_prompt=True)
    prompts: list[list[int]] = tokenizer(texts, add_special_tokens=False)["input_ids"]
    by_length = sorted(range(len(prompts)), key=lambda place: len(prompts[place]))
    drawing = torch.Generator(device).manual_seed(sample) if sample else None
    answers, started, said = [""] * len(prompts), time.monotonic(), time.monotonic()
    size = _PROMPTS_AT_ONCE if device == "cpu" else 4 * _PROMPTS_AT_ONCE
    for first in range(0, len(prompts), size):
        places = by_length[first : first + size]
        made = _decode(model, [prompts[place] for place in places], most_tokens, stops, drawing)
        texts = tokenizer.batch_decode(made, skip_special_tokens=True)
        for place, text in zip(places, texts, strict=True):
            answers[place] = text
        if time.monotonic() - said > _SAID_SECONDS or first + size >= len(prompts):
            said = time.monotonic()
            done = min(first + size, len(prompts))
            say(f"{done}/{len(prompts)} answers, {(said - started) / done:.3f} s each")
    return answers


@torch.inference_mode()
def _decode(
    model: Any,
    prompts: Sequence[Sequence[int]],
    most_tokens: int,
    stops: torch.Tensor,
    drawing: torch.Generator | None,
) -> list[list[int]]:
    """The next tokens of each prompt without the one that stops it: the likeliest, or drawn by the generator."""
    device = stops.device
    longest = max(map(len, prompts))
    inputs = torch.tensor([[0] * (longest - len(each)) + [*each] for each in prompts], device=device)
    mask = torch.tensor([[0] * (longest - len(each)) + [1] * len(each) for each in prompts], device=device)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    cache, made = DynamicCache(config=model.config), [list[int]() for _ in prompts]
    rows = torch.arange(len(prompts), device=device)
    going = torch.ones_like(rows, dtype=torch.bool)
    for _ in range(most_tokens):
        logits = model(
            input_ids=inputs,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits
        chosen = _choose(logits[:, -1], drawing)
        going &= ~torch.isin(chosen, stops)
        for row, token, goes_on in zip(rows.tolist(), chosen.tolist(), going.tolist(), strict=True):
            if goes_on:
                made[row].append(token)
        left = int(going.sum())
        if not left:
            break
        if left <= _COMPACT_SHARE * len(rows):
            cache.batch_select_indices(going)
            rows, mask, positions, chosen = rows[going], mask[going], positions[going], chosen[going]
            going = torch.ones_like(rows, dtype=torch.bool)
        inputs = chosen[:, None]
        mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=-1)
        positions = positions[:, -1:] + 1
    return made


def _choose(logits: torch.Tensor, drawing: torch.Generator | None) -> torch.Tensor:
    """A token a row."""
    if drawing is None:
        return logits.argmax(-1)
    return torch.multinomial((logits.float() / _TEMPERATURE).softmax(-1), 1, generator=drawing)[:, 0]


def check_device(device: str) -> None:
    """Refuse a device that is not there.

    Raises:
        ConfigError: as it says.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda: torch finds no GPU here; leave it out to compute on the CPU")
