"""One attempt of one request at one address, over the `openai` SDK with its aiohttp transport.

Every foreign error becomes a `Reply` with a typed failure here and nowhere else; an exception that leaves this module
is our own bug. Importing the SDK takes most of a second: this module is imported at the first call that is really sent.
"""

import asyncio
import json
import logging
from collections.abc import Iterator
from urllib.parse import urlsplit

import aiohttp
import httpx2
import openai

from tapir_core.calls.types import Endpoint, Failure, Request
from tapir_core.calls.wire import Reply, clean_text, read_completion, read_error, request_body
from tapir_core.errors import ConfigError

__all__ = ["Client", "hide_key", "read_foreign_error"]

CONNECT_SECONDS = 10.0
"""Longest wait for a connection; a server that is there accepts within this."""

SHORTEST_SECRET = 8
"""A shorter key, such as `none` or `x`, is no secret, and its letters may stand in any reply."""

# The transport logs a line for every call, which would bury the run's own log.
logging.getLogger("httpx2").setLevel(logging.WARNING)

FOREIGN_ERRORS = (openai.OpenAIError, httpx2.HTTPError, httpx2.InvalidURL, aiohttp.ClientError, OSError)


class Client:
    """Sends requests to one endpoint with one key. Belongs to one event loop."""

    def __init__(self, endpoint: Endpoint, *, timeout_seconds: float) -> None:
        """Prepare the connections; none is opened yet.

        Raises:
            ConfigError: the address holds a user name or password.
        """
        self._endpoint = endpoint
        self._timeout_seconds = timeout_seconds
        if "@" in urlsplit(endpoint.base_url).netloc:
            raise ConfigError(
                "base_url holds a user name or password, which would end up in logs. Write the address without it and "
                "name the environment variable of the key in api_key_env."
            )
        # OpenAI's own models know only the newer name of this field, most other servers only the older one.
        openai_itself = urlsplit(endpoint.base_url).hostname == "api.openai.com"
        self._tokens_field = "max_completion_tokens" if openai_itself else "max_tokens"
        self._sdk = openai.AsyncOpenAI(
            base_url=endpoint.base_url,
            # An explicit value for servers without keys: the SDK would send the user's OPENAI_API_KEY to them.
            api_key=endpoint.api_key or "none",
            max_retries=0,
            timeout=httpx2.Timeout(timeout_seconds, connect=min(CONNECT_SECONDS, timeout_seconds)),
            http_client=openai.DefaultAioHttpClient(
                limits=httpx2.Limits(max_connections=endpoint.concurrency, max_keepalive_connections=None)
            ),
        )

    async def send(self, request: Request) -> Reply:
        """One attempt. The key of the endpoint is in no part of the reply, also when the provider echoes it."""
        body, where = request_body(request, tokens_field=self._tokens_field), self._endpoint.base_url
        try:
            # The SDK's timeouts bound each read; a server that trickles would hold a row for ever without this one.
            async with asyncio.timeout(self._timeout_seconds):
                response = await self._sdk.post("/chat/completions", body=body, cast_to=httpx2.Response)
        except TimeoutError:
            return Reply(Failure("timeout", f"{where} gave no reply within {self._timeout_seconds:g} s"))
        except FOREIGN_ERRORS as error:
            return read_foreign_error(error, where=where, key=self._endpoint.api_key)
        return read_completion(
            hide_key(clean_text(response.text), self._endpoint.api_key),
            usd_per_million_prompt=self._endpoint.usd_per_million_prompt_tokens,
            usd_per_million_completion=self._endpoint.usd_per_million_completion_tokens,
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._sdk.close()


def read_foreign_error(error: Exception, *, where: str, key: str | None) -> Reply:
    """What an error of the SDK or of the layers below it means."""
    if isinstance(error, openai.APIStatusError):
        raw = hide_key(clean_text(error.response.text), key)
        return read_error(error.status_code, _json_or_text(raw), raw=raw, headers=error.response.headers)
    if isinstance(error, openai.APIResponseValidationError):
        return Reply(Failure("server", f"{where} sent no chat completion: {error.message}"))
    if isinstance(error, httpx2.InvalidURL | httpx2.UnsupportedProtocol | aiohttp.InvalidURL):
        return Reply(Failure("connection", f"{where} is no address: {error}"), endpoint_at_fault=True)
    root = list(_chain(error))[-1]
    # The SDK's transport reports a refused or dropped connection as a timeout; the root of the chain knows better.
    timed_out = isinstance(root, TimeoutError) or (
        isinstance(error, openai.APITimeoutError | httpx2.TimeoutException)
        and not isinstance(root, aiohttp.ClientError | OSError)
    )
    if timed_out:
        return Reply(Failure("timeout", f"{where} gave no reply in time"))
    said = str(root) or type(root).__name__
    return Reply(Failure("connection", f"no connection to {where}: {said}"))


def hide_key(text: str, key: str | None) -> str:
    """``text`` without the endpoint's key, which some providers repeat in their errors."""
    return text.replace(key, "[key]") if key and len(key) >= SHORTEST_SECRET else text


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and what it was raised from, outermost first."""
    link: BaseException | None = error
    while link is not None:
        yield link
        link = link.__cause__


def _json_or_text(raw: str) -> object:
    try:
        return json.loads(raw)
    except ValueError:
        return raw
