"""`tapir store …`: look at the call store, move it, shrink it, check it. Reading commands never make a store.

Names come from providers and files, so they are printed as they are.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.console import Console
from rich.filesize import decimal
from sqlalchemy import Engine

from flows.commands import AsJson, console, print_line, print_table, print_tables, say
from tapir_core import store_admin
from tapir_core.calls import root_store_url
from tapir_core.calls.store_tables import open_engine
from tapir_core.errors import TapirError
from tapir_core.reporting.page import Table, table_of
from tapir_core.store_admin import (
    AnswerGroup,
    Archive,
    DamagedRow,
    DoomedRows,
    OtherText,
    RowFilter,
    RunAtStake,
    StoreSize,
    StoreStats,
    Verified,
)
from tapir_core.summary.formats import NOTHING, count, duration, percent
from tapir_core.text import shorten

store_app = typer.Typer(no_args_is_help=True)

_COPIED_BYTES_PER_SECOND = 100e6
"""How fast a store is rewritten, roughly, on the disk of a laptop."""
_TEXT_CHARACTERS, _KEY_CHARACTERS = 60, 16
_IDENTITY_CHARACTERS = 24
"""A student's identity is a whole digest; `--json` has it in full."""

StoreUrl = Annotated[
    str | None,
    typer.Option("--store", metavar="URL", help="sqlite:///path/store.sqlite or postgresql://host/database."),
]
Root = Annotated[str, typer.Option(help="Folder of all runs; its own store is meant when --store is left out.")]
Roles = Annotated[list[str] | None, typer.Option("--role", help="Only this role (label, teach, judge, …); repeatable.")]
Models = Annotated[list[str] | None, typer.Option("--model", help="Only this model; repeatable.")]
Identities = Annotated[list[str] | None, typer.Option("--identity", help="Only this identity; repeatable.")]
Statuses = Annotated[
    list[str] | None,
    typer.Option("--status", help="Only this outcome: answer, or a failure's kind (refused, …); repeatable."),
]
Endings = Annotated[
    list[str] | None,
    typer.Option("--finish-reason", help="Only answers that ended so: stop, length (cut off); repeatable."),
]
Runs = Annotated[list[str] | None, typer.Option("--run", help="Only what this run asked first; repeatable.")]
Place = Annotated[str, typer.Argument(metavar="URL", help="Folder, or any fsspec URL: s3://…", show_default=False)]


@store_app.command()
def stats(
    store: StoreUrl = None,
    root: Root = "runs",
    as_json: AsJson = False,
) -> None:
    """Say what the store holds and what it cost, and how often answers were re-used."""
    with _opened(store, root) as engine:
        found = store_admin.gather_stats(engine)
    if as_json:
        print(json.dumps(found.as_json(), indent=1))
    else:
        print_stats(console, found)


@store_app.command("export")
def export_answers(
    place: Place,
    store: StoreUrl = None,
    root: Root = "runs",
    roles: Roles = None,
    models: Models = None,
    runs: Runs = None,
    since: Annotated[str | None, typer.Option(help="Only from then on: 2026-11-01, or 30d for days back.")] = None,
) -> None:
    """Write answers as Parquet, with a manifest that is written last."""
    moment = store_admin.read_moment(since, now=datetime.now(UTC)) if since else None
    chosen = RowFilter(tuple(roles or ()), tuple(models or ()), runs=tuple(runs or ()), since=moment)
    with _opened(store, root) as engine:
        done = store_admin.export_answers(
            engine, Archive(place), chosen, on_part=lambda rows: say(f"{rows:,} rows written")
        )
    print_line(console, f"exported {done.rows:,} rows in {done.parts:,} parts to {place}")
    if done.damaged:
        print_line(console, f"left out: {done.damaged:,} damaged rows, which `tapir store verify` lists")


@store_app.command("import")
def import_answers(place: Place, store: StoreUrl = None, root: Root = "runs") -> None:
    """Insert what an export has and the store lacks; nothing is overwritten. Makes the store where there is none."""
    archive = Archive(place)
    archive.read_manifest()  # a wrong place must not leave an empty store behind
    with _opened(store, root, make=True) as engine:
        done = store_admin.import_answers(engine, archive)
    print_line(
        console,
        f"{count(done.rows)} rows read: {count(done.added)} added, {count(done.already_there)} already there, "
        f"{count(done.different)} different, {count(done.damaged)} damaged",
    )
    print_tables(console, table_of("", _DIFFERENT, done.listed, text_columns=len(_DIFFERENT)))


