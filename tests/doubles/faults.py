"""What the stand-in fails on purpose: which requests, by share or by time, and how that looks on the wire.

Limits: shares are drawn from a request's body and from how often that body came before, so the same requests meet the
same faults in every run and in any order. Windows go by the server's clock: what falls into one depends on the client.
"""

import asyncio
import json
import math
import socket
import struct
import time
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from email.utils import formatdate
from hashlib import sha256
from itertools import chain
from pathlib import Path
from typing import Any, Literal, get_args

from aiohttp import web

from tapir_core.errors import ConfigError
from tapir_core.standin.rules import Kind, Refusal, read_ask
from tapir_core.standin.server import ChatReply, parse_chat

Outcome = Literal["answered", "refused", "rejected", "failed"]
"""How a request ended: `rejected` as wrong in itself, `failed` by a fault that was ordered."""

FaultKind = Literal["429", "500", "hang", "reset", "truncated", "empty", "filter", "model", "slow", "trickle"]
"""The names of the faults in specs, files, log and counts; docs/standin.md says what each does."""
FAULT_KINDS: tuple[FaultKind, ...] = get_args(FaultKind)

_SECONDS = ("retry_after_seconds", "slow_seconds")
_OPTIONS = (*_SECONDS, "retry_after_as", "seed")
_WINDOW_FIELDS = ("fault", "from_seconds", "to_seconds", "share")


@dataclass(frozen=True, slots=True)
class SentReply:
    """A reply as it is sent, and what is counted of it."""

    status: int
    body: dict[str, Any] | str
    """A text is sent as it is, all else as JSON."""
    outcome: Outcome
    kind: Kind | None
    """Nothing for a request that was not looked at."""
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """The body as it is sent."""
        return self.body if isinstance(self.body, str) else json.dumps(self.body)


def describe(asked: Any, reply: ChatReply) -> SentReply:
    """The stand-in's reply to a request's decoded JSON, with the kind of the request and how it ended."""
    if reply.status != 200:
        return SentReply(reply.status, reply.body, "rejected", None)
    chat = parse_chat(asked)
    kind: Kind = "answer"
    with suppress(Refusal):
        kind = read_ask(chat.messages, chat.seed).kind
    refused = reply.body["choices"][0]["message"]["refusal"] is not None
    return SentReply(200, reply.body, "refused" if refused else "answered", kind)


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch of time in which a fault strikes."""

    fault: FaultKind
    from_seconds: float
    """Begin, in seconds after the server's start."""
    to_seconds: float = math.inf
    """End, in seconds after the server's start; without one it never ends."""
    share: float = 1.0
    """Share of the requests inside the window that it strikes."""


@dataclass(frozen=True, slots=True)
class Faults:
    """A fault script. Without shares and windows it is false and strikes nothing.

    Raises:
        ConfigError: values are out of range; all of them are named.
    """

    shares: Mapping[FaultKind, float] = field(default_factory=dict)
    """Share of all requests by fault, 0–1 each and 0–1 in sum; a request meets one fault at most."""
    windows: tuple[Window, ...] = ()
    """Looked at before the shares; the first one that strikes counts."""
    retry_after_seconds: float = 1.0
    """What a 429 asks the client to wait; as a date it is rounded up to the next full second."""
    retry_after_as: Literal["seconds", "date"] = "seconds"
    """Form of the 429's `Retry-After`."""
    slow_seconds: float = 2.0
    """Wait before the head of a `slow` reply, and time in which the body of a `trickle` comes."""
    seed: int = 0
    """Another seed strikes other requests."""

    def __post_init__(self) -> None:
        if problems := [*self._problems()]:
            raise ConfigError(problems)

    def __bool__(self) -> bool:
        return bool(self.shares or self.windows)

    def draw(self, digest: str, seen: int, elapsed_seconds: float) -> FaultKind | None:
        """The fault that a request meets, if any.

        Args:
            digest: SHA-256 of the request's body.
            seen: how often the same body came before.
            elapsed_seconds: since the server's start.
        """
        for number, window in enumerate(self.windows):
            inside = window.from_seconds <= elapsed_seconds < window.to_seconds
            if inside and draw_unit(self.seed, "window", number, digest, seen) < window.share:
                return window.fault
        point = draw_unit(self.seed, "share", digest, seen)
        for kind, share in self.shares.items():
            if point < share:
                return kind
            point -= share
        return None

    def _problems(self) -> Iterator[str]:
        named = [(f"the share of {kind!r}", share) for kind, share in self.shares.items()]
        named += [(f"the share of the window of {window.fault!r}", window.share) for window in self.windows]
        wrong = [f"{name} is {share:g}: give a number from 0 to 1" for name, share in named if not 0 <= share <= 1]
        yield from wrong
        if not wrong and (total := sum(self.shares.values())) > 1 + 1e-9:
            yield f"the shares sum to {total:g}: lower some until they sum to 1 at most"
        for window in self.windows:
            if not 0 <= window.from_seconds < window.to_seconds:
                span = f"from {window.from_seconds:g} to {window.to_seconds:g} s"
                yield f"the window of {window.fault!r} goes {span}: begin it at 0 or later and end it after that"
        for name in _SECONDS:
            if not 0 <= getattr(self, name) < math.inf:
                yield f"{name} is {getattr(self, name):g}: give a number of seconds, 0 or more"


