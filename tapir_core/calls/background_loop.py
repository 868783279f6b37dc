"""One event loop in one thread, jobs on it that other threads can wait for and cancel, and their groups of tasks."""

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from concurrent.futures import Future
from contextlib import asynccontextmanager
from typing import Any

from tapir_core.errors import Stopped


@asynccontextmanager
async def task_group() -> AsyncIterator[asyncio.TaskGroup]:
    """A group of tasks; the first error among them is raised as itself."""
    try:
        async with asyncio.TaskGroup() as group:
            yield group
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None


class Job:
    """A coroutine on the loop, seen from the thread that started it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, on_end: Callable[[], None]) -> None:
        self._loop = loop
        self._on_end = on_end
        self._task: asyncio.Task[None] | None = None
        self._ended: Future[None] = Future()

    def begin(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Start; called on the loop."""
        self._task = self._loop.create_task(coroutine)
        self._task.add_done_callback(self._end)

    def cancel(self) -> None:
        """Ask the job to end early; one that has ended stays as it is."""
        if not self._ended.done():
            self._loop.call_soon_threadsafe(self._cancel)

    def result(self) -> None:
        """Wait for the end.

        Raises:
            Stopped: the loop was closed before the job was done.
            Exception: what the job raised.
        """
        self._ended.result()

    def _cancel(self) -> None:
        # The loop runs `begin` before it, for it was scheduled before it.
        assert self._task is not None
        self._task.cancel()

    def _end(self, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            stopped = "the calls were stopped while some were in flight; what was received is stored"
            self._ended.set_exception(Stopped(stopped))
        elif error := task.exception():
            self._ended.set_exception(error)
        else:
            self._ended.set_result(None)
        self._on_end()


class BackgroundLoop:
    """Started at once; a daemon thread, so that a process that forgets to close it still ends."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._lock = threading.Lock()
        self._closed = False
        self._thread = threading.Thread(target=self._loop.run_forever, name=name, daemon=True)
        self._thread.start()

    def start(self, coroutine: Coroutine[Any, Any, None], *, on_end: Callable[[], None]) -> Job:
        """Run ``coroutine`` on the loop; ``on_end`` is called there when it has ended, in whatever way.

        Raises:
            Stopped: the loop is closed.
        """
        # Under the lock, so that `close` comes after every job that was let in and finds it.
        with self._lock:
            if self._closed:
                coroutine.close()
                raise Stopped("the call engine is closed; start the command again, what was received is stored")
            job = Job(self._loop, on_end)
            self._loop.call_soon_threadsafe(job.begin, coroutine)
            return job

    def close(self, finish: Callable[[], Awaitable[None]]) -> None:
        """Cancel every job, await ``finish()`` on the loop, end the thread. Closing twice is the same as once."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        asyncio.run_coroutine_threadsafe(self._shut_down(finish), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _shut_down(self, finish: Callable[[], Awaitable[None]]) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await finish()
