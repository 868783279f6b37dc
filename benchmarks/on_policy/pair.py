"""Does training on the student's own answers beat plain fine-tuning going on? Rules in README.md beside this.

    .venv/bin/python -m benchmarks.on_policy.pair FOLDER [--calibrate | --show]

Plain torch on the CPU, SmolLM2-135M, prompts of the stand-in. Each student is one JSON file in FOLDER when its marks
are there, so that what is killed goes on. `--calibrate` measures first, on a quiet machine, what a prompt of each arm
costs.
"""

import argparse
import json
import random
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoTokenizer

from tapir_core.config.load import load_config
from tapir_core.sources import standin_pool
from tapir_core.standin.families import recognise
from tapir_core.verifiers import is_correct
from tasks.engines.backbone import prepare_backbone

TEACHER_ROWS, FIRST_ROWS, PROMPTS, MARKED = 832, 128, 640, 400
RATES, SEEDS, ARMS = (2e-6, 1e-5, 3e-5), (1, 2, 3, 4, 5), ("A", "policy", "forward_kl")
BATCH, MICRO, MOST_TOKENS, CLIP, MOST_RATIO, TOP_K = 16, 8, 48, 1.0, 2.0, 32


class Row(NamedTuple):
    """A prompt with an answer, as token ids; of a rollout also q, t and the teacher's likeliest."""

    prompt: list[int]
    answer: list[int]
    q: Sequence[float] = ()
    t: Sequence[float] = ()
    top: Any = None
    """(ids, log-probabilities), each (tokens, k)."""


class Pair:
    """Tokenizer, prompts and the two students that everything begins with."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.base = prepare_backbone(load_config("configs/quickstart.toml").student, folder / "backbone")
        self.tokenizer = AutoTokenizer.from_pretrained(self.base)
        self.end = self.tokenizer.convert_tokens_to_ids("<|im_end|>")
        pool = standin_pool(TEACHER_ROWS + FIRST_ROWS + 4 * PROMPTS + 2 * MARKED, 2, 45).to_dicts()
        random.Random(1).shuffle(pool)
        cuts = [TEACHER_ROWS, FIRST_ROWS, 4 * PROMPTS, MARKED, MARKED]
        self.parts = []
        for size in cuts:
            self.parts.append(pool[:size])
            pool = pool[size:]

    def prompt(self, row: dict[str, Any]) -> list[int]:
        text = f"<|im_start|>user\n{row['instruction']}<|im_end|>\n<|im_start|>assistant\n"
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def load(self, name: str) -> Any:
        folder = self.base if name == "backbone" else self.folder / name
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa")

    def plain(self, row: dict[str, Any]) -> Row:
        """With the stand-in's answer."""
        problem = recognise(row["instruction"])
        assert problem is not None
        return Row(self.prompt(row), [*self.tokenizer(problem.plain, add_special_tokens=False)["input_ids"], self.end])

    def accuracy(self, model: Any, rows: Sequence[dict[str, Any]]) -> list[bool]:
        made = generate(model, [self.prompt(row) for row in rows], self.end)
        texts = [self.tokenizer.decode(each.answer, skip_special_tokens=True) for each in made]
        return [bool(is_correct(text, row["reference"])) for text, row in zip(texts, rows, strict=True)]


def padded(rows: Sequence[Row]) -> tuple[torch.Tensor, torch.Tensor]:
    longest = max(len(each.prompt) + len(each.answer) for each in rows)
    ids = [[*each.prompt, *each.answer] for each in rows]
    mask = torch.tensor([[1] * len(each) + [0] * (longest - len(each)) for each in ids])
    return torch.tensor([each + [0] * (longest - len(each)) for each in ids]), mask


def answer_logits(model: Any, rows: Sequence[Row]) -> Iterator[torch.Tensor]:
    """Of each row (tokens of its answer, vocabulary), those that predict them."""
    ids, mask = padded(rows)
    logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
    for row, of in zip(rows, logits, strict=True):
        begin = len(row.prompt) - 1
        yield of[begin : begin + len(row.answer)].float()


