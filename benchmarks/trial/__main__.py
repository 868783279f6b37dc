"""Does any way of training on the student's own answers beat plain fine-tuning at equal seconds? Rules in README.md.

    python -m benchmarks.trial PAIR FOLDER [--student DIR --teacher DIR --data DIR] [--minutes N] [--small] [--anyway]

What is done lies in FOLDER: killed, the same command goes on. Each student is a JSON line as soon as it is marked.
"""

import argparse
import itertools
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks.trial.arms import ARMS, best_rate
from benchmarks.trial.material import START, UNTOUCHED, Material, Prices, marks, measure, phase, write
from benchmarks.trial.model import LOSSES, MACHINES, Element, Row, load, shuffled, train
from benchmarks.trial.pairs import PAIRS, Pair

RATES = (2e-6, 1e-5, 3e-5)
CHOSEN = dict.fromkeys(ARMS, 1e-5) | {"fresh": 3e-5, "forward_kl": 3e-5}
"""Arm → its learning rate on the pair of real models: the best on dev of the pair on the CPU; 1e-5 where that is not
known."""
DECIDING = ("fresh", "policy", "forward_kl")
LEAD, LEAD_OF_STANDIN, ENDED = 0.15, 0.10, 0.90


class Job(NamedTuple):
    """A student to be trained and marked."""

    arm: str
    start: str
    unit: str
    rate: float
    seed: int

    @property
    def name(self) -> str:
        return f"{self.arm}-{self.start}-{self.unit}-{self.rate:g}-s{self.seed}"


