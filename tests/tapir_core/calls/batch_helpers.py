"""What the tests of batches share: requests that the stand-in knows, and what its log says."""

import json
from collections import Counter
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import select

from tapir_core.calls import AnswerStore, CallEngine, Endpoint, Request, Spend, store_writes
from tapir_core.calls.budget import Attempt
from tapir_core.calls.store_tables import batch_rows, batches, open_engine, utc_now
from tapir_core.calls.store_writes import Change, OpenBatch
from tapir_core.config import BatchConfig, BudgetConfig, CallsConfig
from tests.doubles.provider import make_request
from tests.doubles.standin import StandinServer

QUICK = CallsConfig(backoff_seconds=0.01, max_backoff_seconds=0.05, timeout_seconds=5, dead_after_seconds=2)


def sums(count: int, **fields: Any) -> list[Request]:
    wanted = {"model": "standin-teacher", "identity": "standin-1", **fields}
    return [make_request(f"What is {number} + 61?", **wanted) for number in range(count)]


def expected(count: int) -> list[str]:
    return [f"Answer: {number + 61}" for number in range(count)]


def batch_endpoint(
    server: StandinServer | str, *, price: float = 0.0, key: str | None = None, **limits: Any
) -> Endpoint:
    return Endpoint(
        server if isinstance(server, str) else server.base_url,
        concurrency=8,
        api_key=key,
        usd_per_million_prompt_tokens=price,
        usd_per_million_completion_tokens=price,
        batch=BatchConfig(**{"poll_seconds": 0.05, **limits}),
    )


def open_batch_engine(store_url: str, config: CallsConfig = QUICK) -> CallEngine:
    return CallEngine(AnswerStore(store_url), config, run="a-run")


def plan_batch(
    tag: str,
    base_url: str,
    rows: Mapping[str, Request],
    *,
    tokens: int = 0,
    budget: BudgetConfig | None = None,
    first: int = 1000,
) -> Change:
    """The write that plans a batch, with an attempt of ``tokens`` for each row, numbered from ``first``."""
    attempts = [
        Attempt(number, "a-run", row.role, key, Spend(1, tokens))
        for number, (key, row) in enumerate(rows.items(), first)
    ]
    batch = OpenBatch(tag, base_url, rows, {each.key: each.id for each in attempts}, utc_now())
    return partial(store_writes.plan_batch, batch=batch, attempts=attempts, budget=budget or BudgetConfig())


def logged(log_path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log_path.read_text().splitlines()]


def paid_twice(log_path: Path) -> list[str]:
    """Digests of the requests that were answered more than once."""
    counts = Counter(line["sha256"] for line in logged(log_path) if line["outcome"] == "answered")
    return [digest for digest, times in counts.items() if times > 1]


def batch_states(store_url: str) -> list[tuple[str, int]]:
    """State and number of rows of every batch in the store; checks that nothing is left behind by those that ended."""
    engine = open_engine(store_url)
    with engine.connect() as connection:
        found = connection.execute(select(batches.c.state, batches.c.rows, batches.c.ended)).all()
        if found and all(row.ended for row in found):
            assert connection.execute(select(batch_rows.c.key)).all() == []
    engine.dispose()
    return [(row.state, row.rows) for row in found]
