"""One driver a run, one trainer a student: a row in the store's database says which process it is.

Who may take the lease of another process stands in holder.py. Importing this module imports SQLAlchemy.
"""

import logging
import secrets
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import delete, select, update
from sqlalchemy.exc import SQLAlchemyError

from tapir_core.calls.holder import Holder, busy, is_free
from tapir_core.calls.store_tables import database_time, insert_or_ignore, leases, open_engine, with_silence, writing
from tapir_core.calls.store_writer import Patience

HEARTBEAT_SECONDS = 10.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Holding:
    """A lease that is taken, as any process sees it."""

    token: str
    lives: bool
    """False when the holder is gone from this machine, or silent for too long on another: the next one may take it."""


class RunLease:
    """The right to drive the run ``run_key``; a heartbeat thread keeps it while it is held."""

    def __init__(self, store_url: str, run_key: str, *, token: str | None = None, flow_run: str | None = None) -> None:
        """Prepare.

        Args:
            store_url: Of the database.
            run_key: What is held.
            token: 32 characters that let others know the holder; without it the lease has one of its own.
            flow_run: The UI's address of the flow run that drives, if one does.
        """
        self.run_key = run_key
        self.token = token or secrets.token_hex(16)
        self._flow_run = flow_run
        self._engine = open_engine(store_url)
        self._patience = Patience(f"the lease of run {run_key}")
        self._released = threading.Event()
        self._heart: threading.Thread | None = None
        self._row = select(leases).where(leases.c.run_key == run_key)
        self._ours = leases.c.run_key == run_key, leases.c.token == self.token

    def acquire(self) -> None:
        """Take the lease.

        Raises:
            RunBusy: another driver holds it.
        """
        holder = self._take()
        if holder is not None:
            self._engine.dispose()
            raise busy(holder)
        self._heart = threading.Thread(target=self._beat_until_released, name="tapir-lease", daemon=True)
        self._heart.start()

    def holds(self) -> bool:
        """Whether the lease is still ours; asked before anything of the run is promoted."""

        def read() -> bool:
            with self._engine.connect() as connection:
                return connection.scalar(select(leases.c.token).where(*self._ours)) is not None

        return self._patience.try_until_back(read)

    def holding(self) -> Holding | None:
        """Who has the lease now, this process or another; nothing when it is free."""
        with self._engine.connect() as connection:
            rows = with_silence(connection, self._row)
        return Holding(rows[0]["token"], lives=not is_free(rows[0])) if rows else None

    def hurry(self) -> None:
        """From now on wait only a little for a database that is away: somebody wants to end."""
        self._patience.close()

    def release(self) -> None:
        """Give the lease back, or stop looking at it. Releasing twice is the same as once."""
        self._released.set()
        self.hurry()
        try:
            if self._heart is not None:
                self._heart.join()
                self._heart = None
                self._patience.try_until_back(self._drop)
        finally:
            self._engine.dispose()

    def __enter__(self) -> "RunLease":
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def _take(self) -> Mapping[str, Any] | None:
        """Write our row; gives the row of the holder that keeps it, nothing when the lease is ours."""
        with writing(self._engine) as connection:
            now = database_time(connection)
            mine: dict[str, Any] = {"run_key": self.run_key, "token": self.token, "flow_run": self._flow_run}
            mine |= {**asdict(Holder.this_process()), "since": now, "heartbeat": now}
            connection.execute(insert_or_ignore(connection.dialect.name, leases).values(mine))
            (row,) = with_silence(connection, self._row.with_for_update())
            if row["token"] == self.token:
                return None
            if not is_free(row):
                return row
            connection.execute(update(leases).where(leases.c.run_key == self.run_key).values(mine))
            return None

    def _drop(self) -> None:
        with writing(self._engine) as connection:
            connection.execute(delete(leases).where(*self._ours))

    def _beat(self) -> None:
        with writing(self._engine) as connection:
            connection.execute(update(leases).where(*self._ours).values(heartbeat=database_time(connection)))

    def _beat_until_released(self) -> None:
        while not self._released.wait(HEARTBEAT_SECONDS):
            try:
                self._beat()
            except SQLAlchemyError as error:
                # The lease lapses by itself when this lasts; `holds` then says so before anything is promoted.
                logger.warning("no heartbeat for run %s: %s", self.run_key, error)