@store_app.command()
def prune(
    store: StoreUrl = None,
    root: Root = "runs",
    older_than: Annotated[str | None, typer.Option(metavar="AGE", help="Only rows older than this: 12h, 30d.")] = None,
    models: Models = None,
    identities: Identities = None,
    roles: Roles = None,
    statuses: Statuses = None,
    endings: Endings = None,
    yes: Annotated[bool, typer.Option("--yes", help="Remove them; without it nothing is changed.")] = False,
    keep_room: Annotated[
        bool, typer.Option("--keep-room", help="Leave the file as it is: new answers fill it.")
    ] = False,
) -> None:
    """Remove answers by age, model, role, outcome, …; without --yes it only says what would go and its cost."""
    before = datetime.now(UTC).replace(tzinfo=None) - store_admin.read_age(older_than) if older_than else None
    chosen = RowFilter(
        tuple(roles or ()),
        tuple(models or ()),
        tuple(identities or ()),
        statuses=tuple(statuses or ()),
        finish_reasons=tuple(endings or ()),
        before=before,
    )
    with _opened(store, root) as engine:
        doomed = store_admin.plan_prune(engine, chosen)
        print_tables(console, table_of("", _DOOMED, doomed, text_columns=4))
        for line in _doomed_lines(doomed, store_admin.runs_at_stake(root, doomed), store_admin.store_size(engine)):
            print_line(console, line)
        if not yes or not doomed:
            print_line(console, "nothing is changed" + ("; --yes removes these rows" if doomed else ""))
            return
        print_line(console, f"removed {store_admin.prune_answers(engine, chosen):,} rows")
        if not keep_room:
            done = store_admin.compact(engine)
            took = f" to {decimal(done.bytes_after)} in {duration(done.seconds)}"
            kept = f"the file keeps its {decimal(done.bytes_before)}: {done.obstacle}. New answers fill the room."
            print_line(console, kept if done.obstacle else f"the file went from {decimal(done.bytes_before)}{took}")


@store_app.command()
def verify(
    store: StoreUrl = None,
    root: Root = "runs",
    remove: Annotated[
        bool, typer.Option("--delete", help="Remove the damaged rows after listing them; they are asked again.")
    ] = False,
) -> None:
    """Look for damaged rows, and of SQLite for a damaged file; ends with 1 when there is something."""
    with _opened(store, root) as engine:
        found = store_admin.verify_store(engine)
        _print_verified(found)
        if remove and found.places:
            removed = store_admin.delete_rows(engine, found.places)
            print_line(console, f"removed {removed:,} rows; who needs them asks again")
    if found.file_faults:
        raise TapirError(
            "the database itself is damaged, which removing rows does not mend. Move it away, import the last export "
            "into a new store, and see docs/store.md for saving more; what is missing then is asked again."
        )
    if found.places and not remove:
        raise TapirError(
            f"{len(found.places):,} of {found.rows:,} rows are damaged; `tapir store verify --delete` removes them, so "
            "that they are asked again"
        )


@contextmanager
def _opened(store: str | None, root: str, *, make: bool = False) -> Iterator[Engine]:
    """The store that a user means; with ``make`` one is made where there is none."""
    engine = (open_engine if make else store_admin.open_existing)(store or root_store_url(root))
    try:
        yield engine
    finally:
        engine.dispose()


def print_stats(console: Console, stats: StoreStats) -> None:
    """What a store holds, what it cost, and what of it was used again."""
    free = f", {decimal(stats.size.free_bytes)} of it free for new rows" if stats.size.free_bytes else ""
    print_line(console, f"{stats.store}: {count(stats.rows)} rows in {decimal(stats.size.bytes)}{free}")
    if stats.groups:
        first, last = min(group.first for group in stats.groups), max(group.last for group in stats.groups)
        statuses = ", ".join(f"{count(rows)} {status}" for status, rows in stats.statuses.items())
        print_line(console, f"{statuses}; stored from {first:%Y-%m-%d %H:%M} to {last:%Y-%m-%d %H:%M} UTC")
        print_table(console, table_of("", _GROUPS, stats.groups, text_columns=4))


