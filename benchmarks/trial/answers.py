"""Which of several answers to train on where prompts run out? Rules, written before the runs (2026-11-29).

    python -m benchmarks.trial.answers TRIAL FOLDER [--small]
    python -m benchmarks.trial.answers --show FOLDER

TRIAL is a folder of `benchmarks.trial standin`, whose teacher and S_0 are used. Of 128 prompts of the pool the teacher
gives four answers each at temperature 0.7. Every arm goes on from S_0 with 512 examples at 3e-5, the middle one of the
trial's rates, and is marked on dev with seeds 1 to 3; answers cost the same USD in all arms but `one`, which takes a
quarter. **`all` is the default of `teacher.answers_used`, and stays so unless `likeliest` is ahead of it by 3 points
and the 90 % interval over seeds and items excludes 0; where a verifier filters, likewise `all_right` and `best`.**
Killed, the same command goes on.
"""

import argparse
import itertools
import json
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.trial.__main__ import share
from benchmarks.trial.material import START, Material, load_to_train, marks, phase, write
from benchmarks.trial.model import LOSSES, MACHINES, Row, score, shuffled, train
from benchmarks.trial.pairs import PAIRS, Pair
from benchmarks.trial.show import in_words
from tapir_core.statistics import paired_values, resample

SAMPLES, PROMPTS, RATE, SEEDS = 4, 128, 3e-5, (1, 2, 3)
Answers = Sequence[Sequence[Row]]
"""Of each prompt."""


def _likeliest(rows: Sequence[Row]) -> Row:
    return max(rows, key=lambda row: fmean(row.t))


ARMS: dict[str, Callable[[Answers], Iterable[Row]]] = {
    "one": lambda prompts: [rows[0] for rows in prompts],
    "all": lambda prompts: [row for rows in prompts for row in rows],
    "likeliest": lambda prompts: [_likeliest(rows) for rows in prompts],
    "all_right": lambda prompts: [row for rows in prompts for row in rows if row.right],
    "best": lambda prompts: [right[0] for rows in prompts if (right := [row for row in rows if row.right])],
}
"""What is trained on of four answers to each prompt, as often as makes 512 examples; `prompts` has one answer to each
of four times as many prompts."""


class Several(Material):
    """Answers of the teacher of a trial, drawn several times."""

    def __init__(self, pair: Pair, trial: Path, folder: Path) -> None:
        super().__init__(pair, folder, MACHINES["cpu"], START, {})
        self._trial = trial

    def _place_of(self, name: str) -> Path:
        return self._trial / name

    def drawn(self, sample: int, place: int) -> Row:
        """With what S_0 finds of it."""

        def make(items: Any, number: int) -> list[Row]:
            rows = self._decoded("teacher", items, 0.7, 1000 * (sample + 1) + number)
            return score(self.model(START), rows, self.machine)

        return self._at(place, f"drawn-{sample}", make)


def run(trial: Path, folder: Path, *, small: bool) -> None:
    """Train and mark what is not there yet."""
    pair = PAIRS["standin"](trial, argparse.Namespace(student=None), small=small)
    prompts = 16 if small else PROMPTS
    material = Several(pair, trial, folder)
    for seed, arm in itertools.product(SEEDS[: len(pair.sizes.seeds)], [*ARMS, "prompts"]):
        file = folder / "results" / f"{arm}-s{seed}.json"
        if file.exists():
            continue
        places = [*itertools.islice(material.places(seed), SAMPLES * prompts)]
        if arm == "prompts":
            rows = [material.drawn(0, place) for place in places]
        else:
            rows = [
                *ARMS[arm]([[material.drawn(each, place) for each in range(SAMPLES)] for place in places[:prompts]])
            ]
        if not rows:
            raise SystemExit(f"{arm}, seed {seed}: none of the teacher's answers is right, so none can be trained on")
        again = (shuffled(rows, 1000 * seed + number) for number in itertools.count())
        taken = [*itertools.islice(itertools.chain.from_iterable(again), SAMPLES * prompts)]
        with phase(f"training {arm}, seed {seed}"):
            model = load_to_train(trial / START, material.machine)
            train(
                model, [(row,) for row in taken], LOSSES["imitate"], material.machine, rate=RATE, batch=pair.sizes.batch
            )
        told = {
            "arm": arm,
            "seed": seed,
            "different": len(rows),
            "examples": len(taken),
            "right": fmean(row.right for row in taken),
            **marks(pair, model.eval(), ("dev",), material.machine),
        }
        write(file, lambda part, told=told: part.write_text(json.dumps(told)))
        print(f"{file.stem}: dev {share(told):.1%}", flush=True)


def show(folder: Path) -> Iterator[str]:
    """The table, set against `all`."""
    found = [json.loads(file.read_text()) for file in sorted((folder / "results").glob("*.json"))]
    of = {
        name: {
            each["seed"]: {str(place): float(right) for place, right in enumerate(each["dev"]["right"])}
            for each in found
            if each["arm"] == name
        }
        for name in [*ARMS, "prompts"]
    }
    yield "| arm | seeds | answers | of them right, % | dev | over `all`, 90 % | over `all_right`, 90 % |"
    yield "|---|---|---|---|---|---|---|"
    for name, dev in of.items():
        here = [each for each in found if each["arm"] == name]
        apart = [
            in_words(resample(paired_values(dev, of[other]), rng=random.Random(1)) if other != name else None)
            for other in ("all", "all_right")
        ]
        yield (
            f"| {name} | {len(here)} | {fmean(each['different'] for each in here):.0f} "
            f"| {100 * fmean(each['right'] for each in here):.0f} "
            f"| {100 * fmean(fmean(each.values()) for each in dev.values()):.1f} | {' | '.join(apart)} |"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("trial", type=Path, nargs="?")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--show", action="store_true")
    parser.add_argument("--small", action="store_true", help="16 prompts, one seed")
    given = parser.parse_args()
    if given.show:
        print("\n".join(show(given.folder)))
    else:
        run(given.trial, given.folder, small=given.small)
