"""Answers, rollouts and scores of a trial, made when they are asked for and kept in pieces, with what they cost."""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from benchmarks.trial.model import LOSSES, Element, Machine, Row, decode, load, score, shuffled, train
from benchmarks.trial.pairs import Item, Pair

_MEASURED = {"cpu": 32, "cuda": 512}
"""Rows by which scoring and training are timed."""
_APART = {"scorer": (0.02, 0.3), "trainer": (0.05, 0.5)}
"""Nats by which the student may score its own answers otherwise than it sampled them: half of the tokens, and one in a
hundred."""
START, UNTOUCHED = "s0", "backbone"

Prices = dict[str, float]
"""Seconds a token: decoded by the teacher (`teach`) and by the student (`roll`); computed by the teacher (`score`,
`score_top`), by the student (`refer`), and in a training of each loss."""


@contextmanager
def phase(name: str) -> Iterator[None]:
    """Say how long it took."""
    began = time.monotonic()
    yield
    print(f"{name}: {time.monotonic() - began:.1f} s", flush=True)


class Material:
    """Of one start: the student that all arms go on from."""

    def __init__(self, pair: Pair, folder: Path, machine: Machine, start: str, prices: Prices) -> None:
        self.pair, self.folder, self.machine, self.start, self.prices = pair, folder, machine, start, prices
        self._pieces = dict[str, list[Row]]()
        self.seconds = dict[str, float]()
        """Piece → what it took."""

    def places(self, seed: int) -> Iterator[int]:
        """Prompts of the pool in the order of a seed: all begin elsewhere, so that they share few."""
        sizes = self.pair.sizes
        first = self.pair.sizes.seeds.index(seed) * sizes.pool // len(sizes.seeds) // sizes.piece * sizes.piece
        return ((first + number) % sizes.pool for number in range(sizes.pool))

    def model(self, name: str) -> Any:
        """To answer and to score."""
        return _kept_model(self.pair.student if name == UNTOUCHED else self._place_of(name), self.machine)

    def _place_of(self, name: str) -> Path:
        return self.pair.teacher if name == "teacher" and self.pair.teacher else self.folder / name

    def first(self) -> list[Row]:
        """The teacher's answers that S_0 learns."""
        return self._kept("first", lambda: self._answered_by_teacher(self.pair.items["first"], 0))

    def answer(self, place: int) -> Row:
        """The teacher's."""
        return self._at(place, "answers", self._answered_by_teacher)

    def rollouts(self, place: int) -> list[Row]:
        return [self.rollout(place, sample) for sample in range(self.pair.sizes.sampled)]

    def rollout(self, place: int, sample: int) -> Row:
        """The student's, at temperature 1."""

        def make(items: Sequence[Item], seed: int) -> list[Row]:
            return self._decoded(self.start, items, 1.0, 1000 * (sample + 1) + seed)

        return self._at(place, f"rollouts-{self.start}-{sample}", make)

    def scored(self, place: int, sample: int, *, top: bool = False) -> Row:
        """A rollout with what the teacher finds of it."""
        name = f"{'top' if top else 'scores'}-{self.start}-{sample}"
        return self._scored(place, name, "teacher", lambda each: self.rollout(each, sample), top=top)

    def answer_with_top(self, place: int) -> Row:
        return self._scored(place, "answers-top", "teacher", self.answer, top=True)

    def referred(self, place: int) -> Row:
        """The teacher's answer with what the student finds of it."""
        row = self._scored(place, f"referred-{self.start}", self.start, self.answer)
        return row._replace(q=row.t)

    def teaching(self, row: Row) -> float:
        return self.prices["teach"] * len(row.answer)

    def rolling(self, row: Row) -> float:
        return self.prices["roll"] * len(row.answer)

    def referring(self, row: Row) -> float:
        return self.prices["refer"] * row.size

    def scoring(self, row: Row, *, top: bool = False) -> float:
        return self.prices["score_top" if top else "score"] * row.size

    def _answered_by_teacher(self, items: Sequence[Item], seed: int) -> list[Row]:
        return self._decoded("teacher", items, self.pair.sizes.temperature, 1 + seed)

    def _decoded(self, by: str, items: Sequence[Item], temperature: float, seed: int) -> list[Row]:
        prompts, sizes = [self.pair.prompt(item) for item in items], self.pair.sizes
        made = decode(
            self.model(by),
            prompts,
            self.pair.stops,
            sizes.most_tokens,
            self.machine,
            temperature=temperature,
            seed=seed,
        )
        return [row._replace(right=self.pair.is_right(item, row.answer)) for item, row in zip(items, made, strict=True)]

    def _scored(self, place: int, name: str, by: str, row_at: Callable[[int], Row], *, top: bool = False) -> Row:
        size = self.pair.sizes.piece

        def make(items: Sequence[Item], number: int) -> list[Row]:
            rows = [row_at(number * size + each) for each in range(len(items))]
            return score(self.model(by), rows, self.machine, top=top)

        return self._at(place, name, make)

    def _at(self, place: int, name: str, make: Callable[[Sequence[Item], int], list[Row]]) -> Row:
        number, within = divmod(place, size := self.pair.sizes.piece)
        items = self.pair.items["pool"][number * size : (number + 1) * size]
        return self._kept(f"{name}-{number:03}", lambda: make(items, number))[within]

    def _kept(self, name: str, make: Callable[[], list[Row]]) -> list[Row]:
        if name not in self._pieces:
            file = self.folder / "material" / f"{name}.pt"
            if not file.exists():
                began = self.machine.wait()
                found = make()
                seconds = self.machine.wait() - began
                write(file, lambda part: torch.save(([tuple(row) for row in found], seconds), part))
                print(f"{name}: {seconds:.1f} s", flush=True)
            rows, self.seconds[name] = torch.load(file, weights_only=True)
            self._pieces[name] = [Row(*each) for each in rows]
        return self._pieces[name]


