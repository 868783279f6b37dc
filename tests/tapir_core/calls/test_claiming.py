"""An asker that is interrupted while its claims are being committed."""

import asyncio
import sqlite3
import threading
from pathlib import Path

from tapir_core.calls import AnswerStore, Outcome
from tapir_core.calls.budget import SpendMeter, WorkClock
from tapir_core.calls.sending import Attempts, Books, Claiming
from tapir_core.calls.types import Claimed
from tapir_core.config import BudgetConfig
from tests.tapir_core.calls.engine_helpers import prompts


def test_what_is_granted_to_an_asker_that_is_gone_is_given_up_and_nobody_elses_claim(store_url: str, tmp_path: Path):
    def tell(key: str, outcome: Outcome, shared: bool) -> None:
        raise AssertionError(f"{key} was not sent, and yet came {outcome}, {shared=}")

    async def be_interrupted(store: AnswerStore, database: sqlite3.Connection) -> None:
        clock = WorkClock(lambda role, seconds: None)
        meter = SpendMeter()
        claiming = Claiming(
            Books(store, Attempts(store, BudgetConfig(), "a-run", meter, threading.Event()), meter, clock), tell
        )
        database.execute("BEGIN IMMEDIATE")
        asker = asyncio.create_task(claiming.claim(keys))
        await asyncio.sleep(0)
        asker.cancel()
        await asyncio.wait([asker])
        database.execute("ROLLBACK")
        assert asker.cancelled()

    keys = [each.key for each in prompts(3)]
    with AnswerStore(store_url) as holder, AnswerStore(store_url) as store, AnswerStore(store_url) as other:
        assert holder.claim(keys[:1]).result(timeout=30) == [Claimed.OURS]
        database = sqlite3.connect(tmp_path / "store.sqlite", isolation_level=None)
        asyncio.run(be_interrupted(store, database))
        database.close()
        store.add_seconds("a-run", "teach", 0.0).result(timeout=30)
        store.add_seconds("a-run", "teach", 0.0).result(timeout=30)
        assert other.claim(keys).result(timeout=30) == [Claimed.ELSEWHERE, Claimed.OURS, Claimed.OURS]
