"""A language model in this process, in plain torch: what it answers, how likely it finds an answer, how it is trained.

Rows are decoded together, as many as memory holds, so that a card is busy without a server beside it. Losses are the
product's (`tasks.engines.training.losses`). Weights are float32; on a GPU it computes in bfloat16 and keeps them so.
"""

import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, DynamicCache
from transformers.utils import logging

from tasks.engines.training import losses

logging.disable_progress_bar()
# It compiles each length anew, and its gradients with a mask may be no numbers (pytorch #196678).
torch.backends.cuda.enable_cudnn_sdp(False)

TOP_K, CLIP, BETA = 32, 1.0, 0.1
_COMPACT_SHARE = 0.85
"""Rows that have ended leave the batch when no more than this share of it goes on."""


class Row(NamedTuple):
    """A prompt with an answer, as token ids; natural logarithms of each token of the answer."""

    prompt: list[int]
    answer: list[int]
    ended: bool = True
    right: bool = False
    q: Sequence[float] = ()
    """Under the student that sampled it, or that is to be trained on it."""
    t: Sequence[float] = ()
    """Under the teacher."""
    top: tuple[torch.Tensor, torch.Tensor] | None = None
    """The teacher's likeliest tokens and their logarithms, each (tokens, `TOP_K`)."""

    @property
    def size(self) -> int:
        """Tokens that a pass over it computes."""
        return len(self.prompt) + len(self.answer)


Element = tuple[Row, ...]
"""What is trained as one: an answer, or the better and the worse one."""


class Machine(NamedTuple):
    """Where it computes."""

    device: str
    rows_at_once: int
    """Decoded together."""
    tokens_at_once: int
    """Of a micro-batch, padding included."""

    @property
    def narrow(self) -> bool:
        return self.device != "cpu"

    def wait(self) -> float:
        """Seconds of a clock, when all that was asked of the device is done."""
        if self.narrow:
            torch.cuda.synchronize()
        return time.perf_counter()


MACHINES = {"cpu": Machine("cpu", 64, 4096), "cuda": Machine("cuda", 2048, 8192)}


def load(folder: Path, machine: Machine, *, to_train: bool = False) -> Any:
    dtype = torch.bfloat16 if machine.narrow and not to_train else torch.float32
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="sdpa")
    return model.to(machine.device).train(to_train)


def rounded(model: Any) -> Any:
    """Its weights in bfloat16, and its buffers as they are: a rounded rotary table turns positions."""
    for weight in model.parameters():
        weight.data = weight.data.to(torch.bfloat16)
    return model.eval()


@torch.inference_mode()
def decode(
    model: Any,
    prompts: Sequence[list[int]],
    stops: Sequence[int],
    most_tokens: int,
    machine: Machine,
    *,
    temperature: float = 0.0,
    seed: int = 0,
) -> list[Row]:
    """An answer to each prompt with the token that ended it: the likeliest, or drawn; drawn at temperature 1 with q."""
    made: list[Row | None] = [None] * len(prompts)
    order = sorted(range(len(prompts)), key=lambda place: len(prompts[place]))
    drawing = torch.Generator(machine.device).manual_seed(seed) if temperature else None
    for first in range(0, len(order), machine.rows_at_once):
        places = order[first : first + machine.rows_at_once]
        batch = _Batch([prompts[place] for place in places], stops, most_tokens, machine.device)
        batch.run(model, temperature, drawing)
        for place, (answer, q, ended) in zip(places, batch.answers(with_q=temperature == 1.0), strict=True):
            made[place] = Row(prompts[place], answer, ended, False, q)
    return [row for row in made if row is not None]


