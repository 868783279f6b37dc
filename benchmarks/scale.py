"""A million instructions: seconds and memory of what grows with them, each part in a process of its own.

- `reading`: the pool of a file as `tapir estimate` has it (ids, checks, duplicates, evaluation questions), from JSON
  lines and from Parquet; beside it polars, which only reads the columns.
- `gate`: new instructions against all texts before them, at ROUGE-L 0.7: the index, and a candidate.
- `corpus`: conversations to the memory-mapped tokens of a training, and what one rank holds that maps them.
- `store`: answers of the size of a verdict into the call store; opened again, what a resume asks of it, shard by shard:
  the look-up, and a whole ask. SQLite, or a PostgreSQL database that `--store` names.
- `round`: a whole round up to its mixture, with engines that answer at once (`benchmarks.orchestration`). With
  `--kills` it is killed by SIGKILL so many seconds after each of its first starts, with all that it started; its
  seconds are then those of all starts together.

A line of JSON for each part and size; the last has the exponents of growth between the smallest and the largest size of
each part. Texts are made words: 45 in an instruction, 20 more as input in a third of the rows, 45 in an answer.
"""

import argparse
import json
import math
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import polars as pl

_WORDS, _CANDIDATES, _SHARD = 30_000, 200, 2_048
_STORE = "TAPIR_BENCH_STORE"

Figures = dict[str, float]


def rows_of(count: int) -> Iterator[dict[str, str]]:
    """Made instructions with answers, equal for equal counts."""
    rng = random.Random(7)
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["".join(rng.choices(letters, k=rng.randint(2, 10))) for _ in range(_WORDS)]

    def text(length: int) -> str:
        return " ".join(rng.choices(words, k=length))

    for number in range(count):
        yield {"instruction": text(45), "input": "" if number % 3 else text(20), "output": text(45)}


def write_pool(folder: Path, count: int) -> Path:
    """The same rows as JSON lines and as Parquet."""
    lines = folder / f"pool-{count}.jsonl"
    with lines.open("w") as file:
        for row in rows_of(count):
            file.write(f"{json.dumps(row)}\n")
    pl.scan_ndjson(lines).sink_parquet(lines.with_suffix(".parquet"))
    return lines


def time_reading(pool: Path, rows: int) -> Figures:
    """The pool of a configuration without references, as an estimate reads it."""
    from tapir_core.config import RunConfig
    from tapir_core.sources import clean_pool

    config = RunConfig.model_validate(
        {
            "run": {"name": "scale", "rounds": 1},
            "data": {"pool": {"type": "file", "path": str(pool)}},
            "teacher": {"endpoint": {"type": "standin"}},
            "judge": {"endpoint": {"type": "standin"}},
        }
    )
    began = time.monotonic()
    assert clean_pool(config).rows.height == rows
    return {"seconds": time.monotonic() - began}


def time_polars(pool: Path, rows: int) -> Figures:
    """Its columns alone."""
    began = time.monotonic()
    read = pl.read_parquet if pool.suffix == ".parquet" else pl.read_ndjson
    assert read(pool).height == rows
    return {"seconds": time.monotonic() - began}


def time_gate(pool: Path, rows: int) -> Figures:
    """Candidates of which every other one has a third of its words from a text that is there."""
    from tapir_core.data.decontamination import NearDuplicates

    texts = pl.scan_ndjson(pool).select("instruction").collect()["instruction"].to_list()
    rng, began = random.Random(8), time.monotonic()
    seen = NearDuplicates(texts, 0.7)
    built = time.monotonic()
    for number in range(_CANDIDATES):
        words = rng.choice(texts).split()
        strange = [f"x{rng.getrandbits(40)}" for _ in words]
        kept = len(words) if number % 2 else len(words) // 3
        assert seen.contains_like(" ".join(words[:kept] + strange[kept:])) == bool(number % 2)
    done = time.monotonic()
    assert len(texts) == rows
    return {"seconds": done - began, "index_seconds": built - began, "ms": (done - built) / _CANDIDATES * 1000}


def time_corpus(pool: Path, rows: int) -> Figures:
    """The tokens of all rows; what a process that maps them again holds of its own is what a rank holds."""
    from datasets import disable_progress_bars

    from tasks.engines.tiny_student import CHAT_TEMPLATE, small_tokenizer
    from tasks.engines.training.data import encode

    def talks() -> Iterator[list[dict[str, str]]]:
        for row in pl.read_parquet(pool, columns=["instruction", "output"]).iter_rows():
            yield [{"role": role, "content": text} for role, text in zip(("user", "assistant"), row, strict=True)]

    named = {"pad_token": "<|pad|>", "bos_token": "<|start|>", "eos_token": "<|end|>"}
    tokenizer = small_tokenizer([*named.values()], 1024, model_max_length=2048, **named)
    tokenizer.chat_template = CHAT_TEMPLATE
    disable_progress_bars()
    folder = pool.with_suffix(".tokens")
    there, before, began = folder.exists(), _memory_mib(of="RssAnon"), time.monotonic()
    corpus = encode(tokenizer, talks(), max_length=2048, folder=folder)
    took, tokens = time.monotonic() - began, int(corpus.lengths.sum())
    assert len(corpus.lengths) == rows
    own = _memory_mib(of="RssAnon") - before  # without the mapped pages, which all ranks share
    held = sum(each.stat().st_size for each in folder.rglob("*") if each.is_file())
    return {"seconds": took, "bytes_a_token": held / tokens, **({"rank_mib": own} if there else {})}


