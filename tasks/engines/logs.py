"""What of a child's log is told to people while it is written: warnings, errors, the few lines that say how far it is.

`LogReader` knows the lines that vLLM, DeepSpeed, torch, uvicorn and our own trainer write. Everything else stays in the
file: what libraries say to developers (`DeprecationWarning` …), what our own settings bring about, and the errors that
the trainer prints for its driver, which raises them. `follow_log` tells them to the flow run at work, which says so
with `told_to`; the innermost one is told, and outside of a flow run nobody is. Each message names the file, and no
message holds a key. Limits: logs are appended to, never replaced.
"""

import contextvars
import logging
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from tasks.engines.keys import hide_keys

__all__ = [
    "LogReader",
    "Record",
    "follow_log",
    "tell",
    "told_to",
]

PERIOD_SECONDS = 60.0
"""Between two lines that say how busy a server is."""

LONGEST_RECORD = 60
"""Lines; of a longer crash its end is told."""

LONGEST_LINE = 2_000
"""Characters."""

_FROM = re.compile(r"^(?:\((\w+)[^()]*pid=\d+\) ?|\[(rank\d+)\]:\s?)")
"""Who speaks, where several processes write one log: `(EngineCore pid=41) `, `[rank0]: `."""

_FORMS = (
    # vLLM
    re.compile(r"([A-Z]+) \d\d-\d\d [\d:]{8} \[[^\]]+\] ?(.*)$"),
    # DeepSpeed
    re.compile(r"\[\d{4}-\d\d-\d\d [\d:,]+\] \[([A-Z]+)\] \[[^\]]+\] ?(.*)$"),
    # torch
    re.compile(r"\[([WEF])\d{4} [\d:.]+ [^\]]+\] (?:Warning: )?(.*)$"),
    # uvicorn
    re.compile(r"(INFO|WARNING|ERROR|CRITICAL): +(.*)$"),
)
"""Level and text."""

_LEVELS = {
    **dict.fromkeys(("W", "WARN", "WARNING"), logging.WARNING),
    **dict.fromkeys(("E", "F", "ERROR", "CRITICAL", "FATAL"), logging.ERROR),
    "INFO": logging.INFO,
}

_CRASH = re.compile(r"Traceback \(most recent call last\):|Exception in thread ")
_CHAINED = re.compile(r"\s|$|Traceback \(most|During handling of the above|The above exception was")

_EXPECTED = re.compile(
    # What our own settings bring about.
    r"Enforce eager set|disabled by user settings|VLLM_ENABLE_V1_MULTIPROCESSING is set to False|\[shutdown\]|"
    # What a CPU or a container is like; who reads of a run can do nothing about it.
    r"Triton|libtcmalloc|libiomp|Reset SSM cache type|NUMA binding|Found ulimit of"
)
_CLOCK = re.compile(r"[A-Z]+ \d\d-\d\d (\d\d:\d\d:\d\d) ")
_STARTS = re.compile(r"non-default args: .*'model': '([^']+)'")
_READY = "Application startup complete."
_TOLD_TO_END = "[shutdown] API server: shutdown triggered"
_BUSY = re.compile(r"Engine \d+: Avg prompt throughput.* Running: [1-9]")
_TRAINER = re.compile(r"(?:resuming from step|saved after step|stopped by SIGTERM) .*")
_PREFLIGHT = re.compile(r"  (examples|steps|memory) {2,}(.*)")


@dataclass(frozen=True, slots=True)
class Record:
    """One thing to tell, at a level of `logging`."""

    level: int
    text: str


class LogReader:
    """Turns the lines of one log into records. What comes again is told when it came 10, 100, 1,000 … times."""

    def __init__(self) -> None:
        self._error: list[str] = []
        """Lines of the error that is being read."""
        self._speaker: str | None = None
        """Whose error lines are read; nothing while a bare traceback is."""
        self._raised = False
        """The bare traceback has come to the line that names its exception."""
        self._times: Counter[str] = Counter()
        self._next_busy = 0.0
        self._model = ""
        """What the server that starts will serve."""
        self._began = self._clock = ""
        """By the log's own clock: its start, and the last line."""
        self._ending = False
        """The server was told to end: what breaks in it from then on is no error."""

    def read(self, lines: Iterable[str], now: float) -> list[Record]:
        """What to tell of lines that came at ``now`` (seconds of any clock); an error stays open until another line."""
        return [record for line in lines for record in self._read_line(line.rstrip()[:LONGEST_LINE], now)]

    def flush(self) -> list[Record]:
        """The error that is open: nothing more of it comes."""
        lines, self._error, self._speaker, self._raised = self._error, [], None, False
        if not lines:
            return []
        shown = ["…", *lines[-LONGEST_RECORD:]] if len(lines) > LONGEST_RECORD else lines
        return self._tell(logging.ERROR, "\n".join(shown).rstrip())

    def _read_line(self, line: str, now: float) -> list[Record]:
        origin = _FROM.match(line)
        speaker, line = (origin[origin.lastindex or 0], line[origin.end() :]) if origin else ("", line)
        if clock := _CLOCK.match(line):
            self._clock = clock[1]
        level, text = _parse(line)
        if level == logging.ERROR and self._ending:
            return self.flush()
        if level == logging.ERROR:
            # One error comes in many lines of its speaker, each at its level.
            told = self.flush() if speaker != self._speaker else []
            self._speaker = speaker
            self._error.append(text)
            return told
        if level is None and self._error and self._speaker is None and self._goes_on(line):
            self._error.append(line)
            return []
        told = self.flush()
        if level is None and _CRASH.match(line):
            self._error.append(line)
            return told
        return [*told, *self._read_quiet(level, text, now)]

    def _goes_on(self, line: str) -> bool:
        """Whether a line belongs to the bare traceback that is open: indented, or its exception, or what is chained."""
        if _CHAINED.match(line):
            self._raised = self._raised and not line.strip()
            return True
        first, self._raised = not self._raised, True
        return first

    def _read_quiet(self, level: int | None, text: str, now: float) -> list[Record]:
        if level == logging.WARNING:
            return [] if _EXPECTED.search(text) else self._tell(level, text)
        shown = ""
        if level == logging.INFO:
            shown = self._read_server(text, now)
        elif level is None and (match := _PREFLIGHT.match(text)):
            shown = f"{match[1]}: {match[2]}"
        elif level is None and _TRAINER.match(text):
            shown = text
        return [Record(logging.INFO, shown)] if shown else []

    def _read_server(self, text: str, now: float) -> str:
        if match := _STARTS.match(text):
            self._model, self._began, self._ending = match[1], self._clock, False
        elif text == _TOLD_TO_END:
            self._ending = True
        elif text == _READY and self._began:
            return f"ready with {self._model} after {_seconds_between(self._began, self._clock)} s"
        elif _BUSY.match(text) and now >= self._next_busy:
            self._next_busy = now + PERIOD_SECONDS
            return text
        return ""

    def _tell(self, level: int, text: str) -> list[Record]:
        # Process ids and times differ where the same is said again.
        same = re.sub(r"0x[0-9a-f]+|\d+", "0", text)
        self._times[same] += 1
        times = self._times[same]
        if times > 1:
            text = f"({times:,} times by now) {text}"
        return [Record(level, text)] if str(times).rstrip("0") == "1" else []


