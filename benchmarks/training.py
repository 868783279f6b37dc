"""Fine-tuning: our trainer against plain TRL under DeepSpeed (`training_plain.py`), same rows, same base, in one run.

Both take the same template, batch size, micro-batch, precision, ZeRO stage and number of steps, and neither recomputes
activations. Tokens are those of prompts and answers without padding. The rate is that of the steps; the whole time,
from the call to the saved student, is told beside it. The order turns with each repeat, so that a busy or warm machine
favours neither. Rows are random words of 20 to 400 tokens, half of them under 130: they time trainers, and teach
nothing.
"""

import argparse
import json
import math
import os
import random
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any

import polars as pl

from tapir_core.config import StudentConfig, TrainingConfig
from tapir_core.paths import backbone_cache
from tapir_core.storage import Storage
from tasks.engines import keys, machine, supervisor
from tasks.engines.backbone import prepare_backbone
from tasks.engines.training.trainer import TrainingJob, alone, rank_environments, train_student

_LENGTHS = (20, 400)
_WORDS = (
    "river",
    "prime",
    "list",
    "moon",
    "bread",
    "chess",
    "cold",
    "train",
    "bee",
    "paper",
    "why",
    "seven",
    "the",
    "a",
)


@dataclass(frozen=True)
class Timing:
    seconds: float
    """Of the steps."""
    tokens: int
    steps: int
    loss: float
    """Mean of the last quarter of the steps."""
    whole_seconds: float


