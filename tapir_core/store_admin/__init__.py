"""Administration of the call store: look at it, move, shrink and check it. Imports SQLAlchemy: import it when used."""

from tapir_core.store_admin.contents import (
    AnswerGroup,
    Compacted,
    DoomedRows,
    RunAtStake,
    StoreSize,
    StoreStats,
    compact,
    gather_stats,
    plan_prune,
    prune_answers,
    runs_at_stake,
    store_size,
)
from tapir_core.store_admin.rows import (
    DamagedRow,
    RowFilter,
    Verified,
    delete_rows,
    open_existing,
    read_age,
    read_moment,
    verify_store,
)
from tapir_core.store_admin.transfer import (
    Archive,
    Exported,
    Imported,
    OtherText,
    export_answers,
    import_answers,
    import_replies,
)
