"""How fast endpoints answer: what `tapir doctor --try` measured, kept in the run root for the estimate of hours.

A reply takes a time that grows with its tokens; both parts are fitted to the replies of all roles. How many replies a
server works at is only asked of a local one, for it may be one processor; a provider takes what is configured.
"""

import statistics
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace

from pydantic import TypeAdapter, ValidationError

from tapir_core.paths import SPEEDS
from tapir_core.storage import Storage
from tapir_core.text import canonical_json


@dataclass(frozen=True, slots=True)
class EndpointSpeed:
    """Of one model at its addresses."""

    first_seconds: float
    """Of a reply, whatever its length: the wait, and the reading of a prompt."""
    token_seconds: float
    """Of each token of a reply, while it is the only one."""
    at_once: float | None = None
    """Replies that it works at; None where nobody tried."""

    @classmethod
    def fit(cls, replies: Sequence[tuple[float, float]]) -> "EndpointSpeed":
        """From one reply or more, each with its completion tokens and seconds; no part is below 0."""
        tokens, seconds = zip(*replies, strict=True)
        slope = statistics.linear_regression(tokens, seconds).slope if len(set(tokens)) > 1 else 0.0
        first = statistics.fmean(seconds) - slope * statistics.fmean(tokens)
        if slope < 0:
            return cls(statistics.fmean(seconds), 0.0)
        if first < 0:
            return cls(0.0, sum(seconds) / sum(tokens))
        return cls(first, slope)

    def seconds(self, tokens: float) -> float:
        """Of one reply of so many tokens, while it is the only one."""
        return self.first_seconds + tokens * self.token_seconds

    def beside_others(self, replies: Sequence[float], took: float) -> "EndpointSpeed":
        """With what replies that were asked for at once, each of so many tokens, took together, in seconds."""
        found = sum(map(self.seconds, replies)) / took
        return replace(self, at_once=max(1.0, found) if found < _ALL_AT_ONCE * len(replies) else _MAYBE * len(replies))

    @property
    def in_words(self) -> str:
        """For a reader."""
        together = f", about {self.at_once:.0f} at once" if self.at_once else ""
        return f"{self.first_seconds:.1f} s and {1000 * self.token_seconds:.0f} ms a token for a reply{together}"


_ALL_AT_ONCE, _MAYBE = 0.6, 2.5
"""Of the replies that were tried: a server that works at 0.6 of them works at all. It was not asked for more, and is
taken to work at 2.5 times as many."""
_JSON = TypeAdapter(dict[str, EndpointSpeed])


def known_speeds(root: str) -> dict[str, EndpointSpeed]:
    """By the place of an endpoint (`EndpointConfig.place`); what cannot be read is as if nobody had measured."""
    with suppress(FileNotFoundError, ValidationError):
        return _JSON.validate_json(Storage(root).read_bytes(SPEEDS))
    return {}


def keep_speeds(root: str, found: Mapping[str, EndpointSpeed]) -> None:
    """Write them beside those of other endpoints."""
    kept = {place: asdict(each) for place, each in (known_speeds(root) | dict(found)).items()}
    Storage(root).write_bytes(SPEEDS, canonical_json(kept).encode())
