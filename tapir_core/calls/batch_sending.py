"""Brings the requests of one ask to their outcomes through a provider's Batch API, on the engine's event loop.

Batch in the store → input file → batch at the provider → polling → replies taken apart into the store. Each
step is committed before the next one, and a batch belongs to no process: whoever asks for one of its requests while
nobody leads it takes it over. So neither a kill nor Ctrl-C makes a second batch of what is at the provider already.
"""

import asyncio
import logging
import random
import secrets
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

from tapir_core.calls.batch_client import (
    BatchClient,
    BatchFile,
    BatchStatus,
    ProviderError,
    at_creation,
    is_lost,
    split_files,
    store_results,
    while_away,
)
from tapir_core.calls.budget import make_attempt
from tapir_core.calls.limits import pause_before_retry
from tapir_core.calls.prices import MODE_FACTORS
from tapir_core.calls.sending import Books, Tell, task_group
from tapir_core.calls.store_writes import (
    LOST,
    Change,
    OpenBatch,
    Planned,
    adopt_batches,
    end_batch,
    leave_batch,
    note_batch,
    plan_batch,
)
from tapir_core.calls.types import Endpoint, Failure, FailureKind, Outcome, Request
from tapir_core.calls.wire import Reply
from tapir_core.config import BatchConfig, CallsConfig

_FIRST_PAUSE_SECONDS = 0.5
"""Before the second look at a batch, or at what others bring; it doubles up to `poll_seconds`."""

logger = logging.getLogger(__name__)


