"""Sends the requests of one ask through a provider's Batch API, on the engine's event loop.

Batch in the store → input file → batch at the provider → polling → replies stored one by one. Each step is committed
before the next one, and a batch belongs to no process: any process that asks for one of its requests while nobody leads
it takes it over. So neither a kill nor Ctrl-C makes a second batch of requests that the provider already has. A failed
step is repeated in the same way: the batch is left, and taken over again after a pause.
"""

import asyncio
import logging
import random
import secrets
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from itertools import islice
from tempfile import SpooledTemporaryFile
from typing import Any

from openai.types import Batch

from tapir_core.calls import batch_client, budget, limits, store_tables, store_writes, types, wire
from tapir_core.calls.answer_store import AnswerStore
from tapir_core.calls.books import STOPPED, Books
from tapir_core.config import BatchConfig, CallsConfig

_FIRST_PAUSE_SECONDS = 0.5
"""Pause before the second poll, and after news of a batch; it doubles up to `poll_seconds`."""
_LINES_PER_COMMIT = 500
_BYTES_IN_MEMORY = 16 * 2**20
"""A longer result file is kept on disk."""

logger = logging.getLogger(__name__)


class BatchSending:
    """Sends the requests of one ask that are not in the store."""

    def __init__(
        self,
        books: Books,
        endpoint: types.Endpoint,
        tell: Callable[[str, types.Outcome, bool], object],
        is_stopped: Callable[[], bool],
        *,
        config: CallsConfig,
        rng: random.Random,
    ) -> None:
        """Prepare the connections to the endpoint; none is opened yet.

        ``tell`` gets each key with its outcome, and whether another process paid for it. Once it ``is_stopped``, no new
        batch is made.

        Raises:
            ConfigError: the address holds a user name or password, or the key cannot be sent.
        """
        self._books = books
        self._limits = endpoint.batch or BatchConfig()
        # Requests that are in a batch already cost batch prices, even if the endpoint now uses live calls.
        self._endpoint = endpoint if endpoint.batch else endpoint.in_mode("batch")
        self._client = batch_client.BatchClient(self._endpoint, self._limits, config)
        self._pause_before_retry = partial(limits.pause_before_retry, config, rng=rng)
        self._pause_seconds = _FIRST_PAUSE_SECONDS
        self._tell, self._is_stopped = tell, is_stopped
        self._missing: dict[str, types.Request] = {}
        """Requests without an outcome so far."""
        self._led: list[store_writes.OpenBatch] = []
        """Batches that this ask leads."""
        self._away: set[str] = set()
        """Keys in a batch that this ask leads, or in the pause after one."""
        self._failed: dict[str, Counter[types.FailureKind]] = {}
        self._no_room_at = -1
        """How many attempts had ended when the caps last had no room."""

    async def send_all(self, missing: Mapping[str, types.Request]) -> None:
        """Bring every request to its outcome. If this is cancelled, batches continue at the provider."""
        self._missing = dict(missing)
        try:
            while self._missing or self._led:
                await self._look()
                for batch in list(self._led):
                    await self._lead(batch)
                if self._missing or self._led:
                    await asyncio.sleep(min(self._pause_seconds, self._limits.poll_seconds))
                    self._pause_seconds *= 2
        finally:
            for batch in list(self._led):
                self._leave(batch)
                if batch.provider_id:
                    logger.warning(
                        "batch %s with %d requests goes on at %s; the same command takes its answers",
                        batch.provider_id,
                        len(batch.rows),
                        batch.address,
                    )
            await asyncio.shield(self._client.close())

    async def _look(self) -> None:
        """Take over batches with missing requests that nobody leads, and plan batches of the others.

        In this order, because a batch that is continued may give back some of its booking, and others wait for that.
        While they wait, nothing is done until an attempt has ended.
        """
        store, books = self._books.store, self._books
        if not self._here() or (self._no_room_at == books.ended and books.may_make_room):
            return
        for batch in await self._write(partial(store_writes.adopt_batches, keys=self._here())):
            logger.info("batch %s of %s goes on", batch.provider_id or batch.tag, batch.address)
            batch.rows = {key: self._missing.get(key, request) for key, request in batch.rows.items()}
            self._begin(batch)
            if not batch.input_file_id:
                await self._end(batch, "dropped", {})
        for key, outcome in (await asyncio.to_thread(store.lookup, self._here())).items():
            self._bring(key, outcome, True)
        # Requests in a batch of another run are waited for.
        elsewhere = await asyncio.to_thread(store.batched, self._here())
        ours = {key: self._missing[key] for key in self._here() if key not in elsewhere}
        for key in [*ours] if self._is_stopped() else ():
            self._bring(key, STOPPED, False)
            del ours[key]
        for rows in batch_client.split_rows(ours, self._limits, self._endpoint):
            seen, refused = books.ended, await self._plan(rows)
            if refused and books.may_make_room:
                self._no_room_at = seen
                break
            if len(refused) == len(rows) and books.ended == seen:
                for key, cap in refused.items():
                    self._count_and_bring(key, wire.Reply(types.Failure("budget", cap), types.Spend()))

    async def _plan(self, rows: Mapping[str, types.Request]) -> Mapping[str, str]:
        """Book the rows of a file, and lead those that the caps have room for; returns key → cap of the others."""
        books, tag = self._books, secrets.token_hex(16)
        wanted = [budget.make_attempt(books.run, key, each, self._endpoint) for key, each in rows.items()]
        batch = store_writes.OpenBatch(
            tag, self._endpoint.base_url, rows, {each.key: each.id for each in wanted}, store_tables.utc_now()
        )
        try:
            refused: dict[str, str] = await self._write(
                partial(store_writes.plan_batch, batch=batch, attempts=wanted, budget=books.budget)
            )
        except BaseException:
            # It may be in the store all the same: the next process that asks takes it over.
            self._books.store.lead(partial(store_writes.leave_batch, tag=tag))
            raise
        batch.rows = {key: request for key, request in rows.items() if key not in refused}
        if batch.rows:
            self._begin(batch)
        return refused

    def _here(self) -> list[str]:
        return [key for key in self._missing if key not in self._away]

    def _begin(self, batch: store_writes.OpenBatch) -> None:
        self._led.append(batch)
        self._books.begun += len(batch.rows)
        self._away.update(batch.rows)
        self._pause_seconds = _FIRST_PAUSE_SECONDS

    async def _lead(self, batch: store_writes.OpenBatch) -> None:
        """Bring a batch to its provider, unless it is there, and check whether it has ended."""
        try:
            if not await self._make(batch):
                self._leave(batch)
                self._away.difference_update(batch.rows)
                return
            shown = await self._client.show(batch.provider_id)
            if shown.status not in batch_client.ENDINGS:
                return
            state: str = shown.status
            failed = await store_results(
                self._client, self._books.store, self._endpoint, batch, shown, bring=self._count_and_bring
            )
        except batch_client.ProviderError as error:
            state = batch_client.state_after(error, batch, self._endpoint, self._limits)
            failed = dict.fromkeys(batch.rows, batch_client.why_left(error, state, batch, self._endpoint, self._limits))
        await self._end(batch, state, failed)

    async def _make(self, batch: store_writes.OpenBatch) -> bool:
        """Make sure that a batch is at its provider, and its ids are noted.

        It does not, where this process was taken for dead meanwhile and another leads the batch.
        """
        if not batch.input_file_id:
            content = await asyncio.to_thread(batch_client.write_file, batch.rows, self._endpoint)
            batch.input_file_id = await self._client.upload(f"tapir-{batch.tag}.jsonl", content)
        if not batch.provider_id:
            uploaded = partial(store_writes.note_batch, state="uploaded", input_file_id=batch.input_file_id)
            if not await self._write(partial(uploaded, tag=batch.tag)):
                return False
            batch.provider_id = await self._client.create(batch)
            await self._write(
                partial(store_writes.note_batch, tag=batch.tag, state="made", provider_id=batch.provider_id)
            )
            logger.info("batch %s of %d requests is at %s", batch.provider_id, len(batch.rows), batch.address)
            self._books.meter.sent += len(batch.rows)
        return True

    async def _end(self, batch: store_writes.OpenBatch, state: str, failed: Mapping[str, wire.Reply]) -> None:
        """End a batch with ``state``, or leave it to the next process that asks if ``state`` is empty.

        Rows that ``failed`` are sent again, all together, unless they failed too often.
        """
        if state:
            await self._write(partial(store_writes.end_batch, tag=batch.tag, state=state))
        self._leave(batch)
        pauses = [0.0]
        for key in failed.keys() & self._missing.keys():
            reply, counts = failed[key], self._failed.setdefault(key, Counter())
            if reply.is_completion and reply.useless:
                reply = await self._books.count_useless(key, reply)
            failure = reply.failure
            if not failure.retryable:
                await asyncio.wrap_future(self._books.store.put(key, self._missing[key], reply))
            counts[failure.kind] += 1
            pause = self._pause_before_retry(
                kind=failure.kind, failed=counts, retry_after_seconds=reply.retry_after_seconds
            )
            if pause is None or reply.endpoint_at_fault:
                self._count_and_bring(key, replace(reply, outcome=replace(failure, attempts=counts.total())))
            else:
                pauses.append(max(pause, self._limits.poll_seconds if state == "failed" else 0.0))
        asyncio.get_running_loop().call_later(max(pauses), self._away.difference_update, batch.rows)

    def _leave(self, batch: store_writes.OpenBatch) -> None:
        self._led.remove(batch)
        self._books.ended += len(batch.rows)
        self._books.store.lead(partial(store_writes.leave_batch, tag=batch.tag))
        self._pause_seconds = _FIRST_PAUSE_SECONDS

    def _bring(self, key: str, outcome: types.Outcome, shared: bool) -> None:
        # A batch that was taken over may answer more than this ask wants.
        if self._missing.pop(key, None) is not None:
            self._tell(key, outcome, shared)

    def _count_and_bring(self, key: str, reply: wire.Reply) -> None:
        self._books.meter.count_reply(reply)
        self._bring(key, reply.outcome, False)

    async def _write(self, write: store_writes.Change) -> Any:
        return await asyncio.wrap_future(self._books.store.lead(write))


