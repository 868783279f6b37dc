"""Every error of the layers below the client becomes a typed failure that shows no key."""

import inspect
import types
from collections.abc import Iterator

import aiohttp
import pytest
from yarl import URL

from tapir_core.calls import Endpoint, Failure
from tapir_core.calls.client import FOREIGN_ERRORS, read_foreign_error
from tapir_core.calls.wire import Reply

KEY = "sk-very-secret-0123456789"


def failed(reply: Reply) -> Failure:
    assert isinstance(reply.outcome, Failure)
    return reply.outcome


def subclasses(kind: type[Exception]) -> Iterator[type[Exception]]:
    yield kind
    for each in kind.__subclasses__():
        yield from subclasses(each)


def make_error(kind: type[Exception]) -> Exception:
    """An error of any class of the library, from whatever its constructor asks for."""
    request_info = aiohttp.RequestInfo(URL("http://h/v1"), "POST", {}, URL("http://h/v1"))
    connection_key = type("ConnectionKey", (), {"host": "h", "port": 1, "ssl": True, "is_ssl": True})()
    offered = {
        "request_info": request_info,
        "history": (),
        "headers": {},
        "connection_key": connection_key,
        "os_error": OSError(111, "refused"),
        "certificate_error": ValueError("expired"),
        "path": "/a",
        "expected": b"a",
        "got": b"b",
        "host": "h",
        "port": 1,
        "url": "http://h/v1",
    }
    if isinstance(kind.__init__, types.WrapperDescriptorType):
        return kind("it broke")
    asked = inspect.signature(kind).parameters.values()
    if any(each.kind is each.VAR_POSITIONAL for each in asked):
        return kind("it broke")
    return kind(
        **{
            each.name: offered[each.name]
            for each in asked
            if each.default is each.empty and each.kind is not each.VAR_KEYWORD
        }
    )


LIBRARY_ERRORS = sorted(set(subclasses(aiohttp.ClientError)), key=lambda kind: kind.__name__)


@pytest.mark.parametrize("kind", LIBRARY_ERRORS, ids=lambda kind: kind.__name__)
def test_every_error_of_the_library_becomes_a_typed_failure(kind: type[Exception]):
    error = make_error(kind)
    assert isinstance(error, FOREIGN_ERRORS)
    reply = read_foreign_error(error, Endpoint("http://h/v1", 1), timeout_seconds=5)
    assert failed(reply).kind in {"connection", "timeout"}
    assert failed(reply).message


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (aiohttp.ServerDisconnectedError(), "connection"),
        (aiohttp.ClientPayloadError("cut off"), "timeout"),
        (aiohttp.ServerTimeoutError(), "timeout"),
        (aiohttp.ConnectionTimeoutError(), "connection"),
        (aiohttp.InvalidURL("nowhere"), "connection"),
        (TimeoutError(), "timeout"),
        (ConnectionResetError(), "connection"),
    ],
)
def test_errors_of_each_layer_have_their_kind(error: Exception, kind: str):
    assert failed(read_foreign_error(error, Endpoint("http://h/v1", 1), timeout_seconds=5)).kind == kind


def test_an_error_text_with_the_key_shows_it_not():
    error = aiohttp.ClientError(f"bad header {KEY}")
    assert KEY not in failed(read_foreign_error(error, Endpoint("http://h/v1", 1, KEY), timeout_seconds=5)).message
