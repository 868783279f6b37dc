"""The whole configuration of a run: how it trains and calls, `RunConfig`, and the ladder that resolves one round."""

from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_serializer,
    model_validator,
)
from pydantic_core import to_jsonable_python

from tapir_core.config import benchmarks, roles
from tapir_core.config._base import DIFFERENT, AutoSize, Free, Later, Section, StoreUrl, T
from tapir_core.config.curriculum import CurriculumConfig, Imitate, Objective, RoundConfig, RoundName
from tapir_core.config.data import DataConfig
from tapir_core.config.student import StudentConfig
from tapir_core.paths import AVERAGE, BACKBONE

LONGEST_NAME = 80
"""Characters of a run's name."""


_OF_OBJECTIVE = {"learning_rate", "epochs", "alpha"}
"""Fields of a round whose sensible values go with its objective."""
_OF_ADAPTERS = 10
"""Times the learning rate of all weights is that of the few of adapters, as is usual."""


InSaves = Annotated[T, "free", "saves"]
"""Changes no row, but a save of a training can only be loaded with the same value."""

Reporters = Annotated[
    tuple[Literal["tensorboard", "wandb"], ...],
    Field(strict=False),
    DIFFERENT,
    BeforeValidator(lambda given: (given,) if isinstance(given, str) and given else given or ()),
]
"""Several, or one by its name."""


class LoraConfig(Section):
    """Low-rank adapters instead of all weights; they are merged into the checkpoint after training."""

    rank: PositiveInt = 16
    """Rank of the update."""

    alpha: PositiveFloat = 32.0
    """Scale of the update."""

    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout on the adapters' input."""

    quantization: Literal["none", "nf4"] = "none"
    """How the weights are held that adapters leave as they are: in the training's precision, or in 4 bits (QLoRA,
    arXiv 2305.14314), which needs the package bitsandbytes and `zero_stage` 0 to 2. The adapters are merged into whole
    weights all the same."""


class TrainingConfig(Section):
    """What all fine-tunes of a run share; epochs and learning rate stand in `rounds` and `basic_tuning`."""

    zero_stage: InSaves[Literal[0, 1, 2, 3]] = 2
    """DeepSpeed's ZeRO stage: what is partitioned over the processes (1 optimizer, 2 + gradients, 3 + weights)."""

    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """bf16 keeps fp32 master weights; fp32 keeps small updates of short runs (docs/training.md). `auto` is bf16 where
    the device computes in it, else fp32; `training.json` says which it was."""

    batch_size: PositiveInt = 128
    """Examples that one optimizer step sees, over all processes."""

    micro_batch_size: InSaves[PositiveInt] = 8
    """Examples that one process holds at a time; the rest of the batch is accumulated."""

    max_length: PositiveInt = 2048
    """Longest example in tokens; a longer one is left out and counted, never cut."""

    packing: bool = False
    """No padding: a micro-batch is one row of at most `micro_batch_size` × `max_length` tokens, of whole examples
    that do not see each other."""

    thoughts: Later[Literal["train", "mask"]] = "train"
    """Whether a thought before an answer (`teacher.thinking`) is learnt, or only stands there for the answer."""

    attention: Free[Literal["auto", "sdpa", "flash_attention_2"]] = "auto"
    """What computes attention: torch's SDPA, or FlashAttention 2, which needs its package, a GPU and bf16. `auto` is
    the latter where it can be, and for packed rows on a GPU without it torch's own kernel for sequences of any length;
    the log's pre-flight says which it was."""

    scheduler: Literal["cosine", "linear", "constant"] = "cosine"
    """Course of the learning rate."""

    warmup_ratio: Annotated[float, Field(ge=0, lt=1)] = 0.03
    """Share of the steps over which the learning rate rises."""

    weight_decay: NonNegativeFloat = 0.0
    """AdamW's weight decay."""

    max_grad_norm: PositiveFloat = 1.0
    """Gradients are clipped to this norm."""

    gradient_checkpointing: Free[bool] = False
    """Recompute activations in the backward pass: less memory, about a third more time."""

    offload: InSaves[Literal["none", "optimizer", "all"]] = "none"
    """What a GPU leaves to the machine's memory: gradients and optimizer, whose step the CPU then computes, from
    `zero_stage` 2 on; with 3 also the weights (`all`), fetched layer by layer. Slower; on a CPU it saves nothing."""

    lora: LoraConfig | None = None
    """Train low-rank adapters instead of all weights."""

    runs_on: Free[Literal["driver", "worker"]] = "driver"
    """Where it trains: in the process that drives the run, or on a worker of the pool `tapir-gpu`, through the
    deployment *fine-tune* (docs/gpu-workers.md)."""

    processes: Free[PositiveInt | None] = None
    """Ranks on a machine; unset: one for each accelerator, or one on a CPU."""

    nodes: Free[PositiveInt] = 1
    """Workers of the pool `tapir-gpu` that train together; more than one need `runs_on = "worker"` and a folder that
    all of them see (docs/gpu-workers.md)."""

    report_to: Free[Reporters] = ()
    """Who is told of each step too, one or several: TensorBoard, whose files lie in the run's `logs/`, or Weights &
    Biases, whose key is read from `WANDB_API_KEY` (docs/training.md)."""

    save_minutes: Free[PositiveFloat] = 10.0
    """Minutes between two resumable checkpoints: what a kill can cost at most."""

    grace_seconds: Free[NonNegativeFloat] = 10.0
    """Seconds that a stopped training has for one more checkpoint."""

    @property
    def quantized(self) -> bool:
        """Whether the weights under the adapters have 4 bits."""
        return self.lora is not None and self.lora.quantization == "nf4"


