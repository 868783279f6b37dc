"""OpenAI's files and batches, for who asks the stand-in with `mode = "batch"`.

A batch is answered when it is made, and completed then. Limits: files and batches live as long as the process; a row
whose request is wrong is in the error file, a file that holds anything but requests is an error. Batches that take
their time, fail or expire are those of the tests (tests/doubles/batches.py).
"""

import asyncio
import json
import secrets
import time
from typing import Any

from aiohttp import web

from tapir_core.standin.chat import BadRequest, rejection, reply_to_json
from tapir_core.standin.judge import Behaviour


class Batches:
    """The files and batches of one server."""

    def __init__(self, behaviour: Behaviour) -> None:
        """Nothing is there yet."""
        self._behaviour = behaviour
        self._files: dict[str, bytes] = {}
        self._batches: dict[str, dict[str, Any]] = {}

    def routes(self) -> list[web.RouteDef]:
        """Their addresses."""
        return [
            web.post("/v1/files", self._upload),
            web.get("/v1/files/{id}/content", self._send_content),
            web.post("/v1/batches", self._create),
            web.get("/v1/batches", self._list),
            web.get("/v1/batches/{id}", self._show),
        ]

    async def _upload(self, request: web.Request) -> web.Response:
        file = (await request.post()).get("file")
        if not isinstance(file, web.FileField):
            return _wrong("upload a multipart form of 'purpose' and 'file'", 400)
        return web.json_response({"id": self._keep(file.file.read()), "object": "file", "purpose": "batch"})

    async def _send_content(self, request: web.Request) -> web.Response:
        content = self._files.get(request.match_info["id"])
        return _wrong("No such File object", 404) if content is None else web.Response(body=content)

    async def _create(self, request: web.Request) -> web.Response:
        asked = await request.json()
        content = self._files.get(asked.get("input_file_id"))
        if content is None:
            return _wrong("No such File object", 404)
        # In a thread: a large file would hold up everybody else for seconds.
        output, errors = await asyncio.to_thread(self._answer, content)
        batch = {
            **{name: asked.get(name) for name in ("input_file_id", "endpoint", "completion_window", "metadata")},
            "id": f"batch_{secrets.token_hex(12)}",
            "object": "batch",
            "status": "completed",
            "created_at": int(time.time()),
            "output_file_id": self._keep(output) if output else None,
            "error_file_id": self._keep(errors) if errors else None,
        }
        self._batches[batch["id"]] = batch
        return web.json_response(batch)

    async def _list(self, _: web.Request) -> web.Response:
        newest_first = list(reversed(self._batches.values()))
        return web.json_response({"object": "list", "data": newest_first, "has_more": False})

    async def _show(self, request: web.Request) -> web.Response:
        batch = self._batches.get(request.match_info["id"])
        return _wrong("No batch found", 404) if batch is None else web.json_response(batch)

    def _answer(self, content: bytes) -> tuple[bytes, bytes]:
        """The output file, and the error file."""
        right: list[bytes] = []
        wrong: list[bytes] = []
        for line in content.splitlines():
            row = json.loads(line)
            reply = reply_to_json(row["body"], self._behaviour)
            response = {"status_code": reply.status, "request_id": f"req_{row['custom_id']}", "body": reply.body}
            answered = {"id": f"row_{row['custom_id']}", "custom_id": row["custom_id"], "response": response}
            (right if reply.status == 200 else wrong).append(json.dumps({**answered, "error": None}).encode() + b"\n")
        return b"".join(right), b"".join(wrong)

    def _keep(self, content: bytes) -> str:
        name = f"file-{secrets.token_hex(12)}"
        self._files[name] = content
        return name


def _wrong(message: str, status: int) -> web.Response:
    reply = rejection(BadRequest(message, status=status))
    return web.json_response(reply.body, status=reply.status)
