"""One arm with one seed: S_0, the rounds, what is exported, marks; one JSON file, written when all of it is there.

Students lie under a work folder while their arm is made, named by what they follow from (base, examples in their order,
rate, carried state), with the answers that they gave beside them. So what is killed goes on after the last student that
was whole, and S_0 serves every arm that has the same one. An arm's own students are deleted when its result is written.
"""

import json
import platform
import shutil
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from benchmarks.lab import student
from benchmarks.lab.mixtures import Curriculum, RoundMade
from benchmarks.lab.recipe import Recipe
from tapir_core.comparison import matching
from tapir_core.comparison.outcome import Training
from tapir_core.comparison.plan import Arm
from tapir_core.curriculum import Mixture
from tapir_core.errors import ConfigError
from tapir_core.evaluation.scores import grade_answers
from tapir_core.randomness import derive_seed
from tapir_core.sources import natural_weights
from tapir_core.standin import POOL_VERSION, STANDIN_VERSION
from tapir_core.text import digest
from tasks.engines.backbone import checkpoint_digest, prepare_backbone
from tasks.engines.training.chat import load_tokenizer
from tasks.engines.training.data import PlannedTraining, plan_training
from tasks.engines.training.launch import TrainingJob

AVERAGE, CONSOLIDATED = "average", "consolidated"
"""Names of students that no round made."""

_LIBRARIES = ("torch", "transformers")


@dataclass(frozen=True)
class Place:
    """Where an experiment is done."""

    results: Path
    work: Path
    """For students, answers and mixtures that are under way."""
    device: str = "cpu"

    @property
    def backbones(self) -> Path:
        """Those that were converted."""
        return self.work / "backbones"


class Made(NamedTuple):
    """A student."""

    folder: Path
    training: dict[str, Any]
    """The fields of `TrainingCount`, seconds, loss_curve."""


def run(recipe: Recipe, place: Place, say: student.Say) -> bool:
    """Make the result of one arm with one seed, unless it is there; gives whether it was made now.

    Raises:
        ConfigError: there is a result of another recipe, or the arm that it is matched to has none.
    """
    backbone = prepare_backbone(recipe.config.student, place.backbones)
    identity = checkpoint_digest(backbone, recipe.config.student.template)
    file = place.results / recipe.file_name
    wanted = recipe.digest(identity)
    if file.exists():
        if read_result(file)["recipe"] != wanted:
            raise ConfigError(f"{file} is of another recipe than {recipe.name} is now; give another --to, or delete it")
        return False
    targets = _targets(recipe, place, identity)
    arm_run = _ArmRun(recipe, place, backbone, identity, targets, say)
    result = {"recipe": wanted, **arm_run.result()}
    place.results.mkdir(parents=True, exist_ok=True)
    unfinished = student.unfinished(file)
    unfinished.write_text(json.dumps(result, separators=(",", ":")) + "\n")
    unfinished.rename(file)
    shutil.rmtree(arm_run.own, ignore_errors=True)
    return True


def read_result(file: Path) -> dict[str, Any]:
    """What `run` wrote."""
    found: dict[str, Any] = json.loads(file.read_text())
    return found


def _targets(recipe: Recipe, place: Place, backbone: str) -> dict[int, Training]:
    """Round → what it must train on; of an arm of one round all that the other trained on, consolidation included."""
    if (other := recipe.matched_to) is None:
        return {}
    file = place.results / other.file_name
    if not file.exists() or (found := read_result(file))["recipe"] != other.digest(backbone):
        raise ConfigError(f"arm {recipe.name} is matched to {other.name}, of whose recipe there is no result {file}")
    trained = {int(name) if name.isdigit() else 10**6: Training(**each) for name, each in found["trainings"].items()}
    if recipe.match == "rounds":
        trained.pop(10**6, None)
    return matching.targets_of(Arm(recipe.name, "", recipe.match, exploratory=False), trained)


