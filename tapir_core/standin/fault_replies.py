"""How each fault looks on the wire."""

import asyncio
import json
import math
import socket
import struct
import time
from collections.abc import Mapping
from contextlib import suppress
from email.utils import formatdate
from typing import Any

from aiohttp import web

from tapir_core.standin.faults import FaultKind, Faults

__all__ = ["distort", "error_reply", "hang", "reset", "trickle"]

_LOOK_SECONDS = 0.05
"""A hanging request looks this often whether its client has gone."""
_PIECES = 10
"""Pieces in which a trickling body comes."""
_RESET_AT_ONCE = struct.pack("ii", 1, 0)
"""SO_LINGER on, for no time: closing sends a reset instead of a regular end."""


def error_reply(fault: FaultKind, faults: Faults) -> web.Response:
    """The error that a 429, 500 or model fault sends, worded as OpenAI's."""
    if fault == "429":
        error = {"message": "Rate limit reached, by order.", "type": "requests", "code": "rate_limit_exceeded"}
        return _error(429, error, {"Retry-After": _retry_after(faults)})
    if fault == "500":
        return _error(500, {"message": "The server had an error, by order.", "type": "server_error", "code": None})
    error = {"message": "The model does not exist, by order.", "type": "invalid_request_error"}
    return _error(404, {**error, "code": "model_not_found"})


def distort(body: dict[str, Any], fault: FaultKind) -> web.Response:
    """A chat completion that is cut in half, has no choice, or was stopped by a content filter."""
    if fault == "truncated":
        whole = json.dumps(body)
        return web.Response(text=whole[: len(whole) // 2], content_type="application/json")
    if fault == "empty":
        return web.json_response({**body, "choices": []})
    choice = body["choices"][0]
    message = {"role": "assistant", "content": None, "refusal": None}
    return web.json_response({**body, "choices": [{**choice, "message": message, "finish_reason": "content_filter"}]})


async def trickle(request: web.Request, status: int, body: dict[str, Any], seconds: float) -> web.StreamResponse:
    """Send the head at once and the body piece by piece, within ``seconds``; stops when the client has gone."""
    content = json.dumps(body).encode()
    size = math.ceil(len(content) / _PIECES)
    response = web.StreamResponse(status=status, headers={"Content-Type": "application/json"})
    response.content_length = len(content)
    with suppress(ConnectionError):
        await response.prepare(request)
        for begin in range(0, len(content), size):
            await asyncio.sleep(seconds / _PIECES)
            await response.write(content[begin : begin + size])
    return response


async def hang(request: web.Request, stopping: asyncio.Event) -> web.Response:
    """Send nothing until the client goes, or the server stops."""
    while request.transport is not None and not stopping.is_set():
        with suppress(TimeoutError):
            async with asyncio.timeout(_LOOK_SECONDS):
                await stopping.wait()
    return reset(request)


def reset(request: web.Request) -> web.Response:
    """Reset the connection; the response is for aiohttp, which finds nobody to send it to."""
    transport = request.transport
    if transport is not None:
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_AT_ONCE)
        transport.abort()
    return web.Response()


def _error(status: int, error: Mapping[str, str | None], headers: dict[str, str] | None = None) -> web.Response:
    return web.json_response({"error": {"param": None, **error}}, status=status, headers=headers)


def _retry_after(faults: Faults) -> str:
    if faults.retry_after_as == "date":
        return formatdate(math.ceil(time.time() + faults.retry_after_seconds), usegmt=True)
    return f"{faults.retry_after_seconds:g}"
