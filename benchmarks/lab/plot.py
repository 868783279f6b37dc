"""The plot of docs/when-it-pays.md: what each arm's student gets right, by what the arm's calls cost."""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from types import SimpleNamespace
from typing import Any

from benchmarks.lab.table import read_results, usd_of, values_of
from tapir_core.randomness import derive_rng
from tapir_core.reporting import page
from tapir_core.statistics import resample

_MARKERS = "osD^vP"


def plot(folders: Sequence[Path], sheet: str) -> str:
    """An SVG file: a point an arm, test items at natural shares, 90 % intervals over seeds and items.

    Args:
        folders: of results.
        sheet: of prices.toml.
    """
    arms = read_results(folders)

    def fill(axes: Any) -> None:
        for number, (name, results) in enumerate(sorted(arms.items(), key=lambda arm: _usd(arm[1], sheet))):
            found = resample(values_of(results, "", "test", natural=True), rng=derive_rng(0, "lab", name, "test"))
            point = found and SimpleNamespace(value=found.value, low=found.low90, high=found.high90)
            label = next(iter(results.values()))["label"]
            page.points_with_intervals(
                axes,
                [(_usd(results, sheet), point)],
                scale=100,
                color=page.COLOURS[number],
                marker=_MARKERS[number],
                label=label,
                linestyle="none",
            )
        axes.set(xlim=(0, None), xlabel=f"USD of all calls, prices of the sheet {sheet}", ylabel="right, %")

    drawn = page.draw("Accuracy at natural shares by USD, with 90 % intervals", 3.4, fill, legend=1)
    return page.standalone(drawn) + "\n"


def _usd(results: dict[int, dict[str, Any]], sheet: str) -> float:
    return fmean(usd_of(each, sheet) for each in results.values())
