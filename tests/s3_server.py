"""moto's S3 server on 127.0.0.1, and answers that go wrong on their way out of it."""

import logging
import socket
import threading
import time
import urllib.request
from collections.abc import Callable, Iterable
from typing import Any

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import make_server

__all__ = ["Fault", "S3Server", "answer", "break_off", "cut", "nothing", "stall"]

App = Callable[[dict[str, Any], Any], Iterable[bytes]]
Fault = Callable[[App, dict[str, Any], Any], Iterable[bytes]]
"""Answers one request instead of the server."""


class S3Server:
    """Serves buckets, in memory; the next requests go wrong as ``faults`` says, in its order."""

    def __init__(self) -> None:
        logging.getLogger("werkzeug").setLevel(logging.CRITICAL)
        self.faults: list[Fault] = []
        self.requests: list[str] = []
        """Method and path of what was asked since the last `forget`."""
        self._app: App = DomainDispatcherApplication(create_backend_app)
        self._server = make_server("127.0.0.1", 0, self._serve, threaded=True, request_handler=MotoRequestHandler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    @property
    def address(self) -> str:
        """For ``AWS_ENDPOINT_URL``."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def empty(self) -> None:
        """Every bucket is gone but the new one, `runs`; no fault is left and no request was made."""
        self.faults.clear()
        self._send("POST", "/moto-api/reset")
        self._send("PUT", "/runs")
        self.requests.clear()

    def put(self, place: str, content: bytes) -> None:
        """Write `/BUCKET/KEY` as somebody else would."""
        self._send("PUT", place, content)

    def delete(self, place: str) -> None:
        """Remove `/BUCKET/KEY` as somebody else would."""
        self._send("DELETE", place)

    def stop(self) -> None:
        """End it."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _send(self, method: str, place: str, content: bytes | None = None) -> None:
        signed = {"Authorization": "AWS AKIDEXAMPLE:unlooked-at"}
        request = urllib.request.Request(f"{self.address}{place}", method=method, data=content, headers=signed)
        urllib.request.urlopen(request).close()

    def _serve(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        self.requests.append(f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}")
        if self.faults:
            return self.faults.pop(0)(self._app, environ, start_response)
        return self._app(environ, start_response)


def nothing(app: App, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """No fault: the right answer."""
    return app(environ, start_response)


def answer(status: str, code: str) -> Fault:
    """An error as S3 words it, such as `503 Slow Down` with the code `SlowDown`."""

    def fault(_: App, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        body = f"<Error><Code>{code}</Code><Message>key AKIDEXAMPLE and what it signed</Message></Error>".encode()
        _swallow(environ)
        start_response(status, [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]

    return fault


def cut(_: App, environ: dict[str, Any], __: Any) -> Iterable[bytes]:
    """The connection ends before any answer."""
    _close(environ)
    return []


def break_off(app: App, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """The connection ends in the middle of the right answer."""
    body = b"".join(app(environ, start_response))
    yield body[: len(body) // 2]
    _close(environ)


def stall(seconds: float) -> Fault:
    """The right answer, so much later."""

    def fault(app: App, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        time.sleep(seconds)
        return app(environ, start_response)

    return fault


def _swallow(environ: dict[str, Any]) -> None:
    """Read what was sent: a client that still sends would see a reset instead of the answer."""
    environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))


def _close(environ: dict[str, Any]) -> None:
    environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
