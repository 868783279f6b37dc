"""The last students of several runs on the same items: figures of benchmarks side by side, every run against the first.

Figures of different judges, prompts, settings, questions or baselines stand in different tables and are not paired.
Limits: each p-value is that of its own difference, however many runs are set against the first.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import polars as pl

from tapir_core.data.fetched import file_ingredient
from tapir_core.evaluation.benchmark import without_files
from tapir_core.evaluation.statistics import compare_paired
from tapir_core.randomness import derive_rng
from tapir_core.reporting.benchmark_gains import (
    DIFFERS,
    PAIRED_COLUMNS,
    headline_values,
    paired_cells,
    unpaired_cells,
)
from tapir_core.reporting.benchmarks import figures_side_by_side, metric_label
from tapir_core.reporting.tables import Table
from tapir_core.stages import StageAt, benchmark_stages
from tapir_core.summary.formats import student_name
from tapir_core.summary.grading import marks_on_test
from tapir_core.summary.run_reader import Look
from tapir_core.text import digest

__all__ = ["benchmarks_of_runs", "paired_runs_table"]

_DIFFERS = {
    **DIFFERS,
    "items": "other questions or another baseline",
    "files": "other tables for length control, or another folder of tasks",
    "versions": "made by another version of tapir",
}
"""``DIFFERS``, and what else must be equal, of a benchmark as it is configured."""

_NOTE = (
    "Difference of the first column to the second one, paired over the same items; p of a sign-flip test with 10,000 "
    "draws. An item that one of the two lacks, or failed, is in neither."
)


@dataclass(frozen=True, slots=True)
class _Asked:
    """A run's last trained student with figures of one benchmark."""

    look: Look
    number: int
    scores: pl.DataFrame
    scale: dict[str, str]
    """What must be equal for figures to be comparable, by the keys of `_DIFFERS`."""

    @property
    def name(self) -> str:
        return _name(self.look, self.number)


def benchmarks_of_runs(looks: Sequence[Look]) -> list[Table]:
    """Each benchmark's figures with the runs' last students as columns: a table for each scale."""
    tables = []
    for asked in _asked(looks).values():
        by_scale: dict[tuple[str, ...], list[_Asked]] = {}
        for each in asked:
            by_scale.setdefault(tuple(each.scale.values()), []).append(each)
        tables += [
            figures_side_by_side(pl.concat([each.scores.with_columns(student=pl.lit(each.name)) for each in alike]))
            for alike in by_scale.values()
        ]
    return tables


def paired_runs_table(looks: Sequence[Look], last: Sequence[int | None]) -> Table:
    """Every run's last student against the first one's, on the test split and on each benchmark.

    ``last`` are the students of the runs that were scored on the held-out set, if any was.
    """
    rows = [*_heldout_rows(looks, last)]
    for name, (first, *others) in _asked(looks).items():
        for other in others:
            rows += _benchmark_rows(name, first, other)
    title = "Students of different runs on the same items"
    return Table(title, PAIRED_COLUMNS, tuple(rows), text_columns=5, note=_NOTE)


def _heldout_rows(looks: Sequence[Look], last: Sequence[int | None]) -> Iterator[tuple[str, ...]]:
    scored = [(look, number) for look, number in zip(looks, last, strict=True) if number is not None]
    for look, number in scored[1:]:
        first, first_number = scored[0]
        pair = (_name(look, number), _name(first, first_number))
        if _sampling(look, number) != _sampling(first, first_number):
            yield (*pair, "held-out", *unpaired_cells([DIFFERS["settings"]]))
            continue
        marks = [marks_on_test(*each) for each in ((look, number), (first, first_number))]
        rng = derive_rng(first.run.config.run.seed, "paired runs", *pair)
        yield (
            *pair,
            "held-out",
            *paired_cells("test accuracy, %", compare_paired(*marks, rng=rng, unit="instructions")),
        )


def _benchmark_rows(name: str, first: _Asked, other: _Asked) -> Iterator[tuple[str, ...]]:
    pair = (other.name, first.name, name)
    if differs := [words for part, words in _DIFFERS.items() if other.scale[part] != first.scale[part]]:
        yield (*pair, *unpaired_cells(differs))
        return
    before, after = (headline_values(each.look, name, each.number) for each in (first, other))
    limits = [each.look.run.config.evaluation.asked[name].max_failed_share for each in (first, other)]
    for metric in sorted(before.keys() & after.keys()):
        rng = derive_rng(first.look.run.config.run.seed, "paired runs", *pair, metric)
        found = compare_paired(after[metric], before[metric], rng=rng, max_failed_share=min(limits))
        yield (*pair, *paired_cells(metric_label(metric), found))


def _asked(looks: Sequence[Look]) -> dict[str, list[_Asked]]:
    """Benchmark → the students that have figures of it, in the order of the runs."""
    found: dict[str, list[_Asked]] = {}
    for look in looks:
        for name in look.run.config.evaluation.asked:
            for number in range(look.run.config.run.rounds, -1, -1):
                scores = look.rows(StageAt("benchmark_scores", number, benchmark=name))
                if scores is not None:
                    scale = _scale(look, name, scores) | {"versions": _versions(look, name, number)}
                    found.setdefault(name, []).append(_Asked(look, number, scores, scale))
                    break
    return found


def _scale(look: Look, name: str, scores: pl.DataFrame) -> dict[str, str]:
    """Questions, references and a baseline's answers count by what they say, wherever they come from."""
    items = digest([*map(list, look.run.rows(StageAt("benchmark_items", benchmark=name)).iter_rows())])
    run = look.run
    fields = ("difficulty", "anchors", "include_path")
    files = [run.record.ingredients.get(file_ingredient(name, field), "") for field in fields]
    said = {part: scores[part][0] for part in DIFFERS}
    said["settings"] = without_files(said["settings"])
    return {"items": items, "files": " ".join(files)} | said


def _versions(look: Look, name: str, number: int) -> str:
    """By which versions of their stages the figures came about."""
    manifests = [
        look.manifest(at) for at in (StageAt("benchmark_items", benchmark=name), *benchmark_stages(name, number))
    ]
    return " ".join(str(each.version) for each in manifests if each)


def _sampling(look: Look, number: int) -> str:
    """How a student's held-out answers were drawn, in words."""
    scores = look.rows(StageAt("evaluate", number))
    return "" if scores is None else scores["settings"][0]


def _name(look: Look, number: int) -> str:
    return f"{look.run.ref.name} {student_name(number)}"
