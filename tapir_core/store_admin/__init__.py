"""Upkeep of the call store: look at it, move it, shrink it, check it. Imports SQLAlchemy: import it when it is used."""

from tapir_core.store_admin.opening import RowFilter, open_existing, read_age, read_moment, shown_url
from tapir_core.store_admin.prune import DoomedRows, RunAtStake, plan_prune, prune_answers, runs_at_stake
from tapir_core.store_admin.stats import (
    AnswerGroup,
    Compacted,
    StoreSize,
    StoreStats,
    compact,
    gather_stats,
    store_size,
)
from tapir_core.store_admin.transfer import Archive, Exported, Imported, OtherText, export_answers, import_answers
from tapir_core.store_admin.verify import DamagedRow, Verified, delete_rows, verify_store

__all__ = [
    "AnswerGroup",
    "Archive",
    "Compacted",
    "DamagedRow",
    "DoomedRows",
    "Exported",
    "Imported",
    "OtherText",
    "RowFilter",
    "RunAtStake",
    "StoreSize",
    "StoreStats",
    "Verified",
    "compact",
    "delete_rows",
    "export_answers",
    "gather_stats",
    "import_answers",
    "open_existing",
    "plan_prune",
    "prune_answers",
    "read_age",
    "read_moment",
    "runs_at_stake",
    "shown_url",
    "store_size",
    "verify_store",
]
