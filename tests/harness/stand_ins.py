"""A stand-in beside the system under test, what its log says of the calls, and how a configuration names it."""

import json
import os
import signal
import sys
from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from flows.prefect_server.server import is_taken
from tasks.engines.supervisor import Child, start_child
from tests.harness.processes import REPOSITORY, free_port
from tests.waiting import wait_until

__all__ = ["RequestLog", "StandinProcess", "endpoint", "endpoints"]


def endpoint(base_url: str, model: str, *, identity: str = "outside-1") -> str:
    """A configuration's endpoint without a key, in one line of TOML."""
    values = {"type": "openai", "base_url": base_url, "model": model, "identity": identity, "api_key_env": ""}
    values["seed"] = True  # rules answer equal requests alike
    return "{ " + ", ".join(f"{name} = {json.dumps(value)}" for name, value in values.items()) + " }"


def endpoints(base_url: str) -> dict[str, str]:
    """One stand-in as teacher and judge, by field of the configuration."""
    return {f"{role}.endpoint": endpoint(base_url, f"standin-{role}") for role in ("teacher", "judge")}


class RequestLog:
    """What a stand-in has written of its requests."""

    def __init__(self, path: Path, *, before: int = 0) -> None:
        self.path, self._before = path, before

    def from_now_on(self) -> "RequestLog":
        """The requests still to come."""
        return RequestLog(self.path, before=self._before + len(self.lines()))

    def lines(self) -> list[dict[str, Any]]:
        """One for each request so far, whole ones only."""
        text = self.path.read_text() if self.path.exists() else ""
        whole = [line for line in text.splitlines(keepends=True) if line.endswith("\n")]
        return [json.loads(line) for line in whole[self._before :]]

    def answered(self, *kinds: str) -> list[str]:
        """Digest of each request that was answered or refused, in their order; of all kinds when none is given."""
        found = [line for line in self.lines() if line["outcome"] in ("answered", "refused")]
        return [line["sha256"] for line in found if not kinds or line["kind"] in kinds]

    def answered_again(self) -> int:
        """Answers beyond the first to the same request."""
        return sum(count - 1 for count in Counter(self.answered()).values())

    def filtered(self) -> int:
        """Requests whose last answer was stopped by a content filter: they failed for good."""
        last = {line["sha256"]: line["fault"] for line in self.lines() if line["outcome"] in ("answered", "refused")}
        return sum(fault == "filter" for fault in last.values())

    def faults(self) -> Counter[str]:
        """Requests that the stand-in failed itself, by fault."""
        return Counter(line["fault"] for line in self.lines() if line["outcome"] == "failed")

    def wait_for(self, count: int, *, seconds: float = 240) -> None:
        """Wait until so many requests are answered."""
        wait_until(
            lambda: len(self.answered()) >= count,
            seconds=seconds,
            told=lambda: f"{len(self.answered())} of {count} calls",
        )


class StandinProcess:
    """A stand-in in a process of its own: it can be killed, and come back at its address with other faults."""

    def __init__(self, folder: Path, *, faults: str = "", latency_ms: int = 0) -> None:
        self.log, self._output = RequestLog(folder / "standin.jsonl"), folder / "standin.out"
        self._port, self._faults, self._latency_ms = free_port(), faults, latency_ms
        self._child: Child | None = None

    @property
    def base_url(self) -> str:
        """Address up to and with `/v1`."""
        return f"http://127.0.0.1:{self._port}/v1"

    def start(self, *, faults: str | None = None) -> None:
        """Start it, or start it again; without ``faults`` as it was made."""
        given = {
            "port": self._port,
            "log": self.log.path,
            "latency-ms": self._latency_ms,
            "faults": self._faults if faults is None else faults,
        }
        words = [word for name, value in given.items() for word in (f"--{name}", str(value))]
        argv = [sys.executable, "-m", "tests.doubles.standin", *words]
        self._child = start_child(argv, env=os.environ, log_path=self._output, cwd=REPOSITORY, name="stand-in")
        wait_until(lambda: is_taken(self._port), seconds=60, told=lambda: self._output.read_text()[-3000:])

    def stop(self) -> None:
        """End it, if it runs."""
        if self._child is not None:
            self._child.terminate(grace_seconds=5)

    def kill(self) -> None:
        """``kill -9``; fails when it had ended before."""
        assert self._child is not None
        assert self._child.poll() is None, "it ended before the kill"
        os.kill(self._child.pid, signal.SIGKILL)
        self._child.wait()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()
