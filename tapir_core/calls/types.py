"""The values of the paid-call engine: what is asked, what comes back, and where it is asked.

Grain: one `Request` is one sample of one prompt. Its outcome is a value, never an exception: `Answer` or `Failure`.
"""

import ipaddress
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal
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
"""Replies in a row, over all starts, that are the same and bring no answer: then a row has its outcome."""
GREETING = "Say hello."
"""What a server is asked that fails one request again and again: who answers it is at work."""

BATCH_FACTOR = 0.5
"""Share of the list price that a Batch API charges."""

TERMINAL: frozenset[FailureKind] = frozenset(
    {"refused", "too_long", "bad_request", "used_up", "no_answer", "bad_reply"}
)


@dataclass(frozen=True, slots=True)
class Message:
    """One chat message."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True, slots=True)
class Request:
    """One sample of one prompt, for one model."""

    role: Role
    messages: tuple[Message, ...]
    model: str
    identity: str
    """Name of what answers: provider and revision, a checkpoint's digest, the stand-in's version."""
    sampling: Sampling
    sample_index: int = 0
    """Tells repeats of the same prompt apart; also the seed sent to the provider when the temperature is above 0."""
    top_logprobs: int = 0
    """How many of the most likely first tokens are asked for with their log-probabilities; 0 asks for none."""
    prompt_version: str = ""
    """First 12 hex digits of the prompt file's digest; empty for a bare instruction. A column, not part of the key."""
    run: str = ""
    """Name of the run that asks. A column, not part of the key."""
    schema: str = ""
    """JSON schema that the reply has to obey, as canonical JSON; empty where it is text."""

    @property
    def key(self) -> str:
        """Store key: what the provider sees, plus identity and sample index (architecture.md, Calls)."""
        seen: dict[str, object] = {
            "model": self.model,
            "messages": [[message.role, message.content] for message in self.messages],
            "sampling": self.sampling.model_dump(),
            "identity": self.identity,
            "sample_index": self.sample_index,
        }
        if self.top_logprobs:
            seen["top_logprobs"] = self.top_logprobs
        if self.schema:
            seen["schema"] = self.schema
        return digest(seen)


@dataclass(frozen=True, slots=True)
class Answer:
    """A reply that was received and is stored."""

    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    usd: float = 0.0
    """Price of this call when it was paid."""
    stored: bool = False
    """True when it came from the store and cost nothing now."""
    logprobs: tuple[tuple[str, float], ...] = ()
    """The most likely first tokens, each with the natural logarithm of its probability; empty where none came."""
    timing: Timing | None = field(default=None, compare=False)
    """How long it took; nothing of what came from the store or through a Batch API."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A request without a usable reply."""

    kind: FailureKind
    message: str
    attempts: int = 0
    stored: bool = False
    parameter: str = ""
    """Of what is `unsupported`, the field of the request that the endpoint names."""
    said: str = ""
    """The provider's own words, where the message says more."""
    refuses_all: bool = False
    """Whether the endpoint was given up because it refuses every request: nothing is gained by another try."""

    @property
    def retryable(self) -> bool:
        """True when asking again later may succeed; such a failure is never stored."""
        return self.kind not in TERMINAL


Outcome = Answer | Failure

_REMEDIES = {
    "temperature": 'Set temperature = "provider" in the sampling, which leaves it out',
    "top_p": 'Set top_p = "provider" in the sampling, which leaves it out',
    "max_tokens": 'Set tokens_field = "max_completion_tokens" in the endpoint',
    "max_completion_tokens": 'Set tokens_field = "max_tokens" in the endpoint',
    "seed": "Set seed = false in the endpoint",
    "response_format": 'Set judge.replies and teacher.label_replies to "text"',
}
"""Of fields that an endpoint may refuse."""


def unsupported_remedy(parameter: str) -> str:
    """What to do when an endpoint refuses a field of every request."""
    other = f"Change or leave out what sets {parameter} (reasoning_effort, extra_body of the endpoint)"
    return _REMEDIES.get(parameter, other)


@dataclass(frozen=True, slots=True)
class LiveAddress:
    """One address of a model whose addresses come and go while it is asked, with its own key."""

    base_url: str
    concurrency: int
    """Most calls in flight."""
    api_key: str | None = field(default=None, repr=False)


