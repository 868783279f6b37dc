"""`make gpu-check`: what one GPU makes of this project, one JSON line a figure, in about ten minutes.

1. A run: the quickstart with one round, then the same command again, which must do nothing. How long both took, how
   often a student's server started, and the seconds from the end of each training to the next student's first answer.
2. Student inference: our engine against vLLM's offline ``LLM.chat`` (`student.py`).
3. Training of a random model of Qwen's shape at 1.8B; asked for, also of SmolLM2-135M and of Llama's shape at 7B. First
   ours as a run on a GPU would do it, packed to rows of 2,048 tokens, several of them in one: tokens a second, peak
   memory, and the share of the card's floating-point operations that the model needs. Then ours against plain TRL on
   the same rows without packing (`training.py`). A model whose training does not fit by our own estimate is left out,
   and its line says so.
4. Memory: what the card holds before, between and after these must go back to what it was.

A part that fails has a line with `error`; the others go on, and the exit code is 1. ``--only`` names the parts to
run, ``--seconds`` makes trainings longer or shorter. ``--rehearse`` takes a tiny random student through the same on a
CPU too.
"""

import argparse
import json
import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean
from typing import Any

import polars as pl
import psutil

from benchmarks.training import compare, make_rows, time_ours
from tapir_core.config import StudentConfig, TrainingConfig, VllmEngine
from tapir_core.paths import BACKBONE_CACHE, round_folder
from tapir_core.run_folder import RunFolder, RunRef
from tapir_core.storage import Storage
from tapir_core.summary import RunReader, marks_on_test
from tasks.engines import machine
from tasks.engines.backbone import prepare_backbone
from tasks.engines.tiny_student import CHAT_TEMPLATE, small_shape, small_tokenizer, tiny_student, write_random
from tasks.engines.training.launch import Attempt, TrainingJob
from tasks.engines.training.prerequisites import ModelSize, estimate_memory, library_versions, size_of
from tasks.engines.vllm import find_environment

SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "1.8B": (
        "Qwen2Config",
        {
            "hidden_size": 2048,
            "intermediate_size": 5504,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "num_key_value_heads": 16,
            "vocab_size": 151936,
            "tie_word_embeddings": False,
        },
    ),
    "7B": (
        "LlamaConfig",
        {
            "hidden_size": 4096,
            "intermediate_size": 11008,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 32,
            "vocab_size": 32000,
            "tie_word_embeddings": False,
        },
    ),
}
"""Of Qwen1.5-1.8B and of LLaMA2-7B."""

RUN, STUDENT = "run", "student"
PARTS = (RUN, STUDENT, "1.8B", "135M", "7B")
_USUAL = PARTS[:3]
"""What ten minutes suffice for."""

_RUN = {"run.rounds": "1", "evaluation.baseline": '"none"'}
_SMALL_RUN = {
    "data.pool.rows": "200",
    "data.heldout.dev": "40",
    "data.heldout.test": "40",
    "basic_tuning.examples": "32",
    "rounds.default.examples": "48",
    "student.sampling.max_tokens": "8",
    "student.engine.cpu_kv_cache_gib": "1",
}

_LENGTH = 2048
"""Tokens of a packed row."""
_LONGEST, _ROW_TOKENS = 512, 130
"""Tokens of the longest row and of the mean one."""
_PACKED_BATCH = 256
"""Examples of a step that is packed: nearly 50,000 tokens."""
_AIM = 0.4
"""Share of the peak at which the steps of a training take as long as is asked for."""
_ROOM = 0.95
"""Share of the card that an estimate may take."""
_KEPT = 256 * 2**20
"""Bytes that a driver may keep."""


