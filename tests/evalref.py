"""Published figures to check against. They are no part of the repository; without them their tests are skipped."""

import csv
import json
import os
from pathlib import Path
from typing import Any

import pytest

VARIABLE = "TAPIR_EVALREF"
_BESIDE = Path(__file__).parents[2] / "shared" / "evalref"


def evalref(place: str) -> Path:
    """A file or folder of the published figures; skips the test where the folder is absent."""
    folder = Path(os.environ.get(VARIABLE, _BESIDE))
    if not folder.is_dir():
        pytest.skip(f"no published figures: neither {VARIABLE} nor ../shared/evalref names their folder")
    return folder / place


def csv_rows(place: str) -> list[dict[str, str]]:
    with evalref(place).open() as file:
        return list(csv.DictReader(file))


def json_rows(place: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in evalref(place).read_text().splitlines()]