@lru_cache(maxsize=2)
def _kept_model(folder: Path, machine: Machine) -> Any:
    return load(folder, machine)


def load_to_train(folder: Path, machine: Machine) -> Any:
    """A model that learns; where memory is a machine's own, those that answer leave it before."""
    if not machine.narrow:
        _kept_model.cache_clear()
    return load(folder, machine, to_train=True)


def write(file: Path, by: Callable[[Path], Any]) -> None:
    """Whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f".{file.name}.{os.getpid()}")
    by(part)
    part.rename(file)


def marks(pair: Pair, model: Any, parts: Sequence[str], machine: Machine) -> dict[str, Any]:
    """Greedy answers to whole parts, marked: 1 for a right one, and for one that ended."""
    items = [item for part in parts for item in pair.items[part]]
    made = decode(model, [pair.prompt(item) for item in items], pair.stops, pair.sizes.most_tokens, machine)
    told, places = dict[str, Any](), iter(zip(items, made, strict=True))
    for part in parts:
        of = [next(places) for _ in pair.items[part]]
        told[part] = {
            "right": "".join(str(int(pair.is_right(item, row.answer))) for item, row in of),
            "ended": "".join(str(int(row.ended)) for _, row in of),
            "tokens": sum(len(row.answer) for _, row in of),
        }
    return told


def measure(material: Material) -> Prices:
    """What a token takes: decoded in the first piece of answers and of rollouts, scored and trained on some of these.

    All is done once before it is timed: the first pass of a process is slower than those after it.
    """
    prices = Prices()
    trained = _measure_answering(material, prices)
    machine, batch = material.machine, material.pair.sizes.batch
    model = load_to_train(material.folder / material.start, machine)
    _check_scorer("trainer", score(model, [row for [row] in trained["policy"][:20]], machine))
    for loss, elements in trained.items():
        rows = [row for each in elements for row in each]
        _timed(
            *(prices, loss, rows, machine),
            lambda of=elements, by=LOSSES[loss]: train(model, shuffled(of, 0), by, machine, rate=1e-6, batch=batch),
        )
    return prices


def _measure_answering(material: Material, prices: Prices) -> dict[str, Sequence[Element]]:
    """Loss → what it can be trained on; adds what decoding and scoring took."""
    machine, sizes = material.machine, material.pair.sizes
    teacher, student = material.model("teacher"), material.model(material.start)
    some = [material.pair.prompt(item) for item in material.pair.items["dev"][:8]]
    _check_padding(student, some, machine)
    for each in (teacher, student):
        decode(each, some, material.pair.stops, 16, machine, temperature=1.0)
    places = range(min(_MEASURED[machine.device], sizes.prompts))
    rollouts, answers = [material.rollout(place, 0) for place in places], [material.answer(place) for place in places]
    for name, piece, row_at in (
        ("roll", f"rollouts-{material.start}-0-000", lambda place: material.rollout(place, 0)),
        ("teach", "answers-000", material.answer),
    ):
        prices[name] = material.seconds[piece] / sum(len(row_at(place).answer) for place in range(sizes.piece))
    _check_scorer("scorer", score(student, rollouts, machine))
    scored = _timed(prices, "score", rollouts, machine, lambda: score(teacher, rollouts, machine))
    topped = _timed(prices, "score_top", rollouts, machine, lambda: score(teacher, rollouts, machine, top=True))
    referred = _timed(prices, "refer", answers, machine, lambda: score(student, answers, machine))
    return {
        "imitate": [(row,) for row in answers],
        "policy": [(row,) for row in scored],
        "forward_kl": [(row,) for row in topped],
        "prefer": [(good._replace(q=good.t), bad) for good, bad in zip(referred, rollouts, strict=True)],
    }


def _timed(prices: Prices, name: str, rows: Sequence[Row], machine: Machine, work: Callable[[], Any]) -> Any:
    work()
    began = machine.wait()
    found = work()
    prices[name] = (machine.wait() - began) / sum(row.size for row in rows)
    return found


def _check_padding(model: Any, prompts: Sequence[list[int]], machine: Machine) -> None:
    """Refuse a machine on which prompts that are decoded together are answered with what is no number.

    Some may differ in any case, where two tokens are about as likely.
    """
    alone = [decode(model, [prompt], [], 8, machine)[0].answer for prompt in prompts]
    together = [row.answer for row in decode(model, prompts, [], 8, machine)]
    alike = sum(one[0] == other[0] for one, other in zip(alone, together, strict=True))
    if alike < 0.7 * len(prompts):
        raise SystemExit(f"decoded together, {len(prompts) - alike} of {len(prompts)} prompts are answered otherwise")


def _check_scorer(name: str, rows: Sequence[Row]) -> None:
    """Refuse to learn from scores where the student's own differ from what it sampled by."""
    apart = sorted(abs(t - q) for row in rows for t, q in zip(row.t, row.q, strict=True))
    found = apart[len(apart) // 2], apart[len(apart) * 99 // 100]
    print(f"own answers by the {name}: {found[0]:.4f} nats apart, one in a hundred {found[1]:.3f}", flush=True)
    if any(value > most for value, most in zip(found, _APART[name], strict=True)):
        raise SystemExit(f"the {name} scores the student's own answers otherwise than it sampled them")
