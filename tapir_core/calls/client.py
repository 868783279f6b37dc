"""One attempt of one request at one address, through the `openai` SDK.

Every foreign error becomes a `Reply` with a typed failure here and nowhere else; an exception that leaves this module
is a bug. Chat completions go through the SDK's HTTP client, but without the SDK's options and typed values: these cost
more processor time than the request itself, and reject what other providers leave out.
"""

import asyncio
import json
import logging
import os
import re
from collections.abc import Awaitable
from dataclasses import replace
from functools import lru_cache
from typing import Any, TypeVar
from urllib.parse import quote, quote_plus, urlsplit

import aiohttp
import httpx2
import openai

from tapir_core import errors, proxies
from tapir_core.calls import types, wire, words
from tapir_core.calls.limits import read_rate_limits
from tapir_core.config import CallsConfig

logger = logging.getLogger(__name__)

T = TypeVar("T")

_REPLY_SECONDS, _SLOW_REPLY_SECONDS = 120.0, 900.0
"""Default of the longest wait for a reply; the second for an endpoint that may be slow."""

CONNECT_SECONDS = 10.0
"""Longest wait for a connection."""

LARGEST_REPLY_BYTES = 16 << 20
"""No answer of a model is that large."""

_PLAIN = re.compile(r"[^\W\d_]{1,15}|(?=.{,11}\Z)[^\W\d_]+(?:-[^\W\d_]+)+")
"""A word, or a few short ones, that appear in answers by chance: what is given to local servers in place of a key."""

_SHOWN_CHARACTERS = 500
"""Of a body, in a warning."""

_NAME_PARTS = re.compile(r"[^a-z0-9]")
"""Characters of a model's name that an alias may spell differently."""

_STOOD_STILL_SECONDS = 1.0
"""A timer that is later than this shows that the whole process was stopped."""
_READING_SECONDS = 10.0
"""Time to read replies that came meanwhile."""

_DIRECT: dict[str, Any] = dict.fromkeys(("http://", "https://", "all://"))
"""Ignores the proxies of the environment."""

_SHORTEST_SECRET = 8
"""A shorter key, such as `none` or `x`, is no secret, and its letters may appear in any reply."""

# Errors of aiohttp reach us bare where a reply is no HTTP; `asyncio.timeout` raises an `OSError` too.
FOREIGN_ERRORS = (openai.OpenAIError, httpx2.HTTPError, httpx2.InvalidURL, aiohttp.ClientError, OSError)


def timeout_of(endpoint: types.Endpoint, config: CallsConfig) -> float:
    """Seconds to wait for one reply of ``endpoint``."""
    return (
        endpoint.timeout_seconds
        or config.timeout_seconds
        or (_SLOW_REPLY_SECONDS if endpoint.is_slow else _REPLY_SECONDS)
    )


