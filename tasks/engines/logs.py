"""What of a child's log is told to people while it is written: warnings, errors, the few lines that say how far it is.

`LogReader` knows the lines that vLLM, DeepSpeed, torch, uvicorn and our own trainer write. Everything else stays in the
file: what libraries say to developers (`DeprecationWarning` …), what our own settings bring about, and the errors that
the trainer prints for its driver, which raises them. `follow_log` tells them to the flow run at work, which says so
with `told_to`; the innermost one is told, and outside of a flow run nobody is. Each message names the file, and no
message holds a key. What ended a child is in its `last_words`. Limits: logs are appended to, never replaced.
"""

import logging
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tapir_core.processes import beside
from tasks.engines.keys import hide_keys

PERIOD_SECONDS = 60.0
"""Between two lines that say how busy a server is."""

LONGEST_RECORD = 60
"""Lines; of a longer crash its end is told."""

_LONGEST_LINE = 2_000
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
    r"Enforce eager set|disabled by user settings|disabling stats logging|"
    r"VLLM_ENABLE_V1_MULTIPROCESSING is set to False|Development endpoints are enabled|"
    # Of weights that are exchanged: a layer that has none, and a head that shares the embedding's.
    r"(?:RotaryEmbedding|ParallelLMHead): Failed to load weights|"
    # What a CPU or a container is like; who reads of a run can do nothing about it.
    r"Triton|libtcmalloc|libiomp|Reset SSM cache type|NUMA binding|Found ulimit of"
)
_BUSY = re.compile(r"Engine \d+: Avg prompt throughput.* Running: [1-9]")
_TRAINER = re.compile(r"(?:resuming from step|saved after step|stopped by SIGTERM) |  (?:examples|steps|memory)  ")


Record = tuple[int, str]
"""One thing to tell, at a level of `logging`."""


class LogReader:
    """Turns the lines of one log into records. What comes again is told when it came 10, 100, 1,000 … times."""

    def __init__(self) -> None:
        self._error: list[str] = []
        """Lines of the error that is being read."""
        self._speaker: str | None = None
        """Whose error lines are read; nothing while a bare traceback is."""
        self._times: Counter[str] = Counter()
        self._next_busy = 0.0

    def read(self, lines: Iterable[str], now: float) -> list[Record]:
        """What to tell of lines that came at ``now`` (seconds of any clock); an error stays open until another line."""
        return [record for line in lines for record in self._read_line(line.rstrip()[:_LONGEST_LINE], now)]

    def flush(self) -> list[Record]:
        """The error that is open: nothing more of it comes."""
        lines, self._error = self._error, []
        if not lines:
            return []
        shown = ["…", *lines[-LONGEST_RECORD:]] if len(lines) > LONGEST_RECORD else lines
        return self._tell(logging.ERROR, "\n".join(shown).rstrip())

    def _read_line(self, line: str, now: float) -> Iterator[Record]:
        speaker, level, text = _parse(line)
        if self._error and self._goes_on(speaker, level, text):
            self._error.append(text)
            return
        yield from self.flush()
        if level == logging.ERROR or (level is None and _CRASH.match(text)):
            self._error, self._speaker = [text], None if level is None else speaker
        elif level == logging.WARNING and not _EXPECTED.search(text):
            yield from self._tell(level, text)
        elif level == logging.INFO and _BUSY.match(text) and now >= self._next_busy:
            self._next_busy = now + PERIOD_SECONDS
            yield level, text
        elif level is None and _TRAINER.match(text):
            yield logging.INFO, re.sub(r" {2,}", ": ", text.strip())

    def _goes_on(self, speaker: str, level: int | None, text: str) -> bool:
        """Whether a line belongs to the error that is open."""
        if level is not None or self._speaker is not None:
            # One error comes in many lines of its speaker, each at its level.
            return level == logging.ERROR and speaker == self._speaker
        # A bare traceback: indented lines, the exception that comes after them, and what is chained.
        return bool(_CHAINED.match(text)) or next(filter(str.strip, reversed(self._error))).startswith(" ")

    def _tell(self, level: int, text: str) -> list[Record]:
        # Process ids and times differ where the same is said again.
        same = re.sub(r"0x[0-9a-f]+|\d+", "0", text)
        self._times[same] += 1
        times = self._times[same]
        again = f"({times:,} times by now) " if times > 1 else ""
        return [(level, again + text)] if str(times).rstrip("0") == "1" else []


