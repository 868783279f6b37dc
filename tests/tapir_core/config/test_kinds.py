"""Everything that is done for each kind of a family is done for every kind."""

import re
from importlib import import_module
from pathlib import Path

from tapir_core.config import HeldoutConfig, PoolConfig
from tapir_core.config._base import BY_KIND

ROOT = Path(__file__).parents[3]


def test_every_kind_is_known_to_every_function_over_its_family() -> None:
    for package in ("tapir_core", "tasks", "flows"):
        for file in (ROOT / package).rglob("*.py"):
            if re.search(r"^@by_kind\(|^@\w+\.register\b|^(student_server\.)?serve\(", file.read_text(), re.MULTILINE):
                import_module(".".join(file.relative_to(ROOT).with_suffix("").parts))
    lacking = [
        f"{function.__module__} lacks `@{function.__name__}.register` of what it does for {kind.__name__}"
        for family, function in BY_KIND
        for kind in family.kinds().values()
        if function.dispatch(kind) is function.dispatch(object)
    ]
    assert BY_KIND
    assert lacking == []


def test_instructions_that_are_not_generated_are_known_by_what_they_are_read_from() -> None:
    unknown = [
        kind.__name__
        for family in (PoolConfig, HeldoutConfig)
        for kind in family.kinds().values()
        if not (kind.generated or kind.with_mark("file") or kind.digest is not family.digest)
    ]
    remedy = (
        "mark the field that names its file `File`, define `digest()`, or set `generated`: else other rows keep a key"
    )
    assert unknown == [], remedy
