"""Administration of the call store: statistics, copy, import, prune, check. Imports SQLAlchemy: import it when used."""

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
    Checked,
    DamagedRow,
    Inserted,
    OtherText,
    check_store,
    copy_answers,
    delete_rows,
    import_replies,
    open_existing,
    read_age,
    rows_where,
)
