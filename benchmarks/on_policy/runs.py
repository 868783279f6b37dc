"""The trial's pair `standin` as runs of the product: S_0, then a round that imitates, learns on-policy, or prefers.

    .venv/bin/python -m benchmarks.on_policy.runs FOLDER --trial TRIAL
    .venv/bin/python -m benchmarks.on_policy.runs benchmarks/results/on-policy-runs     # the table of these results

TRIAL is the folder that `benchmarks.trial standin` left, with its teacher. Each arm and seed is a `tapir run`, which
goes on where it was killed; all share one call store, so that the teacher answers each prompt once. Round 2 is only
rolled out and scored: that is how far the student after round 1 is from its teacher. What a run came to lies in FOLDER.
The loss `policy`, which the trial has far behind, is left out.
"""

import argparse
import json
import random
import shutil
import subprocess
import sys
from pathlib import Path
from statistics import fmean

import polars as pl

from benchmarks.trial.pairs import Pair, standin
from tapir_core.run_folder import RunFolder, RunRef
from tapir_core.stages import ROLLOUT, SCORE
from tapir_core.summary import RunReader, marks_on_test

POOL, REPEATS, SEEDS = 1300, 2000, (1, 2, 3)
_LONG = "learning_rate = 3e-5\nepochs = 1\n"
ARMS = {
    "imitate": f"examples = 640\n{_LONG}",
    "forward_kl": f'examples = 640\n{_LONG}objective = {{ type = "on_policy", loss = "forward_kl", top_k = 32 }}\n',
    "prefer": 'examples = 275\nepochs = 1\nlearning_rate = 5e-6\nobjective = "prefer"\n'
    'selection = { type = "hard_share", share = 0.95 }\n',
}
"""Arm → its round 1. A pair is two conversations, and before a third of the work of both: the time of 640 answers."""

CONFIG = """
run = {{ name = "{name}", root = "{folder}/runs", rounds = 2, seed = {seed} }}
data.pool = {{ type = "file", path = "{folder}/pool.jsonl" }}
data.heldout = {{ type = "file", path = "{folder}/heldout.jsonl" }}
evaluation.baseline = "none"
judge.verifier = {{ function = "exact", uses = ["judge"], only = true }}

[student]
backbone = "embedded:smollm2-135m-instruct"
chat_template = "chatml"
engine = {{ type = "vllm", dtype = "float32", cpu_kv_cache_gib = 1, max_model_length = 512, concurrency = 64 }}
sampling = {{ max_tokens = 48 }}

[teacher]
answering = {{ max_tokens = 48 }}
labelling = {{ max_tokens = 64 }}
expanding = {{ max_tokens = 48 }}
refining = {{ max_tokens = 48 }}
label_replies = "json"

[teacher.endpoint]
type = "vllm"
model = "{folder}/teacher"
chat_template = "chatml"
dtype = "float32"
cpu_kv_cache_gib = 1
max_model_length = 1024

[curriculum]
task_types = {{ "Short task" = "a question with a short answer" }}
expansion = {{ max_waves = 0 }}
stop = {{ max_growth = "", max_unended = "", max_repeated = "", max_divergence = "", max_entropy_loss = "" }}

[basic_tuning]
examples = 128
epochs = 1
learning_rate = 2e-4

[rounds.1]
{round}
[rounds.2]
examples = 200
objective = {{ type = "on_policy", loss = "policy" }}

[training]
precision = "fp32"
batch_size = 16
micro_batch_size = 8
max_length = 512
"""


