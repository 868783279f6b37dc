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

from benchmarks.trial.arms import ARMS, ON_POLICY, ON_SECOND, best_rate
from benchmarks.trial.material import START, UNTOUCHED, Material, Prices, load_to_train, marks, measure, phase, write
from benchmarks.trial.model import BETA, CLIP, LOSSES, MACHINES, TOP_K, Element, Row, rounded, shuffled, train
from benchmarks.trial.pairs import PAIRS, Pair
from tapir_core.text import digest

RATES = (1e-5, 3e-5, 1e-4)
CHOSEN = {"imitate": 3e-5, "forward_kl": 3e-5, "policy": 3e-5, "prefer": 1e-4}
"""Loss → its learning rate on the pair of real models: the best on dev of `standin`."""
LEAD, LEAD_OF_STANDIN, ENDED, LOWERED = 0.15, 0.10, 0.90, 0.02
ORDER = (("fresh", ON_POLICY, "right", "epochs"), ("own", "prefer", "pass_rate"), ("policy", "topk", "third", "mfd"))
"""Arms of the pair of real models, as they come when time is short."""


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
        models = [pair.student, *([pair.teacher] if pair.teacher else [])]
        self._trial = {
            "pair": pair.name,
            "sizes": pair.sizes._asdict(),
            "models": [digest([(model / "config.json").read_text(), _weights(model)])[:16] for model in models],
            "items": digest([[*item] for of in pair.items.values() for item in of])[:16],
            "device": torch.cuda.get_device_name() if self.machine.narrow else device,
            "torch": torch.__version__,
            "machine": [*self.machine, TOP_K, CLIP, BETA],
        }
        if json.loads(json.dumps(self._trial)) != self._kept("trial", lambda: self._trial):
            raise SystemExit(f"{folder} holds another trial (trial.json); give another folder")
        self._made_with = ""
        self._materials = dict[str, Material]()

    def run(self, *, minutes: float, anyway: bool) -> None:
        """Gates, S_0, prices, then a student a job, while there is time for one as long as the longest."""
        began, longest, until = time.monotonic(), 0.0, time.monotonic() + 60 * minutes
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
        prices: Prices = self._kept("prices", lambda: measure(before))
        ended = [before.rollout(place, 0).ended for place in range(self.pair.sizes.piece)]
        if sum(ended) < ENDED * len(ended) and not anyway:
            raise SystemExit(f"{sum(ended)} of {len(ended)} rollouts end within {self.pair.sizes.most_tokens} tokens")
        starts = [START] + [UNTOUCHED] * (self.pair.teacher is not None and share(start) < share(untouched) - LOWERED)
        self._materials = {each: Material(self.pair, self.folder, self.machine, each, prices) for each in starts}
        # What lies there may come from another machine, where S_0 and prices were others.
        self._made_with = digest([self._trial, prices, start])[:16]
        print(f"before the first student: {time.monotonic() - began:.0f} s", flush=True)
        for job in self.jobs(starts):
            if self._is_done(job):
                continue
            begun = time.monotonic()
            if begun + longest > until:
                print(f"{minutes:g} minutes are over; the same command goes on", flush=True)
                return
            self._do(job)
            longest = max(longest, time.monotonic() - begun)

    def _is_done(self, job: Job) -> bool:
        file = self.folder / "results" / f"{job.name}.json"
        if file.exists() and (found := json.loads(file.read_text())["made_with"]) != self._made_with:
            raise SystemExit(f"{file} was made with another S_0 or other prices ({found}); give another folder")
        return file.exists()

    def jobs(self, starts: list[str]) -> Iterator[Job]:
        """Equal seconds, then equal tokens. Where no model of its own teaches, the first seed tries all rates."""
        first, *others = seeds = self.pair.sizes.seeds
        if self.pair.teacher is None:
            arms = [arm for arm in ARMS if arm not in ("topk", "third", "mfd")]
            yield from (Job(arm, START, "seconds", rate, first) for arm, rate in itertools.product(arms, RATES))
            rates = {arm: best_rate([self._result(arm, rate, first) for rate in RATES]) for arm in arms}
            yield from (Job(arm, START, "seconds", rates[arm], seed) for seed in others for arm in arms)
            return
        for start, arms in (*((START, arms) for arms in ORDER), (UNTOUCHED, ON_SECOND)):
            if start in starts:
                yield from (self._chosen(arm, start, "seconds", seed) for seed in seeds for arm in arms)
        arms = tuple(arm for arm in ARMS if arm != ON_POLICY)  # whose tokens these are
        yield from (self._chosen(arm, START, "tokens", seed) for seed in seeds for arm in arms)

    def _chosen(self, arm: str, start: str, unit: str, seed: int) -> Job:
        return Job(arm, start, unit, CHOSEN[ARMS[arm].loss], seed)

    def _result(self, arm: str, rate: float, seed: int) -> Any:
        return json.loads((self.folder / "results" / f"{Job(arm, START, 'seconds', rate, seed).name}.json").read_text())

    def _do(self, job: Job) -> None:
        arm, sizes, began = ARMS[job.arm], self.pair.sizes, time.monotonic()
        elements, told = self.take(job)
        if not arm.in_order:
            elements = shuffled(elements, job.seed)
        gathered = time.monotonic()
        base = self.pair.student if job.start == UNTOUCHED else self.folder / START
        model, averaged = load_to_train(base, self.machine), job.arm == "fresh" and job.unit == "seconds"
        settings = {"rate": job.rate, "batch": sizes.batch, "averaged": averaged}
        mean = train(model, elements, LOSSES[arm.loss], self.machine, **settings)
        trained = time.monotonic()
        model = self._to_answer(model)
        told |= {"gathering": round(gathered - began, 1), "training": round(trained - gathered, 1)}
        whole = {**told, **self._marked(model, ("dev", "test")), "marking": round(time.monotonic() - trained, 1)}
        if averaged:
            model.load_state_dict(mean, strict=False)  # tied weights are named once
            self._tell(job._replace(arm="average"), {**told, **self._marked(model, ("dev", "test"))})
        self._tell(job, whole)  # last: by its file the job is done

    def take(self, job: Job) -> tuple[list[Element], dict[str, Any]]:
        """What a job trains on: as much as has the seconds, or the trained tokens, of the on-policy arm."""
        of = job._replace(arm=ON_POLICY, unit="seconds")
        budget = self._spend(of, self.pair.sizes.prompts, float("inf"))[1]
        elements, told = self._spend(job, None, budget[job.unit] * (1 + 1e-9))
        return elements, {name: round(each, 3) for name, each in told.items()}

    def _spend(self, job: Job, most_bills: int | None, budget: float) -> tuple[list[Element], dict[str, float]]:
        arm, of = ARMS[job.arm], self._materials[job.start]
        spent, elements = {"bills": 0, "seconds": 0.0, "tokens": 0}, list[Element]()
        for seconds, found in itertools.islice(arm.bill(of, job.seed), most_bills):
            rows = [row for each in found for row in each]
            cost = {
                "bills": spent["bills"] + 1,
                "seconds": spent["seconds"] + seconds + of.prices[arm.loss] * sum(row.size for row in rows),
                "tokens": spent["tokens"] + sum(len(row.answer) for row in rows),
            }
            if cost[job.unit] > budget:
                break
            spent, elements = cost, elements + found
        return elements, {**spent, "elements": len(elements)}

    def _tell(self, job: Job, told: dict[str, Any]) -> None:
        whole = {**job._asdict(), **told, "made_with": self._made_with}
        write(self.folder / "results" / f"{job.name}.json", lambda part: part.write_text(json.dumps(whole)))
        # Without test, which is looked at once, by `show`.
        said = {name: value for name, value in whole.items() if name != "test"}
        print(json.dumps({**said, "dev": share(told)}), flush=True)

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
            model = load_to_train(self.pair.student, self.machine)
            for epoch in range(epochs):
                order = shuffled(elements, epoch)
                train(model, order, LOSSES["imitate"], self.machine, rate=rate, batch=self.pair.sizes.batch)
            if self.machine.narrow:
                model = rounded(model)  # so that what is trained further is what answers
            write(self.folder / name, model.save_pretrained)

    def _marked(self, model: Any, parts: tuple[str, ...]) -> dict[str, Any]:
        return marks(self.pair, model, parts, self.machine)

    def _to_answer(self, model: Any) -> Any:
        return rounded(model) if self.machine.narrow else model.eval()

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


def _weights(model: Path) -> int:
    return sum(file.stat().st_size for file in model.glob("*.safetensors"))


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