class FaultScript:
    """Faults at work in one server: remembers what came before and when the server started, and spoils replies."""

    def __init__(self, faults: Faults) -> None:
        self.faults = faults
        self.stopping = asyncio.Event()
        """Set when the server stops: it ends what hangs."""
        self._seen: Counter[str] = Counter()
        self._started = time.monotonic()

    def start(self) -> None:
        """Let the windows' clock begin now."""
        self._started = time.monotonic()

    def next_fault(self, content: bytes) -> FaultKind | None:
        """The fault that this request meets, if any; asked once for each request."""
        if not self.faults:
            return None
        digest = sha256(content).hexdigest()
        seen = self._seen[digest]
        self._seen[digest] += 1
        return self.faults.draw(digest, seen, time.monotonic() - self._started)

    def spoil(self, reply: SentReply, fault: FaultKind | None) -> SentReply:
        """The reply as the fault leaves it: an error in its place, or a completion that is cut, empty or filtered."""
        if fault in _ERRORS:
            return self.error(fault)
        # A request that is wrong in itself has no completion to distort: it is only rejected.
        if fault not in {"truncated", "empty", "filter"} or not isinstance(reply.body, dict) or reply.status != 200:
            return reply
        if fault == "truncated":
            return replace(reply, body=reply.text[: len(reply.text) // 2], outcome="failed")
        if fault == "empty":
            return replace(reply, body={**reply.body, "choices": []}, outcome="failed")
        message = {"role": "assistant", "content": None, "refusal": None}
        choice = {**reply.body["choices"][0], "message": message, "finish_reason": "content_filter"}
        return replace(reply, body={**reply.body, "choices": [choice]}, outcome="refused")

    def error(self, fault: FaultKind | None) -> SentReply:
        """The error that a 429, 500 or model fault sends, worded as OpenAI's."""
        status, error = _ERRORS[fault]
        headers = {"Retry-After": self._retry_after()} if fault == "429" else {}
        return SentReply(status, {"error": {"param": None, **error}}, "failed", None, headers)

    async def cut(self, request: web.Request, fault: FaultKind) -> web.Response:
        """Reset the connection: at once, or on a hang when the client goes or the server stops.

        The response is for aiohttp, which finds nobody to send it to.
        """
        while fault == "hang" and request.transport is not None and not self.stopping.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_SECONDS):
                    await self.stopping.wait()
        if request.transport is not None:
            connection = request.transport.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_AT_ONCE)
            request.transport.abort()
        return web.Response()

    async def trickle(self, request: web.Request, reply: SentReply) -> web.StreamResponse:
        """Send the head at once and the body piece by piece; stops when the client has gone."""
        content = reply.text.encode()
        size = math.ceil(len(content) / _PIECES)
        response = web.StreamResponse(status=reply.status, headers={"Content-Type": "application/json"})
        response.content_length = len(content)
        with suppress(ConnectionError):
            await response.prepare(request)
            for begin in range(0, len(content), size):
                await asyncio.sleep(self.faults.slow_seconds / _PIECES)
                await response.write(content[begin : begin + size])
        return response

    def _retry_after(self) -> str:
        if self.faults.retry_after_as == "date":
            return formatdate(math.ceil(time.time() + self.faults.retry_after_seconds), usegmt=True)
        return f"{self.faults.retry_after_seconds:g}"


def read_faults(text: str) -> Faults:
    """The fault script of a spec such as `429=0.1,hang@10-40,seed=7`, or of a TOML or JSON file of the same content.

    A text that ends in `.toml` or `.json` is a file's path; an empty spec strikes nothing.

    Raises:
        ConfigError: the file cannot be read, or names and values are wrong; all problems are named.
    """
    problems: list[str] = []

    def is_right(found: list[str]) -> bool:
        problems.extend(found)
        return not found

    if Path(text).suffix in {".toml", ".json"}:
        source, given = text, _load(Path(text))
    else:
        source, given = f"the faults {text!r}", _read_spec(text, problems)
    shares: dict[FaultKind, float] = {}
    windows: list[Window] = []
    options: dict[str, Any] = {}
    for name, value in given.items():
        if name == "shares" and isinstance(value, dict):
            shares = {kind: share for kind, share in value.items() if is_right(_share_problems(kind, share))}
        elif name == "windows" and isinstance(value, list):
            windows = [Window(**window) for window in value if is_right(_window_problems(window))]
        elif is_right(_option_problems(name, value)):
            options[name] = value
    try:
        faults = Faults(shares, tuple(windows), **options)
    except ConfigError as exc:
        raise ConfigError([*problems, *exc.problems], source=source) from exc
    if problems:
        raise ConfigError(problems, source=source)
    return faults


