"""How far the lab is the product: the same arms with the same seeds, made by both.

Students of the two differ, since their servers and trainers do, and so do single marks. What decisions read are
differences of arms, so these are set beside each other: over the seeds that both have, on the test split.
"""

from collections.abc import Iterable, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from benchmarks.lab.table import Results, difference, in_words, laid_out, read_results
from tapir_core.comparison.outcome import ArmOutcome, ResultsFolder
from tapir_core.comparison.plan import open_comparison
from tapir_core.errors import ConfigError
from tasks.input_files import gather_files

TOLERANCE = 0.04
"""Accuracy by which a difference of the lab may depart from the product's before the lab decides nothing."""


def agreement(folders: Sequence[Path], comparison: Path, results: Path) -> tuple[str, bool]:
    """A row a pair of arms that both made; and whether all of them agree.

    Args:
        folders: of the lab's results.
        comparison: a TOML file of `tapir compare` whose arms have the names of the lab's.
        results: what its finished runs came to.

    Raises:
        ConfigError: the two have no pair of arms with a seed in common.
    """
    plan, lab = open_comparison(comparison), read_results(folders)
    product = as_results(ResultsFolder(results, plan, gather_files).read())
    rows, apart = [], []
    for other, name in combinations([arm.name for arm in plan.arms if arm.name in lab.keys() & product.keys()], 2):
        seeds = set.intersection(*({*of[arm]} for of in (lab, product) for arm in (name, other)))
        row = [f"{name} − {other}", str(len(seeds))]
        for natural in (False, True):
            made, there = (
                difference(*({seed: of[arm][seed] for seed in seeds} for arm in (name, other)), "test", natural=natural)
                for of in (lab, product)
            )
            if made is None or there is None:
                break
            gap = there.value - made.value
            row += [in_words(made, signed=True), in_words(there, signed=True), f"{100 * gap:+.1f}"]
            if abs(gap) > TOLERANCE:
                apart.append(f"{row[0]}{' at natural shares' if natural else ''} ({100 * gap:+.1f})")
        else:
            rows.append(row)
    if not rows:
        raise ConfigError(f"{results} and {', '.join(map(str, folders))} have no two arms with a seed in common")
    heads = ["difference", "seeds", "lab", "product", "gap", "lab, natural shares", "product, natural shares", "gap"]
    limit = f"{100 * TOLERANCE:g} points"
    verdict = f"Apart by more than {limit}: {'; '.join(apart)}." if apart else f"All gaps are within {limit}."
    return f"{laid_out(heads, rows)}\n\nPoints, [90 % interval over seeds and items]. {verdict}", not apart


def as_results(outcomes: Iterable[ArmOutcome]) -> dict[str, Results]:
    """Arm → seed → what the product's run came to, as the lab writes it."""
    arms: dict[str, dict[int, dict[str, Any]]] = {}
    for outcome in outcomes:
        graded = outcome.students[outcome.last, "test"]
        arms.setdefault(outcome.arm.name, {})[outcome.run_seed] = {
            "students": {"last": {"test": graded.correct}},
            "exported": "last",
            "weights": graded.weights,
        }
    return dict(arms)
