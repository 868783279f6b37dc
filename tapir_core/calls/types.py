"""The values of the paid-call engine: requests, their outcomes and costs, and endpoints.

Grain: one `Request` is one sample of one prompt. Its outcome is a value, never an exception: `Answer` or `Failure`.
"""

import ipaddress
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self
from urllib.parse import urlsplit

from tapir_core.calls.timing import Timing
from tapir_core.config import BatchConfig, Role, Sampling
from tapir_core.text import digest

FailureKind = Literal[
    "refused",  # terminal: the provider's typed refusal or content filter
    "too_long",  # terminal: the prompt does not fit the model's context
    "bad_request",  # terminal: the provider calls the request itself wrong (400, 404, 422)
    "used_up",  # terminal: the model spent all its tokens on thinking, and none on an answer
    "no_answer",  # terminal: the same reply without an answer three times, or thoughts alone
    "bad_reply",  # terminal, never stored: no parsable reply after every re-ask, or cut off where it must be whole
    "unauthorized",  # retryable: the key is wrong or lacks rights (401, 403)
    "rate_limited",  # retryable: 429 until the attempts ran out
    "unsupported",  # retryable: the endpoint refuses a field of every request, such as a temperature
    "server",  # retryable: 5xx, or a body that is no chat completion
    "timeout",  # retryable
    "connection",  # retryable: refused, reset, or the endpoint was given up
    "budget",  # retryable: the cap is reached, nothing was sent
    "stopped",  # retryable: this process was told to send nothing more
]
MOST_USELESS = 3
"""After so many equal replies in a row without an answer, over all starts, the row is a terminal failure."""
GREETING = "Say hello."
"""Sent to a server that keeps failing one request: a reply shows that the server works."""

BATCH_FACTOR = 0.5
"""Share of the list price that a Batch API charges."""

TERMINAL: frozenset[FailureKind] = frozenset(
    {"refused", "too_long", "bad_request", "used_up", "no_answer", "bad_reply"}
)


@dataclass(frozen=True, slots=True)
class Message:
    """One chat message."""

    role: Literal["system", "tools", "user", "assistant"]
    content: str


@dataclass(frozen=True, slots=True)
class Scored:
    """An answer as token ids, whose log-probabilities are asked for instead of an answer; of vLLM only."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]
    top_k: int = 0
    """How many of the likeliest tokens of each place to return beside the answer's own."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """An answer token by token; logarithms are natural, at temperature 1."""

    prompt: tuple[int, ...]
    ids: tuple[int, ...]
    log_probs: tuple[float, ...]
    """Of each of ``ids``."""
    top: tuple[tuple[tuple[int, float], ...], ...] = ()
    """Of each place the likeliest tokens with their log-probabilities, where they were asked for."""


@dataclass(frozen=True, slots=True)
class Request:
    """One sample of one prompt, for one model."""

    role: Role
    messages: tuple[Message, ...]
    model: str
    identity: str
    """Names who answers: provider and revision, a checkpoint's digest, the stand-in's version."""
    sampling: Sampling
    sample_index: int = 0
    """Tells repeats of the same prompt apart; also the seed sent to the provider when the temperature is above 0."""
    top_logprobs: int = 0
    """How many of the most likely first tokens to return with log-probabilities; 0 asks for none."""
    prompt_version: str = ""
    """First 12 hex digits of the prompt file's digest; empty for a bare instruction. A column, not part of the key."""
    run: str = ""
    """Name of the run. A column, not part of the key."""
    schema: str = ""
    """JSON schema that the reply has to follow, as canonical JSON; empty for a text reply."""
    with_tokens: bool = False
    """Whether the answer comes with its `Tokens`; of vLLM only."""
    scored: Scored | None = None
    """In place of ``messages``."""

    @property
    def key(self) -> str:
        """Store key: what the provider sees, plus identity and sample index (docs/calls.md)."""
        scored = self.scored and [self.scored.prompt, self.scored.answer, self.scored.top_k]
        only_where_asked_for = {
            "top_logprobs": self.top_logprobs,
            "schema": self.schema,
            "tokens": self.with_tokens,
            "scored": scored,
        }
        return digest(
            {
                "model": self.model,
                "messages": [[message.role, message.content] for message in self.messages],
                "sampling": self.sampling.model_dump(),
                "identity": self.identity,
                "sample_index": self.sample_index,
                **{name: value for name, value in only_where_asked_for.items() if value},
            }
        )


