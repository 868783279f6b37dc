"""Student inference: our engine against vLLM's offline ``LLM.chat``, same prompts, same checkpoint, in one run.

Ours is what a round does: `VllmServer` serves the checkpoint and `CallEngine` asks it, every answer committed to
a store. Theirs is the same vLLM without server, client and store. Starts are not timed but reported. The order turns
with each repeat, so that a busy or warm machine favours neither. Greedy, natural ends, at most `--max-tokens`.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tapir_core.calls import Answer, AnswerStore, CallEngine, Message, Request
from tapir_core.config import CallsConfig, Sampling, StudentConfig, VllmEngine
from tapir_core.paths import BACKBONE, BACKBONE_CACHE
from tapir_core.storage import Storage
from tasks.engines.backbone import checkpoint_digest, prepare_backbone
from tasks.engines.student_server import Student
from tasks.engines.supervisor import start_child
from tasks.engines.vllm import VllmServer, find_environment, server_env

TOPICS = (
    "rivers", "prime numbers", "sorting a list", "the moon", "bread", "chess", "glaciers", "trains", "bees", "paper",
    "maps", "violins", "volcanoes", "clocks", "salt", "bridges",
)  # fmt: skip


@dataclass(frozen=True)
class Timing:
    seconds: float
    tokens: int
    start_seconds: float


def make_prompts(count: int, tag: str) -> list[str]:
    """Instructions of different length that share no long beginning, so that no cache helps either side."""
    return [
        f"{tag} {number}: explain {TOPICS[number % 16]} to a friend who knows "
        f"{TOPICS[(number * 7 + number // 16) % 16]}{', with one example' * (number % 3)}."
        for number in range(count)
    ]


def time_ours(student: StudentConfig, checkpoint: Path, prompts: list[str], folder: Path) -> Timing:
    identity = checkpoint_digest(checkpoint)
    model = student.engine.model_name(checkpoint)

    def requests(texts: list[str]) -> list[Request]:
        return [
            Request("answer", (Message("user", text),), model, identity, student.sampling, run="bench")
            for text in texts
        ]

    store = AnswerStore(f"sqlite:///{folder / 'store.sqlite'}")
    calls = CallsConfig(concurrency=student.engine.concurrency)
    log_path = folder / "ours.log"
    students = VllmServer(student, log_path, print)
    with closing(students), CallEngine(store, calls, run="bench") as engine:
        source = partial(students.endpoint, Student(BACKBONE, checkpoint, identity))
        began = time.perf_counter()
        source()
        start_seconds = time.perf_counter() - began
        engine.ask(requests(make_prompts(8, "Warm-up")), source)
        began = time.perf_counter()
        outcomes = engine.ask(requests(prompts), source)
        seconds = time.perf_counter() - began
    failures = [outcome for outcome in outcomes if not isinstance(outcome, Answer)]
    assert not failures, f"{len(failures)} requests failed, the first with: {failures[0]}"
    tokens = sum(outcome.completion_tokens for outcome in outcomes if isinstance(outcome, Answer))
    return Timing(seconds, tokens, start_seconds)


def time_theirs(student: StudentConfig, checkpoint: Path, prompts: list[str], folder: Path) -> Timing:
    engine = student.engine
    assert isinstance(engine, VllmEngine)
    environment = find_environment(engine)
    job, result = folder / "job.json", folder / "result.json"
    result.unlink(missing_ok=True)
    options = {
        "model": str(checkpoint),
        "dtype": environment.dtype(engine),
        "max_model_len": engine.max_model_length,
        "max_num_seqs": engine.concurrency,
        "enforce_eager": environment.is_eager(engine),
        "generation_config": "vllm",
    }
    if environment.device == "cuda":
        options["gpu_memory_utilization"] = engine.gpu_memory_utilization
    job.write_text(
        json.dumps(
            {
                "engine": options,
                "max_tokens": student.sampling.max_tokens,
                "prompts": prompts,
                "warm_up": make_prompts(8, "Warm-up"),
            }
        )
    )
    # vLLM's own defaults for threads and processes; only the size of the cache is made equal.
    env = {**os.environ, "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1"}
    env |= {name: value for name, value in server_env(engine, environment, "").items() if name in _EQUAL}
    script = Path(__file__).with_name("student_offline.py")
    argv = [str(engine.interpreter), str(script), str(job), str(result)]
    began = time.perf_counter()
    with start_child(argv, env=env, log_path=folder / "theirs.log", name="offline vLLM") as child:
        code = child.wait()
    if code != 0:
        raise SystemExit(f"offline vLLM ended with exit code {code}:\n{child.log_path.read_text()[-3000:]}")
    found = json.loads(result.read_text())
    return Timing(found["seconds"], found["tokens"], time.perf_counter() - began - found["seconds"])


_EQUAL = ("VLLM_CPU_KVCACHE_SPACE", "VLLM_CACHE_ROOT", "VLLM_CONFIG_ROOT", "VLLM_HOST_IP")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=256)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--compile", action="store_true", help="let both sides compile the model, as on a GPU")
    parser.add_argument("--backbone", default=StudentConfig().backbone, help="student that answers")
    parser.add_argument("--root", default="runs", help="run root that keeps the converted student")
    options = parser.parse_args()
    engine = VllmEngine(
        enforce_eager=False if options.compile else None,
        concurrency=options.concurrency,
        max_model_length=512 + options.max_tokens,
        dtype=options.dtype,
    )
    student = StudentConfig(backbone=options.backbone, engine=engine, sampling=Sampling(max_tokens=options.max_tokens))
    checkpoint = prepare_backbone(student, Storage(options.root).local(BACKBONE_CACHE).absolute())
    prompts = make_prompts(options.prompts, "Question")
    sides = {"ours": time_ours, "theirs": time_theirs}
    timings: dict[str, list[Timing]] = {name: [] for name in sides}
    for repeat in range(options.repeats):
        for name in list(sides)[:: -1 if repeat % 2 else 1]:
            with tempfile.TemporaryDirectory() as folder:
                timing = sides[name](student, checkpoint, prompts, Path(folder))
            timings[name].append(timing)
            print(
                f"{name}: {timing.tokens} tokens in {timing.seconds:.1f} s, "
                f"{timing.tokens / timing.seconds:.0f} a second; started in {timing.start_seconds:.1f} s",
                # `gpu_check.py` reads the output.
                file=sys.stderr,
            )
    rate = {
        name: sum(timing.tokens for timing in runs) / sum(timing.seconds for timing in runs)
        for name, runs in timings.items()
    }
    print(
        json.dumps(
            {
                "name": "student",
                "ratio": round(rate["ours"] / rate["theirs"], 3),
                "ours": round(rate["ours"], 1),
                "theirs": round(rate["theirs"], 1),
                "unit": "output tokens/s",
                "prompts": options.prompts,
                "max_tokens": options.max_tokens,
                "concurrency": options.concurrency,
                "repeats": options.repeats,
                "start_seconds": round(min(timing.start_seconds for timing in timings["ours"]), 1),
                "device": find_environment(engine).device,
                "cores": len(os.sched_getaffinity(0)),
            }
        )
    )


if __name__ == "__main__":
    main()