def _parse(line: str) -> tuple[int | None, str]:
    """Level and text of a line; no level where its form is not one that we know."""
    for form in _FORMS:
        if match := form.match(line):
            return _LEVELS.get(match[1], logging.DEBUG), match[2]
    return None, line


def _seconds_between(began: str, ended: str) -> int:
    """Of two times of day, less than a day apart."""
    passed = datetime.fromisoformat(f"2000-01-01 {ended}") - datetime.fromisoformat(f"2000-01-01 {began}")
    return (passed % timedelta(days=1)).seconds


Tell = Callable[[int, str], object]
"""Takes a level of `logging` and a message; for any thread."""

_LOOK_SECONDS = 0.5

_ASSIGNED = re.compile(r"(?i)(bearer |(?:api[_-]?key|password|secret)\w*['\"]?\s*[=:]\s*['\"\[]*)[^\s'\",;)\]]+")

_listeners: list[Tell] = []
"""Of the flow runs at work in this process, the innermost last."""
_followers: "list[_Follower]" = []


@contextmanager
def told_to(listener: Tell) -> Iterator[None]:
    """For the length of the block ``listener`` is told; at its end it has heard all that was written in it."""
    _listeners.append(listener)
    try:
        yield
    finally:
        for follower in list(_followers):
            follower.look(ended=True)
        _listeners.remove(listener)


def tell(level: int, message: str) -> None:
    """Tell the flow run at work."""
    for listener in _listeners[-1:]:
        listener(level, message)


@contextmanager
def follow_log(name: str, path: Path) -> Iterator[None]:
    """For the length of the block tell what people should see of what is appended to a log, if it is there or not.

    Args:
        name: Whose log it is, in the words of a reader.
        path: The log.
    """
    follower = _Follower(name, path)
    _followers.append(follower)
    # The thread belongs to the run that starts it, also for Prefect.
    thread = threading.Thread(
        target=contextvars.copy_context().run, args=(follower.go_on,), name=f"follow {path.name}", daemon=True
    )
    thread.start()
    try:
        yield
    finally:
        follower.stopped.set()
        thread.join()
        follower.look(ended=True)
        _followers.remove(follower)


class _Follower:
    """One log, from its end on."""

    def __init__(self, name: str, path: Path) -> None:
        self.stopped = threading.Event()
        self._name = name
        self._path = path
        self._reader = LogReader()
        self._offset = path.stat().st_size if path.exists() else 0
        self._looking = threading.Lock()

    def go_on(self) -> None:
        """Look again and again, until stopped."""
        while not self.stopped.wait(_LOOK_SECONDS):
            self.look()

    def look(self, *, ended: bool = False) -> None:
        """Tell what is new; when nothing is, or all has ``ended``, also the error whose last line has come."""
        with self._looking:
            lines = self._new_lines()
            records = self._reader.read(lines, time.monotonic())
            if ended or not lines:
                records += self._reader.flush()
            for record in records:
                self._tell(record)

    def _new_lines(self) -> list[str]:
        """The whole lines that were appended since the last look."""
        if not self._path.exists():
            return []
        with self._path.open("rb") as file:
            file.seek(self._offset)
            written = file.read()
        whole = written[: written.rfind(b"\n") + 1]
        self._offset += len(whole)
        return whole.decode("utf-8", "replace").splitlines()

    def _tell(self, record: Record) -> None:
        text = _ASSIGNED.sub(r"\1[key]", hide_keys(record.text))
        separator = "\n" if "\n" in text else " "
        tell(record.level, f"{self._name} ({self._path.absolute()}):{separator}{text}")
