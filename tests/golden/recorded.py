"""What was recorded, compared with what is found: `keys.txt`, and a folder of JSON lines for each golden run."""

import json
import os
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from tests.golden.variants import VARIANTS, parent

__all__ = ["MANIFESTS", "Rows", "check_keys", "check_rows", "compare_rows", "read_rows"]

HERE = Path(__file__).parent
KEYS = HERE / "keys.txt"
GONE = "-"
"""In place of what a variant lacks and the one that it adds to has."""
RECORDING = "TAPIR_RECORD" in os.environ
REMEDY = (
    "Where that is meant, record it with `TAPIR_RECORD=1 .venv/bin/python -m pytest tests/golden`, read the difference "
    "in git, and say in the commit why; where it is not, undo what changed it (docs/testing.md). A field that a "
    "section gets later changes no key at its default where it is marked so: `name: Later[int] = 3`."
)
SHOWN = 6
MANIFESTS = "manifests"
"""Beside the datasets of a run: what their manifests say, a line each."""

Keys = dict[str, dict[str, str]]
"""Variant → what → its value."""
Rows = Mapping[str, list[str]]
"""Dataset, by its folder in the run → its rows as JSON, in their order."""


def check_keys(found: Keys) -> None:
    """Compare the keys of all variants with `keys.txt`; where recording, write them."""
    if RECORDING:
        KEYS.write_text("\n".join(_differences(found)) + "\n")
    recorded = _read_keys()
    changed: dict[str, list[str]] = {}
    for variant in {**recorded, **found}:
        before, now = recorded.get(variant, {}), found.get(variant, {})
        for what in (what for what in {**before, **now} if before.get(what) != now.get(what)):
            changed.setdefault(what, []).append(variant)
    lines = [_changed_key(what, variants, recorded, found) for what, variants in changed.items()]
    if lines:
        said = f"{len(lines)} keys, inputs, ingredients or requests are not as recorded in {KEYS.name}:"
        pytest.fail("\n".join([said, *lines, REMEDY]), pytrace=False)


def check_rows(name: str, found: Rows) -> None:
    """Compare the rows of a golden run with its folder; where recording, write them."""
    if RECORDING:
        shutil.rmtree(HERE / name, ignore_errors=True)
        for dataset, lines in found.items():
            file = HERE / name / f"{dataset}.jsonl"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("".join(f"{line}\n" for line in lines))
    compare_rows(name, found, read_rows(name))


def read_rows(name: str) -> Rows:
    """What is recorded of a golden run."""
    files = (HERE / name).rglob("*.jsonl")
    return {str(each.relative_to(HERE / name).with_suffix("")): each.read_text().splitlines() for each in files}


def compare_rows(name: str, found: Rows, recorded: Rows) -> None:
    """Fail where rows are not as recorded, and say in which datasets and fields."""
    changed = sorted((each for each in {**recorded, **found} if recorded.get(each) != found.get(each)), key=_when)
    shown = [_changed_rows(each, recorded.get(each), found.get(each)) for each in changed[:SHOWN]]
    more = [f"  … and {', '.join(changed[SHOWN:])}"] if changed[SHOWN:] else []
    if changed:
        said = f"{len(changed)} datasets of the run {name!r} are not as recorded:"
        pytest.fail("\n".join([said, *shown, *more, REMEDY]), pytrace=False)


def _when(dataset: str) -> tuple[bool, bool, str]:
    """What is done first is shown first, as far as folders tell; the keys of manifests follow from rows."""
    return (dataset == MANIFESTS, "/" in dataset, dataset)


def _differences(found: Keys) -> list[str]:
    """A block for each variant, with what differs from the one that it adds to."""
    lines = []
    for variant, values in found.items():
        before = found[above] if (above := parent(variant)) else {}
        lines += [variant, *(f"  {what}: {value}" for what, value in values.items() if before.get(what) != value)]
        lines += [f"  {what}: {GONE}" for what in before if what not in values]
    return lines


def _read_keys() -> Keys:
    recorded: Keys = {}
    for line in KEYS.read_text().splitlines():
        if not line.startswith("  "):
            above = parent(line)
            recorded[line] = values = dict(recorded.get(above, {})) if above else {}
            continue
        what, _, value = line.strip().partition(": ")
        values[what] = value
        if value == GONE:
            del values[what]
    return recorded


def _changed_key(what: str, variants: Sequence[str], recorded: Keys, found: Keys) -> str:
    changed, same = ([each for each in VARIANTS if (each in variants) == wanted] for wanted in (True, False))
    first, *others = changed or variants
    before, now = (keys.get(first, {}).get(what, "none") for keys in (recorded, found))
    more = f"all others{f' but {_some(same)}' if same else ''}" if len(others) > len(same) else _some(others)
    return f"  {what}: of {first!r} was {before}, is {now}" + (f", and in {more}" if others else "")


def _some(names: Sequence[str]) -> str:
    quoted = [repr(each) for each in names[:SHOWN]]
    return ", ".join([*quoted, *([f"{len(names) - SHOWN} more"] if names[SHOWN:] else [])])


def _changed_rows(dataset: str, before: Sequence[str] | None, now: Sequence[str] | None) -> str:
    if before is None or now is None:
        return f"  {dataset}: {'is new' if before is None else 'is no more'}"
    if Counter(before) == Counter(now):
        return f"  {dataset}: the same {len(now)} rows in another order"
    place = next(
        (at for at, (old, new) in enumerate(zip(before, now, strict=False)) if old != new), min(len(before), len(now))
    )
    differing = sum((Counter(now) - Counter(before)).values())
    first = _changed_fields(before[place], now[place]) if place < min(len(before), len(now)) else "one has more rows"
    return f"  {dataset}: {len(before)} rows before, {len(now)} now, {differing} of them new; row {place + 1}: {first}"


def _changed_fields(before: str, now: str) -> str:
    old, new = json.loads(before), json.loads(now)
    fields = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    return "; ".join(f"{name} was {_short(old.get(name))}, is {_short(new.get(name))}" for name in fields)


def _short(value: object) -> str:
    said = json.dumps(value, ensure_ascii=False)
    return said if len(said) <= 120 else f"{said[:120]}…"
