"""Tags of run, round and stage that a task run gets once it works, not when it begins.

A task run that begins with tags makes Prefect ask its server for a concurrency limit of each. A server on SQLite that
is writing other task runs down answers that its database is locked, and Prefect's client sleeps for two seconds before
it asks again (3.8): more than most stages work. Limits: a task run shows these tags when it has ended or failed once,
and a concurrency limit of such a tag holds nothing back. A tag that should, such as `gpu`, is the task's own.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from prefect.context import TagsContext, TaskRunContext

__all__ = ["late_tags", "tag_task_run"]

_LATE: ContextVar[frozenset[str]] = ContextVar("late_tags", default=frozenset())


@contextmanager
def late_tags() -> Iterator[None]:
    """Tasks of the block begin without the tags of Prefect's context and get them from `tag_task_run`."""
    token = _LATE.set(frozenset(TagsContext.get().current_tags))
    try:
        with TagsContext(current_tags=set()):
            yield
    finally:
        _LATE.reset(token)


def tag_task_run(*tags: str) -> None:
    """Called in a task: its run carries ``tags`` and the late ones from its next state on; outside a task, nothing."""
    context = TaskRunContext.get()
    if context is not None:
        context.task_run.tags = sorted({*context.task_run.tags, *_LATE.get(), *tags})
