"""What `tapir store` shows on a terminal. Names come from providers and files, so they are printed as they are."""

from collections.abc import Sequence
from datetime import datetime

from rich.console import Console

from flows.commands.lines import print_line
from flows.commands.tables import print_table
from tapir_core.calls.upkeep import (
    AnswerGroup,
    Compacted,
    DoomedRows,
    Imported,
    RunAtStake,
    StoreSize,
    StoreStats,
    Verified,
)
from tapir_core.reporting.formats import NOTHING, count, duration, percent
from tapir_core.reporting.tables import Table
from tapir_core.text import shorten

__all__ = ["print_compacted", "print_doomed", "print_imported", "print_stats", "print_verified"]

COPIED_BYTES_PER_SECOND = 100e6
"""How fast a store is rewritten, roughly, on the disk of a laptop."""
TEXT_CHARACTERS = 60
KEY_CHARACTERS = 16
IDENTITY_CHARACTERS = 24
"""A student's identity is a whole digest; `--json` has it in full."""


def print_stats(console: Console, stats: StoreStats) -> None:
    """What a store holds, what it cost, and what of it was used again."""
    free = f", {_room(stats.size.free_bytes)} of it free for new rows" if stats.size.free_bytes else ""
    print_line(console, f"{stats.store}: {count(stats.rows)} rows in {_room(stats.size.bytes)}{free}")
    if stats.groups:
        first, last = min(group.first for group in stats.groups), max(group.last for group in stats.groups)
        statuses = ", ".join(f"{count(rows)} {status}" for status, rows in stats.statuses.items())
        print_line(console, f"{statuses}; stored from {_minute(first)} to {_minute(last)} UTC")
        print_table(console, _groups(stats.groups))


def print_imported(console: Console, done: Imported) -> None:
    """What came of an import, and the first rows that differ."""
    print_line(
        console,
        f"{count(done.rows)} rows read: {count(done.added)} added, {count(done.already_there)} already there, "
        f"{count(done.different)} different, {count(done.damaged)} damaged",
    )
    if done.different:
        columns = ("key", "role", "model", "the store has, and keeps", "the export has")
        rows = [
            (shorten(each.key, KEY_CHARACTERS), each.role, each.model, *map(_short, (each.stored, each.offered)))
            for each in done.listed
        ]
        print_table(console, Table("", columns, tuple(rows), text_columns=len(columns)))


def print_doomed(console: Console, doomed: Sequence[DoomedRows], runs: Sequence[RunAtStake], size: StoreSize) -> None:
    """What would be removed, what asking again would cost, and which runs would."""
    rows = []
    for each in doomed:
        figures = (count(each.rows), _room(each.bytes), count(each.tokens), _usd(each.usd))
        rows.append((each.role, each.model, shorten(each.identity, IDENTITY_CHARACTERS), each.run, *figures))
    if doomed:
        columns = ("role", "model", "identity", "asked first by", "rows", "text", "tokens", "USD")
        print_table(console, Table("", columns, tuple(rows), text_columns=4))
    total, room = sum(each.rows for each in doomed), sum(each.bytes for each in doomed)
    tokens, usd = sum(each.tokens for each in doomed), sum(each.usd for each in doomed)
    print_line(
        console,
        f"{count(total)} rows, {_room(room)} of text, {count(tokens)} tokens; asking all of them again would cost "
        f"{_usd(usd)} USD at the prices that were paid",
    )
    for run in runs:
        print_line(console, f"run {run.run}: {_stake(run)}")
    if doomed and size.free_bytes is not None:
        left = max(size.bytes - room, 0)
        print_line(
            console,
            f"giving the room back rewrites about {_room(left)}, roughly {duration(left / COPIED_BYTES_PER_SECOND)}; "
            "whoever writes to the store waits meanwhile (--keep-room leaves it in the file)",
        )


def print_compacted(console: Console, done: Compacted) -> None:
    """What giving back room brought."""
    if done.obstacle:
        print_line(
            console, f"the file keeps its {_room(done.bytes_before)}: {done.obstacle}. New answers fill the room."
        )
        return
    print_line(
        console,
        f"the file went from {_room(done.bytes_before)} to {_room(done.bytes_after)} in {duration(done.seconds)}",
    )


def print_verified(console: Console, found: Verified) -> None:
    """What is wrong with a store, with the first rows that it is wrong of."""
    print_line(console, f"{count(found.rows)} rows looked at, {count(len(found.places))} of them damaged")
    if found.without_reply:
        print_line(console, f"{count(found.without_reply)} answers have no raw reply that could prove their text")
    for fault in found.file_faults:
        print_line(console, f"the database says: {fault}")
    if found.places:
        faults = tuple((fault, count(rows)) for fault, rows in found.faults.most_common())
        print_table(console, Table("", ("fault", "rows"), faults))
        damaged = tuple(
            (shorten(row.key, KEY_CHARACTERS), *map(_short, (row.role, row.model, row.run)), ", ".join(row.faults))
            for row in found.damaged
        )
        print_table(console, Table("", ("key", "role", "model", "run", "faults"), damaged, text_columns=5))


def _groups(groups: Sequence[AnswerGroup]) -> Table:
    columns = ("role", "model", "identity", "prompt", "rows", "failed", "text", "tokens", "USD", "re-used", "share")
    rows = tuple(
        (
            group.role,
            group.model,
            shorten(group.identity, IDENTITY_CHARACTERS),
            group.prompt_version or NOTHING,
            count(group.rows),
            count(group.rows - group.statuses.get("answer", 0)),
            _room(group.bytes),
            count(group.prompt_tokens + group.completion_tokens),
            _usd(group.usd),
            count(group.reused),
            percent(group.reuse_share),
        )
        for group in groups
    )
    return Table("", columns, rows, text_columns=4)


def _stake(run: RunAtStake) -> str:
    asked = f"asked first for {count(run.rows)} of these rows"
    if run.unreadable:
        return f"{asked}; its stages cannot be told: {run.unreadable}"
    if run.stages:
        return f"{asked}; would ask again in {', '.join(run.stages)}"
    return f"{asked}; whole, it asks again only for a stage that is redone"


def _short(text: str) -> str:
    return shorten(text, TEXT_CHARACTERS)


def _room(size: float) -> str:
    """1.5 MB, in powers of 1000."""
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def _usd(value: float) -> str:
    return f"{value:,.2f}"


def _minute(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d %H:%M")
