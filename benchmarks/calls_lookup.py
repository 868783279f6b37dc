"""How long the store needs to look up what it knows, for `calls.py`: ``python calls_lookup.py KEYS`` prints seconds.

The store is SQLite, filled with answers of the size of a verdict and opened anew, as at the start of a run.
"""

import json
import sys
import tempfile
import time
from pathlib import Path

from calls_ours import make_request
from calls_server import VERDICT

from tapir_core.calls import Answer, AnswerStore, CallEngine, Spend
from tapir_core.calls.wire import Reply
from tapir_core.config import CallsConfig

PUTS_AT_ONCE = 2000


def look_up(keys: int, folder: Path) -> dict[str, float]:
    """Seconds for ``keys`` known keys: the look-up alone, and a whole ask that hashes its requests too."""
    requests = [make_request(f"Question {row}.") for row in range(keys)]
    url = f"sqlite:///{folder / 'store.sqlite'}"
    with AnswerStore(url) as store:
        for start in range(0, keys, PUTS_AT_ONCE):
            some = requests[start : start + PUTS_AT_ONCE]
            for future in [store.put(request.key, request, _reply(request.key)) for request in some]:
                future.result()
    names = [request.key for request in requests]
    store = AnswerStore(url)
    began = time.perf_counter()
    found = store.lookup(names)
    looked_up = time.perf_counter() - began
    assert len(found) == keys
    with CallEngine(store, CallsConfig(), run="bench") as engine:
        began = time.perf_counter()
        outcomes = engine.ask(requests, _no_endpoint)
        asked = time.perf_counter() - began
    assert all(isinstance(outcome, Answer) for outcome in outcomes)
    return {"lookup_seconds": looked_up, "ask_seconds": asked}


def _reply(key: str) -> Reply:
    text = f"{key}: {VERDICT}"
    return Reply(Answer(text, "stop", 400, 130, 0.0), Spend(1, 400, 130), raw=json.dumps({"text": text}))


def _no_endpoint() -> None:
    raise AssertionError("the store lacks something")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(look_up(int(sys.argv[1]), Path(folder))))