def make_rows(count: int, seed: int) -> list[list[dict[str, str]]]:
    """Conversations of one turn, a quarter of the words in the prompt."""
    rng = random.Random(seed)
    rows = []
    for _ in range(count):
        length = round(min(max(rng.lognormvariate(math.log(90), 0.8), _LENGTHS[0]), _LENGTHS[1]))
        text = rng.choices(_WORDS, k=length)
        parts = {"user": text[: length // 4], "assistant": text[length // 4 :]}
        rows.append([{"role": role, "content": " ".join(part)} for role, part in parts.items()])
    return rows


def time_ours(job: TrainingJob) -> Timing:
    began = time.monotonic()
    done = train_student(job)
    losses = [entry["loss"] for entry in done.loss_curve]
    return Timing(done.seconds, done.total_tokens, done.steps, _end(losses), time.monotonic() - began)


def time_plain(job: TrainingJob) -> Timing:
    training, folder = job.training, job.output
    folder.mkdir(parents=True)
    rows = pl.read_parquet(job.mixture[0])["messages"].to_list()
    (folder / "rows.jsonl").write_text("".join(json.dumps({"messages": row}) + "\n" for row in rows))
    told: dict[str, Any] = {
        "base": str(job.base),
        "rows": str(folder / "rows.jsonl"),
        "output": str(folder / "student"),
        "template": str(job.chat_template),
        "epochs": job.epochs,
        "learning_rate": job.learning_rate,
        "seed": job.seed,
        **training.model_dump(include=_TOLD),
    }
    (folder / "job.json").write_text(json.dumps(told))
    accelerators, began = machine.visible_gpus()[:1], time.monotonic()
    with alone(1) as node:
        [env] = rank_environments(job, keys.offline_environment(), accelerators, node)
        # What ours sets for speed is not given to it.
        env = {name: value for name, value in env.items() if name not in _OUR_SPEED or name in os.environ}
        # DeepSpeed compiles a reduction for CPUs, once; the first of several repeats pays for it.
        env["TORCH_EXTENSIONS_DIR"] = str(Path("build/torch-extensions").absolute())
        script = Path(__file__).with_name("training_plain.py")
        command = [sys.executable, str(script), str(folder / "job.json"), str(folder / "result.json")]
        with supervisor.start_child(command, env=env, log_path=job.log_path, name="plain TRL") as child:
            code = child.wait()
    if code != 0:
        raise SystemExit(f"plain TRL ended with exit code {code}:\n{job.log_path.read_text()[-3000:]}")
    found = json.loads((folder / "result.json").read_text())
    whole_seconds = time.monotonic() - began
    return Timing(found["seconds"], round(found["tokens"]), found["steps"], _end(found["losses"]), whole_seconds)


_TOLD = {
    "precision", "zero_stage", "batch_size", "micro_batch_size", "max_length", "scheduler", "warmup_ratio",
}  # fmt: skip
_OUR_SPEED = ("GOMP_SPINCOUNT", "OMP_NUM_THREADS", *machine.KEEP_MEMORY)


def _end(losses: list[float]) -> float:
    return fmean(losses[-max(1, len(losses) // 4) :])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=192)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--micro-batch-size", type=int, default=8)
    parser.add_argument("--zero-stage", type=int, default=2)
    parser.add_argument("--precision", default="bf16", choices=["bf16", "fp32"])
    parser.add_argument("--backbone", default=StudentConfig().backbone, help="student that is trained")
    parser.add_argument("--root", default="runs", help="run root that keeps the converted student")
    options = parser.parse_args()
    student = StudentConfig(backbone=options.backbone, chat_template="chatml")
    base = prepare_backbone(student, Storage(options.root).local(backbone_cache()).absolute())
    training = TrainingConfig(
        batch_size=options.batch_size,
        micro_batch_size=options.micro_batch_size,
        zero_stage=options.zero_stage,
        precision=options.precision,
        max_length=1024,
        processes=1,
    )
    sides = {"ours": time_ours, "plain": time_plain}
    timings: dict[str, list[Timing]] = {name: [] for name in sides}
    for repeat in range(options.repeats):
        for name in list(sides)[:: -1 if repeat % 2 else 1]:
            with tempfile.TemporaryDirectory() as folder:
                rows = Path(folder, "rows.parquet")
                pl.DataFrame({"messages": make_rows(options.rows, 7)}).write_parquet(rows)
                job = TrainingJob(
                    base=base,
                    mixture=(rows,),
                    output=Path(folder, "attempt"),
                    training=training,
                    epochs=1,
                    learning_rate=1e-4,
                    seed=repeat,
                    log_path=Path(folder, "logs", "trainer.log"),
                    chat_template=student.template,
                )
                timing = sides[name](job)
            timings[name].append(timing)
            print(
                f"{name}: {timing.tokens} tokens in {timing.steps} steps and {timing.seconds:.1f} s, "
                f"{timing.tokens / timing.seconds:.0f} a second, loss {timing.loss:.2f}; "
                f"{timing.whole_seconds:.1f} s in all",
                flush=True,
            )
    check_alike([*timings["ours"], *timings["plain"]])
    rate = {name: median(run.tokens / run.seconds for run in runs) for name, runs in timings.items()}
    whole = {name: min(run.whole_seconds for run in runs) for name, runs in timings.items()}
    print(
        json.dumps(
            {
                "name": "training",
                "ratio": round(rate["ours"] / rate["plain"], 3),
                "ours": round(rate["ours"], 1),
                "theirs": round(rate["plain"], 1),
                "unit": "tokens/s, padding not counted",
                "whole_ratio": round(whole["plain"] / whole["ours"], 3),
                "whole_seconds": {name: round(seconds, 1) for name, seconds in whole.items()},
                "loss": {name: round(fmean(run.loss for run in runs), 3) for name, runs in timings.items()},
                **{
                    name: getattr(options, name)
                    for name in ("rows", "repeats", "batch_size", "micro_batch_size", "zero_stage", "precision")
                },
                "device": "cuda" if machine.visible_gpus() else "cpu",
                "cores": len(os.sched_getaffinity(0)),
            }
        )
    )


def check_alike(timings: list[Timing]) -> None:
    """That all of them trained on the same rows in as many steps."""
    steps, tokens = {timing.steps for timing in timings}, [timing.tokens for timing in timings]
    if len(steps) > 1 or max(tokens) > 1.02 * min(tokens):
        raise SystemExit(f"the sides did not do the same work: {sorted(steps)} steps, {sorted({*tokens})} tokens")


if __name__ == "__main__":
    main()
