"""The stand-in's files: what was uploaded for batches and what batches wrote, as OpenAI's files API serves them.

Limits: everything lies in memory and goes with the server.
"""

import secrets
import time
from dataclasses import dataclass, field
from typing import Any

from aiohttp import BodyPartReader, web

from tapir_core.standin.wire import BadRequest

__all__ = ["FileStore", "StoredFile"]

_LARGEST_UPLOAD_BYTES = 512 * 2**20
_LONGEST_PURPOSE_BYTES = 100
_PIECE_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class StoredFile:
    """One file."""

    id: str
    name: str
    purpose: str
    """`batch` for input, `batch_output` for what a batch wrote."""
    content: bytes
    created_at: int = field(default_factory=lambda: int(time.time()))
    """Unix time in seconds."""

    def to_json(self) -> dict[str, Any]:
        """OpenAI's file object."""
        return {
            "id": self.id,
            "object": "file",
            "bytes": len(self.content),
            "created_at": self.created_at,
            "filename": self.name,
            "purpose": self.purpose,
            "status": "processed",
        }


class FileStore:
    """All files of one server, and the handlers of their addresses."""

    def __init__(self) -> None:
        self._files: dict[str, StoredFile] = {}

    def add(self, content: bytes, *, name: str, purpose: str) -> StoredFile:
        """Keep a file under a new id."""
        stored = StoredFile(f"file-{secrets.token_hex(12)}", name, purpose, content)
        self._files[stored.id] = stored
        return stored

    def get(self, file_id: str) -> StoredFile:
        """The file of that id.

        Raises:
            BadRequest: there is none (404).
        """
        stored = self._files.get(file_id)
        if stored is None:
            raise BadRequest(f"No such File object: {file_id}", status=404)
        return stored

    async def upload(self, request: web.Request) -> web.Response:
        """`POST /v1/files`: a multipart form of `purpose` and `file`."""
        if not request.content_type.startswith("multipart/"):
            raise BadRequest("upload a multipart form of 'purpose' and 'file'")
        purpose, name, content = "", "", None
        async for part in await request.multipart():
            if not isinstance(part, BodyPartReader):
                raise BadRequest("the form holds another form")
            if part.name == "purpose":
                purpose = (await _read(part, _LONGEST_PURPOSE_BYTES)).decode("utf-8", "replace")
            elif part.name == "file":
                name, content = part.filename or "upload.jsonl", await _read(part, _LARGEST_UPLOAD_BYTES)
        if content is None:
            raise BadRequest("the form has no 'file'")
        if purpose != "batch":
            raise BadRequest(f"the stand-in keeps files of purpose 'batch', not {purpose!r}")
        return web.json_response(self.add(content, name=name, purpose=purpose).to_json())

    async def show(self, request: web.Request) -> web.Response:
        """`GET /v1/files/{id}`."""
        return web.json_response(self.get(request.match_info["id"]).to_json())

    async def content(self, request: web.Request) -> web.Response:
        """`GET /v1/files/{id}/content`."""
        stored = self.get(request.match_info["id"])
        return web.Response(body=stored.content, content_type="application/octet-stream")

    async def delete(self, request: web.Request) -> web.Response:
        """`DELETE /v1/files/{id}`."""
        stored = self.get(request.match_info["id"])
        del self._files[stored.id]
        return web.json_response({"id": stored.id, "object": "file", "deleted": True})


async def _read(part: BodyPartReader, most_bytes: int) -> bytes:
    content = bytearray()
    while piece := await part.read_chunk(_PIECE_BYTES):
        content += piece
        if len(content) > most_bytes:
            raise BadRequest("File is too large.")
    return bytes(content)