def check_run(root: Path, backbone: str, *, small: bool) -> dict[str, Any]:
    """A run with one round, and the same command once more."""
    settings = {"run.root": str(root), **_RUN, **(_SMALL_RUN | {"student.backbone": backbone} if small else {})}
    words = [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
    command = [sys.executable, "-m", "flows.cli", "run", "configs/quickstart.toml", "--name", RUN, *words]
    seconds = list[float]()
    for _ in range(2):
        began = time.monotonic()
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode:
            raise RuntimeError(f"tapir run ended with exit code {done.returncode}: {done.stdout[-2000:]}")
        seconds.append(round(time.monotonic() - began, 1))
    reader = RunReader(RunFolder(RunRef(str(root), RUN)))
    marks = {f"S_{number}": marks_on_test(reader, number) for number in (0, 1)}
    return {
        "seconds": seconds[0],
        "again_seconds": seconds[1],
        "server_starts": (root / RUN / "logs" / "student.log").read_text().count("Application startup complete"),
        "first_answer_after_seconds": [first_answer_after(root, number) for number in (0, 1)],
        "test": {
            name: round(fmean(mark for mark in found.values() if mark is not None), 1) for name, found in marks.items()
        },
    }


def first_answer_after(root: Path, number: int) -> float:
    """Seconds from the end of the training of round ``number`` to the first answer of the student that it made."""
    ended = (root / RUN / round_folder(number) / "checkpoint" / "training.json").stat().st_mtime
    with closing(sqlite3.connect(root / ".tapir" / "store.sqlite")) as store:
        made = store.execute("SELECT created FROM answers WHERE role = 'answer' ORDER BY created").fetchall()
    times = (datetime.fromisoformat(each).replace(tzinfo=UTC).timestamp() for (each,) in made)
    return round(next(each for each in times if each > ended) - ended, 1)


def check_student(backbone: str, root: str, *, small: bool) -> dict[str, Any]:
    """Output tokens a second, ours and theirs."""
    sizes = "--prompts 16 --max-tokens 16 --concurrency 16" if small else "--prompts 4096 --max-tokens 256"
    compiled = [] if small else ["--compile", "--concurrency", "512"]
    command = [sys.executable, str(Path(__file__).with_name("student.py")), *sizes.split(), *compiled]
    done = subprocess.run(
        [*command, "--repeats", "1", "--backbone", backbone, "--root", root], stdout=subprocess.PIPE, text=True
    )
    if done.returncode:
        raise RuntimeError(f"student.py ended with exit code {done.returncode}; what it said is above")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def check_training(base: Path, folder: Path, peak: float, seconds: float, *, small: bool) -> dict[str, Any]:
    """Ours packed, with its share of ``peak`` floating-point operations a second; then ours against plain TRL.

    Each of the three takes about so many ``seconds``.
    """
    size = size_of(base)
    if size is None:
        raise RuntimeError(f"{base} does not say how large its model is")
    packed, unpacked = (_training(size, packing=packing, small=small) for packing in (True, False))
    if packed is None or unpacked is None:
        return _left_out(size)
    flops = flops_of(base, size)
    rows, count = folder / "rows.parquet", 64 if small else _count_rows(flops, peak, seconds)
    pl.DataFrame({"messages": make_rows(count, 7)}).write_parquet(rows)
    job = TrainingJob(
        base=base,
        mixture=(rows,),
        output=folder / "packed",
        training=packed,
        epochs=1,
        learning_rate=1e-5,
        seed=0,
        log_path=folder / "packed.log",
    )
    rate = time_ours(job).rate
    summary = json.loads(Attempt(job.output).summary_file.read_text())
    return {
        "packed": round(rate, 1),
        "utilisation": round(rate * flops / peak, 3) if machine.visible_gpus() else None,
        "packed_peak_memory": summary["peak_memory"],
        "estimated_memory": _estimate(packed, size),
        **{
            name: {"packed": getattr(packed, name), "unpacked": getattr(unpacked, name)}
            for name in ("micro_batch_size", "gradient_checkpointing")
        },
        "weights": size.weights,
        "rows": count,
        **compare(replace(job, training=unpacked), 1),
    }


def check_memory(held: Sequence[int]) -> dict[str, Any]:
    """What the card held before, between and after."""
    if held and max(held) - held[0] > _KEPT:
        raise RuntimeError(
            f"the card held {held[0]} bytes before and then {list(held[1:])}: memory was not handed back"
        )
    return {"held_bytes": list(held)}


def check_shape(name: str, folder: Path, peak: float, seconds: float, *, small: bool) -> dict[str, Any]:
    """`check_training` of a random model of one of `SHAPES`, which is not even written where it does not fit."""
    size = shape_of(name)
    if not small and None in [_training(size, packing=packing, small=small) for packing in (True, False)]:
        return _left_out(size)
    # In a process of its own: this one must hold no memory of the card.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as child:
        base = child.submit(write_base, name, folder / "base", small=small).result()
    return check_training(base, folder, peak, seconds, small=small)


def shape_of(name: str) -> ModelSize:
    """The size of a model of one of `SHAPES` with all weights trained."""
    import torch
    import transformers

    family, shape = SHAPES[name]
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(getattr(transformers, family)(**shape))
    sizes = (shape[each] for each in ("num_hidden_layers", "hidden_size", "intermediate_size", "vocab_size"))
    return ModelSize(model.num_parameters(), 0, 0, *sizes)


def _left_out(size: ModelSize) -> dict[str, Any]:
    return {"left_out": f"by its estimate a training of {size.weights} weights does not fit on this card"}


def write_base(name: str, folder: Path, *, small: bool) -> Path:
    """A random model of one of `SHAPES`, or a ``small`` one of its family, with a small tokenizer; made on the card."""
    import torch
    import transformers

    family, shape = SHAPES[name]
    tokens = {"pad_token": "<|pad|>", "bos_token": "<|start|>", "eos_token": "<|end|>"}
    tokenizer = small_tokenizer(list(tokens.values()), 4096, model_max_length=_LENGTH, **tokens)
    tokenizer.chat_template = CHAT_TEMPLATE
    told = small_shape(tokenizer, _LENGTH) | ({} if small else {"head_dim": 128} | shape)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        return write_random(getattr(transformers, family)(**told), tokenizer, folder, 1)


def _training(size: ModelSize, *, packing: bool, small: bool) -> TrainingConfig | None:
    """The largest micro-batch that fits, without recomputing activations before with it; nothing where none fits."""
    room = _ROOM * min(machine.gpu_memory() or [psutil.virtual_memory().total])
    for checkpointing in (False, True):
        for micro_batch in (32, 16, 8, 4, 2, 1):
            training = TrainingConfig(
                batch_size=16 if small else _PACKED_BATCH if packing else 64,
                micro_batch_size=min(micro_batch, 8) if small else micro_batch,
                max_length=_LENGTH,
                packing=packing,
                precision="bf16",
                gradient_checkpointing=checkpointing,
                processes=1,
                # TRL's defaults, as `compare` asks for.
                scheduler="linear",
                warmup_ratio=0.0,
            )
            if _estimate(training, size) < room:
                return training
    return None


def _estimate(training: TrainingConfig, size: ModelSize) -> int:
    on_gpu = bool(machine.visible_gpus())
    needed = estimate_memory(training, size, in_bf16=True, longest=_LONGEST, processes=1, on_gpu=on_gpu)
    return sum(needed.values())


def flops_of(base: Path, size: ModelSize) -> int:
    """Floating-point operations that a token needs, forward and back: 6 a weight, attention not counted.

    Looking up an embedding takes none; where it is tied, the same weights make the logits.
    """
    tied = json.loads((base / "config.json").read_text())["tie_word_embeddings"]
    return 6 * (size.weights - (0 if tied else size.vocabulary * size.hidden))


def _count_rows(flops: int, peak: float, seconds: float) -> int:
    return min(max(round(seconds * _AIM * peak / flops / _ROW_TOKENS), 256), 8192)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rehearse", action="store_true", help="a tiny random student, on a CPU too")
    parser.add_argument(
        "--peak-tflops", type=float, default=790, help="of the card in bf16; 790 was measured of an H200"
    )
    parser.add_argument("--only", nargs="+", choices=PARTS, default=_USUAL, help="parts to run, memory beside them")
    parser.add_argument("--seconds", type=float, default=40, help="about as long as the steps of one training take")
    parser.add_argument("--root", default="runs", help="run root that keeps the converted student")
    options = parser.parse_args()
    small, peak, gpus = options.rehearse, options.peak_tflops * 1e12, machine.visible_gpus()
    if not (gpus or small):
        raise SystemExit("no GPU is visible here; --rehearse shows on a CPU that the check works")
    if gpus:
        machine.check_gpu_training()
        if {RUN, STUDENT} & {*options.only} and find_environment(VllmEngine()).device == "cpu":
            raise SystemExit("vLLM is built for the CPU here; run `make setup STUDENT=vllm-cuda`")
    # On one card, in this process and in its children.
    os.environ[machine.GPUS_VARIABLE] = gpus[0] if gpus else ""
    held, failed = machine.gpu_memory("used"), False

    def tell(name: str, measure: Callable[[], dict[str, Any]]) -> None:
        nonlocal failed
        began = time.monotonic()
        try:
            found = measure()
        except (Exception, SystemExit) as exc:
            failed, found = True, {"error": f"{type(exc).__name__}: {exc}"}
        held.extend(machine.gpu_memory("used"))
        print(json.dumps({**found, "name": name, "took_seconds": round(time.monotonic() - began)}), flush=True)

    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        tiny = str(tiny_student(here / "tiny")) if small else ""
        student = StudentConfig(backbone=tiny or StudentConfig().backbone, chat_template="chatml")

        def measure(part: str, place: Path) -> dict[str, Any]:
            if part == RUN:
                return check_run(place, student.backbone, small=small)
            if part in SHAPES:
                return check_shape(part, place, peak, options.seconds, small=small)
            embedded = prepare_backbone(student, Storage(options.root).local(BACKBONE_CACHE).absolute())
            if part == STUDENT:
                return check_student(student.backbone, options.root, small=small)
            return check_training(embedded, place, peak, options.seconds, small=small)

        tell("machine", machine_in_words)
        for part in options.only:
            with tempfile.TemporaryDirectory(dir=here) as own:
                tell(part if part in (RUN, STUDENT) else f"training-{part}", partial(measure, part, Path(own)))
    tell("memory", lambda: check_memory(held))
    if failed:
        raise SystemExit(1)


def machine_in_words() -> dict[str, Any]:
    """What the figures were measured on."""
    return {"device": machine.in_words(), "python": sys.version.split()[0], "versions": library_versions()}


if __name__ == "__main__":
    main()