def _doomed_lines(doomed: Sequence[DoomedRows], runs: Sequence[RunAtStake], size: StoreSize) -> Iterator[str]:
    """What asking again would cost, which runs would, and what giving the room back takes."""
    rows, room, tokens = (sum(getattr(each, name) for each in doomed) for name in ("rows", "bytes", "tokens"))
    yield (
        f"{count(rows)} rows, {decimal(room)} of text, {count(tokens)} tokens; asking all of them again would cost "
        f"{sum(each.usd for each in doomed):,.2f} USD at the prices that were paid"
    )
    for run in runs:
        yield f"run {run.run}: asked first for {count(run.rows)} of these rows; {_stake(run)}"
    if doomed and size.free_bytes is not None:
        left = max(size.bytes - room, 0)
        yield (
            f"giving the room back rewrites about {decimal(left)}, roughly "
            f"{duration(left / _COPIED_BYTES_PER_SECOND)}; whoever writes to the store waits meanwhile (--keep-room "
            "leaves it in the file)"
        )


def _stake(run: RunAtStake) -> str:
    if run.unreadable:
        return f"its stages cannot be told: {run.unreadable}"
    if run.stages:
        return f"would ask again in {', '.join(run.stages)}"
    return "whole, it asks again only for a stage that is redone"


def _print_verified(found: Verified) -> None:
    """What is wrong with a store, with the first rows that it is wrong of."""
    print_line(console, f"{count(found.rows)} rows looked at, {count(len(found.places))} of them damaged")
    if found.without_reply:
        print_line(console, f"{count(found.without_reply)} answers have no raw reply that could prove their text")
    for fault in found.file_faults:
        print_line(console, f"the database says: {fault}")
    faults = tuple((fault, count(rows)) for fault, rows in found.faults.most_common())
    damaged = table_of("", _DAMAGED, found.damaged, text_columns=len(_DAMAGED))
    print_tables(console, Table("", ("fault", "rows"), faults), damaged)


def _short(text: str) -> str:
    return shorten(text, _TEXT_CHARACTERS)


_GROUPS: Sequence[tuple[str, Callable[[AnswerGroup], str]]] = [
    ("role", lambda group: group.role),
    ("model", lambda group: group.model),
    ("identity", lambda group: shorten(group.identity, _IDENTITY_CHARACTERS)),
    ("prompt", lambda group: group.prompt_version or NOTHING),
    ("rows", lambda group: count(group.rows)),
    ("failed", lambda group: count(group.rows - group.statuses.get("answer", 0))),
    ("text", lambda group: decimal(group.bytes)),
    ("tokens", lambda group: count(group.prompt_tokens + group.completion_tokens)),
    ("USD", lambda group: f"{group.usd:,.2f}"),
    ("re-used", lambda group: count(group.reused)),
    ("share", lambda group: percent(group.reuse_share)),
]
_DOOMED: Sequence[tuple[str, Callable[[DoomedRows], str]]] = [
    ("role", lambda each: each.role),
    ("model", lambda each: each.model),
    ("identity", lambda each: shorten(each.identity, _IDENTITY_CHARACTERS)),
    ("asked first by", lambda each: each.run),
    ("rows", lambda each: count(each.rows)),
    ("text", lambda each: decimal(each.bytes)),
    ("tokens", lambda each: count(each.tokens)),
    ("USD", lambda each: f"{each.usd:,.2f}"),
]
_DIFFERENT: Sequence[tuple[str, Callable[[OtherText], str]]] = [
    ("key", lambda each: shorten(each.key, _KEY_CHARACTERS)),
    ("role", lambda each: each.role),
    ("model", lambda each: each.model),
    ("the store has, and keeps", lambda each: _short(each.stored)),
    ("the export has", lambda each: _short(each.offered)),
]
_DAMAGED: Sequence[tuple[str, Callable[[DamagedRow], str]]] = [
    ("key", lambda row: shorten(row.key, _KEY_CHARACTERS)),
    ("role", lambda row: _short(row.role)),
    ("model", lambda row: _short(row.model)),
    ("run", lambda row: _short(row.run)),
    ("faults", lambda row: ", ".join(row.faults)),
]
