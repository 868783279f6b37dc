"""How fast endpoints answer: measured by `tapir doctor --try`, kept in the run root for the estimate of hours.

A reply takes a constant time plus a time for each token; both are fitted to the replies of all roles. How many replies
a server works on at once is measured only for local ones, which may have one processor; a provider is assumed to take
the configured number.
"""

import statistics
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from pydantic import TypeAdapter, ValidationError

from tapir_core import paths, storage


@dataclass(frozen=True, slots=True)
class EndpointSpeed:
    """Speed of one model at its addresses."""

    first_seconds: float
    """Constant time of a reply: waiting, and reading the prompt."""
    token_seconds: float
    """Time of each token of a reply, if no other reply is in progress."""
    at_once: float | None = None
    """Replies that it works on at once; None if not measured."""

    @classmethod
    def fit(cls, replies: Sequence[tuple[float, float]]) -> "EndpointSpeed":
        """Fit one reply or more, each with its completion tokens and seconds; neither part is negative."""
        tokens, seconds = zip(*replies, strict=True)
        mean_tokens, mean_seconds = statistics.fmean(tokens), statistics.fmean(seconds)
        slope = statistics.linear_regression(tokens, seconds).slope if len(set(tokens)) > 1 else 0.0
        slope = min(max(0.0, slope), mean_seconds / (mean_tokens or 1.0))
        return cls(max(0.0, mean_seconds - slope * mean_tokens), slope)

    def seconds(self, tokens: float) -> float:
        """Time of one reply of so many tokens, if no other is in progress."""
        return self.first_seconds + tokens * self.token_seconds

    def beside_others(self, replies: Sequence[float], took: float) -> "EndpointSpeed":
        """With `at_once` by replies of so many tokens that were requested together and ``took`` so many seconds."""
        found = sum(map(self.seconds, replies)) / took
        return replace(self, at_once=max(1.0, found) if found < _ALL_AT_ONCE * len(replies) else _MAYBE * len(replies))

    @property
    def in_words(self) -> str:
        """The speed as a text."""
        together = f", about {self.at_once:.0f} at once" if self.at_once else ""
        return f"{self.first_seconds:.1f} s and {1000 * self.token_seconds:.0f} ms a token for a reply{together}"


_ALL_AT_ONCE, _MAYBE = 0.6, 2.5
"""A server that works on at least 0.6 of the tried replies at once is assumed to work on 2.5 times as many, because no
more were tried."""
_JSON = TypeAdapter(dict[str, EndpointSpeed])


def known_speeds(root: str) -> dict[str, EndpointSpeed]:
    """Speeds by the place of an endpoint (`EndpointConfig.place`); empty if the file cannot be read."""
    with suppress(FileNotFoundError, ValidationError):
        return _JSON.validate_json(storage.Storage(root).read_bytes(paths.SPEEDS))
    return {}


def keep_speeds(root: str, found: Mapping[str, EndpointSpeed]) -> None:
    """Write speeds beside those of other endpoints."""
    storage.Storage(root).write_bytes(paths.SPEEDS, _JSON.dump_json(known_speeds(root) | dict(found)))
