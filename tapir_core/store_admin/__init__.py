"""Upkeep of the call store: look at it, move it, shrink it, check it. Imports SQLAlchemy: import it when it is used."""

from tapir_core.store_admin.archive import Archive
from tapir_core.store_admin.exporting import Exported, export_answers
from tapir_core.store_admin.filters import RowFilter, read_age, read_moment
from tapir_core.store_admin.importing import Imported, OtherText, import_answers
from tapir_core.store_admin.opening import open_existing, shown_url
from tapir_core.store_admin.prune import DoomedRows, plan_prune, prune_answers
from tapir_core.store_admin.runs import RunAtStake, runs_at_stake
from tapir_core.store_admin.space import Compacted, StoreSize, compact, store_size
from tapir_core.store_admin.stats import AnswerGroup, StoreStats, gather_stats
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