class BasicTuningConfig(Section):
    """S_0: basic instruction following, from a sample of the pool with the teacher's plain answers."""

    examples: AutoSize = "auto"
    """Examples drawn from the usable pool by its natural shares (all of it when it has fewer); `"auto"`: a quarter of
    the pool (docs/own-data.md#sizes-from-the-pool)."""

    epochs: PositiveFloat = 3.0
    """Passes over them."""

    learning_rate: PositiveFloat | None = None
    """Peak learning rate; unset: 2e-5, or 2e-4 for the adapters of `[training.lora]`."""


class RetriesConfig(Section):
    """Attempts for one request by what went wrong. Refusals and prompts that are too long are never tried again."""

    connection: PositiveInt = 10
    """Attempts that may find the connection refused or broken; together they outlast a restart of the server."""

    rate_limited: PositiveInt = 12
    """Attempts that may be told 429; they cost nothing."""

    server: PositiveInt = 8
    """Attempts that may end in an error of the server (5xx) or in a body that is no chat completion."""

    timeout: PositiveInt = 3
    """Attempts that may get no reply within `timeout_seconds`; the provider may charge for each."""


class CallsConfig(Section):
    """How paid calls are made. Nothing here changes an answer, so nothing here re-runs a stage."""

    concurrency: PositiveInt = 64
    """Most requests in flight to one address. Fewer are, while it says 429 or calls time out."""

    timeout_seconds: PositiveFloat | None = None
    """Longest wait for one reply. Left out: 120, and 900 at a local address and from a server that the run starts, for
    they may be slow."""

    max_attempts: PositiveInt = 12
    """Attempts for one request, whatever goes wrong, before its failure is kept as retryable."""

    retries: RetriesConfig = RetriesConfig()
    """Limits by what goes wrong, within `max_attempts`."""

    backoff_seconds: PositiveFloat = 1.0
    """First pause between attempts, and until an address that fails is tried again; it doubles each time, with jitter,
    unless the server says Retry-After."""

    max_backoff_seconds: PositiveFloat = 60.0
    """Longest pause between two attempts."""

    dead_after_seconds: PositiveFloat = 120.0
    """An endpoint that has answered nothing for this long is given up, with one error for all its requests."""

    rows_per_shard: PositiveInt = 256
    """Rows that one task works on; more where a stage would have more than 512 tasks."""

    shard_retries: NonNegativeInt = 2
    """Times that a shard with retryable outcomes is tried again before it stands red."""

    shard_retry_seconds: NonNegativeFloat = 10.0
    """Pause before a shard is tried again."""

    max_missing_share: Annotated[float, Field(ge=0, lt=1)] = 0.02
    """Share of a stage's rows that may still be missing when the run goes on without them."""

    max_failed_share: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Share of a stage's requests that may fail for good or get a reply of no use; refusals in waves do not count."""

    max_unanswered_share: Annotated[float, Field(ge=0, le=1)] = 0.2
    """Share of a stage's requests to which the provider may give no answer for good; refusals in waves do not count."""

    store_url: StoreUrl | None = None
    """SQLAlchemy URL of the call store; unset: `<root>/.tapir/store.sqlite`."""