def prepare(pair: Pair, trial: Path, folder: Path) -> None:
    """Pool and held-out set in files, and the teacher with a tokenizer."""
    parts = {
        "pool": {"pool": pair.items["pool"][:POOL]},
        "heldout": {each: pair.items[each] for each in ("dev", "test")},
    }
    for name, of in parts.items():
        rows = [
            {"instruction": item.text, "reference": item.reference, "split": split}
            for split, items in of.items()
            for item in items
        ]
        (folder / f"{name}.jsonl").write_text("".join(f"{json.dumps(each)}\n" for each in rows))
    if not (folder / "teacher").exists():
        made = folder / "teacher.new"
        shutil.copytree(pair.student, made, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.safetensors"))
        shutil.copytree(trial / "teacher", made, dirs_exist_ok=True)
        made.rename(folder / "teacher")


def run(folder: Path, arm: str, seed: int) -> None:
    file = folder / f"{arm}-s{seed}.toml"
    file.write_text(CONFIG.format(name=file.stem, folder=folder, seed=seed, round=ARMS[arm]))
    command = [sys.executable, "-m", "flows.cli", "run", str(file), "--until", "score@2"]
    subprocess.run(command, check=True)


def measure(folder: Path, name: str) -> None:
    """Keep what a run came to: marks on test, the mean t − q of each rollout, seconds of its training."""
    reader = RunReader(RunFolder(RunRef(str(folder / "runs"), name)))
    training, told = reader.training(1), marks_on_test(reader, 1)
    both = reader.run.rows(ROLLOUT.at(2)).join(
        reader.run.rows(SCORE.at(2)), on=["instruction_id", "sample"], suffix="_t"
    )
    tokens = both.explode("log_probs", "log_probs_t")
    gaps = tokens.group_by("instruction_id").agg((pl.col("log_probs_t") - pl.col("log_probs")).mean())
    found = {
        "marks": {item: mark for item, mark in sorted(told.items()) if mark is not None},
        "gaps": {item: round(gap, 4) for item, gap in sorted(gaps.iter_rows())},
        "seconds": round(training["seconds"] + training.get("reference_seconds", 0.0), 1),
    }
    (folder / f"{name}.json").write_text(json.dumps(found))


def show(results: Path) -> None:
    """Marks on test, their differences to imitation, and the mean t − q of the student's own tokens, 95 % intervals."""
    found = {arm: [json.loads(file.read_text()) for file in sorted(results.glob(f"{arm}-s*.json"))] for arm in ARMS}
    for arm, runs in found.items():
        if runs:
            marks = [each["marks"] for each in runs]
            others = [each["marks"] for each in found["imitate"][: len(runs)]]
            apart = [{item: one[item] - other[item] for item in one} for one, other in zip(marks, others, strict=True)]
            gaps = [each["gaps"] for each in runs]
            print(
                f"| {arm} | {len(runs)} | {fmean(each['seconds'] for each in runs):.0f} | {mean_of(marks):.1f} | "
                f"{in_words(apart, '+.1f', same_items=True)} | {in_words(gaps, '.3f', same_items=False)} |"
            )


def mean_of(of_seeds: list[dict[str, float]]) -> float:
    return fmean(fmean(each.values()) for each in of_seeds)


def in_words(of_seeds: list[dict[str, float]], form: str, *, same_items: bool) -> str:
    """The mean over seeds and items, and its interval by resampling both; the items of all seeds may be the same."""
    rng, means = random.Random(1), list[float]()
    for _ in range(REPEATS):
        drawn, items = rng.choices(of_seeds, k=len(of_seeds)), list[str]()
        per_seed = []
        for of in drawn:
            items = items if items and same_items else rng.choices([*of], k=len(of))
            per_seed.append(fmean(of[item] for item in items))
        means.append(fmean(per_seed))
    means.sort()
    low, high = means[REPEATS // 40], means[-REPEATS // 40]
    return f"{mean_of(of_seeds):{form}} ({low:{form}} to {high:{form}})"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--trial", type=Path)
    given = parser.parse_args()
    if given.trial:
        place = given.folder.absolute()
        place.mkdir(parents=True, exist_ok=True)
        pair = standin(given.trial, argparse.Namespace(student=None), small=False)
        prepare(pair, given.trial, place)
        for seed in SEEDS:
            for arm in ARMS:
                if not (place / f"{arm}-s{seed}.json").exists():
                    run(place, arm, seed)
                    measure(place, f"{arm}-s{seed}")
    show(given.folder)
