"""One attempt of one request at one address: a chat completion over a session of our own.

What is sent is what the `openai` SDK sends, at a third of its CPU time (a test compares the two). Every foreign error
becomes a `Reply` with a typed failure here and nowhere else; an exception that leaves this module is our own bug.
"""

import json
import os
import re
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
from yarl import URL

from tapir_core.calls.limits import read_rate_limits
from tapir_core.calls.types import Endpoint, Failure, Request
from tapir_core.calls.wire import Reply, clean_text, read_completion, read_error, request_body
from tapir_core.errors import ConfigError

CONNECT_SECONDS = 10.0
"""Longest wait for a connection; a server that is there accepts within this."""

_SHORTEST_SECRET = 8
"""A shorter key, such as `none` or `x`, is no secret, and its letters may stand in any reply."""

# `asyncio.TimeoutError` and the library's own time-outs are `OSError`s too.
FOREIGN_ERRORS = (aiohttp.ClientError, OSError)

_ACCOUNT_HEADERS = {"OpenAI-Organization": "OPENAI_ORG_ID", "OpenAI-Project": "OPENAI_PROJECT_ID"}
"""Headers that say who pays at OpenAI itself, and the environment variables that its SDK takes them from."""


class Client:
    """Sends requests to one address with one key. Belongs to one event loop."""

    def __init__(self, endpoint: Endpoint, *, timeout_seconds: float) -> None:
        """Prepare the connections; none is opened yet.

        Raises:
            ConfigError: the address holds a user name or password, or the key cannot be sent.
        """
        _check_secrets(endpoint)
        self._endpoint = endpoint
        self._timeout_seconds = timeout_seconds
        address = endpoint.base_url.rstrip("/")
        self._url, self._models_url = f"{address}/chat/completions", f"{address}/models"
        # Name of the longest answer: OpenAI's own models know the newer one, most other servers only the older one.
        openai_itself = urlsplit(endpoint.base_url).hostname == "api.openai.com"
        self.tokens_field = "max_completion_tokens" if openai_itself else "max_tokens"
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=endpoint.concurrency),
            timeout=aiohttp.ClientTimeout(total=timeout_seconds, sock_connect=min(CONNECT_SECONDS, timeout_seconds)),
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        # Not the session's own headers: those it would show to a proxy too.
        self._headers = _headers(endpoint.api_key, account=openai_itself)
        self._proxy = _proxy_for(endpoint.base_url)
        if self._proxy and not endpoint.base_url.startswith("https:"):
            # Without TLS the proxy reads the request itself.
            self._headers |= self._proxy.pop("proxy_headers", {})

    async def send(self, request: Request) -> Reply:
        """One attempt. The key of the endpoint is in no part of the reply, also when the provider echoes it."""
        body = json.dumps(request_body(request, tokens_field=self.tokens_field), ensure_ascii=False).encode()
        try:
            async with self._session.post(self._url, data=body, headers=self._headers, **self._proxy) as response:
                received = await response.read()
        except FOREIGN_ERRORS as error:
            return self._read_foreign(error)
        return self._read(response.status, response.headers, received)

    async def list_models(self) -> list[str] | Failure | None:
        """Names of the models that the endpoint lists, nothing where it lists none; costs nothing and needs the key."""
        # One that sends us elsewhere is not followed: the key would go along.
        sending = self._session.get(self._models_url, headers=self._headers, allow_redirects=False, **self._proxy)
        try:
            async with sending as response:
                received = await response.read()
        except FOREIGN_ERRORS as error:
            return _failure(self._read_foreign(error))
        body = json_or_text(self._text(received))
        rows = body.get("data") if isinstance(body, dict) and response.status == 200 else None
        if isinstance(rows, list):
            return [str(row["id"]) for row in rows if isinstance(row, dict) and "id" in row]
        lists_none = response.status < 400 or response.status in {404, 405, 501}
        return None if lists_none else _failure(read_error(response.status, body, raw=None))

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()

    def _text(self, received: bytes) -> str:
        return hide_key(clean_text(received.decode("utf-8", "replace")), self._endpoint.api_key)

    def _read_foreign(self, error: Exception) -> Reply:
        key, where = self._endpoint.api_key, self._endpoint.base_url
        return read_foreign_error(error, where=where, key=key, timeout_seconds=self._timeout_seconds)

    def _read(self, status: int, headers: Mapping[str, str], received: bytes) -> Reply:
        raw = self._text(received)
        if status == 200:
            reply = read_completion(
                raw,
                usd_per_million_prompt=self._endpoint.usd_per_million_prompt_tokens,
                usd_per_million_completion=self._endpoint.usd_per_million_completion_tokens,
            )
        else:
            reply = read_error(status, json_or_text(raw), raw=raw, headers=headers)
        limits = read_rate_limits(headers, now=datetime.now(UTC))
        return replace(reply, rate_limits=limits) if limits else reply