class Caps(Section):
    """Most that may be spent; what is left out has no cap. Raising a cap re-runs nothing."""

    usd: PositiveFloat | None = None
    """US dollars; every price must be known then."""

    requests: PositiveInt | None = None
    """Requests to teacher and judge, repeated attempts included."""

    tokens: PositiveInt | None = None
    """Prompt and completion tokens of teacher and judge."""

    hours: PositiveFloat | None = None
    """Hours of work, over all starts; time in which the run does not run is not counted."""


class BudgetConfig(Caps):
    """Caps of the whole run, and of single stages over all rounds. At a cap the run stops cleanly with exit code 3."""

    shared: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{0,80}$")] = ""
    """Runs of one store that have the same name here share their caps, each from its first call on. `tapir sweep` sets
    the curriculum's."""

    stages: dict[Literal["label", "teach", "judge", "expand", "refine", "benchmark", "score"], Caps] = Field({})
    """`[budget.stages.judge]` and so on: caps of one stage that asks teacher or judge."""


class RunSection(Section):
    """Name, place, seed and length of the run."""

    name: Free[Annotated[str, Field(pattern=rf"^[A-Za-z0-9][A-Za-z0-9._-]{{0,{LONGEST_NAME - 1}}}$")]]
    """The run's folder under `root`: letters, digits, `.`, `_` and `-`, at most 80. `--name` replaces it."""

    root: Free[str] = "runs"
    """Folder of all runs, with the call store they share in `.tapir/`; or `s3://BUCKET/FOLDER` (docs/storage.md)."""

    seed: int = 1
    """Every draw of the run derives from it."""

    rounds: Annotated[int, Field(ge=1, le=AVERAGE - 1)] = 1
    """R: most rounds; the stop rule may end sooner."""

    prompts: Free[str | None] = None
    """Folder whose prompt files replace the shipped ones of the same name."""


