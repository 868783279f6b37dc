"""Everything that is done for each kind of a family is done for every kind."""

from importlib import import_module
from pathlib import Path

from tapir_core.config._base import BY_KIND

ROOT = Path(__file__).parents[3]


def test_every_kind_is_known_to_every_function_over_its_family() -> None:
    for package in ("tapir_core", "tasks", "flows"):
        for file in (ROOT / package).rglob("*.py"):
            if "\n@by_kind(" in file.read_text():
                import_module(".".join(file.relative_to(ROOT).with_suffix("").parts))
    lacking = [
        f"{function.__module__} lacks `@{function.__name__}.register` of what it does for {kind.__name__}"
        for family, function in BY_KIND
        for kind in family.kinds().values()
        if function.dispatch(kind) is function.dispatch(object)
    ]
    assert BY_KIND
    assert lacking == []