def read_foreign_error(error: Exception, *, where: str, key: str | None, timeout_seconds: float) -> Reply:
    """What an error of the library or of the layers below it means."""
    said = hide_key(str(error) or type(error).__name__, key)
    if isinstance(error, aiohttp.InvalidURL | aiohttp.NonHttpUrlClientError):
        return Reply(Failure("connection", f"{where} is no address: {said}"), endpoint_at_fault=True)
    # A connection that never came about cost nothing, unlike a reply that was not waited for.
    if isinstance(error, TimeoutError) and not isinstance(error, aiohttp.ConnectionTimeoutError):
        return Reply(Failure("timeout", f"{where} gave no reply within {timeout_seconds:g} s"), cost_unknown=True)
    never_sent = isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError)
    return Reply(Failure("connection", f"no connection to {where}: {said}"), cost_unknown=not never_sent)


def hide_key(text: str, key: str | None) -> str:
    """``text`` without the endpoint's key, which some providers repeat, also where JSON spells it with escapes."""
    if not key or len(key) < _SHORTEST_SECRET:
        return text
    text = text.replace(key, "[key]")
    return _escaped(key).sub("[key]", text) if "\\" in text else text


@lru_cache(maxsize=16)
def _escaped(key: str) -> re.Pattern[str]:
    r"""A pattern of ``key`` whose characters may stand as ``\/`` or ``\u002F``, also in JSON within JSON.

    The run of backslashes is bounded, so that a text of nothing else is read in linear time.
    """
    return re.compile(
        "".join(rf"(?:{re.escape(each)}|\\{{1,8}}(?:(?i:u{ord(each):04x})|{re.escape(each)}))" for each in key)
    )


def _check_secrets(endpoint: Endpoint) -> None:
    if "@" in urlsplit(endpoint.base_url).netloc:
        raise ConfigError(
            "base_url holds a user name or password, which would end up in logs. Write the address without it and "
            "name the environment variable of the key in api_key_env, or its file in api_key_file."
        )
    if endpoint.api_key and not (endpoint.api_key.isascii() and endpoint.api_key.isprintable()):
        raise ConfigError(
            f"the key from {endpoint.key_place or 'api_key_env'} holds a line break or another character that no "
            "header can carry; give it again without"
        )


def _headers(key: str | None, *, account: bool) -> dict[str, str]:
    """The headers of every request; a server without keys is sent the placeholder that clients usually send."""
    headers = {
        "Accept": "application/json",
        "Authorization": f"Bearer {key or 'none'}",
        "Content-Type": "application/json",
        "User-Agent": "tapir",
    }
    if account:
        headers |= {name: value for name, variable in _ACCOUNT_HEADERS.items() if (value := os.environ.get(variable))}
    return headers


def _proxy_for(base_url: str) -> dict[str, Any]:
    """The environment's proxy for an address. Read once: the library would read it, and ~/.netrc, for each request."""
    address = urlsplit(base_url)
    found = getproxies().get(address.scheme)
    if not found or proxy_bypass(address.netloc):
        return {}
    proxy = URL(found)
    if proxy.user is None:
        return {"proxy": proxy}
    secret = b64encode(f"{proxy.user}:{proxy.password or ''}".encode()).decode()
    return {"proxy": proxy.with_user(None), "proxy_headers": {"Proxy-Authorization": f"Basic {secret}"}}


def _failure(reply: Reply) -> Failure:
    assert isinstance(reply.outcome, Failure)
    return reply.outcome


def json_or_text(raw: str) -> object:
    """What JSON says, or the text that is none."""
    try:
        return json.loads(raw)
    except ValueError:
        return raw
