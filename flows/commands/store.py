"""`tapir store …`: look at the call store, move it, shrink it, check it. Reading commands never make a store.

Names come from providers and files, so they are printed as they are.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.console import Console
from rich.filesize import decimal
from sqlalchemy import Engine

from flows.commands import AsJson, console, print_line, print_rows, say
from tapir_core import store_admin
from tapir_core.calls import root_store_url
from tapir_core.calls.store_tables import open_engine
from tapir_core.errors import TapirError
from tapir_core.store_admin import (
    Archive,
    Compacted,
    DoomedRows,
    Imported,
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
_TEXT_CHARACTERS = 60
_KEY_CHARACTERS = 16
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
        _print_imported(console, store_admin.import_answers(engine, archive))


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
        _print_doomed(console, doomed, store_admin.runs_at_stake(root, doomed), store_admin.store_size(engine))
        if not yes or not doomed:
            print_line(console, "nothing is changed" + ("; --yes removes these rows" if doomed else ""))
            return
        print_line(console, f"removed {store_admin.prune_answers(engine, chosen):,} rows")
        if not keep_room:
            _print_compacted(console, store_admin.compact(engine))


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
        _print_verified(console, found)
        if remove and found.places:
            print_line(
                console, f"removed {store_admin.delete_rows(engine, found.places):,} rows; who needs them asks again"
            )
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
        columns = ("role", "model", "identity", "prompt", "rows", "failed", "text", "tokens", "USD", "re-used", "share")
        rows = (
            (
                group.role,
                group.model,
                shorten(group.identity, _IDENTITY_CHARACTERS),
                group.prompt_version or NOTHING,
                count(group.rows),
                count(group.rows - group.statuses.get("answer", 0)),
                decimal(group.bytes),
                count(group.prompt_tokens + group.completion_tokens),
                f"{group.usd:,.2f}",
                count(group.reused),
                percent(group.reuse_share),
            )
            for group in stats.groups
        )
        print_rows(console, columns, rows, text_columns=4)


def _print_imported(console: Console, done: Imported) -> None:
    """What came of an import, and the first rows that differ."""
    print_line(
        console,
        f"{count(done.rows)} rows read: {count(done.added)} added, {count(done.already_there)} already there, "
        f"{count(done.different)} different, {count(done.damaged)} damaged",
    )
    if done.different:
        columns = ("key", "role", "model", "the store has, and keeps", "the export has")
        rows = (
            (shorten(each.key, _KEY_CHARACTERS), each.role, each.model, *map(_short, (each.stored, each.offered)))
            for each in done.listed
        )
        print_rows(console, columns, rows, text_columns=len(columns))


def _print_doomed(console: Console, doomed: Sequence[DoomedRows], runs: Sequence[RunAtStake], size: StoreSize) -> None:
    """What would be removed, what asking again would cost, and which runs would."""
    rows = []
    for each in doomed:
        figures = (count(each.rows), decimal(each.bytes), count(each.tokens), f"{each.usd:,.2f}")
        rows.append((each.role, each.model, shorten(each.identity, _IDENTITY_CHARACTERS), each.run, *figures))
    if doomed:
        columns = ("role", "model", "identity", "asked first by", "rows", "text", "tokens", "USD")
        print_rows(console, columns, rows, text_columns=4)
    total, room = sum(each.rows for each in doomed), sum(each.bytes for each in doomed)
    tokens, usd = sum(each.tokens for each in doomed), sum(each.usd for each in doomed)
    print_line(
        console,
        f"{count(total)} rows, {decimal(room)} of text, {count(tokens)} tokens; asking all of them again would cost "
        f"{usd:,.2f} USD at the prices that were paid",
    )
    for run in runs:
        print_line(console, f"run {run.run}: {_stake(run)}")
    if doomed and size.free_bytes is not None:
        left = max(size.bytes - room, 0)
        print_line(
            console,
            f"giving the room back rewrites about {decimal(left)}, roughly "
            f"{duration(left / _COPIED_BYTES_PER_SECOND)}; whoever writes to the store waits meanwhile (--keep-room "
            "leaves it in the file)",
        )


def _print_compacted(console: Console, done: Compacted) -> None:
    """What giving back room brought."""
    if done.obstacle:
        print_line(
            console,
            f"the file keeps its {decimal(done.bytes_before)}: {done.obstacle}. New answers fill the room.",
        )
        return
    print_line(
        console,
        f"the file went from {decimal(done.bytes_before)} to {decimal(done.bytes_after)} in {duration(done.seconds)}",
    )


def _print_verified(console: Console, found: Verified) -> None:
    """What is wrong with a store, with the first rows that it is wrong of."""
    print_line(console, f"{count(found.rows)} rows looked at, {count(len(found.places))} of them damaged")
    if found.without_reply:
        print_line(console, f"{count(found.without_reply)} answers have no raw reply that could prove their text")
    for fault in found.file_faults:
        print_line(console, f"the database says: {fault}")
    if found.places:
        faults = ((fault, count(rows)) for fault, rows in found.faults.most_common())
        print_rows(console, ("fault", "rows"), faults)
        damaged = (
            (shorten(row.key, _KEY_CHARACTERS), *map(_short, (row.role, row.model, row.run)), ", ".join(row.faults))
            for row in found.damaged
        )
        print_rows(console, ("key", "role", "model", "run", "faults"), damaged, text_columns=5)


def _stake(run: RunAtStake) -> str:
    asked = f"asked first for {count(run.rows)} of these rows"
    if run.unreadable:
        return f"{asked}; its stages cannot be told: {run.unreadable}"
    if run.stages:
        return f"{asked}; would ask again in {', '.join(run.stages)}"
    return f"{asked}; whole, it asks again only for a stage that is redone"


def _short(text: str) -> str:
    return shorten(text, _TEXT_CHARACTERS)
