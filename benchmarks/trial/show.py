"""The table of a trial from its result files, and what its rule decides.

python -m benchmarks.trial.show FOLDER
"""

import json
import random
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.trial.arms import ARMS, ON_POLICY, ON_SECOND, best_rate
from tapir_core.statistics import Resampled, paired_values, resample

AHEAD = 0.03
Marks = dict[int, dict[str, float]]
"""Seed → item → 1 where its answer is right."""


class Arm:
    """An arm at the learning rate that dev chooses."""

    def __init__(self, name: str, results: Sequence[Mapping[str, Any]]) -> None:
        self.name = name
        self.rate = best_rate(results)
        self.results = [each for each in results if each["rate"] == self.rate]
        self.dev = fmean(map(of_dev, self.results))

    def marks(self, *, of_ended: bool = False) -> Marks:
        """On test; of answers that ended if asked."""
        return {
            each["seed"]: {
                str(place): float(right)
                for place, (right, ended) in enumerate(zip(each["test"]["right"], each["test"]["ended"], strict=True))
                if ended == "1" or not of_ended
            }
            for each in self.results
        }

    def mean(self, name: str) -> float:
        return fmean(each[name] for each in self.results)


def of_dev(result: Mapping[str, Any]) -> float:
    return fmean(map(int, result["dev"]["right"]))


def show(folder: Path) -> Iterable[str]:
    """Lines of Markdown."""
    for name in ("teacher", "backbone", "s0"):
        if (file := folder / f"{name}-marks.json").exists():
            told = json.loads(file.read_text())
            yield f"{name}: " + ", ".join(
                f"{part} {100 * fmean(map(int, told[part]['right'])):.1f} %" for part in ("dev", "test") if part in told
            )
    seeds = json.loads((folder / "trial.json").read_text())["sizes"]["seeds"]
    found = [json.loads(file.read_text()) for file in sorted((folder / "results").glob("*.json"))]
    for start, unit in sorted({(each["start"], each["unit"]) for each in found}, key=lambda of: (of[0] != "s0", of[1])):
        same = [each for each in found if each["start"] == start]
        here = [each for each in same if each["unit"] == unit or (each["unit"], each["arm"]) == ("seconds", ON_POLICY)]
        planned = ARMS if start == "s0" else ON_SECOND
        ways = [name for name in planned if ARMS[name].is_plain]
        yield from _table(here, f"{start}, equal {unit}", ways, seeds)


def _table(found: Sequence[Mapping[str, Any]], title: str, ways: Sequence[str], seeds: Sequence[int]) -> Iterable[str]:
    arms = [Arm(name, here) for name in (*ARMS, "average") if (here := [each for each in found if each["arm"] == name])]
    here = {arm.name: {each["seed"] for each in arm.results} for arm in arms}
    if lacking := [name for name in (*ways, ON_POLICY) if here.get(name, set()) < set(seeds)]:
        yield f"\n{title}: unfinished, {', '.join(lacking)} without all of the seeds {', '.join(map(str, seeds))}"
        return
    plain = max((arm for arm in arms if arm.name in ways), key=lambda arm: arm.dev)
    yield f"\n{title}; set against `{plain.name}`, the best way of plain fine-tuning on dev\n"
    yield "| arm | rate | seeds | trained on | seconds | dev | test | difference, 90 % | of ended answers |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for arm in arms:
        test, apart = arm.marks(), _apart(arm, plain)
        share = fmean(fmean(each.values()) for each in test.values())
        yield (
            f"| {arm.name} | {arm.rate:g} | {len(arm.results)} | {arm.mean('elements'):.0f} "
            f"| {arm.mean('seconds'):.0f} | {100 * arm.dev:.1f} | {100 * share:.1f} | {in_words(apart)} "
            f"| {in_words(_apart(arm, plain, of_ended=True))} |"
        )
    apart = _apart(next(arm for arm in arms if arm.name == ON_POLICY), plain)
    wins = apart is not None and apart.value >= AHEAD and apart.low90 > 0
    yield f"\n`{ON_POLICY}` over `{plain.name}`: {in_words(apart)}: {'shown' if wins else 'not shown'}"


def _apart(arm: Arm, plain: Arm, *, of_ended: bool = False) -> Resampled | None:
    both = paired_values(arm.marks(of_ended=of_ended), plain.marks(of_ended=of_ended))
    return resample(both, rng=random.Random(1)) if arm is not plain else None


def in_words(found: Resampled | None) -> str:
    """Percentage points."""
    if found is None:
        return "–"
    return f"{100 * found.value:+.1f} ({100 * found.low90:+.1f} to {100 * found.high90:+.1f})"


if __name__ == "__main__":
    print("\n".join(show(Path(sys.argv[1]))))