class Trial:
    """A pair in a folder, on a device."""

    def __init__(self, pair: Pair, folder: Path, device: str) -> None:
        self.pair, self.folder, self.machine = pair, folder, MACHINES[device]
        told = {"pair": pair.name, "sizes": pair.sizes._asdict(), "device": device}
        if json.loads(json.dumps(told)) != self._kept("trial", lambda: told):
            raise SystemExit(f"{folder} holds another trial (trial.json); give another folder")
        self._materials = dict[str, Material]()

    def run(self, *, minutes: float, anyway: bool) -> None:
        """Gates, S_0, prices, then a student a job."""
        until = time.monotonic() + 60 * minutes
        self._make_teacher()
        before = Material(self.pair, self.folder, self.machine, START, {})
        teacher = self._kept("teacher-marks", lambda: self._marked(before.model("teacher"), ("dev",)))
        untouched = self._kept("backbone-marks", lambda: self._marked(before.model(UNTOUCHED), ("dev", "test")))
        if self.pair.teacher:
            self._check_lead(teacher, untouched, LEAD, anyway=anyway)
        self._make_start(before)
        start = self._kept("s0-marks", lambda: self._marked(before.model(START), ("dev", "test")))
        if not self.pair.teacher:
            self._check_lead(teacher, start, LEAD_OF_STANDIN, anyway=anyway)
        prices: Prices = self._kept(
            "prices", lambda: {"teach": teacher["decoding"], "roll": start["decoding"], **measure(before)}
        )
        ended = [before.rollout(place, 0).ended for place in range(self.pair.sizes.piece)]
        if sum(ended) < ENDED * len(ended) and not anyway:
            raise SystemExit(f"{sum(ended)} of {len(ended)} rollouts end within {self.pair.sizes.most_tokens} tokens")
        starts = [START] + [UNTOUCHED] * (self.pair.teacher is not None and share(start) < share(untouched))
        self._materials = {each: Material(self.pair, self.folder, self.machine, each, prices) for each in starts}
        for job in self.jobs(starts):
            file = self.folder / "results" / f"{job.name}.json"
            if file.exists():
                continue
            if time.monotonic() > until:
                print(f"{minutes:g} minutes are over; the same command goes on", flush=True)
                return
            self._do(job)

    def jobs(self, starts: list[str]) -> Iterator[Job]:
        """First the arms that decide, with every seed, then others, then equal tokens. On the pair without a model for
        a teacher, where learning rates are chosen, two seeds try all of them first."""
        seeds, others = self.pair.sizes.seeds, tuple(arm for arm in ARMS if arm not in DECIDING)
        if self.pair.teacher is None:
            arms = [arm for arm in ARMS if arm not in ("topk", "third", "mfd")]
            tried = itertools.product(seeds[:2], arms, RATES)
            yield from (Job(arm, START, "seconds", rate, seed) for seed, arm, rate in tried)
            rates = {
                arm: best_rate([self._result(arm, rate, seed) for seed in seeds[:2] for rate in RATES]) for arm in arms
            }
            yield from (Job(arm, START, "seconds", rates[arm], seed) for seed in seeds[2:] for arm in arms)
            return
        for start, arms in ((START, DECIDING), (UNTOUCHED, DECIDING), (START, others)):
            if start in starts:
                yield from (Job(arm, start, "seconds", CHOSEN[arm], seed) for seed in seeds for arm in arms)
        arms = tuple(arm for arm in ARMS if arm != "policy")  # whose tokens these are
        yield from (Job(arm, START, "tokens", CHOSEN[arm], seed) for seed in seeds for arm in arms)

    def _result(self, arm: str, rate: float, seed: int) -> Any:
        return json.loads((self.folder / "results" / f"{Job(arm, START, 'seconds', rate, seed).name}.json").read_text())

    def _do(self, job: Job) -> None:
        arm, sizes = ARMS[job.arm], self.pair.sizes
        began = time.monotonic()
        elements, told = self.take(job)
        if not arm.in_order:
            elements = shuffled(elements, job.seed)
        gathered = time.monotonic()
        base = self.pair.student if job.start == UNTOUCHED else self.folder / START
        model = load(base, self.machine, to_train=True)
        mean = train(model, elements, LOSSES[arm.loss], self.machine, rate=job.rate, batch=sizes.batch)
        trained = time.monotonic()
        model = self._to_answer(model)
        told |= self._marked(model, ("dev", "test"))
        told |= {"gathering": round(gathered - began, 1), "training": round(trained - gathered, 1)}
        told["marking"] = round(time.monotonic() - trained, 1)
        self._tell(job, told)
        if job.arm == "fresh" and job.unit == "seconds":
            model.load_state_dict(mean, strict=False)  # tied weights are named once
            self._tell(job._replace(arm="average"), {**told, **self._marked(model, ("dev", "test"))})

    def take(self, job: Job) -> tuple[list[Element], dict[str, Any]]:
        """What a job trains on: as much as has the seconds, or the trained tokens, of the on-policy arm."""
        budget = self._spend(job._replace(arm="policy", unit="seconds"), self.pair.sizes.prompts, float("inf"))[1]
        elements, told = self._spend(job, self.pair.sizes.pool * 100, budget[job.unit] * (1 + 1e-9))
        return elements, {name: round(of, 3) for name, of in told.items()}

    def _spend(self, job: Job, most_bills: int, budget: float) -> tuple[list[Element], dict[str, float]]:
        arm, of = ARMS[job.arm], self._materials[job.start]
        spent, elements = {"bills": 0, "seconds": 0.0, "tokens": 0}, list[Element]()
        for seconds, found in arm.bill(of, job.seed):
            rows = [row for each in found for row in each]
            cost = {
                "bills": spent["bills"] + 1,
                "seconds": spent["seconds"] + seconds + of.prices[arm.loss] * sum(row.size for row in rows),
                "tokens": spent["tokens"] + sum(len(row.answer) for row in rows),
            }
            if spent["bills"] == most_bills or cost[job.unit] > budget:
                break
            spent, elements = cost, elements + found
        return elements, {**spent, "elements": len(elements)}

    def _tell(self, job: Job, told: dict[str, Any]) -> None:
        whole = {**job._asdict(), **told}
        write(self.folder / "results" / f"{job.name}.json", lambda part: part.write_text(json.dumps(whole)))
        print(json.dumps({**whole, **{part: share(told, part) for part in ("dev", "test")}}), flush=True)

    def _make_teacher(self) -> None:
        if self.pair.teacher or (self.folder / "teacher").exists():
            return
        taught = [(Row(self.pair.prompt(item), self.pair.answer(item.taught)),) for item in self.pair.items["taught"]]
        self._train_from_backbone("teacher", taught, epochs=2, rate=2e-4)

    def _make_start(self, before: Material) -> None:
        if not (self.folder / START).exists():
            rows = [(row,) for row in before.first()]
            self._train_from_backbone(START, rows, epochs=1, rate=self.pair.sizes.start_rate)

    def _train_from_backbone(self, name: str, elements: list[Element], *, epochs: int, rate: float) -> None:
        with phase(f"training {name}"):
            model = load(self.pair.student, self.machine, to_train=True)
            for epoch in range(epochs):
                order = shuffled(elements, epoch)
                train(model, order, LOSSES["imitate"], self.machine, rate=rate, batch=self.pair.sizes.batch)
            write(self.folder / name, model.save_pretrained)

    def _marked(self, model: Any, parts: tuple[str, ...]) -> dict[str, Any]:
        found, decoding = marks(self.pair, model, parts, self.machine)
        return {**found, "decoding": decoding}

    def _to_answer(self, model: Any) -> Any:
        return (model.to(torch.bfloat16) if self.machine.narrow else model).eval()

    def _kept(self, name: str, make: Any) -> Any:
        file = self.folder / f"{name}.json"
        if not file.exists():
            with phase(name):
                made = json.dumps(make())
            write(file, lambda part: part.write_text(made))
        return json.loads(file.read_text())

    def _check_lead(self, teacher: Any, student: Any, least: float, *, anyway: bool) -> None:
        lead = share(teacher) - share(student)
        print(f"dev: teacher {share(teacher):.1%}, student {share(student):.1%}", flush=True)
        if lead < least and not anyway:
            raise SystemExit(
                f"the teacher leads by {100 * lead:.1f} points, {100 * least:.0f} are wanted: nothing to learn"
            )


def share(marked: dict[str, Any], part: str = "dev") -> float:
    """Of right answers."""
    right = marked[part]["right"]
    return round(right.count("1") / len(right), 4)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pair", choices=PAIRS)
    parser.add_argument("folder", type=Path)
    for name in ("student", "teacher", "data"):
        parser.add_argument(f"--{name}", type=Path)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=MACHINES)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--small", action="store_true", help="a rehearsal on 32 prompts")
    parser.add_argument("--anyway", action="store_true", help="go on where a gate says stop")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    whole = PAIRS[given.pair](given.folder, given, small=given.small)
    Trial(whole, given.folder, given.device).run(minutes=given.minutes, anyway=given.anyway)
