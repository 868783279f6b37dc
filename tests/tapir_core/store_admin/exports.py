"""Short ways to export and import, for tests."""

import json
from pathlib import Path
from typing import Any

from tapir_core.calls.store_tables import open_engine
from tapir_core.store_admin import (
    Archive,
    Exported,
    Imported,
    RowFilter,
    export_answers,
    import_answers,
    open_existing,
)
from tests.tapir_core.store_admin.store_rows import sql


def export(store_url: str, place: object, chosen: RowFilter | None = None) -> Exported:
    return export_answers(open_existing(store_url), Archive(str(place)), chosen or RowFilter())


def import_into(url: str, place: object) -> Imported:
    return import_answers(open_engine(url), Archive(str(place)))


def all_rows(url: str) -> list[tuple[Any, ...]]:
    return sql(url, "SELECT * FROM answers ORDER BY key")


def manifest_of(place: Path) -> dict[str, Any]:
    return json.loads((place / "manifest.json").read_text())