class LiveAddresses:
    """The addresses that there are now: what `Endpoint.live` holds. Thread-safe.

    Who serves the model says which there are, from any thread; the pool of the endpoint's line follows. Limits: nothing
    here looks at an address, and an empty set means *wait* until it is given up.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition(threading.RLock())
        self.now: frozenset[LiveAddress] = frozenset()
        """Those that there are."""
        self.reason = ""
        """Why nobody need wait for one any more; empty while somebody may come."""
        self._followers: list[Callable[[], None]] = []

    def set(self, addresses: Iterable[LiveAddress], *, given_up: str = "") -> None:
        """Say which there are. That there are none is no reason to give up; ``given_up`` says why none will come."""
        with self._changed:
            self.now, self.reason = frozenset(addresses), given_up
            self._changed.notify_all()
            for tell in self._followers:
                tell()

    def give_up(self, reason: str) -> None:
        """Say that there are none and that none will come."""
        self.set((), given_up=reason)

    def wait(self, seconds: float) -> bool:
        """Wait until there is one or they are given up; whether that came within ``seconds``."""
        with self._changed:
            return self._changed.wait_for(lambda: bool(self.now or self.reason), timeout=seconds)

    def follow(self, tell: Callable[[], None]) -> None:
        """Call ``tell`` after each change, in the thread that makes it."""
        with self._changed:
            self._followers.append(tell)

    def unfollow(self, tell: Callable[[], None]) -> None:
        """Call it no more; when this returns no call is under way."""
        with self._changed:
            self._followers.remove(tell)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Addresses that answer, with what is needed to call them. Never written anywhere: it may hold a key."""

    base_url: str
    concurrency: int
    """Most calls in flight to one address."""
    api_key: str | None = field(default=None, repr=False)
    api_key_env: str | None = None
    """Environment variable that the key came from; named when the endpoint refuses the key."""
    api_key_file: str | None = None
    """File that the key came from, if it was a file."""
    usd_per_million_prompt_tokens: float = 0.0
    usd_per_million_completion_tokens: float = 0.0
    more_base_urls: tuple[str, ...] = ()
    """Other addresses of the same model and key; load is balanced over all of them."""
    requests_per_minute: float | None = None
    """Most requests that one address is sent in a minute; nothing where only its headers say."""
    tokens_per_minute: float | None = None
    """Most prompt and completion tokens that one address is asked for in a minute."""
    batch: BatchConfig | None = None
    """How its Batch API is used; nothing where each request is a call of its own. Then prices are a batch's."""
    more_secrets: tuple[str, ...] = field(default=(), repr=False)
    """What headers, query and body carry that is kept out of replies as the key is."""
    key_header: str = "Authorization"
    """Header that carries the key."""
    headers: Mapping[str, str] = field(default_factory=dict, hash=False, repr=False)
    """More headers of every request."""
    query: Mapping[str, str] = field(default_factory=dict, hash=False, repr=False)
    """What is added to every address."""
    proxy: str | None = None
    """HTTP proxy; nothing: that of the environment; empty: none, whatever the environment says."""
    body_fields: Mapping[str, Any] = field(default_factory=dict, hash=False, repr=False)
    """More fields of every request, in place of ours of the same name."""
    tokens_field: str = "max_tokens"
    """What it calls the longest answer."""
    seed: bool = True
    """Whether a drawn sample carries its number as `seed`."""
    thinking: Literal["strip", "keep"] = "strip"
    """What becomes of thoughts that an answer begins with."""
    timeout_seconds: float | None = None
    """Longest wait for one reply, where it is not that of `CallsConfig`."""
    is_slow: bool = False
    """Whether it may be one processor: it is asked little at first, and more while its answers come soon."""
    live: LiveAddresses | None = None
    """Addresses that come and go, each with its own key and concurrency; then `base_url` is only a name for them."""

    @property
    def key_place(self) -> str:
        """Where the key came from, in words; empty for a server without keys."""
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
"""Gives the endpoint when a call must be made, and only then: a stored answer starts no server."""

OnOutcome = Callable[[int, Outcome], None]
"""Told the position of a request in its list and its outcome, in the asking thread, as soon as it is committed."""

IsStopped = Callable[[], bool]
"""Asked before a request of a list is sent, on the event loop: whether it is not to be."""


def never_stopped() -> bool:
    """The list is asked to its end."""
    return False


def is_local(base_url: str) -> bool:
    """Whether an address is on this machine or in its own network."""
    host = urlsplit(base_url).hostname or ""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        # A name without a dot is one of this network: no provider on the internet has one.
        return "." not in host or host.endswith((".local", ".localhost", ".internal"))
    return address.is_private or address.is_loopback or address.is_link_local