def time_store(file: Path, rows: int) -> Figures:
    """Requests and their answers, as they come from a judge; another process finds them."""
    from tapir_core.calls import Answer, AnswerStore, CallEngine, Message, Request, Spend
    from tapir_core.calls.wire import Reply
    from tapir_core.config import CallsConfig, Sampling

    def shard(first: int) -> list[Request]:
        asked = (
            (Message("user", f"Question {row} of {rows}. {'word ' * 90}"),)
            for row in range(rows)[first : first + _SHARD]
        )
        return [Request("judge", each, "m", "scale", Sampling(max_tokens=400), run="scale") for each in asked]

    def put(store: AnswerStore, request: Request) -> Any:
        text = f"{request.key}: {'reason ' * 20}"
        reply = Answer(text, "stop", 400, 130, 0.0)
        return store.put(request.key, request, Reply(reply, Spend(1, 400, 130), raw=json.dumps({"text": text})))

    def no_endpoint() -> NoReturn:
        raise AssertionError("the store lacks something")

    firsts, found = range(0, rows, _SHARD), Figures(seconds=0.0)
    with AnswerStore(os.environ.get(_STORE) or f"sqlite:///{file}") as store:
        is_new = not store.known([shard(0)[0].key])
        for first in firsts:
            requests, began = shard(first), time.monotonic()
            if is_new:
                for future in [put(store, request) for request in requests]:
                    future.result()
            else:
                assert len(store.lookup([each.key for each in requests])) == len(requests)
            found["seconds"] += time.monotonic() - began
        if not is_new:
            with CallEngine(store, CallsConfig(), run="scale") as engine:
                began = time.monotonic()
                assert all(
                    isinstance(each, Answer) for first in firsts for each in engine.ask(shard(first), no_endpoint)
                )
                found["ask_seconds"] = time.monotonic() - began
    if file.exists():
        found["bytes_an_answer"] = file.stat().st_size / rows
    return found


def time_round(folder: Path, rows: int) -> Figures:
    """The product's own flow on a Prefect server of its own, twice: the second time all is done."""
    from benchmarks.orchestration import Clock, make_run
    from benchmarks.orchestration import time_round as timed
    from flows.prefect_server.server import connect_prefect
    from tasks.runtime import close_all

    run = make_run(folder, "scale", rows, max(256, rows // 200))
    with connect_prefect(run.ref):
        found = timed(run, Clock(2.0))
    close_all()
    return {"seconds": found.first.seconds, "own_seconds": found.own_seconds, "resume_seconds": found.again.seconds}


def _memory_mib(process: int | str = "self", of: str = "VmHWM") -> float:
    """The most that a process held, or ``of`` what else it tells; `getrusage` counts what its parent held."""
    status = dict(line.split(":") for line in Path(f"/proc/{process}/status").read_text().splitlines())
    return int(status[of].split()[0]) / 1024


PARTS: dict[str, tuple[Callable[[Path, int], Figures], str]] = {
    "reading": (time_reading, ".jsonl"),
    "reading polars": (time_polars, ".jsonl"),
    "reading parquet": (time_reading, ".parquet"),
    "reading parquet polars": (time_polars, ".parquet"),
    "gate": (time_gate, ".jsonl"),
    "corpus": (time_corpus, ".parquet"),
    "corpus again": (time_corpus, ".parquet"),
    "store": (time_store, ".sqlite"),
    "store again": (time_store, ".sqlite"),
    "round": (time_round, ""),
}


def measure(part: str, pool: Path, rows: int, kills: Sequence[float] = ()) -> Figures:
    """One part in a process of its own, with the most memory that it held; it is killed after ``kills`` seconds."""
    command = [sys.executable, "-m", "benchmarks.scale", "--part", part, "--file", str(pool), "--rows", str(rows)]
    began, memory, kill_after = time.monotonic(), 0.0, iter(kills)
    while True:
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
            try:
                printed, _ = process.communicate(timeout=next(kill_after, None))
            except subprocess.TimeoutExpired:
                memory = max(memory, _memory_mib(process.pid))
                os.killpg(process.pid, signal.SIGKILL)
                continue
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, command)
        found: Figures = json.loads(printed.splitlines()[-1])
        over_all = {"seconds": time.monotonic() - began, "memory_mib": max(memory, found["memory_mib"])}
        return {**found, **(over_all if kills else {})}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--parts", nargs="+", choices=[*PARTS], default=[*PARTS])
    parser.add_argument("--store", default="", help="URL of an empty PostgreSQL database")
    parser.add_argument("--kills", type=float, nargs="*", default=[], help="seconds until the round is killed, a start")
    parser.add_argument("--part", choices=[*PARTS], help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    os.environ[_STORE] = options.store or os.environ.get(_STORE, "")
    if options.part:
        work, _ = PARTS[options.part]
        found = work(options.file, options.rows[0])
        print(json.dumps({**found, "memory_mib": _memory_mib()}))
        return
    seconds = defaultdict[str, dict[int, float]](dict)
    with tempfile.TemporaryDirectory() as folder:
        for rows in options.rows:
            pool = write_pool(Path(folder), rows)
            for part in options.parts:
                suffix = PARTS[part][1]
                file = pool.with_suffix(suffix) if suffix else Path(folder) / f"runs-{rows}"
                found = measure(part, file, rows, options.kills if part == "round" else ())
                seconds[part][rows] = found["seconds"]
                told = {name: round(value, 3) for name, value in found.items()}
                print(json.dumps({"name": part, "rows": rows, **told}), flush=True)
    growth = {
        part: round(math.log(took[max(took)] / took[min(took)]) / math.log(max(took) / min(took)), 2)
        for part, took in seconds.items()
        if len(took) > 1
    }
    print(json.dumps({"name": "scale", "growth": growth}))


if __name__ == "__main__":
    main()