class Client:
    """Sends requests to one address with one key. Belongs to one event loop."""

    def __init__(self, endpoint: types.Endpoint, *, timeout_seconds: float) -> None:
        """Prepare the connections; none is opened yet.

        Raises:
            ConfigError: the address holds a user name or password, or the key cannot be sent.
            MissingPrerequisite: the address has a proxy that is no HTTP proxy.
        """
        _check_secrets(endpoint)
        self._endpoint = endpoint
        proxy = proxies.proxy_before(endpoint.base_url, endpoint.proxy)
        self._timeout_seconds = timeout_seconds
        self._said = set[tuple[str, str]]()
        key = endpoint.api_key or "none"
        in_bearer = endpoint.key_header == "Authorization"
        is_openai = urlsplit(endpoint.base_url).hostname == "api.openai.com"
        headers: dict[str, Any] = {
            "Authorization": f"Bearer {key}",
            **({} if is_openai else _without_the_environments()),
            **endpoint.headers,
            **({} if in_bearer else {endpoint.key_header: key}),
        }
        timeout = httpx2.Timeout(timeout_seconds, connect=min(CONNECT_SECONDS, timeout_seconds))
        self._http = openai.DefaultAioHttpClient(
            limits=httpx2.Limits(max_connections=endpoint.concurrency),
            # Redirects are refused: they would receive the key.
            follow_redirects=False,
            event_hooks={} if in_bearer else {"request": [_without_bearer]},
            **({"proxy": proxy.url} if proxy else {"mounts": _DIRECT}),
        )
        self.sdk = openai.AsyncOpenAI(
            base_url=endpoint.base_url,
            api_key=key,
            admin_api_key="",
            webhook_secret="",
            default_headers=headers,
            default_query=endpoint.query,
            max_retries=0,
            timeout=timeout,
            http_client=self._http,
        )
        # The SDK's `post` builds this anew for each request, which takes half of its processor time (docs/LOG.md).
        self._chat = httpx2.URL(f"{endpoint.base_url.rstrip('/')}/chat/completions", params=endpoint.query or None)
        self._scores = httpx2.URL(f"{endpoint.base_url.rstrip('/')}/completions", params=endpoint.query or None)
        sent = {name: value for name, value in self.sdk.default_headers.items() if isinstance(value, str)}
        self._headers, self._timeouts = httpx2.Headers(sent), {"timeout": timeout.as_dict()}

    async def send(self, request: types.Request) -> wire.Reply:
        """One attempt. The reply never contains the endpoint's key, even if the provider echoes it."""
        # As a stream: for `content` it makes headers that the connection makes anyway, a sixth of the whole work.
        stream = httpx2.ByteStream(json.dumps(wire.request_body(request, self._endpoint), ensure_ascii=False).encode())
        address = self._scores if request.scored else self._chat
        asked = httpx2.Request("POST", address, headers=self._headers, stream=stream, extensions=self._timeouts)
        asked.read()
        got = await self.get(self._read_bounded(asked))
        if isinstance(got, wire.Reply):
            return got
        response, content = got if isinstance(got, tuple) else (got, got.content)
        if content is None:
            # A retry would bring as much again, and be charged for.
            return wire.Reply(
                types.Failure("no_answer", f"the reply is larger than {LARGEST_REPLY_BYTES >> 20} MiB"),
                cost_unknown=True,
                raw="",
            )
        raw = self.text(content)
        if response.is_success:
            reply = wire.read_completion(raw, self._endpoint, request)
            self._say_what_is_odd(reply, request)
        else:
            reply = self._read_error(response, wire.json_or_text(raw), raw=raw)
        return replace(reply, rate_limits=read_rate_limits(response.headers))

    async def list_models(self) -> dict[str, str] | types.Failure | None:
        """Models that the endpoint lists, with the day of their announced end (`shutdown_date`), or "" without one.

        None if it lists none; costs nothing and needs the key.
        """
        got = await self.get(self.sdk.get("/models", cast_to=httpx2.Response))
        if isinstance(got, wire.Reply):
            return got.failure
        body = wire.json_or_text(self.text(got.content))
        rows = body.get("data") if isinstance(body, dict) and got.status_code == 200 else None
        if isinstance(rows, list):
            listed = [row for row in rows if isinstance(row, dict) and "id" in row]
            return {str(row["id"]): str(row.get("shutdown_date") or "") for row in listed}
        lists_none = got.status_code < 400 or got.status_code in {404, 405, 501}
        return None if lists_none else self._read_error(got, body, raw=None).failure

    async def close(self) -> None:
        """Close the connections."""
        await self.sdk.close()

    async def get(self, asked: Awaitable[T], *, patient: bool = False) -> T | httpx2.Response | wire.Reply:
        """The result of ``asked``, or the response that refuses it, or the meaning of its error.

        With ``patient`` it may take any time, as long as data arrives.
        """
        try:
            async with asyncio.timeout(None) as limit:
                deadline = None if patient else _Deadline(limit, self._timeout_seconds)
                try:
                    return await asked
                finally:
                    if deadline is not None:
                        deadline.timer.cancel()
        except openai.APIStatusError as error:
            return error.response
        except FOREIGN_ERRORS as error:
            return read_foreign_error(error, self._endpoint, timeout_seconds=self._timeout_seconds)

    async def _read_bounded(self, asked: httpx2.Request) -> tuple[httpx2.Response, bytes | None]:
        """The response to ``asked`` with its body; None, and not read to its end, if that is larger than any answer."""
        response = await self._http.send(asked, stream=True)
        chunks, size = list[bytes](), 0
        try:
            async for chunk in response.aiter_bytes():
                size += len(chunk)
                if size > LARGEST_REPLY_BYTES:
                    return response, None
                chunks.append(chunk)
        finally:
            await response.aclose()
        return response, b"".join(chunks)

    def _say_what_is_odd(self, reply: wire.Reply, request: types.Request) -> None:
        """Warn of an unknown finish reason and of an answer by another model, once each."""
        ending = reply.outcome.finish_reason if isinstance(reply.outcome, types.Answer) else ""
        if not words.is_known_ending(ending) and ("ending", ending) not in self._said:
            self._said.add(("ending", ending))
            logger.warning(
                "%s ends answers with an unknown finish_reason %r; they count as whole: %s",
                self._endpoint.base_url,
                ending,
                (reply.raw or "")[:_SHOWN_CHARACTERS],
            )
        if reply.model and ("model", reply.model) not in self._said:
            self._said.add(("model", reply.model))
            asked, answered = (
                _NAME_PARTS.sub("", name.lower().rpartition("/")[2]) for name in (request.model, reply.model)
            )
            if asked not in answered and answered not in asked:
                logger.warning(
                    "%s was asked for %r and answers as %r: check the model and the gateway's fallbacks",
                    self._endpoint.base_url,
                    request.model,
                    reply.model,
                )

    def text(self, content: bytes) -> str:
        """A body as clean text, without the key."""
        return hide_keys(wire.clean_text(content.decode("utf-8", "replace")), self._endpoint)

    def _read_error(self, got: httpx2.Response, body: object, *, raw: str | None) -> wire.Reply:
        reply = wire.read_error(got.status_code, body, raw=raw, headers=got.headers)
        # APIs report errors as JSON: plain text comes from the proxy, if there is one.
        by = proxies.through(self._endpoint.base_url, self._endpoint.proxy) if isinstance(body, str) else ""
        return replace(reply, outcome=replace(reply.failure, message=reply.failure.message + by))