@torch.inference_mode()
def generate(
    model: Any, prompts: Sequence[list[int]], end: int, drawing: torch.Generator | None = None, size: int = 64
) -> list[Row]:
    """Greedy, or drawn at temperature 1 with q; the end token included where it came."""
    model.eval()
    made: list[Row | None] = [None] * len(prompts)
    order = sorted(range(len(prompts)), key=lambda place: len(prompts[place]))
    for first in range(0, len(order), size):
        places = order[first : first + size]
        longest = max(len(prompts[place]) for place in places)
        ids = torch.tensor([[0] * (longest - len(prompts[place])) + prompts[place] for place in places])
        mask = torch.tensor([[0] * (longest - len(prompts[place])) + [1] * len(prompts[place]) for place in places])
        positions, cache = (mask.cumsum(-1) - 1).clamp(min=0), None
        tokens, chances = [list[int]() for _ in places], [list[float]() for _ in places]
        going = [True] * len(places)
        for _ in range(MOST_TOKENS):
            found = model(
                input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, logits_to_keep=1
            )
            cache, logits = found.past_key_values, found.logits[:, -1].float().log_softmax(-1)
            chosen = (
                logits.argmax(-1) if drawing is None else torch.multinomial(logits.exp(), 1, generator=drawing)[:, 0]
            )
            for row, (token, chance) in enumerate(
                zip(chosen.tolist(), logits.gather(1, chosen[:, None])[:, 0].tolist(), strict=True)
            ):
                if going[row]:
                    tokens[row].append(token)
                    chances[row].append(chance)
                    going[row] = token != end
            if not any(going):
                break
            ids = chosen[:, None]
            mask = torch.cat([mask, mask.new_ones(len(places), 1)], dim=-1)
            positions = positions[:, -1:] + 1
        for place, answer, q in zip(places, tokens, chances, strict=True):
            made[place] = Row(prompts[place], answer, q)
    return [row for row in made if row is not None]


@torch.no_grad()  # a tensor of inference mode takes no part in a loss
def score(teacher: Any, rows: Sequence[Row], k: int) -> list[Row]:
    """With t of every token, and the teacher's k likeliest."""
    teacher.eval()
    scored = []
    for first in range(0, len(rows), MICRO):
        part = rows[first : first + MICRO]
        for row, logits in zip(part, answer_logits(teacher, part), strict=True):
            logp = logits.log_softmax(-1)
            t = logp.gather(1, torch.tensor(row.answer)[:, None])[:, 0].tolist()
            top = logp.topk(k, dim=-1) if k else None
            scored.append(row._replace(t=t, top=(top.indices, top.values) if top else None))
    return scored


def imitate(row: Row, logits: torch.Tensor) -> torch.Tensor:
    """Cross-entropy."""
    return functional.cross_entropy(logits, torch.tensor(row.answer), reduction="sum")


def policy(row: Row, logits: torch.Tensor) -> torch.Tensor:
    """−Σ sg[min(exp(s − q), 2) · clip(t − s, ±1)] · s."""
    s = logits.log_softmax(-1).gather(1, torch.tensor(row.answer)[:, None])[:, 0]
    held = s.detach()
    weight = (held - torch.tensor(row.q)).exp().clamp(max=MOST_RATIO) * (torch.tensor(row.t) - held).clamp(-CLIP, CLIP)
    return -(weight * s).sum()


def forward_kl(row: Row, logits: torch.Tensor) -> torch.Tensor:
    """Σ_k exp(t_k)(t_k − s_k) + m_t(log m_t − log m_s)."""
    ids, t = row.top
    s = logits.log_softmax(-1).gather(1, ids)
    rest_t, rest_s = (1 - t.exp().sum(-1)).clamp(min=1e-6), (1 - s.exp().sum(-1)).clamp(min=1e-6)
    return (t.exp() * (t - s)).sum() + (rest_t * (rest_t.log() - rest_s.log())).sum()


Loss = Callable[[Row, torch.Tensor], torch.Tensor]
LOSSES: dict[str, Loss] = {"A": imitate, "policy": policy, "forward_kl": forward_kl}


def train(model: Any, rows: Sequence[Row], loss_of: Loss, *, rate: float, epochs: int, seed: int) -> None:
    """AdamW at a constant rate, the loss averaged over the tokens of a step, gradients clipped at 1."""
    model.train()
    rng, optimizer = random.Random(seed), torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.0, fused=True)
    for _ in range(epochs):
        order = list(rows)
        rng.shuffle(order)
        for first in range(0, len(order), BATCH):
            step = sorted(order[first : first + BATCH], key=lambda row: len(row.prompt) + len(row.answer))
            tokens = sum(len(row.answer) for row in step)
            for start in range(0, len(step), MICRO):
                part = step[start : start + MICRO]
                pairs = zip(part, answer_logits(model, part), strict=True)
                (torch.stack([loss_of(row, logits) for row, logits in pairs]).sum() / tokens).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)


def begin(pair: Pair) -> None:
    """Teacher and S_0, with their marks on dev; stops where the teacher leads by less than 10 points."""
    if not (pair.folder / "lead.json").exists():
        teacher = pair.load("backbone")
        train(teacher, [pair.plain(row) for row in pair.parts[0]], imitate, rate=2e-4, epochs=2, seed=1)
        teacher.save_pretrained(pair.folder / "teacher")
        taught = generate(teacher, [pair.prompt(row) for row in pair.parts[1]], pair.end)
        student = pair.load("backbone")
        train(student, taught, imitate, rate=2e-4, epochs=1, seed=1)
        student.save_pretrained(pair.folder / "s0")
        marks = {
            name: sum(pair.accuracy(model, pair.parts[3])) for name, model in (("teacher", teacher), ("s0", student))
        }
        (pair.folder / "lead.json").write_text(json.dumps(marks))
    marks = json.loads((pair.folder / "lead.json").read_text())
    print(f"dev: {marks} of {MARKED}", flush=True)
    if marks["teacher"] - marks["s0"] < MARKED / 10:
        raise SystemExit("the teacher leads by less than 10 points: nothing to learn here")