class _Batch:
    """Rows that are decoded together."""

    def __init__(self, prompts: Sequence[list[int]], stops: Sequence[int], most_tokens: int, device: str) -> None:
        self.stops, longest = torch.tensor(sorted(stops), device=device), max(map(len, prompts))
        padding = [longest - len(each) for each in prompts]
        self.inputs = torch.tensor(
            [[0] * empty + each for empty, each in zip(padding, prompts, strict=True)], device=device
        )
        self.mask = torch.tensor([[0] * empty + [1] * (longest - empty) for empty in padding], device=device)
        self.rows = torch.arange(len(prompts), device=device)
        self.tokens = torch.zeros(len(prompts), most_tokens, dtype=torch.long, device=device)
        self.q = torch.zeros(len(prompts), most_tokens, device=device)
        self.lengths = torch.full((len(prompts),), most_tokens, device=device)
        self.ended = torch.zeros(len(prompts), dtype=torch.bool, device=device)

    def run(self, model: Any, temperature: float, drawing: torch.Generator | None) -> None:
        cache, positions = DynamicCache(config=model.config), (self.mask.cumsum(-1) - 1).clamp(min=0)
        going = torch.ones_like(self.ended)
        for step in range(self.tokens.shape[1]):
            logits = model(
                input_ids=self.inputs,
                attention_mask=self.mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            ).logits[:, -1]
            chosen = self._choose(logits, step, temperature, drawing)
            stopped = torch.isin(chosen, self.stops) & going
            self.lengths[self.rows[stopped]], self.ended[self.rows[stopped]] = step + 1, True
            going &= ~stopped
            left = int(going.sum())
            if not left:
                return
            if left <= _COMPACT_SHARE * len(going):
                cache.batch_select_indices(going)
                chosen, self.rows, self.mask = chosen[going], self.rows[going], self.mask[going]
                positions, going = positions[going], going[going]
            self.inputs, positions = chosen[:, None], positions[:, -1:] + 1
            self.mask = torch.cat([self.mask, self.mask.new_ones(len(going), 1)], dim=-1)

    def _choose(
        self, logits: torch.Tensor, step: int, temperature: float, drawing: torch.Generator | None
    ) -> torch.Tensor:
        if drawing is None:
            chosen = logits.argmax(-1)
        else:
            words = (logits.float() / temperature).log_softmax(-1)
            chosen = torch.multinomial(words.exp(), 1, generator=drawing)[:, 0]
            self.q[self.rows, step] = words.gather(1, chosen[:, None])[:, 0]
        self.tokens[self.rows, step] = chosen
        return chosen

    def answers(self, *, with_q: bool) -> Iterator[tuple[list[int], list[float], bool]]:
        told = zip(self.tokens.tolist(), self.q.tolist(), self.lengths.tolist(), self.ended.tolist(), strict=True)
        return ((tokens[:length], q[:length] if with_q else [], ended) for tokens, q, length, ended in told)


@torch.no_grad()
def score(model: Any, rows: Sequence[Row], machine: Machine, *, top: bool = False) -> list[Row]:
    """With t, and with the likeliest tokens if asked."""
    found: list[Row | None] = [None] * len(rows)
    for places in _cells(rows, lambda row: row.size, machine.tokens_at_once):
        cell = [rows[place] for place in places]
        words = _logits(model, cell, machine).log_softmax(-1)
        t = words.gather(1, _tokens(cell, machine)[:, None])[:, 0]
        likeliest = words.topk(min(TOP_K, words.shape[-1]), dim=-1) if top else None
        begin = 0
        for place, row in zip(places, cell, strict=True):
            end = begin + len(row.answer)
            kept = likeliest and (likeliest.indices[begin:end].cpu().int(), likeliest.values[begin:end].cpu())
            found[place], begin = row._replace(t=t[begin:end].tolist(), top=kept), end
    return [row for row in found if row is not None]


def _cells(rows: Sequence[Any], size: Callable[[Any], int], most: int) -> list[list[int]]:
    """Places of the rows by length, in cells of at most so many tokens with their padding, or of one."""
    cells = list[list[int]]()
    for place in sorted(range(len(rows)), key=lambda place: size(rows[place])):
        if cells and (len(cells[-1]) + 1) * size(rows[place]) <= most:
            cells[-1].append(place)
        else:
            cells.append([place])
    return cells


def _tokens(rows: Sequence[Row], machine: Machine) -> torch.Tensor:
    return torch.tensor([token for row in rows for token in row.answer], device=machine.device)


