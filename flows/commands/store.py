"""`tapir store …`: statistics, copy, import, prune, check. Only `copy` and `import` make a store.

Names come from providers and files, so they are printed as they are.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import sqlalchemy as sa
import typer
from rich.console import Console

from flows.commands.terminal import AsJson, Overrides, console, errors, print_lines, print_tables
from tapir_core import randomness, store_admin
from tapir_core.calls import root_store_url, store_tables, store_url
from tapir_core.config.load import load_config
from tapir_core.data.readers import instruction_records, read_pool
from tapir_core.errors import ConfigError, TapirError
from tapir_core.estimate.evidence import plain_request
from tapir_core.reporting.page import Table, table_of
from tapir_core.summary.formats import NOTHING, count, data_size, duration, percent
from tapir_core.text import shorten

store_app = typer.Typer(no_args_is_help=True)

_TEXT_CHARACTERS, _KEY_CHARACTERS = 60, 16
_REWRITTEN_PER_SECOND = 100e6
"""Bytes of a store, on the disk of a laptop."""
_IDENTITY_CHARACTERS = 24
"""A student's identity is a whole digest; `--json` has it in full."""

Address = Annotated[
    str | None,
    typer.Option("--store", metavar="ADDRESS", help="An SQLite file, or postgresql://host/database."),
]
Root = Annotated[str, typer.Option(help="Folder of all runs; its own store is meant when --store is left out.")]


