"""Stores with rows as a provider's replies make them, and rows that are then damaged for real."""

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from tapir_core.calls import AnswerStore, Endpoint, Failure, Request
from tapir_core.calls.wire import Reply, read_completion
from tapir_core.store_admin import Checked
from tests.doubles.provider import make_request


def reply_of(text: str = "fine", *, usd: float = 0.0) -> Reply:
    """10 prompt and 5 completion tokens, for ``usd`` together."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    body = {"choices": [choice], "usage": {"prompt_tokens": 10, "completion_tokens": 5}}
    read = read_completion(json.dumps(body), Endpoint("", 1))
    return replace(read, spent=replace(read.spent, usd=usd))


def is_sound(found: Checked) -> bool:
    return not found.places and not found.file_faults


def refusal(kind: str = "refused") -> Reply:
    return Reply(Failure(kind, "no", 1), raw='{"error": {}}')


def fill(
    url: str,
    prompts: list[str],
    *,
    make_reply: Callable[[str], Reply] = lambda prompt: reply_of(f"answer to {prompt}"),
    **fields: Any,
) -> list[Request]:
    """Store a reply to each prompt."""
    requests = [make_request(prompt, **fields) for prompt in prompts]
    with AnswerStore(url) as store:
        puts = [
            store.put(request.key, request, make_reply(prompt))
            for request, prompt in zip(requests, prompts, strict=True)
        ]
        for put in puts:
            put.result(timeout=60)
    return requests


def numbered(count: int, *, start: int = 0) -> list[str]:
    return [f"question {number}" for number in range(start, start + count)]


def sql(url: str, statement: str, *values: object) -> list[tuple[Any, ...]]:
    """Do something to an SQLite store behind tapir's back."""
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as database:
        found = database.execute(statement, values).fetchall()
        database.commit()
    return found


def damage_file(store: Path) -> None:
    """Overwrite eight pages in the middle of an SQLite store that nobody has open."""
    content = bytearray(store.read_bytes())
    middle = len(content) // 2 // 4096 * 4096
    content[middle : middle + 8 * 4096] = b"\xa5" * (8 * 4096)
    store.write_bytes(content)
