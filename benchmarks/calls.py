"""Paid calls: our engine against curator, distilabel and Data Designer, same prompts, same mock provider, in one run.

Ours is what a judge's tasks do (`calls_ours.py`): store, claims, budget, retries and parsing on. Raw aiohttp, which
keeps and checks nothing, is the ceiling. Each side runs in a process and an environment of its own, against a fresh
server with the same seeded pauses, and its answers are compared with its prompts. The order turns with each repeat. A
side that fails is reported with its error. The last line is one JSON object.
"""

import argparse
import json
import math
import os
from collections.abc import Sequence
from typing import Any

from calls_child import Job
from calls_sides import PEERS, Run, SideFailedError, run_side

MEDIAN_SECONDS, SIGMA = 0.2, 0.4
MEAN_SECONDS = MEDIAN_SECONDS * math.exp(SIGMA**2 / 2)
WORDS = 300
SMALL = 64
"""Calls at once of the run that is compared with the ideal."""
SMALL_LABEL = f"ours at {SMALL}"
MEMORY_ROWS = 100_000


class Bench:
    """Runs sides and keeps what came of them."""

    def __init__(self, seed: int) -> None:
        self.runs: dict[str, list[Run]] = {}
        self.errors: dict[str, str] = {}
        self._seed = seed

    def run(self, name: str, *, rows: int, concurrency: int, label: str = "") -> None:
        """Let a side answer, and say how it went; a side that failed once is not tried again."""
        label = label or name
        if label in self.errors:
            return
        job = Job("", rows, concurrency, self._seed, WORDS, "")
        server = {"median_seconds": MEDIAN_SECONDS, "sigma": SIGMA, "seed": self._seed}
        try:
            run = run_side(name, job, server)
        except SideFailedError as error:
            self.errors[label] = str(error)
            print(f"{label}: FAILED: {error}", flush=True)
            return
        self.runs.setdefault(label, []).append(run)
        print(
            f"{label}: {rows} rows in {run.seconds:.1f} s, {run.rate:.0f} a second, {concurrency} at once "
            f"(most {run.most_at_once}); {run.cpu_per_thousand:.2f} CPU s per 1,000, "
            f"{run.usage.memory_mib:.0f} MiB over its start ({run.usage.peak_mib:.0f} in all)",
            flush=True,
        )

    def figures(self, label: str) -> dict[str, Any]:
        """What the JSON line says of a side."""
        if label in self.errors:
            return {"error": self.errors[label]}
        runs = self.runs[label]
        return {
            "version": runs[0].version,
            "requests_per_second": round(rate(runs), 1),
            "cpu_seconds_per_1000": round(cpu_per_thousand(runs), 3),
            "memory_mib": round(max(run.usage.memory_mib for run in runs), 1),
            "peak_mib": round(max(run.usage.peak_mib for run in runs), 1),
        }


def rate(runs: Sequence[Run]) -> float:
    return sum(run.rows for run in runs) / sum(run.seconds for run in runs)


def cpu_per_thousand(runs: Sequence[Run]) -> float:
    return sum(run.usage.cpu_seconds for run in runs) / sum(run.rows for run in runs) * 1000


def compare(bench: Bench, sides: Sequence[str], options: argparse.Namespace) -> None:
    for repeat in range(options.repeats):
        bench.run("ours", rows=options.small_rows, concurrency=SMALL, label=SMALL_LABEL)
        for name in sides[:: -1 if repeat % 2 else 1]:
            bench.run(name, rows=options.rows, concurrency=options.concurrency)


def summary(bench: Bench, peers: Sequence[str], options: argparse.Namespace) -> dict[str, Any]:
    ours, small = bench.runs["ours"], bench.runs[SMALL_LABEL]
    answered = {name: bench.runs[name] for name in peers if name not in bench.errors}
    best = max(answered, key=lambda name: rate(answered[name]), default=None)
    ideal_seconds = options.small_rows * MEAN_SECONDS / SMALL
    return {
        "name": "calls",
        "ratio": round(rate(ours) / rate(answered[best]), 3) if best else None,
        "ours": round(rate(ours), 1),
        "theirs": round(rate(answered[best]), 1) if best else None,
        "unit": "requests/s",
        "best_peer": best,
        "cpu_ratio": round(cpu_per_thousand(ours) / cpu_per_thousand(answered[best]), 3) if best else None,
        "ideal_ratio": round(sum(run.seconds for run in small) / len(small) / ideal_seconds, 3),
        "memory_mib": bench.figures("ours")["memory_mib"],
        "our_side": bench.figures("ours"),
        "ceiling": bench.figures("aiohttp"),
        "peers": {name: bench.figures(name) for name in peers},
        "rows": options.rows,
        "concurrency": options.concurrency,
        "repeats": options.repeats,
        "seed": options.seed,
        "cores": len(os.sched_getaffinity(0)),
        "load_at_end": round(os.getloadavg()[0], 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--concurrency", type=int, default=256)
    parser.add_argument("--small-rows", type=int, default=2_000, help="rows of the run at 64 calls at once")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--seed", type=int, default=3)
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=PEERS)
    parser.add_argument("--memory", action="store_true", help="instead: our memory over 100,000 requests, minutes")
    options = parser.parse_args()
    bench = Bench(options.seed)
    if options.memory:
        bench.run("ours", rows=MEMORY_ROWS, concurrency=options.concurrency)
        print(json.dumps({"name": "calls-memory", "rows": MEMORY_ROWS, **bench.figures("ours")}))
        return
    compare(bench, ("ours", "aiohttp", *options.peers), options)
    if {"ours", SMALL_LABEL} & bench.errors.keys():
        raise SystemExit("our own side failed: there is nothing to compare")
    print(json.dumps(summary(bench, options.peers, options)))


if __name__ == "__main__":
    main()