@store_app.command()
def stats(
    store: Address = None,
    root: Root = "runs",
    check: Annotated[
        bool,
        typer.Option("--check", help="Read every row first, and check an SQLite file; ends with 1 if it is damaged."),
    ] = False,
    remove: Annotated[
        bool, typer.Option("--delete", help="With --check: remove the damaged rows after listing them.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Say what the store holds and what it cost, and how often answers were re-used."""
    if remove and not check:
        raise ConfigError("--delete without --check: it removes the damaged rows that --check finds; give both")
    with opened(store, root) as engine:
        if check:
            _check(errors if as_json else console, engine, remove=remove)
        found = store_admin.gather_stats(engine)
    if as_json:
        print(json.dumps(found.as_json(), indent=1))
    else:
        print_stats(console, found)


def _check(console: Console, engine: sa.Engine, *, remove: bool) -> None:
    """Print what is damaged.

    Raises:
        TapirError: something is, and stays so.
    """
    found = store_admin.check_store(engine)
    print_lines(console, f"{count(found.rows)} rows read, {count(len(found.places))} of them damaged")
    if found.without_reply:
        print_lines(console, f"{count(found.without_reply)} answers have no raw reply that could prove their text")
    print_lines(console, *(f"the database says: {fault}" for fault in found.file_faults))
    faults = Table("", ("fault", "rows"), tuple((fault, count(rows)) for fault, rows in found.faults.most_common()))
    print_tables(console, faults, table_of("", _DAMAGED, found.damaged, text_columns=len(_DAMAGED)))
    if remove and found.places:
        removed = store_admin.delete_rows(engine, found.places)
        print_lines(console, f"removed {removed:,} rows; a run that needs them asks again")
    if found.file_faults:
        raise TapirError(
            "the database itself is damaged, and removing rows does not help. Move it away and copy what can be read "
            "of it into a new store (docs/store.md); runs ask again for what is missing."
        )
    if found.places and not remove:
        raise TapirError(
            f"{count(len(found.places))} of {count(found.rows)} rows are damaged; `tapir store stats --check --delete` "
            "removes them, and a run that needs them asks again"
        )


@store_app.command("copy")
def copy_answers(
    source: Annotated[str, typer.Argument(metavar="FROM", help="SQLite file or URL of a store.", show_default=False)],
    target: Annotated[
        str, typer.Argument(metavar="TO", help="Another; it is made if there is none.", show_default=False)
    ],
) -> None:
    """Copy the answers of one store into another; given again, it goes on.

    What TO has stays as it is. Damaged rows are left out and listed.
    """
    with opened(source, "") as here, opened(target, "", make=True) as there:
        done = store_admin.copy_answers(here, there)
        _print_inserted(done)
        if done.read.file_faults:
            raise TapirError(
                f"{store_tables.shown_url(here.url)}: {done.read.file_faults[0]}. The sound rows up to there are in "
                f"{store_tables.shown_url(there.url)}; docs/store.md says how to save more of a damaged file"
            )


@store_app.command("import")
def import_answers(
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="Instructions with answers, in any pool format.", show_default=False)
    ],
    teacher_of: Annotated[Path, typer.Option(metavar="CONFIG", help="Configuration whose teacher gave the answers.")],
    store: Address = None,
    overrides: Overrides = None,
) -> None:
    """Insert answers that a configuration's teacher gave elsewhere; nothing is overwritten.

    They go into that configuration's store, or the one of --store, which is made if there is none.
    """
    config = load_config(teacher_of, overrides or ())
    records = instruction_records(file, getattr(config.data.pool, "columns", {}))
    found = read_pool(
        records, file, on_bad_row=config.data.on_bad_row, limit=None, rng=randomness.derive_rng(0), answers=True
    ).rows
    if "answer" not in found.columns:
        raise ConfigError(
            f"{file!r} has no answers: neither `output` nor an assistant's last turn in any row; where the file has "
            'another name for it: --set data.pool.columns.output="name"'
        )
    rows = found.drop_nulls("answer").to_dicts()
    replies = [(plain_request(config, row), row["answer"]) for row in rows]
    with opened(store or store_url(config), "", make=True) as engine:
        done = store_admin.import_replies(engine, replies)
    who, lacking = config.teacher.endpoint.in_words("teacher"), found.height - len(rows)
    left_out = f"; left out for want of an answer: {count(lacking)}" if lacking else ""
    print_lines(console, f"answers of {who}, {config.teacher.answering.in_words}{left_out}")
    _print_inserted(done)


def _print_inserted(done: store_admin.Inserted) -> None:
    damaged = len(done.read.places)
    print_lines(
        console,
        f"{count(done.read.rows)} rows read: {count(done.added)} added, {count(done.already_there)} already there, "
        f"{count(done.different)} different, {count(damaged)} damaged{' and left out' if damaged else ''}",
    )
    different = table_of("", _DIFFERENT, done.listed, text_columns=len(_DIFFERENT))
    print_tables(console, different, table_of("", _DAMAGED, done.read.damaged, text_columns=len(_DAMAGED)))


@store_app.command()
def prune(
    store: Address = None,
    root: Root = "runs",
    older_than: Annotated[str | None, typer.Option(metavar="AGE", help="Only rows older than this: 12h, 30d.")] = None,
    models: Annotated[list[str] | None, typer.Option("--model", help="Only this model; repeatable.")] = None,
    identities: Annotated[list[str] | None, typer.Option("--identity", help="Only this identity; repeatable.")] = None,
    roles: Annotated[
        list[str] | None, typer.Option("--role", help="Only this role (label, teach, judge, …); repeatable.")
    ] = None,
    statuses: Annotated[
        list[str] | None,
        typer.Option("--status", help="Only this outcome: answer, or a failure's kind (refused, …); repeatable."),
    ] = None,
    endings: Annotated[
        list[str] | None,
        typer.Option("--finish-reason", help="Only answers that ended so: stop, length (cut off); repeatable."),
    ] = None,
    unusable: Annotated[
        bool,
        typer.Option("--unusable", help="Only failures, and answers that are empty, cut off or hold control tokens."),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Remove them; without it nothing is changed.")] = False,
    keep_room: Annotated[
        bool, typer.Option("--keep-room", help="Leave the file as it is: new answers fill it.")
    ] = False,
) -> None:
    """Remove answers by age, model, role, outcome, …; without --yes it only says what would go and its cost."""
    chosen = store_admin.rows_where(
        role=roles,
        model=models,
        identity=identities,
        status=statuses,
        finish_reason=endings,
        unusable=unusable,
        before=datetime.now(UTC).replace(tzinfo=None) - store_admin.read_age(older_than) if older_than else None,
    )
    with opened(store, root) as engine:
        doomed = store_admin.plan_prune(engine, chosen)
        print_tables(console, table_of("", _DOOMED, doomed, text_columns=4))
        print_lines(
            console, *_doomed_lines(doomed, store_admin.runs_at_stake(root, doomed), store_admin.store_size(engine))
        )
        if not yes or not doomed:
            print_lines(console, f"nothing is changed{'; --yes removes these rows' if doomed else ''}")
            return
        print_lines(console, f"removed {store_admin.prune_answers(engine, chosen):,} rows")
        if not keep_room:
            print_lines(console, _compacted(store_admin.compact(engine)))


def _doomed_lines(
    doomed: Sequence[store_admin.DoomedRows], runs: Iterable[store_admin.RunAtStake], size: store_admin.StoreSize
) -> Iterator[str]:
    rows, text, tokens, usd = (
        sum(getattr(each, name) for each in doomed) for name in ("rows", "bytes", "tokens", "usd")
    )
    yield (
        f"{count(rows)} rows, {data_size(text)} of text, {count(tokens)} tokens; asking all of them again would cost "
        f"{usd:,.2f} USD at the prices that were paid"
    )
    for run in runs:
        told = (
            f"its stages cannot be told: {run.unreadable}"
            if run.unreadable
            else f"would ask again in {', '.join(run.stages)}"
            if run.stages
            else "whole, it asks only for what is redone"
        )
        yield f"run {run.run}: asked first for {count(run.rows)} of these rows; {told}"
    if rows and size.free_bytes is not None:
        left = max(0, size.bytes - text)
        yield (
            f"giving the room back rewrites about {data_size(left)}, roughly {duration(left / _REWRITTEN_PER_SECOND)}; "
            "whoever writes to the store waits meanwhile (--keep-room leaves it in the file)"
        )


def _compacted(done: store_admin.Compacted) -> str:
    if done.obstacle:
        return f"the file keeps its {data_size(done.bytes_before)}: {done.obstacle}. New answers fill the room."
    return (
        f"the file went from {data_size(done.bytes_before)} to {data_size(done.bytes_after)} in "
        f"{duration(done.seconds)}"
    )


@contextmanager
def opened(store: str | None, root: str, *, make: bool = False) -> Iterator[sa.Engine]:
    """The store at an SQLite file or URL, or else the root's; with ``make`` one is made where there is none."""
    address = store or root_store_url(root)
    url = address if "://" in address else f"sqlite:///{quote(address)}"
    engine = (store_tables.open_engine if make else store_admin.open_existing)(url)
    try:
        yield engine
    finally:
        engine.dispose()


def print_stats(console: Console, stats: store_admin.StoreStats) -> None:
    """What a store holds, what it cost, and what of it was used again."""
    first = min((group.first for group in stats.groups), default=None)
    last = max((group.last for group in stats.groups), default=None)
    free = f", {data_size(stats.size.free_bytes)} of it free for new rows" if stats.size.free_bytes else ""
    print_lines(console, f"{stats.store}: {count(stats.rows)} rows in {data_size(stats.size.bytes)}{free}")
    if first and last:
        statuses = ", ".join(f"{count(rows)} {status}" for status, rows in stats.statuses.items())
        print_lines(console, f"{statuses}; stored from {first:%Y-%m-%d %H:%M} to {last:%Y-%m-%d %H:%M} UTC")
    print_tables(console, table_of("", _GROUPS, stats.groups, text_columns=4))


_GROUPS: Sequence[tuple[str, Callable[[store_admin.AnswerGroup], str]]] = [
    ("role", lambda group: group.role),
    ("model", lambda group: group.model),
    ("identity", lambda group: shorten(group.identity, _IDENTITY_CHARACTERS)),
    ("prompt", lambda group: group.prompt_version or NOTHING),
    ("rows", lambda group: count(group.rows)),
    ("failed", lambda group: count(group.rows - group.statuses.get("answer", 0))),
    ("text", lambda group: data_size(group.bytes)),
    ("tokens", lambda group: count(group.prompt_tokens + group.completion_tokens)),
    ("USD", lambda group: f"{group.usd:,.2f}"),
    ("re-used", lambda group: count(group.reused)),
    ("share", lambda group: percent(group.reuse_share)),
]
_DOOMED: Sequence[tuple[str, Callable[[store_admin.DoomedRows], str]]] = [
    ("role", lambda each: each.role),
    ("model", lambda each: each.model),
    ("identity", lambda each: shorten(each.identity, _IDENTITY_CHARACTERS)),
    ("asked first by", lambda each: each.run or NOTHING),
    ("rows", lambda each: count(each.rows)),
    ("text", lambda each: data_size(each.bytes)),
    ("tokens", lambda each: count(each.tokens)),
    ("USD", lambda each: f"{each.usd:,.2f}"),
]
_DIFFERENT: Sequence[tuple[str, Callable[[store_admin.OtherText], str]]] = [
    ("key", lambda each: shorten(each.key, _KEY_CHARACTERS)),
    ("role", lambda each: each.role),
    ("model", lambda each: each.model),
    ("the store has, and keeps", lambda each: shorten(each.stored, _TEXT_CHARACTERS)),
    ("given now", lambda each: shorten(each.offered, _TEXT_CHARACTERS)),
]
_DAMAGED: Sequence[tuple[str, Callable[[store_admin.DamagedRow], str]]] = [
    ("key", lambda row: shorten(row.key, _KEY_CHARACTERS)),
    ("role", lambda row: shorten(row.role, _TEXT_CHARACTERS)),
    ("model", lambda row: shorten(row.model, _TEXT_CHARACTERS)),
    ("run", lambda row: shorten(row.run, _TEXT_CHARACTERS)),
    ("faults", lambda row: ", ".join(row.faults)),
]