def _parse(line: str) -> tuple[str, int | None, str]:
    """Speaker, level and text of a line; no level where its form is not one that we know."""
    origin = _FROM.match(line)
    speaker, line = (origin[origin.lastindex or 0], line[origin.end() :]) if origin else ("", line)
    match = next(filter(None, (form.match(line) for form in _FORMS)), None)
    return (speaker, _LEVELS.get(match[1], logging.DEBUG), match[2]) if match else (speaker, None, line)


_ERROR = re.compile(r"\s*([\w.]*(Error|Exception)\b.*|Value error, .*|.*: (fatal )?error: .*)$")
# What vLLM raises around the error that matters.
_WRAPPER = re.compile(r"Engine core initialization failed|WorkerProc initialization failed|VLLM Init failed")


def last_words(output: str) -> str:
    """The errors that ended a child, as its output tells them; else its last lines."""
    lines = [(level, text.rstrip()) for _, level, text in map(_parse, output.splitlines()) if text.strip()]
    errors = [text.strip() for _, text in lines if _ERROR.match(text) and not _WRAPPER.search(text)]
    telling = [text for level, text in lines if level not in (logging.INFO, logging.WARNING)]
    last = telling or [text for _, text in lines] or ["(it wrote nothing)"]
    return "\n".join(f"  {text[:500]}" for text in list(dict.fromkeys(errors))[-3:] or last[-5:])


def whole_lines(path: Path, offset: int) -> tuple[list[str], int]:
    """The whole lines of a file after ``offset`` bytes, and where they end; none while there is no file."""
    if not path.exists():
        return [], offset
    with path.open("rb") as file:
        file.seek(offset)
        written = file.read()
    whole = written[: written.rfind(b"\n") + 1]
    return whole.decode("utf-8", "replace").splitlines(), offset + len(whole)


Tell = Callable[[int, str], object]
"""Takes a level of `logging` and a message; for any thread."""

_LOOK_SECONDS = 0.5

_ASSIGNED = re.compile(r"(?i)(bearer |(?:api[_-]?key|password|secret)\w*['\"]?\s*[=:]\s*['\"\[]*)[^\s'\",;)\]]+")

_listeners: list[Tell] = []
"""Of the flow runs at work in this process, the innermost last."""
_looks: list[Callable[..., None]] = []
"""What looks at each log that is followed."""


@contextmanager
def told_to(listener: Tell) -> Iterator[None]:
    """For the length of the block ``listener`` is told; at its end it has heard all that was written in it."""
    _listeners.append(listener)
    try:
        yield
    finally:
        for look in list(_looks):
            look(ended=True)
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
    reader, looking = LogReader(), threading.Lock()
    offset = path.stat().st_size if path.exists() else 0

    def look(*, ended: bool = False) -> None:
        """Tell what is new; when nothing is, or all has ``ended``, also the error whose last line has come."""
        nonlocal offset
        with looking:
            lines, offset = whole_lines(path, offset)
            records = reader.read(lines, time.monotonic())
            for level, said in [*records, *(reader.flush() if ended or not lines else ())]:
                text = _ASSIGNED.sub(r"\1[key]", hide_keys(said))
                separator = "\n" if "\n" in text else " "
                tell(level, f"{name} ({path.absolute()}):{separator}{text}")

    def go_on(stopped: threading.Event) -> None:
        while not stopped.wait(_LOOK_SECONDS):
            look()

    _looks.append(look)
    try:
        with beside(f"follow {path.name}", go_on):
            yield
    finally:
        look(ended=True)
        _looks.remove(look)