class _Deadline:
    """Ends a wait after some seconds, but not at once if this process was stopped meanwhile.

    A process that was stopped (Ctrl-Z, a paused container, a snapshot) wakes after its deadlines, with replies waiting
    in its sockets: they are read first.
    """

    def __init__(self, limit: asyncio.Timeout, seconds: float) -> None:
        self._loop, self._limit = asyncio.get_running_loop(), limit
        self._wait(seconds)

    def _wait(self, seconds: float) -> None:
        self._due = self._loop.time() + seconds
        self.timer = self._loop.call_at(self._due, self._end)

    def _end(self) -> None:
        if self._loop.time() - self._due > _STOOD_STILL_SECONDS:
            self._wait(_READING_SECONDS)
        else:
            self._limit.reschedule(self._due)


def read_foreign_error(error: BaseException, endpoint: types.Endpoint, *, timeout_seconds: float) -> wire.Reply:
    """The meaning of an error of the SDK or the layers below it; the lowest layer says the most."""
    while isinstance(error, openai.OpenAIError | httpx2.HTTPError) and error.__cause__ is not None:
        error = error.__cause__
    said = hide_keys(str(error) or type(error).__name__, endpoint)
    where = endpoint.base_url + proxies.through(endpoint.base_url, endpoint.proxy)
    if isinstance(
        error, aiohttp.InvalidURL | aiohttp.NonHttpUrlClientError | httpx2.InvalidURL | httpx2.UnsupportedProtocol
    ):
        return wire.Reply(types.Failure("connection", f"{where} is no address: {said}"), endpoint_at_fault=True)
    # A connection that was never made cost nothing, unlike a reply that was not waited for.
    never_sent = isinstance(
        error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError | aiohttp.ClientHttpProxyError
    )
    if isinstance(error, TimeoutError) and not never_sent:
        return wire.Reply(
            types.Failure("timeout", f"{where} gave no reply within {timeout_seconds:g} s"), cost_unknown=True
        )
    if isinstance(error, aiohttp.ClientPayloadError):
        # As expensive as a time-out, so it is tried as often.
        return wire.Reply(types.Failure("timeout", f"{where} broke a reply off: {said}"), cost_unknown=True)
    return wire.Reply(types.Failure("connection", f"no connection to {where}: {said}"), cost_unknown=not never_sent)


