"""Results beside each other: accuracy of each arm and its difference to another, with intervals, and what it took.

Calls are priced by the sheets of prices.toml. Intervals are those of the product's comparisons
(`tapir_core.statistics.resample`): 90 %, over seeds and items, as wide as Student's t asks for so few seeds.
A difference is shown where its interval excludes 0.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.lab.runs import AVERAGE, read_result
from tapir_core.config.load import read_toml
from tapir_core.errors import ConfigError
from tapir_core.randomness import derive_rng
from tapir_core.statistics import Resampled, Values, at_weights, paired_values, resample

Results = Mapping[int, Mapping[str, Any]]
"""Seed → result of one arm."""

_BASIC, _EXPORTED = "0", ""

_PRICES = read_toml(Path(__file__).with_name("prices.toml"))


def read_results(folders: Sequence[Path]) -> dict[str, dict[int, dict[str, Any]]]:
    """Arm → seed → result.

    Raises:
        ConfigError: there is none, or one arm and seed has two.
    """
    arms: dict[str, dict[int, dict[str, Any]]] = {}
    for file in sorted(file for folder in folders for file in folder.glob("*.json")):
        result = read_result(file)
        if result["seed"] in arms.setdefault(result["arm"], {}):
            raise ConfigError(f"{file}: arm {result['arm']} with seed {result['seed']} is there twice")
        arms[result["arm"]][result["seed"]] = result
    if not arms:
        raise ConfigError(f"no result in {', '.join(map(str, folders))}")
    return arms


def show(folders: Sequence[Path], split: str = "test") -> str:
    """The table as text: a row an arm, and one of the mean of its rounds' weights where it exports another student."""
    arms = read_results(folders)
    some = next(iter(next(iter(arms.values())).values()))
    order = sorted(arms, key=lambda name: name != some["reference"])
    first = arms[order[0]]
    rows = [["S_0", *_scores(first, _BASIC, split, "S_0"), "", "", "", *_costs({})]]
    for name in order:
        results = arms[name]
        against = next(iter(results.values()))["against"]
        rows.append([name, *_scores(results, _EXPORTED, split, name), *_differences(arms, name, against, split)])
        rows[-1] += _costs(results)
        students = next(iter(results.values()))
        if AVERAGE in students["students"] and students["exported"] != AVERAGE:
            row = [f"{name}, averaged", *_scores(results, AVERAGE, split, name)]
            rows.append([*row, *_differences(arms, name, against, split, AVERAGE), *_costs({})])
    heads = ["arm", "seeds", split, "natural shares", "against", "difference", "at natural shares"]
    heads += [
        "answer tokens",
        "tokens",
        "steps",
        "instructions",
        "minutes",
        *(f"USD, {name}" for name in _PRICES["sheets"]),
    ]
    return "\n".join([laid_out(heads, rows), "", _NOTE, *_mixed(arms)])


def laid_out(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table as text, its columns as wide as what stands in them."""
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in [heads, *rows]]
    return "\n".join(line.rstrip() for line in lines)


_NOTE = (
    "Per cent right, points of difference, [90 % interval over seeds and items]; not shown: the interval holds 0. "
    "Intervals are not corrected for the number of arms."
)


def values_of(results: Results, student: str, split: str, *, natural: bool = False) -> Values:
    """Seed → item → mark of the exported student, or of the one named; as `at_weights` has them at natural shares."""
    marks = {}
    for seed, result in results.items():
        of_split = result["students"].get(student or result["exported"], {}).get(split)
        if of_split:
            marks[seed] = {item: float(mark) for item, mark in of_split.items() if mark is not None}
    weights = {seed: results[seed]["weights"] for seed in marks}
    return at_weights(marks, weights) if natural else marks


def difference(
    first: Results, second: Results, split: str, student: str = _EXPORTED, *, natural: bool = False
) -> Resampled | None:
    """``first`` − ``second`` over the seeds that both have; ``student`` is that of ``first``."""
    paired = paired_values(
        values_of(first, student, split, natural=natural), values_of(second, _EXPORTED, split, natural=natural)
    )
    return resample(paired, rng=derive_rng(0, "lab", "difference", split, student, int(natural)))


def _scores(results: Results, student: str, split: str, name: str) -> list[str]:
    found = [
        resample(values_of(results, student, split, natural=natural), rng=derive_rng(0, "lab", name, split))
        for natural in (False, True)
    ]
    return [str(len(results)), *map(in_words, found)]


def _differences(arms: Mapping[str, Results], name: str, against: str, split: str, student: str = "") -> list[str]:
    if against not in arms or (name == against and not student):
        return ["", "", ""]
    told = []
    for natural in (False, True):
        found = difference(arms[name], arms[against], split, student, natural=natural)
        shown = found is None or found.low90 > 0 or found.high90 < 0
        told.append(in_words(found, signed=True) + ("" if shown else " not shown"))
    return [against, *told]


def in_words(found: Resampled | None, *, signed: bool = False) -> str:
    """A value in points with its 90 % interval."""
    if found is None:
        return "-"
    form = "+.1f" if signed else ".1f"
    return f"{100 * found.value:{form}} [{100 * found.low90:{form}}, {100 * found.high90:{form}}]"


def _costs(results: Results) -> list[str]:
    if not results:
        return [""] * (5 + len(_PRICES["sheets"]))
    after = [[training for name, training in each["trainings"].items() if name != _BASIC] for each in results.values()]
    sums = [fmean(sum(one[what] for one in each) for each in after) for what in ("loss_tokens", "tokens", "steps")]
    instructions = fmean(each["distinct_instructions"] for each in results.values())
    minutes = fmean(each["seconds"] for each in results.values()) / 60
    paid = [f"{fmean(usd_of(each, name) for each in results.values()):.2f}" for name in _PRICES["sheets"]]
    return [*(f"{each:,.0f}" for each in sums), f"{instructions:,.0f}", f"{minutes:.1f}", *paid]


def usd_of(result: Mapping[str, Any], sheet: str) -> float:
    """What its calls cost by a sheet of prices.toml, S_0's answers among them; nan where they were not counted."""
    if "calls" not in result:
        return math.nan
    usd = 0.0
    for what, of in result["calls"].items():
        prices = _PRICES["sheets"][sheet]["judge" if what == "judge" else "teacher"]
        usd += of["calls"] * sum(
            tokens * price / 1e6 for tokens, price in zip(_PRICES["tokens"][what], prices, strict=True)
        )
    return usd


def _mixed(arms: Mapping[str, Results]) -> list[str]:
    """What results differ in that should be equal."""
    versions = [each["versions"] | {"device": each["device"]} for of in arms.values() for each in of.values()]
    return [
        f"Careful: results differ in {what}: {', '.join(sorted(values))}."
        for what in versions[0]
        if len(values := {each.get(what, "-") for each in versions}) > 1
    ]