def _logits(model: Any, rows: Sequence[Row], machine: Machine) -> torch.Tensor:
    """Those that predict the tokens of all answers, one after another: (tokens, vocabulary) in float32."""
    longest = max(row.size for row in rows)
    ids = torch.tensor([[*row.prompt, *row.answer, *[0] * (longest - row.size)] for row in rows])
    mask = torch.tensor([[1] * row.size + [0] * (longest - row.size) for row in rows])
    places = torch.tensor(
        [
            number * longest + place
            for number, row in enumerate(rows)
            for place in range(len(row.prompt) - 1, row.size - 1)
        ]
    )
    ids, mask, places = ids.to(machine.device), mask.to(machine.device), places.to(machine.device)
    with torch.autocast(machine.device, torch.bfloat16, enabled=machine.narrow):
        hidden = model.model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
        logits = model.lm_head(hidden.flatten(0, 1)[places])
    return logits.float()


class Step(NamedTuple):
    """What a mean of an optimizer step is taken over."""

    tokens: int
    """Of the answers, of pairs of the better ones."""
    elements: int


def imitate(rows: Sequence[Row], logits: torch.Tensor, step: Step, machine: Machine) -> torch.Tensor:
    return cross_entropy(logits, _tokens(rows, machine), reduction="sum") / step.tokens


def policy(rows: Sequence[Row], logits: torch.Tensor, step: Step, machine: Machine) -> torch.Tensor:
    now = -cross_entropy(logits, _tokens(rows, machine), reduction="none")
    sampled, teacher = (
        torch.tensor([value for row in rows for value in getattr(row, name)], device=machine.device)
        for name in ("q", "t")
    )
    return losses.policy(now, sampled, teacher, CLIP).sum() / step.tokens


def forward_kl(rows: Sequence[Row], logits: torch.Tensor, step: Step, machine: Machine) -> torch.Tensor:
    ids, t = (torch.cat([row.top[part] for row in rows if row.top]).to(machine.device) for part in (0, 1))
    return losses.forward_kl(logits.log_softmax(-1).gather(1, ids.long()), t).sum() / step.tokens


def prefer(rows: Sequence[Row], logits: torch.Tensor, step: Step, machine: Machine) -> torch.Tensor:
    now = -cross_entropy(logits, _tokens(rows, machine), reduction="none")
    answers = torch.stack([each.sum() for each in now.split([len(row.answer) for row in rows])]).view(-1, 2)
    reference = torch.tensor([sum(row.q) for row in rows], device=machine.device).view(-1, 2)
    each, _ = losses.preference(answers, reference, BETA)
    return each.sum() / step.elements - answers[:, 0].sum() / step.tokens


Loss = Callable[[Sequence[Row], torch.Tensor, Step, Machine], torch.Tensor]
LOSSES: dict[str, Loss] = {"imitate": imitate, "policy": policy, "forward_kl": forward_kl, "prefer": prefer}


def train(
    model: Any,
    elements: Sequence[Element],
    loss: Loss,
    machine: Machine,
    *,
    rate: float,
    batch: int,
    averaged: bool = False,
) -> dict[str, torch.Tensor]:
    """One pass in the order given: AdamW at a constant rate, gradients clipped at 1.

    Returns:
        The mean of the weights at the four quarters of the training, if it is to be ``averaged``.

    Raises:
        ArithmeticError: a gradient is no number, and so would be every weight.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.0, fused=True)
    steps = [elements[first : first + batch] for first in range(0, len(elements), batch)]
    quarters = [max(1, len(steps) * part // 4) for part in (1, 2, 3, 4)] if averaged else []
    mean, norm = dict[str, torch.Tensor](), torch.zeros(())
    for number, elements_of in enumerate(steps, start=1):
        step = Step(sum(len(each[0].answer) for each in elements_of), len(elements_of))
        for places in _cells(elements_of, lambda each: sum(row.size for row in each), machine.tokens_at_once):
            rows = [row for place in places for row in elements_of[place]]
            loss(rows, _logits(model, rows, machine), step, machine).backward()
        norm = norm.to(machine.device) + torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        for _ in range(quarters.count(number)):
            for name, weight in model.named_parameters():
                part = weight.detach() / len(quarters)
                mean[name] = mean[name] + part if name in mean else part
    if not math.isfinite(float(norm)):
        raise ArithmeticError("a gradient is no number")
    return mean


def shuffled(elements: Sequence[Element], seed: int) -> list[Element]:
    order = list(elements)
    random.Random(seed).shuffle(order)
    return order