class BatchSending:
    """The requests of one ask that were not in the store."""

    def __init__(
        self,
        books: Books,
        endpoint: Endpoint,
        tell: Tell,
        *,
        config: CallsConfig,
        rng: random.Random,
    ) -> None:
        self._books = books
        self._limits = endpoint.batch or BatchConfig()
        self._endpoint = endpoint if endpoint.batch else _at_batch_prices(endpoint)
        self._config = config
        self._rng = rng
        self._tell = tell
        self._missing: dict[str, Request] = {}
        """Without outcome so far."""
        self._led: dict[str, OpenBatch] = {}
        """Batches that this ask leads, by tag."""
        self._away: set[str] = set()
        """Keys that are in a batch of ours, or pause after one."""
        self._failed: dict[str, Counter[FailureKind]] = {}
        self._no_room_at = -1
        """How many attempts had ended when the caps had no room for all that is left."""
        self._news = asyncio.Event()

    async def send_all(self, missing: Mapping[str, Request]) -> None:
        """Bring every request to its outcome; when this is cancelled, batches go on at the provider without us."""
        self._missing = dict(missing)
        client = BatchClient(self._endpoint, self._limits, self._config, rng=self._rng)
        try:
            async with task_group() as group:
                pause = min(_FIRST_PAUSE_SECONDS, self._limits.poll_seconds)
                while self._missing:
                    self._news.clear()
                    await self._look(group, client)
                    if self._missing and not self._news.is_set():
                        await self._wait(pause)
                        pause = min(2 * pause, self._limits.poll_seconds)
        finally:
            self._leave_all()
            await asyncio.shield(client.close())

    async def _look(self, group: asyncio.TaskGroup, client: BatchClient) -> None:
        """Take over the batches of what is missing that nobody leads, and make batches of what is ours to send.

        In this order: a batch that is followed may give back some of what is booked for it, and others wait for that.
        While they wait nothing is looked at again before an attempt has ended.
        """
        if self._no_room_at == self._books.ended and self._books.may_make_room:
            return
        here = tuple(self._here())
        for batch in await self._write(partial(adopt_batches, keys=here)) if here else []:
            logger.info("batch %s of %s goes on", batch.provider_id or batch.tag, batch.address)
            await self._begin(group, client, batch)
        for key, outcome in (await asyncio.to_thread(self._books.store.lookup, self._here())).items():
            self._bring(key, outcome, True)
        # What another run has in a batch of its own is waited for.
        elsewhere = await asyncio.to_thread(self._books.store.batched, self._here())
        ours = {key: self._missing[key] for key in self._here() if key not in elsewhere}
        for file in split_files(ours, self._limits, self._endpoint):
            seen, planned = self._books.ended, await self._plan(file)
            if rows := planned.batch.rows:
                # Of what the caps have room for: fewer rows, so still one file.
                booked = split_files(rows, self._limits, self._endpoint) if planned.refused else [file]
                await self._begin(group, client, planned.batch, next(iter(booked)).content)
            if not planned.refused:
                continue
            if self._books.may_make_room:
                self._no_room_at = seen
                break
            if not planned.batch.rows and self._books.ended == seen:
                self._refuse(planned.refused)

    async def _plan(self, file: BatchFile) -> Planned:
        """Book the rows of a file; what has no room for now is looked at again."""
        attempts, batch = self._books, OpenBatch(secrets.token_hex(16), self._endpoint.base_url, file.rows)
        wanted = {key: make_attempt(attempts.run, key, each, self._endpoint) for key, each in file.rows.items()}
        try:
            planned: Planned = await self._write(
                partial(plan_batch, batch=batch, attempts=wanted, budget=attempts.budget)
            )
        except BaseException:
            # It may be in the store all the same: whoever asks next takes it over.
            self._books.store.lead(partial(leave_batch, tag=batch.tag))
            raise
        return planned

    def _refuse(self, refused: Mapping[str, str]) -> None:
        for key, cap in refused.items():
            self._count_and_bring(key, Reply(Failure("budget", cap), attempts=0))

    def _here(self) -> list[str]:
        return [key for key in self._missing if key not in self._away]

    async def _begin(
        self, group: asyncio.TaskGroup, client: BatchClient, batch: OpenBatch, content: bytes | None = None
    ) -> None:
        """Bring a batch to the provider, unless it is there, and follow it."""
        self._led[batch.tag] = batch
        self._books.begun += len(batch.rows)
        self._away.update(batch.rows)
        try:
            made = await self._make(client, batch, content)
        except ProviderError as error:
            # The input file is noted before a batch is made of it; then only a clear no says that there is none.
            refused = error.status is not None and 400 <= error.status < 500
            sent = self._led[batch.tag].input_file_id and not refused
            reply = Reply(at_creation(error, self._endpoint), attempts=0, endpoint_at_fault=True)
            await self._end(batch, "" if sent else "refused", dict.fromkeys(batch.rows, reply))
            return
        group.create_task(self._follow(client, made))

    async def _make(self, client: BatchClient, batch: OpenBatch, content: bytes | None) -> OpenBatch:
        """The batch with its id at the provider; without one when there is nothing at the provider."""
        perhaps_made = bool(batch.input_file_id)
        if content is not None:
            batch = replace(batch, input_file_id=await client.upload(f"tapir-{batch.tag}.jsonl", content))
            await self._write(partial(note_batch, tag=batch.tag, input_file_id=batch.input_file_id))
            self._led[batch.tag] = batch
        if batch.input_file_id and not batch.provider_id:
            batch = replace(batch, provider_id=await client.create(batch, perhaps_made=perhaps_made))
            self._led[batch.tag] = batch
            await self._write(partial(note_batch, tag=batch.tag, provider_id=batch.provider_id))
            logger.info("batch %s of %d requests is at %s", batch.provider_id, len(batch.rows), batch.address)
            self._books.meter.sent += len(batch.rows)
        return batch

    async def _follow(self, client: BatchClient, batch: OpenBatch) -> None:
        """Wait for a batch's end and take its replies apart; what failed is asked again."""
        if not batch.provider_id or not batch.rows:
            await self._end(batch, "dropped", {})
            return
        try:
            status = await self._wait_for_end(client, batch)
            again = await store_results(
                client, self._books.store, self._endpoint, batch, status, bring=self._count_and_bring
            )
            state = status.status
        except ProviderError as error:
            lost = is_lost(error, batch, self._endpoint, self._limits)
            failure = while_away(error, batch, self._endpoint, self._limits)
            again = dict.fromkeys(batch.rows, Reply(failure, attempts=0, endpoint_at_fault=not lost))
            state = LOST if lost else ""
        await self._end(batch, state, again)

    async def _wait_for_end(self, client: BatchClient, batch: OpenBatch) -> BatchStatus:
        pause = min(_FIRST_PAUSE_SECONDS, self._limits.poll_seconds)
        while not (status := await client.show(batch.provider_id)).is_final:
            await asyncio.sleep(pause)
            pause = min(2 * pause, self._limits.poll_seconds)
        return status

    async def _end(self, batch: OpenBatch, state: str, again: Mapping[str, Reply]) -> None:
        """A batch has ended with ``state``, or is left to who asks next if that is empty; ``again`` failed in it."""
        change = partial(end_batch, tag=batch.tag, state=state) if state else partial(leave_batch, tag=batch.tag)
        await self._write(change)
        self._lead_no_more(batch)
        least = self._limits.poll_seconds if state == "failed" else 0.0
        await self._ask_again(batch, again, least_pause_seconds=least)

    def _lead_no_more(self, batch: OpenBatch) -> None:
        del self._led[batch.tag]
        self._books.ended += len(batch.rows)

    async def _ask_again(self, batch: OpenBatch, failed: Mapping[str, Reply], *, least_pause_seconds: float) -> None:
        """Let failed requests be asked in another batch, all together, or tell that they have failed too often."""
        pauses = [0.0]
        for key in failed.keys() & self._missing.keys():
            reply = failed[key]
            outcome, counts = reply.outcome, self._failed.setdefault(key, Counter())
            assert isinstance(outcome, Failure)
            counts[outcome.kind] += 1
            pause = pause_before_retry(
                self._config, kind=outcome.kind, failed=counts, retry_after_seconds=None, rng=self._rng
            )
            if pause is None or reply.endpoint_at_fault:
                failure = replace(outcome, attempts=counts.total())
                self._count_and_bring(key, replace(reply, outcome=failure))
            else:
                pauses.append(max(pause, least_pause_seconds))
        await asyncio.sleep(max(pauses))
        self._away.difference_update(batch.rows)
        self._news.set()

    async def _wait(self, pause: float) -> None:
        """Until a batch has ended, or until it is time to see what others bring."""
        others = bool(self._here())
        with suppress(TimeoutError):
            await asyncio.wait_for(self._news.wait(), pause if others else None)

    def _bring(self, key: str, outcome: Outcome, shared: bool) -> None:
        # A batch that was taken over may answer more than was asked for here.
        if self._missing.pop(key, None) is not None:
            self._tell(key, outcome, shared)

    def _count_and_bring(self, key: str, reply: Reply) -> None:
        self._books.meter.count_reply(reply)
        self._bring(key, reply.outcome, False)

    def _leave_all(self) -> None:
        for batch in list(self._led.values()):
            self._books.store.lead(partial(leave_batch, tag=batch.tag))
            self._lead_no_more(batch)
            if batch.provider_id:
                logger.warning(
                    "batch %s with %d requests goes on at %s; the same command takes its answers",
                    batch.provider_id,
                    len(batch.rows),
                    batch.address,
                )

    async def _write(self, write: Change) -> Any:
        # Shielded: an interrupt must not take back what is on its way into the store.
        return await asyncio.shield(asyncio.wrap_future(self._books.store.lead(write)))


def _at_batch_prices(endpoint: Endpoint) -> Endpoint:
    """An endpoint of live calls, for what went into a batch before."""
    factor = MODE_FACTORS["batch"]
    return replace(
        endpoint,
        usd_per_million_prompt_tokens=factor * endpoint.usd_per_million_prompt_tokens,
        usd_per_million_completion_tokens=factor * endpoint.usd_per_million_completion_tokens,
    )
