"""`tapir store …`: look at the call store, move it, shrink it, check it. Reading commands never make a store."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from flows.commands.lines import console, print_line, say
from tapir_core.errors import TapirError

if TYPE_CHECKING:
    from sqlalchemy import Engine

__all__ = ["store_app"]

store_app = typer.Typer(help="The store of all paid answers: look, move, shrink, check.", no_args_is_help=True)

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
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Say what the store holds and what it cost, and how often answers were re-used."""
    from flows.commands.store_tables import print_stats
    from tapir_core.calls.upkeep import gather_stats

    with _opened(store, root) as engine:
        found = gather_stats(engine)
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
    from tapir_core.calls.upkeep import Archive, RowFilter, read_moment
    from tapir_core.calls.upkeep import export_answers as export

    moment = read_moment(since, now=datetime.now(UTC)) if since else None
    chosen = RowFilter(tuple(roles or ()), tuple(models or ()), runs=tuple(runs or ()), since=moment)
    with _opened(store, root) as engine:
        done = export(engine, Archive(place), chosen, on_part=lambda rows: say(f"{rows:,} rows written"))
    print_line(console, f"exported {done.rows:,} rows in {done.parts:,} parts to {place}")
    if done.damaged:
        print_line(console, f"left out: {done.damaged:,} damaged rows, which `tapir store verify` lists")


@store_app.command("import")
def import_answers(place: Place, store: StoreUrl = None, root: Root = "runs") -> None:
    """Insert what an export has and the store lacks; nothing is overwritten. Makes the store where there is none."""
    from flows.commands.store_tables import print_imported
    from tapir_core.calls.store.address import root_store_url
    from tapir_core.calls.store.tables import open_engine
    from tapir_core.calls.upkeep import Archive
    from tapir_core.calls.upkeep import import_answers as insert

    archive = Archive(place)
    archive.read_manifest()  # a wrong place must not leave an empty store behind
    engine = open_engine(store or root_store_url(root))
    try:
        print_imported(console, insert(engine, archive))
    finally:
        engine.dispose()


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
    from flows.commands.store_tables import print_compacted, print_doomed
    from tapir_core.calls.upkeep import (
        RowFilter,
        compact,
        plan_prune,
        prune_answers,
        read_age,
        runs_at_stake,
        store_size,
    )

    before = datetime.now(UTC).replace(tzinfo=None) - read_age(older_than) if older_than else None
    chosen = RowFilter(
        tuple(roles or ()),
        tuple(models or ()),
        tuple(identities or ()),
        statuses=tuple(statuses or ()),
        finish_reasons=tuple(endings or ()),
        before=before,
    )
    with _opened(store, root) as engine:
        doomed = plan_prune(engine, chosen)
        print_doomed(console, doomed, runs_at_stake(root, doomed), store_size(engine))
        if not yes or not doomed:
            print_line(console, "nothing is changed" + ("; --yes removes these rows" if doomed else ""))
            return
        print_line(console, f"removed {prune_answers(engine, chosen):,} rows")
        if not keep_room:
            print_compacted(console, compact(engine))


@store_app.command()
def verify(
    store: StoreUrl = None,
    root: Root = "runs",
    remove: Annotated[
        bool, typer.Option("--delete", help="Remove the damaged rows after listing them; they are asked again.")
    ] = False,
) -> None:
    """Look for damaged rows, and of SQLite for a damaged file; ends with 1 when there is something."""
    from flows.commands.store_tables import print_verified
    from tapir_core.calls.upkeep import delete_rows, verify_store

    with _opened(store, root) as engine:
        found = verify_store(engine)
        print_verified(console, found)
        if remove and found.places:
            print_line(console, f"removed {delete_rows(engine, found.places):,} rows; who needs them asks again")
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
def _opened(store: str | None, root: str) -> "Iterator[Engine]":
    from tapir_core.calls.store.address import root_store_url
    from tapir_core.calls.upkeep import open_existing

    engine = open_existing(store or root_store_url(root))
    try:
        yield engine
    finally:
        engine.dispose()