@dataclass(frozen=True, slots=True)
class Answer:
    """A reply that was received and stored."""

    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    usd: float = 0.0
    """Price of the call when it was paid."""
    stored: bool = False
    """True if it came from the store and cost nothing now."""
    logprobs: tuple[tuple[str, float], ...] = ()
    """The most likely first tokens with the natural logarithms of their probabilities; empty if none came."""
    tokens: Tokens | None = None
    """Of a request that asks for them."""
    timing: Timing | None = field(default=None, compare=False)
    """How long it took; None for answers from the store or a Batch API."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A request without a usable reply."""

    kind: FailureKind
    message: str
    attempts: int = 0
    stored: bool = False
    parameter: str = ""
    """For `unsupported`: the field of the request that the endpoint names."""
    said: str = ""
    """The provider's own words, if the message says more."""
    refuses_all: bool = False
    """True if the endpoint was given up because it refuses every request, so that a retry is useless."""

    @property
    def retryable(self) -> bool:
        """True if a later retry may succeed. Such a failure is never stored."""
        return self.kind not in TERMINAL


Outcome = Answer | Failure


@dataclass(frozen=True, slots=True)
class Spend:
    """What was spent, over all starts and processes, including what is booked for attempts of unknown cost."""

    requests: int = 0
    """Attempts that went out."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    usd: float = 0.0
    seconds: float = 0.0
    """Time that was worked on such requests."""

    @property
    def tokens(self) -> int:
        """Prompt and completion tokens."""
        return self.prompt_tokens + self.completion_tokens

    def __add__(self, other: "Spend") -> "Spend":
        return Spend(
            self.requests + other.requests,
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.usd + other.usd,
            self.seconds + other.seconds,
        )

    def __sub__(self, other: "Spend") -> "Spend":
        return Spend(
            self.requests - other.requests,
            self.prompt_tokens - other.prompt_tokens,
            self.completion_tokens - other.completion_tokens,
            self.usd - other.usd,
            self.seconds - other.seconds,
        )


_REMEDIES = {
    "temperature": 'Set temperature = "provider" in the sampling, which leaves it out',
    "top_p": 'Set top_p = "provider" in the sampling, which leaves it out',
    "max_tokens": 'Set tokens_field = "max_completion_tokens" in the endpoint',
    "max_completion_tokens": 'Set tokens_field = "max_tokens" in the endpoint',
    "seed": "Set seed = false in the endpoint",
    "response_format": 'Set judge.replies and teacher.label_replies to "text"',
}
"""Field that an endpoint may refuse → what to do."""


def unsupported_remedy(parameter: str) -> str:
    """What to do when an endpoint refuses a field of every request."""
    return _REMEDIES.get(
        parameter, f"Change or leave out what sets {parameter} (reasoning_effort, extra_body of the endpoint)"
    )


@dataclass(frozen=True, slots=True)
class LiveAddress:
    """One address of a model whose addresses come and go during a run, with its own key."""

    base_url: str
    concurrency: int
    """Most calls in flight."""
    api_key: str | None = field(default=None, repr=False)


class LiveAddresses:
    """The current addresses of a model: the value of `Endpoint.live`. Thread-safe.

    The server side sets them, from any thread; the endpoint's line follows. Limits: addresses are not checked here, and
    an empty set means *wait* until a reason to give up is set.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition(threading.RLock())
        self.now: frozenset[LiveAddress] = frozenset()
        """The current addresses."""
        self.reason = ""
        """Why no address will come any more; empty while one may."""
        self._followers: list[Callable[[], object]] = []

    def set(self, addresses: Iterable[LiveAddress], *, given_up: str = "") -> None:
        """Replace the addresses. An empty set is no reason to give up; ``given_up`` says why no address will come."""
        with self._changed:
            self.now, self.reason = frozenset(addresses), given_up
            self._changed.notify_all()
            for tell in self._followers:
                tell()

    def wait(self, seconds: float) -> bool:
        """Wait for an address or a reason to give up; returns whether one came within ``seconds``."""
        with self._changed:
            return self._changed.wait_for(lambda: bool(self.now or self.reason), timeout=seconds)

    def follow(self, tell: Callable[[], object]) -> None:
        """Call ``tell`` after each change, in the thread that makes it."""
        with self._changed:
            self._followers.append(tell)

    def unfollow(self, tell: Callable[[], object]) -> None:
        """Stop calling ``tell``; when this returns, no call is in progress."""
        with self._changed:
            self._followers.remove(tell)