async def store_results(
    client: batch_client.BatchClient,
    store: AnswerStore,
    endpoint: types.Endpoint,
    batch: store_writes.OpenBatch,
    shown: Batch,
    *,
    bring: Callable[[str, wire.Reply], None],
) -> dict[str, wire.Reply]:
    """Store every outcome of an ended batch, and pass each to ``bring`` once it is committed.

    Returns the rows without an outcome, with their failures. The costs of all rows that were processed are settled.
    """
    owed, failed = dict(batch.rows), dict[str, wire.Reply]()
    for file_id in filter(None, (shown.output_file_id, shown.error_file_id)):
        with SpooledTemporaryFile(max_size=_BYTES_IN_MEMORY) as file:
            await client.download(file_id, file)
            while lines := list(islice(file, _LINES_PER_COMMIT)):
                committing = []
                for key, reply in filter(None, (batch_client.read_line(line, endpoint, owed) for line in lines)):
                    if key not in owed or (shown.status == "cancelled" and not reply.spent.requests):
                        continue
                    request = owed.pop(key)
                    store.settle(budget.settlement(batch.attempts[key], reply))
                    if isinstance(reply.outcome, types.Failure) and reply.outcome.retryable:
                        failed[key] = reply
                    else:
                        committing.append((key, reply, asyncio.wrap_future(store.put(key, request, reply))))
                for key, reply, committed in committing:
                    bring(key, replace(reply, outcome=await committed))
    return failed | dict.fromkeys(owed, batch_client.why_unreached(batch, shown, endpoint))
