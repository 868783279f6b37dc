"""A small comparison whose runs are built, not distilled: everything about it but its engines is real."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from flows.driver import find_stage
from flows.series import run_comparison
from flows.whole_run import drive_matched
from tapir_core.comparison.matching import MatchedRun, steps_of
from tapir_core.comparison.outcome import Training, read_training, total
from tapir_core.comparison.plan import ComparisonPlan, open_comparison
from tapir_core.errors import EngineError, TapirError
from tapir_core.paths import training_file
from tapir_core.run_folder import RunFolder
from tapir_core.stages import StageAt
from tasks.input_files import Say
from tests.run_builder import build_run
from tests.students import make_checkpoint

CURRICULUM = """
run = { name = "q", root = ROOT, rounds = 2 }
data.pool = { type = "standin", rows = 400 }
data.heldout = { type = "standin", dev = 20, test = 40 }
teacher.endpoint.type = "standin"
judge.endpoint.type = "standin"
curriculum.target_shares = { Math = 0.4, Reasoning = 0.3, Others = 0.3 }
curriculum.alpha_start = 0.5
curriculum.refine = true
curriculum.stop.min_seeds = 0
basic_tuning.examples = 64
rounds.default = { examples = 64, epochs = 1.0, selection = { type = "hard_share", share = 0.3 } }
training = { batch_size = 8 }
student.backbone = BACKBONE
student.engine = { type = "endpoint", base_url = "http://127.0.0.1:9/v1" }
"""

COMPARISON = """
name = "c"
config = CONFIG
run_seeds = [1, 2]
primary = ["multi_round", "random", "hard_only"]
exploratory = ["equal_usd", "no_refinement"]
prices.teacher = { usd_per_million_prompt_tokens = 1.0, usd_per_million_completion_tokens = 1.0 }
prices.judge = { usd_per_million_prompt_tokens = 0.05, usd_per_million_completion_tokens = 0.05 }
"""


class BuiltRuns:
    """Engines that build what real ones would make, and count a token a character of each example."""

    failure: TapirError = EngineError("the trainer ended with 1")

    def __init__(self, *, failing: Sequence[str] = (), stopping_at: str = "never") -> None:
        self.failing, self.stopping_at = failing, stopping_at
        self.driven: list[tuple[str, str | None]] = []

    def drive(self, say: Say = lambda _: None) -> Callable[[MatchedRun], None]:
        """Drives a run of a comparison with these engines."""

        def drive(matched: MatchedRun) -> None:
            with self.counting():
                drive_matched(matched, self.distil, say=say)

        return drive

    @contextmanager
    def counting(self) -> Iterator[None]:
        """What a training will come to is counted by these engines for the block."""
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr("tasks.train.count_round", self.count)
            yield

    def distil(self, run: RunFolder, until: str | None) -> None:
        self.driven.append((run.ref.name, until))
        if run.ref.name in self.failing:
            raise self.failure
        if (until or "end") == self.stopping_at and run.ref.name == "c-random-s1":
            raise KeyboardInterrupt
        at = find_stage(run.config, until) if until else None
        build_run("", until=at, config=run.config, **run.record.ingredients)
        for number in range(run.config.run.rounds + 1):
            if run.holds(StageAt("train", number)) is not None:
                counted = self.count(run, number)
                told = {
                    "examples": counted.examples,
                    "total_tokens": counted.tokens,
                    "trained_tokens": counted.loss_tokens,
                    "steps": counted.steps,
                    "epochs": counted.epochs,
                    # A token that the student said itself takes three times as long.
                    "seconds": counted.tokens * (3 if run.config.objective(number).learns_from_own else 1) / 1000,
                    "precision": "fp32",
                    "versions": {},
                }
                file = training_file(StageAt("train", number).folder)
                run.storage.write_bytes(file, json.dumps(told).encode())

    def count(self, run: RunFolder, number: int) -> Training:
        messages = run.rows(StageAt("mix", number))["messages"].to_list()
        texts = [[len(message["content"]) for message in each] for each in messages]
        epochs = run.config.round(number).epochs if number else 1.0
        steps = steps_of(len(texts), epochs, run.config.batch_size(number))
        tokens, with_loss = sum(map(sum, texts)), sum(each[-1] for each in texts)
        return Training(len(texts), round(epochs * tokens), round(epochs * with_loss), steps, epochs)


def lay_spec(folder: Path) -> Path:
    """A comparison below ``folder``, with a backbone that nothing loads."""
    backbone = make_checkpoint(folder / "backbone")
    root, config = json.dumps(str(folder / "runs")), folder / "q.toml"
    config.write_text(CURRICULUM.replace("ROOT", root).replace("BACKBONE", json.dumps(str(backbone))))
    (folder / "c.toml").write_text(COMPARISON.replace("CONFIG", json.dumps(str(config))))
    return folder / "c.toml"


def run_all(
    spec: Path,
    engines: BuiltRuns,
    *,
    only: Sequence[str] = (),
    seeds: Sequence[int] = (),
    say: Say = lambda _: None,
) -> dict[str, TapirError]:
    """Finish the runs that are wanted; gives those that failed, and why."""
    plan = open_comparison(spec)
    return run_comparison(plan, plan.choose(only, seeds), engines.drive(say), say=say)


def folder(plan: ComparisonPlan, arm: str, run_seed: int = 1) -> RunFolder:
    """Where the run of an arm lies."""
    return RunFolder(plan.run(arm, run_seed).ref)


def trained(run: RunFolder) -> Training:
    """All rounds of a run together."""
    rounds = range(1, run.config.run.rounds + 1)
    return total(read_training(run, number) for number in rounds)