@dataclass(frozen=True, slots=True, kw_only=True)
class Priced:
    """What takes USD for 1,000,000 tokens."""

    usd_per_million_prompt_tokens: float = 0.0
    usd_per_million_completion_tokens: float = 0.0

    def usd(self, prompt_tokens: float, completion_tokens: float) -> float:
        """Price of some tokens."""
        prompt = prompt_tokens * self.usd_per_million_prompt_tokens
        return (prompt + completion_tokens * self.usd_per_million_completion_tokens) / 1e6

    def in_mode(self, mode: Literal["live", "batch"]) -> Self:
        """The same at the price of requests in ``mode``, where this is that of live ones."""
        factor = BATCH_FACTOR if mode == "batch" else 1.0
        return replace(
            self,
            usd_per_million_prompt_tokens=factor * self.usd_per_million_prompt_tokens,
            usd_per_million_completion_tokens=factor * self.usd_per_million_completion_tokens,
        )


@dataclass(frozen=True, slots=True)
class Endpoint(Priced):
    """Addresses of one model, with what is needed to call them. Never written anywhere: it may hold a key."""

    base_url: str
    concurrency: int
    """Most calls in flight to one address."""
    api_key: str | None = field(default=None, repr=False)
    api_key_env: str | None = None
    """Environment variable of the key; named when the endpoint refuses the key."""
    api_key_file: str | None = None
    """File of the key, if it came from a file."""
    more_base_urls: tuple[str, ...] = ()
    """Other addresses of the same model and key; load is balanced over all of them."""
    requests_per_minute: float | None = None
    """Most requests sent to one address in a minute; None if only its headers say."""
    tokens_per_minute: float | None = None
    """Most prompt and completion tokens requested of one address in a minute."""
    batch: BatchConfig | None = None
    """How to use its Batch API; then prices are those of batches. None if each request is a call of its own."""
    more_secrets: tuple[str, ...] = field(default=(), repr=False)
    """Secrets in headers, query and body; removed from replies like the key."""
    key_header: str = "Authorization"
    """Header that carries the key."""
    headers: Mapping[str, str] = field(default_factory=dict, hash=False, repr=False)
    """Extra headers of every request."""
    query: Mapping[str, str] = field(default_factory=dict, hash=False, repr=False)
    """Query parameters of every request."""
    proxy: str | None = None
    """HTTP proxy; None: that of the environment; empty: no proxy, whatever the environment says."""
    body_fields: Mapping[str, Any] = field(default_factory=dict, hash=False, repr=False)
    """Extra fields of every request; they replace ours of the same name."""
    tokens_field: str = "max_tokens"
    """Its name for the limit on an answer's tokens."""
    seed: bool = True
    """Whether the sample index is sent as `seed`."""
    thinking: Literal["strip", "keep"] = "strip"
    """Whether the thoughts at the beginning of an answer are removed."""
    timeout_seconds: float | None = None
    """Longest wait for one reply, if not that of `CallsConfig`."""
    is_slow: bool = False
    """True if it may be a single processor: few calls at first, and more while answers come quickly."""
    live: LiveAddresses | None = None
    """Addresses that come and go, each with its own key and concurrency; `base_url` is then only their name."""

    @property
    def key_place(self) -> str:
        """Where the key came from, for messages; empty for a server without keys."""
        if self.api_key_file:
            return f"the file {self.api_key_file}"
        return f"the environment variable {self.api_key_env}" if self.api_key_env else ""

    @property
    def key_remedy(self) -> str:
        """What to do when the endpoint refuses the key."""
        if self.key_place:
            return f"Put a key that is valid there into {self.key_place}"
        return "Name the environment variable of a valid key in api_key_env, or its file in api_key_file"

    @property
    def base_urls(self) -> tuple[str, ...]:
        """Every address."""
        return self.base_url, *self.more_base_urls


EndpointSource = Callable[[], Endpoint]
"""Returns the endpoint. Called only when a call must be made: a stored answer starts no server."""


@dataclass(frozen=True, slots=True)
class Watch:
    """Follows a list of requests while the engine works on it."""

    on_outcome: Callable[[int, Outcome], object] = lambda place, outcome: None
    """Called with a request's position in its list and its outcome, in the caller's thread, once it is committed."""
    is_stopped: Callable[[], bool] = lambda: False
    """Called on the event loop before a request is sent. Once it is true, no more requests of the list are sent."""
    first: int = 0
    """For `ask_read`: so many rows are finished, re-asks included, before any other row is asked."""


UNWATCHED = Watch()
"""Follows nothing."""


def is_local(base_url: str) -> bool:
    """Whether an address is on this machine or in its network."""
    host = urlsplit(base_url).hostname or ""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        # A name without a dot is one of this network: no provider on the internet has one.
        return "." not in host or host.endswith((".local", ".localhost", ".internal"))
    return address.is_private or address.is_loopback or address.is_link_local
