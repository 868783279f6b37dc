"""A database that is away while calls are in flight: they wait, nothing is lost, nothing is asked twice."""

import sqlite3
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from psycopg.errors import AdminShutdown, DiskFull, InvalidPassword
from sqlalchemy.exc import OperationalError

from tapir_core.calls import AnswerStore, CallEngine, Watch
from tapir_core.calls.store_writer import Patience, is_away
from tapir_core.config import BudgetConfig, CallsConfig
from tapir_core.errors import TapirError
from tapir_core.leases import RunLease
from tests import waiting
from tests.doubles.provider import FakeProvider
from tests.postgres_server import PostgresServer, needs_postgres
from tests.tapir_core.calls.engine_helpers import prompts, texts

pytestmark = pytest.mark.slow

IN_FLIGHT = 64
ROWS = 300
ENOUGH = BudgetConfig(requests=ROWS)
wait_until = partial(waiting.wait_until, seconds=60, every=0.01)


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    server = PostgresServer()
    yield server
    server.stop()
    server.remove()


def ask_while(store_url: str, away: Callable[[FakeProvider], None], *, first: int = 0) -> None:
    """Ask for many rows; ``away`` takes the store away and gives it back once the first calls are in flight."""
    done: list[list[str]] = []

    def ask() -> None:
        with (
            RunLease(store_url, "a-run") as lease,
            CallEngine(
                AnswerStore(store_url), CallsConfig(), run=f"run {first}", budget=BudgetConfig(requests=ROWS)
            ) as engine,
        ):
            outcomes = engine.ask(prompts(ROWS, start=first), lambda: provider.endpoint(concurrency=IN_FLIGHT))
            assert lease.holds()
            assert engine.paid()["teach"].requests == ROWS
            done.append(texts(outcomes))

    with FakeProvider(latency_seconds=0.5) as provider:
        asker = threading.Thread(target=ask)
        asker.start()
        wait_until(lambda: len(provider.calls) >= IN_FLIGHT)
        away(provider)
        asker.join()
    assert done == [[f"echo: question {number}" for number in range(first, first + ROWS)]]
    assert set(Counter(provider.prompts()).values()) == {1}, "an answer was asked for twice"


SHORT_AND_LONG = [pytest.param(2.0, id="short"), pytest.param(20.0, id="20 s", marks=pytest.mark.operations)]


@needs_postgres
@pytest.mark.parametrize("seconds", SHORT_AND_LONG)
def test_a_run_outlasts_postgresql_that_is_stopped_with_calls_in_flight(postgres: PostgresServer, seconds: float):
    sent: list[int] = []

    def away(provider: FakeProvider) -> None:
        postgres.stop()
        threading.Event().wait(seconds)
        sent.append(len(provider.calls))
        postgres.start()

    ask_while(postgres.url, away, first=int(1000 * seconds))
    # What was booked when the database went may still go out; nothing that is new.
    assert sent[0] <= 3 * IN_FLIGHT < ROWS


@pytest.mark.parametrize(
    "seconds", [pytest.param(2.0, id="short"), pytest.param(90.0, id="90 s", marks=pytest.mark.operations)]
)
def test_a_run_outlasts_sqlite_that_somebody_locks_with_calls_in_flight(store_url: str, tmp_path: Path, seconds: float):
    if seconds < 60:
        store_url += "?timeout=0.2"  # so that the wait of SQLite itself is over, too
    AnswerStore(store_url).close()

    def away(provider: FakeProvider) -> None:
        database = sqlite3.connect(tmp_path / "store.sqlite", isolation_level=None)
        database.execute("PRAGMA busy_timeout = 10000")
        database.execute("BEGIN IMMEDIATE")
        threading.Event().wait(seconds)
        sent.append(len(provider.calls))
        database.execute("ROLLBACK")
        database.close()

    sent: list[int] = []
    ask_while(store_url, away)
    assert sent[0] <= 3 * IN_FLIGHT < ROWS


def test_who_is_interrupted_while_the_store_is_away_keeps_what_was_received(store_url: str, tmp_path: Path):
    """Closing waits a little for the database; what was paid for is in it then."""
    AnswerStore(store_url).close()
    database = sqlite3.connect(tmp_path / "store.sqlite", isolation_level=None, check_same_thread=False)
    with FakeProvider() as provider:
        engine = CallEngine(AnswerStore(store_url), CallsConfig(), run="an-id")

        def interrupt(_: int, __: object) -> None:
            database.execute("BEGIN IMMEDIATE")
            threading.Timer(0.5, lambda: database.execute("ROLLBACK")).start()
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            engine.ask(prompts(8), provider.endpoint, Watch(interrupt))
        engine.close()
    database.close()
    with AnswerStore(store_url) as store:
        assert store.known([prompts(1)[0].key])


def test_a_database_that_never_comes_back_ends_the_run_with_its_reason(store_url: str, tmp_path: Path):
    AnswerStore(store_url).close()
    database = sqlite3.connect(tmp_path / "store.sqlite", isolation_level=None)
    store = AnswerStore(f"{store_url}?timeout=0.05", longest_seconds=0.3)
    with FakeProvider() as provider, CallEngine(store, CallsConfig(), run="an-id") as engine:
        database.execute("BEGIN IMMEDIATE")
        with pytest.raises(TapirError, match="database is locked"):
            engine.ask(prompts(3), provider.endpoint)
        database.execute("ROLLBACK")
    database.close()
    assert provider.calls == []


def test_only_what_may_pass_is_waited_for(tmp_path: Path):
    full, locked = sqlite3.OperationalError("database or disk is full"), sqlite3.OperationalError("database is locked")
    full.sqlite_errorcode, locked.sqlite_errorcode = sqlite3.SQLITE_FULL, sqlite3.SQLITE_BUSY  # type: ignore[attr-defined]
    assert [is_away(OperationalError("", {}, each)) for each in (full, locked)] == [False, True]
    assert not is_away(ValueError("no database at all"))
    disk, password, restart = DiskFull(), InvalidPassword(), AdminShutdown()
    assert [is_away(OperationalError("", {}, each)) for each in (disk, password, restart)] == [False, False, True]

    tries: list[int] = []

    def work() -> None:
        tries.append(1)
        raise OperationalError("", {}, full)

    with pytest.raises(OperationalError):
        Patience("a test").try_until_back(work)
    assert tries == [1]