@dataclass
class _ArmRun:
    recipe: Recipe
    place: Place
    backbone: Path
    identity: str
    targets: Mapping[int, Training]
    say: student.Say

    def __post_init__(self) -> None:
        self.config, self.arm = self.recipe.config, self.recipe.arm
        self.curriculum = Curriculum(self.config, self.arm.follow_shares)
        self.own = self.place.work / self.recipe.file_name.removesuffix(".json")
        self.shared = self.place.work / "basic"
        self.steps_done = 0

    def result(self) -> dict[str, Any]:
        """All of it; what is there of an earlier start is taken."""
        started = time.monotonic()
        made = {"0": self._basic()}
        marks = {"0": self._mark(made["0"].folder, ("dev", "test"), "S_0")}
        rounds = list(self.config.round_numbers)
        for number in rounds:
            made[str(number)] = self._round(number, made)
            last = number == rounds[-1]
            splits = ("dev", "test") if last or self.recipe.experiment.test_each_round else ("dev",)
            marks[str(number)] = self._mark(made[str(number)].folder, splits, f"S_{number}")
        if len(rounds) > 1:
            marks[AVERAGE] = self._mark(self._average(made, rounds[-1]), ("dev", "test"), "average")
        if self.arm.exports == CONSOLIDATED:
            made[CONSOLIDATED] = self._consolidate(made["0"])
            marks[CONSOLIDATED] = self._mark(made[CONSOLIDATED].folder, ("dev", "test"), CONSOLIDATED)
        return self._record(made, marks, time.monotonic() - started)

    def _record(self, made: Mapping[str, Made], marks: Mapping[str, Any], seconds: float) -> dict[str, Any]:
        config, mixtures = self.config, [each.rows for each in self.curriculum.mixtures]
        trained = pl.concat(mixtures)
        weights = natural_weights(config.data, self.curriculum.heldout)
        exported = {"last": str(len(mixtures))}.get(self.arm.exports, self.arm.exports)
        return {
            "experiment": self.recipe.experiment.name,
            "arm": self.recipe.name,
            "label": self.arm.label,
            "against": self.arm.against or self.recipe.experiment.reference,
            "reference": self.recipe.experiment.reference,
            "seed": self.recipe.seed,
            "exported": exported if exported in marks else str(len(mixtures)),
            "students": marks,
            "weights": {name: round(weight, 9) for name, weight in weights.items()},
            "trainings": {name: asdict(_training(each.training)) for name, each in made.items()},
            "loss_curves": {name: each.training["loss_curve"] for name, each in made.items()},
            "training_seconds": {name: each.training["seconds"] for name, each in made.items()},
            "distinct_instructions": trained["instruction_id"].n_unique(),
            "calls": self.curriculum.calls(),
            "origins": [dict(Counter(rows["origin"])) for rows in mixtures],
            "refined": [int(rows["refined"].sum()) for rows in mixtures],
            "shortfalls": [each.shortfall for each in self.curriculum.mixtures],
            "missing": [each.missing for each in self.curriculum.mixtures],
            "seconds": round(seconds, 1),
            "device": self.place.device,
            "versions": {
                **{name: metadata.version(name) for name in _LIBRARIES},
                "python": platform.python_version(),
                "standin": STANDIN_VERSION,
                "standin_pool": POOL_VERSION,
                "backbone": self.identity,
            },
            "config": config.model_dump(mode="json"),
        }

    def _basic(self) -> Made:
        settings = self.config.basic_tuning
        job = self._job(0, self.curriculum.basic(), settings.epochs, self.config.learning_rate(0))
        planned = plan_training(job, 1)
        keeps = any(arm.carry_adam for arm in self.recipe.experiment.arms.values())
        return self._train("S_0", self.shared, self.backbone, planned, self._rate(planned, 0), keeps=keeps)

    def _round(self, number: int, made: Mapping[str, Made]) -> Made:
        before = made[str(number - 1)]
        if self.config.verdict_round(number) == number:
            self._measure(number, before.folder)
        fitted, planned = self._fit(number)
        self.curriculum.keep(fitted)
        base = before.folder
        if number > 1 and self.arm.next_from == AVERAGE:
            base = self._average(made, number - 1)
        carried = before.folder if self.arm.carry_adam else None
        keeps = self.arm.carry_adam and number < self.config.run.rounds
        rate = self._rate(planned, number)
        self.steps_done += planned.plan.steps
        return self._train(f"round {number}", self.own, base, planned, rate, carried=carried, keeps=keeps)

    def _measure(self, number: int, folder: Path) -> None:
        """Judge what the student in ``folder`` answers to the pool of a round."""
        pool, what, drawn = self.curriculum.pool(number), f"round {number}, answers to its pool", self.arm.frontier
        if not drawn:
            self.curriculum.measure(number, self._answers(folder, pool, self._saying(what)))
            return
        samples = range(1, drawn + 1)
        says = [self._saying(f"{what}, drawn {sample} of {drawn}") for sample in samples]
        answers = [self._answers(folder, pool, say, sample) for sample, say in zip(samples, says, strict=True)]
        self.curriculum.measure_frontier(number, answers)

    def _fit(self, number: int) -> tuple[RoundMade, PlannedTraining]:
        """The mixture of a round, sized to its target where it has one."""
        settings, target = self.config.round(number), self.targets.get(number)
        if target is not None:
            # One round in place of several begins with the examples of all.
            settings = settings.model_copy(update={"examples": max(1, round(target.examples / settings.epochs))})
        for tries in range(1, matching.MOST_TRIES + 1):
            made = self.curriculum.make_round(number, settings)
            planned = self._plan(number, made.mixture, settings.epochs, self.config.batch_size(number))
            training = _training(asdict(planned.count()))
            if target is None:
                return made, planned
            if matching.is_match(target, training, tries=tries):
                size = matching.suited_batch_size(target, training.examples, training.epochs)
                return made, self._plan(number, made.mixture, settings.epochs, size)
            wanted = matching.next_examples(target, training, settings.examples)
            settings = settings.model_copy(update={"examples": wanted})
        raise matching.unmatched(f"round {number} of {self.recipe.name}", target, training, settings.examples)

    def _consolidate(self, basic: Made) -> Made:
        """S_0 trained once on all that the rounds trained on."""
        rounds, last = self.curriculum.mixtures, self.config.run.rounds
        rows = pl.concat([each.rows for each in rounds]).unique("example_id", keep="first", maintain_order=True)
        planned = self._plan(
            last, Mixture(rows, {}, 0), self.config.round(last).epochs, self.config.batch_size(last), "consolidate"
        )
        return self._train(CONSOLIDATED, self.own, basic.folder, planned, self._rate(planned, last, alone=True))

    def _average(self, made: Mapping[str, Made], last: int) -> Path:
        """The mean of the weights of S_1..S_last."""
        students = [made[str(number)].folder for number in range(1, last + 1)]
        target = self.own / f"mean-{digest([each.name for each in students])[:16]}"
        if not target.exists():
            student.average(students, target)
        return target

    def _rate(self, planned: PlannedTraining, number: int, *, alone: bool = False) -> student.Rate:
        """That of S_0 (0) or of a round; ``alone``: of a training with a schedule of its own in any case."""
        training, peak, steps = self.config.training, planned.job.learning_rate, planned.plan.steps
        if number == 0:
            return student.Rate(peak, training.scheduler, training.warmup_ratio, steps)
        warmup = training.warmup_ratio if self.arm.warmup_ratio is None else self.arm.warmup_ratio
        if self.arm.schedule == "round" or alone:
            return student.Rate(peak, training.scheduler, warmup, steps)
        whole = sum(
            matching.steps_of(each.examples, each.epochs, self.config.batch_size(at))
            for at, each in ((at, self.config.round(at)) for at in self.config.round_numbers)
        )
        if self.targets:
            whole = sum(each.steps for each in self.targets.values())
        return student.Rate(peak, training.scheduler, warmup, whole, self.steps_done)

    def _plan(
        self, number: int, mixture: Mixture, epochs: float, batch_size: int, name: str = "train"
    ) -> PlannedTraining:
        job = self._job(number, mixture, epochs, self.config.learning_rate(number), batch_size, name)
        return plan_training(job, 1)

    def _job(
        self,
        number: int,
        mixture: Mixture,
        epochs: float,
        learning_rate: float,
        batch_size: int | None = None,
        name: str = "train",
    ) -> TrainingJob:
        if not mixture.rows.height:
            raise ConfigError(f"the mixture of round {number} of {self.recipe.name} is empty")
        config, file = self.config, self.own / f"mixture-{number}-{name}.parquet"
        file.parent.mkdir(parents=True, exist_ok=True)
        mixture.rows.write_parquet(file)
        return TrainingJob(
            base=self.backbone,
            mixture=(file,),
            output=self.own / "unused",
            training=config.training.model_copy(update={"batch_size": batch_size or config.batch_size(number)}),
            epochs=epochs,
            learning_rate=learning_rate,
            seed=derive_seed(config.run.seed, number, name) % 2**31,
            chat_template=config.student.template,
            log_path=self.own / "unused.log",
        )

    def _train(
        self,
        what: str,
        where: Path,
        base: Path,
        planned: PlannedTraining,
        rate: student.Rate,
        *,
        carried: Path | None = None,
        keeps: bool = False,
    ) -> Made:
        training, job = self.config.training, planned.job
        shaping = training.model_dump(include={"weight_decay", "max_grad_norm", "precision"})
        examples = [planned.corpus.example(index).tokens for index in range(len(planned.corpus.lengths))]
        of = [
            self.identity,
            base.name,
            examples,
            [[[*cell] for cell in group] for group in planned.plan.groups],
            asdict(rate),
            shaping,
            self.place.device,
        ]
        target = where / digest([*of, carried.name if carried else "", job.seed])[:16]
        if not student.is_trained(target, with_optimizer=keeps):
            say = self._saying(what)
            student.train(
                base,
                target,
                planned,
                rate,
                device=self.place.device,
                say=say,
                carried=carried,
                keep_optimizer=keeps,
            )
        return Made(target, student.trained(target))

    def _mark(self, folder: Path, splits: Sequence[str], what: str) -> dict[str, dict[str, int | None]]:
        """Split → item → 1 or 0."""
        found = {}
        for split in splits:
            rows = self.curriculum.heldout.filter(split=split)
            answers = self._answers(folder, rows, self._saying(f"{what}, answers to {split}"))
            told = pl.DataFrame({"instruction_id": list(answers), "response": list(answers.values())})
            graded = grade_answers(rows, told).select("instruction_id", pl.col("correct").cast(pl.Int64))
            found[split] = dict(graded.iter_rows())
            self.say(
                f"{self.recipe.name}, seed {self.recipe.seed}: {what} has {graded['correct'].mean():.1%} of {split}"
            )
        return found

    def _answers(self, folder: Path, rows: pl.DataFrame, say: student.Say, sample: int = 0) -> dict[str, str]:
        """instruction_id → the student's answer; what it has answered before is kept beside it.

        ``sample``: 0 for the greedy answer, else which of those that are drawn.
        """
        most = self.config.student.sampling.max_tokens
        in_bf16 = student.computes_in_bf16(self.config.training.precision, self.place.device)
        of = [rows["instruction_id"].to_list(), most, in_bf16, *([sample] if sample else [])]
        name = digest(of)[:16]
        file = folder / f"answers-{name}.json"
        if not file.exists():
            made = student.answer(
                folder,
                self._tokenizer,
                rows["instruction"].to_list(),
                most_tokens=most,
                device=self.place.device,
                in_bf16=in_bf16,
                say=say,
                sample=sample,
            )
            unfinished = student.unfinished(file)
            unfinished.write_text(json.dumps(dict(zip(rows["instruction_id"], made, strict=True))))
            unfinished.rename(file)
        found: dict[str, str] = json.loads(file.read_text())
        return found

    @cached_property
    def _tokenizer(self) -> Any:
        job = self._job(0, self.curriculum.basic(), 1.0, 0.0)
        return load_tokenizer(job.base, job.chat_template)

    def _saying(self, what: str) -> student.Say:
        return lambda line: self.say(f"{self.recipe.name}, seed {self.recipe.seed}: {what}: {line}")


def _training(record: Mapping[str, Any]) -> Training:
    return Training(
        record["examples"], record["total_tokens"], record["trained_tokens"], record["steps"], record["epochs"]
    )
