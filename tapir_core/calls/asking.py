"""Lists of requests whose replies are parsed; a request whose reply cannot be parsed is sent again.

Parsing is free and separate from asking: every raw reply stays in the store, so a second run parses the same replies
and pays nothing. A re-ask is the same request under another sample index, and so with another seed. At temperature 0
another seed changes nothing, so the re-ask shows the reply and asks for what is missing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Generic, TypeVar

from tapir_core.calls import types
from tapir_core.calls.engine import CallEngine
from tapir_core.text import MISSING, Unparsed

T = TypeVar("T")

REASK_STRIDE = 1_000_000
"""Re-ask k of sample i has sample index ``i + k * REASK_STRIDE``. Samples are numbered below it, so none collide."""


@dataclass(frozen=True, slots=True)
class Parsed(Generic[T]):
    """The result of one request."""

    value: T | None
    """The parsed last reply; None if the request failed or no reply could be parsed."""
    reason: str
    """Why there is no value: the parser's reason, or the failure's kind. Empty if there is a value."""
    outcomes: tuple[types.Outcome, ...]
    """One for each time it was sent; all but the last are answers that could not be parsed."""

    @property
    def outcome(self) -> types.Outcome:
        """The last outcome."""
        return self.outcomes[-1]

    @property
    def counts_as(self) -> types.Outcome:
        """The last outcome; if it could not be parsed, the failure ``bad_reply`` with the reply."""
        if isinstance(self.outcome, types.Failure) or not self.reason:
            return self.outcome
        return types.Failure("bad_reply", f"{self.reason}: {self.raw}", attempts=len(self.outcomes))

    @property
    def raw(self) -> str:
        """Text of the last reply; empty if the request failed."""
        return self.outcome.text if isinstance(self.outcome, types.Answer) else ""

    @property
    def retryable(self) -> bool:
        """True if a later retry may succeed."""
        return isinstance(self.outcome, types.Failure) and self.outcome.retryable


def ask_read(
    engine: CallEngine,
    requests: Sequence[types.Request],
    source: types.EndpointSource,
    read: Callable[[int, types.Answer], T | Unparsed],
    reasks: int,
    watch: types.Watch = types.UNWATCHED,
) -> list[Parsed[T]]:
    """Outcomes of ``requests`` with their parsed values, in their order.

    ``read`` gets the position of a row and its answer. If it returns `Unparsed`, the row is sent again, at most
    ``reasks`` times. ``watch`` gets each row once, when nothing more will be asked for it, with what it
    `counts_as`. Its first rows are finished before any other row is asked, so that a list whose replies cannot be read
    is stopped early.
    """
    endpoint = cache(source)
    parsed: list[Parsed[T]] = [Parsed(None, "", ())] * len(requests)
    rows: Sequence[int] = ()

    def take(place: int, outcome: types.Outcome) -> None:
        row = rows[place]
        parsed[row] = Parsed(*_read(row, outcome, read), (*parsed[row].outcomes, outcome))
        if not is_asked_again(row):
            watch.on_outcome(row, parsed[row].counts_as)

    def is_asked_again(row: int) -> bool:
        last = parsed[row]
        return len(last.outcomes) <= reasks and isinstance(last.outcome, types.Answer) and bool(last.reason)

    for rows in (range(min(watch.first, len(requests))), range(watch.first, len(requests))):
        while rows:
            asked = [_next(requests[row], parsed[row].outcomes[-1:], len(parsed[row].outcomes)) for row in rows]
            engine.ask(asked, endpoint, replace(watch, on_outcome=take))
            rows = [row for row in rows if is_asked_again(row)]
    return parsed


def forget_unread(
    engine: CallEngine,
    requests: Sequence[types.Request],
    read: Callable[[int, types.Answer], T | Unparsed],
    reasks: int,
) -> int:
    """Delete the stored replies of all requests that `ask_read` cannot parse, so that they are sent again.

    Replies of a later start that can be parsed stay, so a process that was killed half-way sends only the rest. Returns
    the number of deleted replies.
    """
    unread: dict[int, list[types.Request]] = {row: [] for row in range(len(requests))}
    asked = dict(enumerate(requests))
    for reask in range(1, reasks + 2):
        stored, following = engine.stored([*asked.values()]), dict[int, types.Request]()
        for row, each in asked.items():
            outcome = stored.get(each.key)
            if outcome is not None and _read(row, outcome, read)[1]:
                unread[row].append(each)
                following[row] = _next(requests[row], [outcome], reask)
            elif outcome is not None:
                unread[row] = []
        asked = following
    return engine.forget([each for of_row in unread.values() for each in of_row])


def _read(row: int, outcome: types.Outcome, read: Callable[[int, types.Answer], T | Unparsed]) -> tuple[T | None, str]:
    """The parsed value of an outcome, or None and the reason."""
    value = Unparsed(outcome.kind) if isinstance(outcome, types.Failure) else read(row, outcome)
    return (None, value.reason) if isinstance(value, Unparsed) else (value, "")


def _next(request: types.Request, said: Sequence[types.Outcome], reask: int) -> types.Request:
    """The request as it is sent after the outcome ``said``; the request itself if there is none."""
    index = request.sample_index
    assert index < REASK_STRIDE, "sample indices must stay below the stride of re-asks"
    messages = request.messages
    for reply in said:
        if request.sampling.temperature == 0 and isinstance(reply, types.Answer) and reply.text.strip():
            messages += (types.Message("assistant", reply.text), types.Message("user", MISSING))
    return replace(request, messages=messages, sample_index=index + reask * REASK_STRIDE) if reask else request