def hide_keys(text: str, endpoint: types.Endpoint) -> str:
    """``text`` without the secrets of an endpoint."""
    # Longer ones first: they may begin with a shorter one.
    secrets = (endpoint.api_key or "", *endpoint.more_secrets)
    for secret in sorted((each for each in secrets if not _PLAIN.fullmatch(each)), key=len, reverse=True):
        for spelling in _spellings(secret):
            text = hide_key(text, spelling)
    return text


@lru_cache(maxsize=64)
def _spellings(secret: str) -> tuple[str, ...]:
    """A secret as it is, and as URLs spell it."""
    return tuple(dict.fromkeys((secret, quote(secret, safe=""), quote(secret), quote_plus(secret))))


def hide_key(text: str, key: str | None) -> str:
    """``text`` without the endpoint's key, which some providers repeat, also spelled with JSON escapes."""
    if not key or len(key) < _SHORTEST_SECRET:
        return text
    text = text.replace(key, "[key]")
    return _escaped(key).sub("[key]", text) if "\\" in text else text


@lru_cache(maxsize=16)
def _escaped(key: str) -> re.Pattern[str]:
    r"""A pattern of ``key`` whose characters may be spelled ``\/`` or ``\u002F``, also in JSON within JSON.

    The run of backslashes is bounded, so that a text of nothing else is read in linear time.
    """
    return re.compile(
        "".join(rf"(?:{re.escape(each)}|\\{{1,8}}(?:(?i:u{ord(each):04x})|{re.escape(each)}))" for each in key)
    )


def _check_secrets(endpoint: types.Endpoint) -> None:
    if "@" in urlsplit(endpoint.base_url).netloc:
        raise errors.ConfigError(
            "base_url holds a user name or password, which would end up in logs. Write the address without it and "
            "name the environment variable of the key in api_key_env, or its file in api_key_file."
        )
    sent = {f"the key from {endpoint.key_place or 'api_key_env'}": endpoint.api_key or ""}
    for what, value in (sent | {f"the header {name}": value for name, value in endpoint.headers.items()}).items():
        if not (value.isascii() and value.isprintable()):
            raise errors.ConfigError(
                f"{what} holds a line break or another character that no header can carry; give it again without"
            )


def _without_the_environments() -> dict[str, openai.Omit]:
    """Leaves out the headers that the SDK takes from the environment: they are meant for OpenAI only."""
    lines = os.environ.get("OPENAI_CUSTOM_HEADERS", "").splitlines()
    names = {line.partition(":")[0].strip() for line in lines if ":" in line} | {
        "OpenAI-Organization",
        "OpenAI-Project",
    }
    return {name: openai.Omit() for name in sorted(names) if name.lower() != "authorization"}


async def _without_bearer(request: httpx2.Request) -> None:
    del request.headers["Authorization"]