def _load(path: Path) -> Mapping[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
        value = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except (OSError, ValueError) as exc:
        raise ConfigError(f"the faults file {path} cannot be read: {exc}; name a readable TOML or JSON file") from exc
    if not isinstance(value, dict):
        raise ConfigError(f"the faults file {path} holds {value!r}: write an object with 'shares' and 'windows'")
    return value


def _read_spec(text: str, problems: list[str]) -> Mapping[str, Any]:
    """What a file would hold, of words with commas between them; ``problems`` gets those that are none of a spec."""
    shares: dict[str, Any] = {}
    windows: list[dict[str, Any]] = []
    options: dict[str, Any] = {}
    for word in filter(None, map(str.strip, text.split(","))):
        name, equals, value = (part.strip() for part in word.partition("="))
        kind, at, span = name.partition("@")
        begin, dash, end = map(_number_or_text, span.partition("-"))
        if at and dash:
            window = {"fault": kind, "from_seconds": begin, "share": _number_or_text(value) if equals else 1}
            windows.append(window | ({"to_seconds": end} if end != "" else {}))
        elif at:
            problems.append(f"{word!r} has no end: write {kind}@FROM-TO, or {kind}@FROM- for one that never ends")
        elif not equals:
            problems.append(f"{word!r} has no value: write NAME=SHARE, NAME@FROM-TO or OPTION=VALUE")
        elif name in shares:
            problems.append(f"the share of {name!r} is given twice, {shares[name]} and {value}: keep one")
        else:
            (options if name in _OPTIONS else shares)[name] = _number_or_text(value)
    return {"shares": shares, "windows": windows, **options}


def _share_problems(kind: Any, share: Any) -> list[str]:
    return _kind_problems(kind) or _number_problems(f"the share of {kind!r}", share)


def _window_problems(window: Any) -> list[str]:
    if not isinstance(window, dict) or not {"fault", "from_seconds"} <= set(window) <= set(_WINDOW_FIELDS):
        fields = ", ".join(_WINDOW_FIELDS)
        return [f"the window {window!r} is wrong: give it {fields} (the last two may be left out)"]
    where = f"of the window of {window['fault']!r}"
    numbers = [_number_problems(f"{name} {where}", value) for name, value in window.items() if name != "fault"]
    return [*_kind_problems(window["fault"]), *chain.from_iterable(numbers)]


def _option_problems(name: str, value: Any) -> list[str]:
    if name in _SECONDS:
        return _number_problems(name, value)
    if name == "retry_after_as":
        return [] if value in ("seconds", "date") else [f"retry_after_as is {value!r}: choose 'seconds' or 'date'"]
    if name == "seed":
        return [] if type(value) is int else [f"seed is {value!r}: give an integer"]
    known = ", ".join(("shares (a table)", "windows (a list of tables)", *_OPTIONS))
    return [f"{name!r} = {value!r} is not known here: there are {known}"]


def _kind_problems(kind: Any) -> list[str]:
    kinds, options = ", ".join(FAULT_KINDS), ", ".join(_OPTIONS)
    return [] if kind in FAULT_KINDS else [f"no fault {kind!r}: there are {kinds}; options are {options}"]


def _number_problems(name: str, value: Any) -> list[str]:
    return [] if type(value) in (int, float) else [f"{name} is {value!r}: give a number"]


def _number_or_text(text: str) -> int | float | str:
    for kind in (int, float):
        with suppress(ValueError):
            return kind(text)
    return text


def draw_unit(*words: object) -> float:
    """A number from 0 up to but not including 1; the same words give the same number in every process."""
    return int.from_bytes(sha256("|".join(map(str, words)).encode()).digest()[:6], "big") / 2**48


_LOOK_SECONDS = 0.05
"""A hanging request looks this often whether its client has gone."""
_PIECES = 10
"""Pieces in which a trickling body comes."""
_RESET_AT_ONCE = struct.pack("ii", 1, 0)
"""SO_LINGER on, for no time: closing sends a reset instead of a regular end."""
_ERRORS: Mapping[FaultKind | None, tuple[int, dict[str, str | None]]] = {
    "429": (429, {"message": "Rate limit reached, by order.", "type": "requests", "code": "rate_limit_exceeded"}),
    "500": (500, {"message": "The server had an error, by order.", "type": "server_error", "code": None}),
    "model": (
        404,
        {
            "message": "The model does not exist, by order.",
            "type": "invalid_request_error",
            "code": "model_not_found",
        },
    ),
}
"""Status and error of the faults that are an error in the reply's place."""
