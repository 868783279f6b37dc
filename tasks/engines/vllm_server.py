"""One vLLM server for one checkpoint: a supervised child in its own environment, reached over loopback.

Lives from `start` to `stop` or until it dies; who keeps it, swaps it and starts it again is `student_server.py`, and on
a GPU worker, where another address may be asked for, `serving.py`.
"""

import http.client
import json
import re
import secrets
import socket
import time
from collections.abc import Callable
from pathlib import Path

from tapir_core.calls.types import Endpoint
from tapir_core.config import VllmEngine
from tapir_core.errors import ConfigError, EngineError
from tasks.engines.backbone import find_chat_template
from tasks.engines.supervisor import Child, start_child
from tasks.engines.vllm_command import HOST, SERVED_NAME, find_environment, server_command, server_env

__all__ = ["VllmServer"]

_STOP_GRACE_SECONDS = 10.0
_POLL_SECONDS = 0.1
_PROGRESS_SECONDS = 10.0
_REPLY_TIMEOUT_SECONDS = 120.0


class VllmServer:
    """A server for one checkpoint, from `start` to `stop`."""

    def __init__(
        self,
        engine: VllmEngine,
        checkpoint: Path,
        log_path: Path,
        *,
        chat_template: Path | None = None,
        report: Callable[[str], None] = lambda _line: None,
        host: str = HOST,
        api_key: str | None = None,
        gpus: int = 1,
    ) -> None:
        """Nothing starts yet.

        Args:
            engine: How it generates.
            checkpoint: The student's folder.
            log_path: Gets the server's output.
            chat_template: In place of the checkpoint's own.
            report: Told how the start gets on.
            host: The one address at which it listens, and at which it is asked.
            api_key: The only key that it takes; a random one for each start when there is none.
            gpus: GPUs that it may use; a server built for the CPU ignores them.
        """
        self.checkpoint = checkpoint
        self._engine = engine
        self._log_path = log_path
        self._chat_template = chat_template
        self._report = report
        self._host = host
        self._api_key = api_key
        self._gpus = gpus
        self._child: Child | None = None
        self._aborted = False

    @property
    def runs(self) -> bool:
        """False before `start`, after `stop` and when the server died."""
        return self._child is not None and self._child.poll() is None

    def start(self) -> Endpoint:
        """Start, wait until it answers, warm it up.

        Raises:
            ConfigError: neither the checkpoint nor the configuration has a chat template.
            MissingPrerequisite: the environment is missing.
            EngineError: the server died, did not get ready in time or answers wrongly; names the log.
        """
        if self._chat_template is None and find_chat_template(self.checkpoint) is None:
            raise ConfigError(
                f"{self.checkpoint} has no chat template; set student.chat_template to a Jinja file that holds one"
            )
        environment = find_environment(self._engine)
        on_gpus = environment.device == "cuda"
        copies = max(1, self._gpus // self._engine.tensor_parallel) if on_gpus else 1
        key = self._api_key or secrets.token_urlsafe(32)
        log_start = self._log_path.stat().st_size if self._log_path.exists() else 0
        # Bound and never listening, it keeps the port from everyone but a server that names it (both reuse addresses).
        with socket.socket() as reserved:
            reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._bind(reserved)
            port = int(reserved.getsockname()[1])
            command = server_command(
                self._engine,
                environment,
                self.checkpoint,
                port,
                self._chat_template,
                host=self._host,
                copies=copies,
            )
            self._child = start_child(
                command,
                env=server_env(self._engine, environment, key),
                log_path=self._log_path,
                name="student server",
            )
            try:
                self._wait_until_healthy(port, log_start)
                self._warm_up(port, key)
            except BaseException:
                self.stop()
                raise
        concurrency = copies * self._engine.concurrency
        return Endpoint(base_url=f"http://{self._host}:{port}/v1", concurrency=concurrency, api_key=key)

    def stop(self) -> None:
        """End the server and everything it started; nothing is left when this returns."""
        if self._child is not None:
            self._child.terminate(_STOP_GRACE_SECONDS)
            self._child = None

    def abort(self) -> None:
        """End the child from another thread than the one that starts or stops it."""
        self._aborted = True
        child = self._child
        if child is not None:
            child.terminate(_STOP_GRACE_SECONDS)

    def _bind(self, reserved: socket.socket) -> None:
        try:
            reserved.bind((self._host, 0))
        except OSError as exc:
            raise ConfigError(f"the student server cannot listen at {self._host!r}: {exc}") from exc

    def _wait_until_healthy(self, port: int, log_start: int) -> None:
        assert self._child is not None
        began = time.monotonic()
        reported = began
        while not _healthy(self._host, port):
            now = time.monotonic()
            if self._aborted:
                raise EngineError("the student server was told to stop before it was ready")
            code = self._child.poll()
            if code is not None:
                raise EngineError(
                    f"the student server for {self.checkpoint} ended with exit code {code} before it was ready:\n"
                    f"{_last_words(self._log_path, log_start)}\nits log is {self._log_path}"
                )
            if now - began > self._engine.start_timeout_seconds:
                raise EngineError(
                    f"the student server for {self.checkpoint} is not ready after {now - began:.0f} s; raise "
                    f"student.engine.start_timeout_seconds if it only needs longer; its log is {self._log_path}"
                )
            if now - reported >= _PROGRESS_SECONDS:
                reported = now
                self._report(f"student server starts ({now - began:.0f} s)")
            time.sleep(_POLL_SECONDS)
        self._report(f"student server is ready ({time.monotonic() - began:.0f} s)")

    def _warm_up(self, port: int, key: str) -> None:
        """One tiny answer: shows that template and key work, and pays what the first answer costs more."""
        body = {"model": SERVED_NAME, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1}
        connection = http.client.HTTPConnection(self._host, port, timeout=_REPLY_TIMEOUT_SECONDS)
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
        try:
            connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
            reply = connection.getresponse()
            text = reply.read().decode(errors="replace")
        except OSError as exc:
            raise EngineError(f"the student server did not answer: {exc}; its log is {self._log_path}") from exc
        finally:
            connection.close()
        if reply.status != http.client.OK:
            raise EngineError(
                f"the student server cannot answer with {self.checkpoint} (status {reply.status}): {text[:500]}; "
                f"its log is {self._log_path}"
            )


def _healthy(host: str, port: int) -> bool:
    connection = http.client.HTTPConnection(host, port, timeout=2)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


_PREFIX = re.compile(r"^(\(\w[^)]*pid=\d+\) )?([A-Z]+ [\d-]+ [\d:]+ (\[[^\]]+\] )?)?")
_ERROR = re.compile(r"^\s*([\w.]*(Error|Exception)\b.*|Value error, .*|.*: error: .*)$")
# What vLLM raises around the error that matters.
_WRAPPER = re.compile(r"Engine core initialization failed|WorkerProc initialization failed|VLLM Init failed")


def _last_words(log_path: Path, start: int) -> str:
    """The error that ended a server, as its log tells it; else the last lines."""
    with log_path.open("rb") as file:
        file.seek(start)
        text = file.read().decode(errors="replace")
    lines = [_PREFIX.sub("", line).rstrip() for line in text.splitlines()]
    lines = [line for line in lines if line]
    errors = [line.strip() for line in lines if _ERROR.match(line) and not _WRAPPER.search(line)]
    chosen = list(dict.fromkeys(errors))[-3:] or lines[-5:] or ["(it wrote nothing)"]
    return "\n".join(f"  {line[:500]}" for line in chosen)
