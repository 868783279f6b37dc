"""Fine-tuning: our trainer against plain TRL under DeepSpeed (`training_plain.py`), same rows, same base, in one run.

Both take the same template, batch size, micro-batch, precision, ZeRO stage, processes, learning rates and number of
steps, and neither recomputes activations. Tokens are those of prompts and answers without padding. The rate is that of
the steps after the first, in which libraries warm up; the whole time, from the call to the saved student, is told
beside it. The order turns with each repeat, so
that a busy or warm machine favours neither. Sides that made other steps, saw other tokens or learned otherwise are not
compared. The rows are random words of mixed lengths: they time trainers, and teach nothing but these words.

`compare` is the door for other models and machines: it takes any job of ours.
"""

import argparse
import json
import math
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from operator import mul
from pathlib import Path
from statistics import fmean, median
from typing import Any

import polars as pl

from tapir_core.config import StudentConfig, TrainingConfig
from tapir_core.paths import BACKBONE_CACHE
from tapir_core.storage import Storage
from tasks.engines import keys, machine, supervisor
from tasks.engines.backbone import prepare_backbone
from tasks.engines.training.launch import (
    TrainingJob,
    TrainingProgress,
    alone,
    count_ranks,
    rank_environments,
    train_student,
)


@dataclass(frozen=True)
class Timing:
    seconds: Sequence[float]
    """At the end of each step, from the beginning of the first."""
    tokens: Sequence[int]
    """Of prompts and answers, padding not counted, up to the end of each step."""
    losses: Sequence[float]
    """Of each step."""
    padding_share: float
    """Of what was computed."""
    whole_seconds: float
    """From the call to the saved student."""
    whole_cpu_seconds: float
    """Processor time of the same."""

    @property
    def rate(self) -> float:
        """Tokens a second after the first step, in which libraries warm up."""
        return (self.tokens[-1] - self.tokens[0]) / (self.seconds[-1] - self.seconds[0])

    def loss(self, epochs: float) -> float:
        """Mean over the last epoch, in which both sides see each row once."""
        return self._loss(math.ceil(len(self.losses) / max(epochs, 1)))

    @property
    def final_loss(self) -> float:
        """Mean of the last quarter of the steps: they are of other rows on either side."""
        return self._loss(max(1, len(self.losses) // 4))

    def _loss(self, steps: int) -> float:
        """Of the last ``steps``, each by its tokens: our batches differ in them more than random ones."""
        ends = [0, *self.tokens]
        tokens = [end - start for start, end in pairwise(ends)][-steps:]
        return sum(map(mul, self.losses[-steps:], tokens)) / sum(tokens)


def compare(
    job: TrainingJob, repeats: int, *, sampling: str = "random", own_environment: bool = True
) -> dict[str, Any]:
    """Train as ``job`` says on either side in turn, ``repeats`` times each, and tell each time as it comes.

    Args:
        job: Without packing, its precision settled; seed, output and log become those of each training. TRL's course
            of the learning rate is "linear" without warm-up: take it too where losses are to be compared.
        repeats: Trainings of each side.
        sampling: How TRL draws rows: its default, or "group_by_length".
        own_environment: Whether TRL goes without the variables that we set for speed on a CPU.

    Returns:
        The figures of docs/benchmarks.md, Training.
    """
    sides = {"ours": time_ours, "plain": partial(time_plain, sampling=sampling, own_environment=own_environment)}
    timings: dict[str, list[Timing]] = {name: [] for name in sides}
    for repeat in range(repeats):
        for name in list(sides)[:: -1 if repeat % 2 else 1]:
            with tempfile.TemporaryDirectory() as folder:
                attempt, log = Path(folder, "attempt"), Path(folder, "logs", "trainer.log")
                timing = sides[name](replace(job, output=attempt, log_path=log, seed=job.seed + repeat))
            timings[name].append(timing)
            print(
                f"{name}: {timing.tokens[-1]} tokens in {len(timing.losses)} steps and {timing.seconds[-1]:.1f} s, "
                f"{timing.rate:.1f} a second after the first step of {timing.seconds[0]:.1f} s, "
                f"{timing.padding_share:.1%} padding, final loss {timing.final_loss:.3f}; "
                f"{timing.whole_seconds:.1f} s in all",
                flush=True,
            )
    check_alike(timings, job)
    return figures(timings, job.epochs)


def time_ours(job: TrainingJob) -> Timing:
    began, told = (time.monotonic(), _cpu_seconds()), list[TrainingProgress]()
    done = train_student(job, on_progress=told.append)
    # Its rate is that from the beginning on.
    seconds, tokens = [each.tokens / each.tokens_per_second for each in told], [each.tokens for each in told]
    return Timing(seconds, tokens, [each.loss for each in told], done.padding_share, *_since(*began))


def time_plain(job: TrainingJob, *, sampling: str = "random", own_environment: bool = True) -> Timing:
    training, folder, accelerators = job.training, job.output, machine.visible_gpus()
    processes = count_ranks(job, accelerators)
    _check_plain(job, processes)
    folder.mkdir(parents=True)
    rows = pl.read_parquet(list(job.mixture))["messages"].to_list()
    (folder / "rows.jsonl").write_text("".join(json.dumps({"messages": row}) + "\n" for row in rows))
    told: dict[str, Any] = {
        "base": str(job.base),
        "rows": str(folder / "rows.jsonl"),
        "output": str(folder / "student"),
        "template": str(job.chat_template) if job.chat_template else None,
        "processes": processes,
        "epochs": job.epochs,
        "learning_rate": job.learning_rate,
        "seed": job.seed,
        "sampling": sampling,
        # What stands at its default may be left out of it.
        "training": {"offload": training.offload, **training.model_dump(mode="json")},
    }
    (folder / "job.json").write_text(json.dumps(told))
    script, began = Path(__file__).with_name("training_plain.py"), (time.monotonic(), _cpu_seconds())
    command = [sys.executable, str(script), str(folder / "job.json"), str(folder / "result.json")]
    with alone(processes) as node, ExitStack() as ranks:
        environments = rank_environments(job, keys.offline_environment(), accelerators, node)
        if own_environment:
            environments = [{name: env[name] for name in env if name not in _OUR_SPEED} for env in environments]
        # DeepSpeed compiles a reduction for CPUs, once; the first of several repeats pays for it.
        more = {"TORCH_EXTENSIONS_DIR": str(Path("build/torch-extensions").absolute())}
        started = [
            ranks.enter_context(
                supervisor.start_child(command, env=env | more, log_path=job.log_path, name="plain TRL")
            )
            for env in environments
        ]
        codes = [each.wait() for each in started]
    if any(codes):
        raise SystemExit(f"plain TRL ended with exit codes {codes}:\n{job.log_path.read_text()[-3000:]}")
    found = json.loads((folder / "result.json").read_text())
    return Timing(**found, **dict(zip(("whole_seconds", "whole_cpu_seconds"), _since(*began), strict=True)))


def check_alike(timings: Mapping[str, Sequence[Timing]], job: TrainingJob) -> None:
    """That all of them made as many steps on the same rows, and learned alike.

    The template may end an answer with a line break, a token that TRL trains and we leave off.
    """
    runs = [run for side in timings.values() for run in side]
    steps, tokens = {len(run.losses) for run in runs}, {run.tokens[-1] for run in runs}
    losses = {name: fmean(run.loss(job.epochs) for run in side) for name, side in timings.items()}
    if len(steps) > 1 or max(tokens) > 1.05 * min(tokens) or max(losses.values()) > 1.1 * min(losses.values()):
        raise SystemExit(f"the sides did other work: steps {sorted(steps)}, tokens {sorted(tokens)}, losses {losses}")


def figures(timings: Mapping[str, Sequence[Timing]], epochs: float) -> dict[str, Any]:
    """What the JSON line says. Our count of tokens holds for both sides."""
    tokens = timings["ours"][0].tokens[-1]
    rates = {name: [run.rate * tokens / run.tokens[-1] for run in runs] for name, runs in timings.items()}
    ours, theirs = (median(rates[name]) for name in ("ours", "plain"))
    whole, cpu = (
        {name: round(median(getattr(run, figure) for run in runs), 1) for name, runs in timings.items()}
        for figure in ("whole_seconds", "whole_cpu_seconds")
    )
    return {
        "name": "training",
        "ratio": round(ours / theirs, 3),
        "ours": round(ours, 1),
        "theirs": round(theirs, 1),
        "unit": "tokens/s, padding not counted",
        "ratios": [round(one / other, 3) for one, other in zip(rates["ours"], rates["plain"], strict=True)],
        "spread": {name: [round(min(each), 1), round(max(each), 1)] for name, each in rates.items()},
        "first_step_seconds": {
            name: round(median(run.seconds[0] for run in runs), 1) for name, runs in timings.items()
        },
        "whole_seconds": whole,
        "whole_ratio": round(whole["plain"] / whole["ours"], 3),
        "cpu_seconds": cpu,
        "cpu_ratio": round(cpu["plain"] / cpu["ours"], 3),
        "padding": {name: round(fmean(run.padding_share for run in runs), 3) for name, runs in timings.items()},
        "loss": {name: round(fmean(run.loss(epochs) for run in runs), 3) for name, runs in timings.items()},
        "final_loss": {name: round(fmean(run.final_loss for run in runs), 3) for name, runs in timings.items()},
        "tokens": tokens,
        "steps": len(timings["ours"][0].losses),
    }


def make_rows(count: int, seed: int) -> list[list[dict[str, str]]]:
    """Conversations of one turn, a quarter of the words in the prompt; lengths are lognormal, as instructions' are."""
    rng, rows = random.Random(seed), []
    for _ in range(count):
        length = round(min(max(rng.lognormvariate(math.log(90), 0.8), 20), 400))
        text = rng.choices(_WORDS, k=length)
        parts = {"user": text[: length // 4], "assistant": text[length // 4 :]}
        rows.append([{"role": role, "content": " ".join(part)} for role, part in parts.items()])
    return rows


_WORDS = ("river", "prime", "list", "moon", "bread", "chess", "cold", "train", "bee", "paper", "why", "seven", "the")

_OUR_SPEED = ("GOMP_SPINCOUNT", *machine.KEEP_MEMORY)
"""Variables that our trainer sets for speed, and whoever starts a script by hand does not."""


def _check_plain(job: TrainingJob, processes: int) -> None:
    training = job.training
    if training.packing or training.precision == "auto" or (training.precision == "bf16" and not training.zero_stage):
        raise SystemExit(
            "plain TRL is compared without packing, with a settled precision, in bf16 from ZeRO stage 1 on"
        )
    if training.batch_size % (training.micro_batch_size * processes):
        raise SystemExit(f"batch size {training.batch_size} is no multiple of micro-batch x {processes} processes")


def _cpu_seconds() -> float:
    """Of all children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _since(began: float, cpu_began: float) -> tuple[float, float]:
    return time.monotonic() - began, _cpu_seconds() - cpu_began


def _fastest_precision() -> str:
    """What ``training.precision = "auto"`` comes to here."""
    if machine.visible_gpus():
        return "bf16"
    return "bf16" if machine.computes_in_bf16(broken_amx=machine.amx_is_broken(sys.executable)) else "fp32"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--small", action="store_true", help="a tiny random student, 64 rows, once: shows that it works"
    )
    parser.add_argument("--rows", type=int, default=128)
    parser.add_argument("--mixture", type=Path, help="Parquet file with messages, in the place of rows made here")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--micro-batch-size", type=int, default=8)
    parser.add_argument("--zero-stage", type=int, default=2)
    parser.add_argument("--processes", type=int, help="unset: one for each GPU, or one on a CPU")
    parser.add_argument("--precision", choices=["bf16", "fp32"], help="unset: the faster one of this machine")
    parser.add_argument("--group-by-length", action="store_true", help="let TRL group rows by length, no default of it")
    parser.add_argument("--our-environment", action="store_true", help="give TRL the variables that we set for speed")
    parser.add_argument("--backbone", default=StudentConfig().backbone, help="student that is trained")
    parser.add_argument("--root", default="runs", help="run root that keeps the converted student")
    options = parser.parse_args()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        if options.small:
            options.backbone, options.rows, options.repeats = str(Path(folder, "tiny")), 64, 1
            make = [sys.executable, "-m", "tasks.engines.tiny_student", options.backbone]
            subprocess.run(make, check=True, cwd=supervisor.SOURCES)
        student = StudentConfig(backbone=options.backbone, chat_template="chatml")
        rows = options.mixture or Path(folder, "rows.parquet")
        if options.mixture is None:
            pl.DataFrame({"messages": make_rows(options.rows, 7)}).write_parquet(rows)
        job = TrainingJob(
            base=prepare_backbone(student, Storage(options.root).local(BACKBONE_CACHE).absolute()),
            mixture=(rows,),
            output=Path(folder),
            training=TrainingConfig(
                batch_size=options.batch_size,
                micro_batch_size=options.micro_batch_size,
                zero_stage=options.zero_stage,
                precision=options.precision or _fastest_precision(),
                max_length=1024,
                processes=options.processes,
                # TRL's defaults.
                scheduler="linear",
                warmup_ratio=0.0,
            ),
            epochs=options.epochs,
            learning_rate=1e-4,
            seed=0,
            log_path=Path(folder, "log"),
            chat_template=student.template,
        )
        found = compare(
            job,
            options.repeats,
            sampling="group_by_length" if options.group_by_length else "random",
            own_environment=not options.our_environment,
        )
    told = job.training.model_dump(include={"batch_size", "micro_batch_size", "zero_stage", "precision"})
    machine_told = {"device": "cuda" if machine.visible_gpus() else "cpu", "cores": len(os.sched_getaffinity(0))}
    load_told = {"load": [round(load, 2), round(os.getloadavg()[0], 2)]}
    print(json.dumps(found | {"epochs": options.epochs, "repeats": options.repeats} | told | machine_told | load_told))


if __name__ == "__main__":
    main()