def material(pair: Pair, arm: str, seed: int, count: int) -> list[Row]:
    """What an arm trains on: ``count`` prompts of the seed with the teacher's answers, or its own rollouts, scored."""
    rows = list(pair.parts[2])
    random.Random(seed).shuffle(rows)
    prompts, teacher = [pair.prompt(row) for row in rows[:count]], pair.load("teacher")
    if arm == "A":
        return generate(teacher, prompts, pair.end)
    rollouts = generate(pair.load("s0"), prompts, pair.end, torch.Generator().manual_seed(seed))
    return score(teacher, rollouts, TOP_K if arm == "forward_kl" else 0)


def calibrate(pair: Pair) -> None:
    """Seconds a prompt costs in each arm, everything included; from them how many prompts an arm gets."""
    seconds = {}
    for arm in ARMS:
        model, began = pair.load("s0"), time.perf_counter()
        train(model, material(pair, arm, 0, 96), LOSSES[arm], rate=1e-5, epochs=1, seed=0)
        seconds[arm] = (time.perf_counter() - began) / 96
    counts = {
        arm: min(4 * PROMPTS, round(PROMPTS * seconds["policy"] / each / BATCH) * BATCH)
        for arm, each in seconds.items()
    }
    (pair.folder / "counts.json").write_text(json.dumps({"seconds": seconds, "prompts": counts}))
    print((pair.folder / "counts.json").read_text(), flush=True)


def run(pair: Pair) -> None:
    counts = json.loads((pair.folder / "counts.json").read_text())["prompts"]
    for seed in SEEDS:
        for arm in ARMS:
            lacking = [rate for rate in RATES if not (pair.folder / f"{arm}-{rate:g}-s{seed}.json").exists()]
            rows = material(pair, arm, seed, counts[arm]) if lacking else []
            for rate in lacking:
                model, began = pair.load("s0"), time.perf_counter()
                train(model, rows, LOSSES[arm], rate=rate, epochs=1, seed=seed)
                marks = {
                    name: pair.accuracy(model, of) for name, of in zip(("dev", "test"), pair.parts[3:], strict=True)
                }
                told = {"prompts": len(rows), "seconds": round(time.perf_counter() - began, 1), **marks}
                (pair.folder / f"{arm}-{rate:g}-s{seed}.json").write_text(json.dumps(told))
                print(arm, rate, seed, sum(marks["dev"]), flush=True)


def show(folder: Path) -> None:
    """The arms at the rate that dev chooses, and their differences to A on test."""
    found = {
        (arm, rate, seed): json.loads(file.read_text())
        for arm in ARMS
        for rate in RATES
        for seed in SEEDS
        if (file := folder / f"{arm}-{rate:g}-s{seed}.json").exists()
    }
    chosen = {}
    for arm in ARMS:
        dev = {}
        for rate in RATES:
            of = [sum(map(int, each["dev"])) / MARKED for (a, r, _), each in found.items() if (a, r) == (arm, rate)]
            dev[rate] = sum(of) / len(of) if of else 0.0
        chosen[arm] = max(dev, key=dev.__getitem__)
        print(arm, "dev by rate:", {f"{rate:g}": round(100 * value, 1) for rate, value in dev.items()})
    rng = random.Random(1)
    for arm in ARMS:
        seeds = [seed for seed in SEEDS if (arm, chosen[arm], seed) in found and ("A", chosen["A"], seed) in found]
        test = {seed: [*map(int, found[arm, chosen[arm], seed]["test"])] for seed in seeds}
        plain = {seed: [*map(int, found["A", chosen["A"], seed]["test"])] for seed in seeds}
        apart = []
        for _ in range(4000):
            drawn, places = rng.choices(seeds, k=len(seeds)), rng.choices(range(MARKED), k=MARKED)
            apart.append(sum(test[seed][at] - plain[seed][at] for seed in drawn for at in places) / len(drawn) / MARKED)
        apart.sort()
        mean = sum(sum(each) for each in test.values()) / len(seeds) / MARKED
        difference = mean - sum(sum(each) for each in plain.values()) / len(seeds) / MARKED
        print(
            f"{arm} at {chosen[arm]:g}: test {100 * mean:.1f}, over A {100 * difference:+.1f} "
            f"({100 * apart[100]:+.1f} to {100 * apart[3899]:+.1f}), {len(seeds)} seeds"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--calibrate", action="store_true")
    parser.add_argument("--show", action="store_true")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(1)
    if given.show:
        show(given.folder)
    else:
        begin(whole := Pair(given.folder))
        (calibrate if given.calibrate else run)(whole)