class RunConfig(Section):
    """One run, whole. Hand-written as TOML, kept resolved as `config.resolved.json` in the run folder."""

    run: RunSection
    """Name, place, seed and length."""

    data: DataConfig
    """Pool and held-out set."""

    student: StudentConfig = StudentConfig()
    """The small model."""

    teacher: roles.TeacherConfig
    """The strong LLM."""

    judge: roles.JudgeConfig
    """Who scores."""

    # Made of what is set there, since one default of it follows from another field.
    curriculum: CurriculumConfig = Field(default_factory=CurriculumConfig)
    """What holds for all rounds."""

    basic_tuning: BasicTuningConfig = BasicTuningConfig()
    """S_0."""

    rounds: dict[RoundName, RoundConfig] = Field({})
    """`[rounds.default]` and `[rounds.N]`: what is set there; a round past the last entry uses the last entry."""

    training: TrainingConfig = TrainingConfig()
    """What all fine-tunes share."""

    evaluation: benchmarks.EvaluationConfig = benchmarks.EvaluationConfig()
    """Benchmarks, and what keeps them out of what is trained on."""

    calls: Free[CallsConfig] = CallsConfig()
    """How calls are made."""

    budget: Free[BudgetConfig] = BudgetConfig()
    """What the run may cost at most."""

    @model_validator(mode="before")
    @classmethod
    def _judged_by_the_teacher(cls, values: Any) -> Any:
        """Where no judge's endpoint is given, the teacher judges."""
        match values:
            case {"teacher": {"endpoint": endpoint}} if isinstance(values.get("judge", {}), dict):
                return {**values, "judge": {"endpoint": endpoint, **values.get("judge", {})}}
        return values

    @field_serializer("rounds")
    def _only_what_is_set(self, rounds: dict[str, RoundConfig]) -> dict[str, dict[str, Any]]:
        # An entry written with all its defaults would hide [rounds.default] when it is read again, and one without a
        # default that it sets would be hidden by it.
        return {
            name: to_jsonable_python({each: getattr(entry, each) for each in sorted(entry.model_fields_set)})
            for name, entry in rounds.items()
        }

    @property
    def endpoints(self) -> dict[str, roles.EndpointConfig]:
        """Where teacher and judges answer, those of benchmarks included, by field."""
        return {"teacher.endpoint": self.teacher.endpoint} | self.judge.endpoints | self.evaluation.judges

    @property
    def judges_itself(self) -> bool:
        """Whether the teacher is among the judges."""
        known = (self.teacher.endpoint.model_copy(update={"thinking": each}) for each in ("strip", "keep"))
        return any(each.answers_as("teacher") in self.judge.identities for each in known)

    @property
    def round_numbers(self) -> range:
        """The rounds that are planned: 1 to R."""
        return range(1, self.run.rounds + 1)

    @property
    def students(self) -> list[int]:
        """Who is scored, by round and in order: `BACKBONE`, S_0 (0), S_1 to S_R, `AVERAGE` if it is asked for."""
        return [BACKBONE, 0, *self.round_numbers, *([AVERAGE] if self.student.average else [])]

    def round(self, number: int) -> RoundConfig:
        """Round ``number`` (from 1) with every field resolved, α included."""
        # Past the last entry, the last one holds.
        own = str(min(number, max((int(name) for name in self.rounds if name != "default"), default=0)))
        entries = [self.rounds[name] for name in ("default", own) if name in self.rounds]
        fields = {name: getattr(entry, name) for entry in entries for name in entry.model_fields_set}
        if entries and fields.get("objective", Imitate()).type != entries[0].objective.type:
            # What [rounds.default] says of these is meant for what it lets a round learn.
            fields = {
                name: each for name, each in fields.items() if name not in _OF_OBJECTIVE - entries[-1].model_fields_set
            }
        if fields.get("alpha") is None:
            scheduled = self.curriculum.alpha_start + (number - 1) * self.curriculum.alpha_step
            # What learns from answers has no easy part.
            fields["alpha"] = 1.0 if fields.get("objective", Imitate()).reads_answers else min(1.0, round(scheduled, 9))
        fields.setdefault("epochs", fields.get("objective", Imitate()).epochs)
        return RoundConfig.model_validate(fields)

    def examples(self, number: int) -> int:
        """Examples that are asked for in round ``number`` (0: of S_0)."""
        asked = self.round(number).examples if number else self.basic_tuning.examples
        assert asked != "auto", "`tapir_core.sources.settle_sizes` comes before whatever asks for a size"
        return asked

    def batch_size(self, number: int) -> int:
        """Examples that one optimizer step of round ``number`` (0: of S_0) sees."""
        return (self.round(number).batch_size if number else None) or self.training.batch_size

    def learning_rate(self, number: int) -> float:
        """Peak learning rate of round ``number`` (0: of S_0)."""
        own = self.round(number).learning_rate if number else self.basic_tuning.learning_rate
        return own or self.objective(number).learning_rate * (_OF_ADAPTERS if self.training.lora else 1)

    def objective(self, number: int) -> Objective:
        """What round ``number`` learns; S_0 imitates."""
        return self.round(number).objective if number > 0 else Imitate()

    @property
    def baselines(self) -> list[str]:
        """What plain fine-tunes beside the run have as much of as its rounds (`tapir_core.paths.BASELINES`).

        Where rounds learn from the student's own answers a token takes more of the machine than in plain fine-tuning;
        a baseline of as long a time is made only where baselines are asked for.
        """
        own = any(self.objective(number).learns_from_own for number in self.round_numbers)
        return ["tokens", *(["seconds"] if own and self.evaluation.baseline == "sft" else [])]

    def waves(self, number: int) -> range:
        """The waves of new instructions that round ``number`` may have, from 1."""
        return range(1, (0 if self.objective(number).reads_answers else self.curriculum.expansion.max_waves) + 1)

    def refines(self, number: int) -> bool:
        """Whether round ``number`` rewrites the answers of its hard part."""
        return self.curriculum.refine and not self.objective(number).reads_answers

    def verdict_round(self, number: int) -> int | None:
        """The round whose verdicts say how hard the pool of round ``number`` is; None for random seeds, or for S_0.

        It is the round itself, or without `curriculum.rejudge` the first one that is judged at all.
        """
        if number < 1 or not self.round(number).selection.reads_difficulty:
            return None
        first = number if self.curriculum.rejudge else 1
        return next(each for each in range(first, number + 1) if self.round(each).selection.reads_difficulty)

    def judge_of(self, benchmark: benchmarks.JudgedBenchmark) -> roles.EndpointConfig:
        """Who judges a benchmark: its own judge, or the run's first one."""
        return benchmark.judge or self.judge.endpoint

    def judges(self, number: int) -> bool:
        """Whether round ``number`` lets the student answer its pool and the judge score the answers."""
        return self.verdict_round(number) == number

    def checks_expansion(self, number: int) -> bool:
        """Whether round ``number`` keeps those new instructions only that are as hard as its seeds."""
        return self.curriculum.expansion.check_difficulty and self.judges(number) and bool(self.waves(number))
