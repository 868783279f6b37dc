"""A fine-tune as its driver sees it: the job, the attempt folder, the ranks that are started and followed, the errors.

Imports no torch; every rank reads it too. A job that is started again goes on from its newest complete save; one that
is finished is only read. A save is a periodic, resumable checkpoint of one attempt, published by rename, so that a torn
one is never resumed from: one folder a save, ``step-00000120``, with its record ``complete.json`` written last. What a
user can act on is raised as a rank printed it; anything else as an `EngineError` with the last words of the log.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, TypeAdapter
from pydantic.dataclasses import dataclass

from tapir_core import errors, paths
from tapir_core.config import Imitate, Objective, TrainingConfig
from tapir_core.storage import Storage
from tapir_core.summary.formats import duration
from tapir_core.text import digest
from tasks.engines import keys, logs, machine, supervisor
from tasks.engines.training import prerequisites

MEDIAN_APART, WORST_APART = 0.02, 0.3
"""Nats by which two words on a sampled token may differ: for half of the tokens, and for all but one of a hundred."""

JOB_VARIABLE = "TAPIR_TRAINING_JOB"
"""In which a rank finds its job, as JSON."""

_POLL_SECONDS = 0.25

_OF_ANOTHER_JOB = re.compile(
    r"(ACCELERATE|TORCHELASTIC|SLURM|OMPI|PMIX?|MV2|KUBEFLOW_TRAINER)_"
    r"|((LOCAL_|NODE_|GROUP_|ROLE_)?(RANK|WORLD_SIZE)|MASTER_(ADDR|PORT)|DS_ACCELERATOR)$"
)
"""Names of variables that say which process of which job this is, or that libraries take over what a job sets."""

AbsolutePath = Annotated[Path, AfterValidator(Path.absolute)]


@dataclass(frozen=True, slots=True)
class TrainingJob:
    """One fine-tune of ``base`` on ``mixture``; ``output`` is its attempt folder."""

    base: AbsolutePath
    """Folder of the checkpoint to start from."""
    mixture: tuple[AbsolutePath, ...]
    """Parquet files with a column ``messages``, a list of {role, content}."""
    output: AbsolutePath
    training: TrainingConfig
    epochs: float
    learning_rate: float
    seed: int
    log_path: AbsolutePath
    chat_template: AbsolutePath | None = None
    """Jinja file that replaces the base's chat template."""
    objective: Objective = Imitate()
    """To prefer, the files also have a column ``rejected``, the text of the worse answer."""
    rollouts: tuple[AbsolutePath, ...] = ()
    """To learn on-policy: Parquet files of the stage `rollout`, the student's own answers."""
    scores: tuple[AbsolutePath, ...] = ()
    """Those of `score`, in the same order."""

    def to_json(self) -> dict[str, Any]:
        """The job as JSON, which the constructor takes as keywords."""
        return TypeAdapter(TrainingJob).dump_python(self, mode="json")

    @property
    def identity(self) -> str:
        """Digest of all that a save depends on; a save of another identity is never resumed from.

        Of files and folders only their names: each machine may find the root elsewhere, and the attempt's folder is
        named by their content.
        """
        free = set(self.training.with_mark("free").keys() - self.training.with_mark("saves"))
        left_out: dict[str, Any] = {"output": True, "log_path": True, "training": free}
        return digest(
            json.loads(
                json.dumps(TypeAdapter(TrainingJob).dump_python(self, exclude=left_out), default=lambda path: path.name)
            )
        )


@dataclass(frozen=True, slots=True)
class TrainingProgress:
    """Where a training stands after an optimizer step."""

    step: int
    steps: int
    loss: float
    tokens: int
    """Tokens seen so far, prompts included, padding not."""
    tokens_per_second: float
    eta_seconds: float

    def in_words(self) -> str:
        """For a line that changes as it goes on."""
        return (
            f"step {self.step}/{self.steps}, loss {self.loss:.3f}, {self.tokens_per_second:.0f} tokens/s, "
            f"{duration(self.eta_seconds)} left"
        )


@dataclass(frozen=True, slots=True)
class TrainingCount:
    """How much a training is; known before its first step."""

    steps: int
    """Optimizer steps."""
    batch_size: int
    """Examples of a step; the last one may have fewer."""
    epochs: float
    examples: int
    """Different examples of an epoch."""
    left_out: int
    """Examples longer than ``max_length``, with the text of a special token in their prompt, or with an answer that the
    chat template does not write as it is.
    """
    trained_tokens: int
    """Tokens with a loss: answers and their closing tokens, over all epochs."""
    total_tokens: int
    """Tokens seen, prompts included and padding not, over all epochs."""


@dataclass(frozen=True, slots=True)
class TrainingSummary(TrainingCount):
    """What a finished training reports; the content of ``training.json``."""

    padding_share: float
    seconds: float
    """Seconds of training steps, all starts of this attempt together; saving counts, starting does not."""
    tokens_per_second: float
    final_loss: float
    loss_curve: list[dict[str, int | float]]
    """One entry a step: step, loss, learning_rate, grad_norm; to prefer, also the share of pairs whose better answer
    has gained on the other since the training began (preferred; none yet counts half), and by how many nats times β
    on average (margin); on-policy, by how much likelier the teacher finds the student's tokens on average, nats (gap),
    and the share of them beyond `clip` (clipped)."""
    world_size: int
    device: str
    precision: str
    zero_stage: int
    resumed_from_steps: list[int]
    versions: dict[str, str]
    peak_memory: int = 0
    """Bytes that the first rank's training took at most where it computed; 0 in a file that does not say."""
    objective: str = "imitate"
    """What was learned; of pairs, ``examples`` counts each once."""
    reference_seconds: float = 0.0
    """Seconds before the first step in which the base scored the pairs, of the start that ended; not in ``seconds``."""

    changed: float | None = None
    """Share of the weights that the student has otherwise than its base, in the precision in which it was written: a
    learning rate may be too low for that. Nothing in a file that does not say."""

    def in_words(self) -> str:
        """What came of it."""
        return f"{self.steps} steps, final loss {self.final_loss:.3f}, {self.tokens_per_second:.0f} tokens/s"


class Attempt:
    """The attempt folder: the one place that knows its file names."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.progress_file = folder / "progress.jsonl"
        self.checkpoint = folder / "checkpoint"
        """The finished student; complete as soon as it exists."""
        self.summary_file = self.checkpoint / paths.TRAINING_SUMMARY
        self.unfinished_checkpoint = folder / "checkpoint.unfinished"
        self.saves = folder / "saves"
        """Periodic, resumable checkpoints."""
        self.reference = folder / "reference.json"
        """Of each answer of pairs its log-probability by the base; written before the first step."""
        self.corpus = folder / "corpus"
        """The tokens, which all ranks of one start map."""

    def open(self, job: TrainingJob) -> None:
        """Make the folder this job's: what another job left in it goes."""
        file = self.folder / "job.json"
        if file.exists() and TrainingJob(**json.loads(file.read_text())).identity != job.identity:
            shutil.rmtree(self.folder)
        Storage(self.folder).write_bytes(file.name, json.dumps(job.to_json(), indent=1).encode())

    def summary(self) -> TrainingSummary | None:
        """The finished training, if there is one."""
        return TrainingSummary(**json.loads(self.summary_file.read_text())) if self.summary_file.exists() else None


@dataclass(frozen=True, slots=True)
class Node:
    """The place of this machine's ranks among all that train together."""

    meeting: tuple[str, int]
    """Address and port at which all of them meet; the first one listens there."""
    interface: str
    """Through which those of this machine talk to the others."""
    first_rank: int
    world_size: int
    """Ranks of all machines."""
    check: Callable[[], None] = lambda: None
    """Called while they train; what it raises ends them: they would wait for those that are gone."""


Meet = Callable[[int], AbstractContextManager[Node]]
"""Brings so many ranks of this machine together with those of others, until the block ends."""


@contextmanager
def alone(ranks: int) -> Iterator[Node]:
    """The one machine that trains: its ranks meet at an address that no other reaches."""
    with supervisor.reserved_port(machine.LOOPBACK) as port:
        yield Node((machine.LOOPBACK, port), machine.interface_of(machine.LOOPBACK), 0, ranks)


def train_student(
    job: TrainingJob,
    *,
    on_progress: Callable[[TrainingProgress], object] = lambda _: None,
    meet: Meet = alone,
) -> TrainingSummary:
    """Train ``job.base`` on ``job.mixture``; the student is then in ``checkpoint/`` of ``job.output``.

    When this is interrupted, the ranks are asked for one more save, for at most ``grace_seconds``.

    Args:
        job: What is trained.
        on_progress: Told each step.
        meet: Where the ranks of this machine, the first one among them, meet; others call `run_ranks`.

    Raises:
        EngineError: the training failed.
        ConfigError: the base, the mixture or a setting cannot be trained with.
        MissingPrerequisite: a setting needs what this machine lacks.
    """
    attempt = Attempt(job.output)
    attempt.open(job)
    if (done := attempt.summary()) is not None:
        return done
    prerequisites.check_packages(job.training)
    clear_unfinished(attempt.saves)
    shutil.rmtree(attempt.corpus, ignore_errors=True)
    run_ranks(job, meet, on_progress)
    done = attempt.summary()
    assert done is not None
    for folder in (attempt.saves, attempt.corpus):
        shutil.rmtree(folder, ignore_errors=True)
    return done


def run_ranks(job: TrainingJob, meet: Meet, on_progress: Callable[[TrainingProgress], object] = lambda _: None) -> None:
    """Have this machine's ranks train until the student is there, and leave none of them.

    By itself for a machine that trains along with the one that calls `train_student`, and sees its folder.

    Raises:
        TapirError: as `train_student`.
    """
    attempt, command = Attempt(job.output), [sys.executable, "-u", "-m", "tasks.engines.training.trainer"]
    ranks: list[supervisor.Child] = []
    grace_seconds, accelerators = job.training.grace_seconds, machine.visible_gpus()
    # Together until they have met: a rank loads for seconds, on a busy machine for a minute.
    with meet(count_ranks(job, accelerators)) as node, logs.follow_log("trainer", job.log_path):
        environments = rank_environments(job, keys.keyless_environment(), accelerators, node)
        if node.first_rank == 0:
            environments[0] |= report_environment(job, os.environ)
        try:
            for environment in environments:
                ranks.append(supervisor.start_child(command, env=environment, log_path=job.log_path, name="trainer"))
            code = _follow(ranks, attempt.progress_file, on_progress, node.check)
            grace_seconds = 0.0
        finally:
            for rank in ranks:
                rank.terminate(grace_seconds)
                # They save and stop together: what is not done when the first has ended never will be.
                grace_seconds = 0.0
        # What one machine writes another may see later: there the exit code says it.
        if (code or node.first_rank == 0) and attempt.summary() is None:
            raise explain(job, code, ranks[0].output())


def count_training(job: TrainingJob) -> TrainingCount:
    """What ``training.json`` of a job will say of examples, steps and tokens; reads base and mixture, no more.

    Raises:
        ConfigError: the base or the mixture cannot be trained with, as `train_student` would say.
        EngineError: the count failed.
    """
    return TrainingCount(**_ask_child("the tokens of a training could not be counted", json.dumps(job.to_json())))


@dataclass(frozen=True, slots=True)
class RenderedChat:
    """A conversation as the student sees it."""

    text: str
    takes_system: bool
    """Whether it may begin with a system message."""
    takes_tools: bool
    """Whether definitions, calls and results of tools are shown."""
    other: str = ""
    """What to do where it has to, and may not."""


def render_chat(base: Path, chat_template: Path | None = None, *, timeout_seconds: float = 300.0) -> RenderedChat:
    """Render a short conversation for a student as its server would, with ``chat_template`` if its own is replaced.

    Raises:
        ConfigError: a student could not be trained with this template or this tokenizer.
        EngineError: the tokenizer was not loaded in time.
    """
    what = f"no conversation could be rendered for {base}"
    return RenderedChat(**_ask_child(what, "", base, chat_template, timeout_seconds=timeout_seconds))


def tokenize(
    base: Path, chat_template: Path | None, conversations: Sequence[Sequence[Mapping[str, str]]]
) -> list[tuple[list[int], list[int]]]:
    """Prompt and answer of each conversation as the ids that a training sees; no ids of one that it leaves out.

    Raises:
        ConfigError: a training would refuse them.
        EngineError: the tokenizer was not loaded.
    """
    what = f"no answers could be tokenized for {base}"
    found = _ask_child(what, json.dumps(list(conversations)), base, chat_template)
    return [(ids[:begin], ids[begin:]) for ids, begin in found]


def check_pair(teacher: Path, student: Path, chat_template: Path | None = None) -> None:
    """Refuse a teacher that cannot score what a student samples, as `tapir doctor --pair` compares them.

    Raises:
        ConfigError: with every difference and its remedy.
        EngineError: the tokenizers were not loaded.
    """
    what = f"{teacher} and {student} could not be compared"
    if found := _ask_child(what, "", teacher, student, chat_template, module="pair", timeout_seconds=300.0):
        said = "; ".join(f"{each['part']}: {each['found']} ({each['remedy']})" for each in found)
        raise errors.ConfigError(
            f'objective "on_policy": the teacher {teacher} cannot score what the student {student} samples. {said}'
        )


def _ask_child(
    what: str, given: str, *paths: Path | None, module: str = "data", timeout_seconds: float | None = None
) -> Any:
    """What a child of a module here prints, which loads tokenizers; ``what`` says that it failed."""
    try:
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                f"tasks.engines.training.{module}",
                *(str(path.absolute()) for path in paths if path),
            ],
            input=given,
            env=keys.offline_environment(),
            cwd=supervisor.SOURCES,
            capture_output=True,
            text=True,
            timeout=timeout_seconds,
        )
    except subprocess.TimeoutExpired as late:
        raise errors.EngineError(f"{what} within {timeout_seconds:g} s") from late
    if done.returncode:
        last = "\n".join(f"  {line}" for line in done.stderr.strip().splitlines()[-8:])
        raise child_error(done.stderr) or errors.EngineError(f"{what}:\n{last}")
    return json.loads(done.stdout.splitlines()[-1])


def count_ranks(job: TrainingJob, accelerators: Sequence[str]) -> int:
    """How many ranks of this machine train.

    Raises:
        ConfigError: more processes are asked for than there are accelerators.
    """
    processes = job.training.processes or len(accelerators) or 1
    if accelerators and processes > len(accelerators):
        raise errors.ConfigError(
            f"training.processes = {processes}, and this machine has {len(accelerators)} accelerators; "
            "lower it, or leave it out to use each"
        )
    return processes


def rank_environments(
    job: TrainingJob, environment: Mapping[str, str], accelerators: Sequence[str], node: Node
) -> list[dict[str, str]]:
    """What each rank of this machine sees: its place among all, where they meet, no other network, no telemetry.

    What launchers and schedulers tell the processes of a job of their own is left out.
    """
    processes, (meeting, port) = count_ranks(job, accelerators), node.meeting
    values = {
        **{name: value for name, value in environment.items() if not _OF_ANOTHER_JOB.match(name)},
        "PYTHONPATH": os.pathsep.join(filter(None, [str(supervisor.SOURCES), environment.get("PYTHONPATH")])),
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_DATASETS_OFFLINE": "1",
        "GLOO_SOCKET_IFNAME": node.interface,
        # As it stands: NCCL takes a bare name for the beginning of one.
        "NCCL_SOCKET_IFNAME": f"={node.interface}",
        "MASTER_ADDR": meeting,
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(node.world_size),
        "LOCAL_SIZE": str(processes),
        # On GPUs too: offloaded, the optimizer steps on the processor.
        "OMP_NUM_THREADS": str(max(1, len(os.sched_getaffinity(0)) // processes)),
        machine.GPUS_VARIABLE: ",".join(accelerators[:processes]),
        # Not by a file: on another machine those of the job may have other paths.
        JOB_VARIABLE: json.dumps(job.to_json()),
    }
    if not accelerators:
        values |= {"DS_ACCELERATOR": "cpu", **machine.KEEP_MEMORY}
        if "OMP_WAIT_POLICY" not in environment:
            # Threads spin long at barriers by default: beside another busy process a step took 3 to 8 times as long.
            values.setdefault("GOMP_SPINCOUNT", "3000")
        if machine.amx_is_broken(sys.executable):
            values |= machine.WITHOUT_AMX
    return [{**values, "RANK": str(node.first_rank + each), "LOCAL_RANK": str(each)} for each in range(processes)]


def report_environment(job: TrainingJob, environment: Mapping[str, str]) -> dict[str, str]:
    """What the first rank, who reports, sees beside: the folders of its reports, and the key of Weights & Biases.

    Other children get no key; this one gets that one where it reports there.
    """
    folder = job.log_path.parent
    values = {"TENSORBOARD_LOGGING_DIR": str(folder / "tensorboard" / job.log_path.stem)}
    if "wandb" in job.training.report_to:
        own = {name: environment[name] for name in ("WANDB_PROJECT", prerequisites.WANDB_KEY) if name in environment}
        values |= {"WANDB_PROJECT": "tapir", "WANDB_DIR": str(folder), **own}
    return values


def explain(job: TrainingJob, code: int, log: str) -> errors.TapirError:
    """The error that a failed training is raised as."""
    where, stopped = f" (log: {job.log_path})", re.findall(r"^stopped by SIGTERM .*$", log, flags=re.MULTILINE)
    ran_out = re.search(r"out of memory|OutOfMemoryError|can't allocate memory", log, flags=re.IGNORECASE)
    if ran_out or code == -signal.SIGKILL:
        what = "ran out of memory" if ran_out else "process was killed, most often for lack of memory"
        reason = f"{what}; {prerequisites.memory_remedy(job.training)}{where}"
    elif stopped:
        reason = f"was {stopped[-1]}{where}"
    else:
        reason = f"ended with exit code {code}; the last lines of {job.log_path}:\n{logs.last_words(log)}"
    return child_error(log, more=where) or errors.EngineError(f"the training {reason}")


def progress_reader(path: Path) -> Callable[[], list[TrainingProgress]]:
    """Gives at each call the steps that were written into a file of progress since the last one, from now on."""
    offset = path.stat().st_size if path.exists() else 0

    def read() -> list[TrainingProgress]:
        nonlocal offset
        # An attempt that begins anew begins its file anew.
        start = offset if path.exists() and offset <= path.stat().st_size else 0
        lines, offset = logs.whole_lines(path, start)
        return [TrainingProgress(**json.loads(line)) for line in lines]

    return read


def last_step(folder: Path) -> str:
    """Of the training in an attempt folder the last step, in words, with its age; empty before the first."""
    lines, _ = logs.whole_lines(file := Attempt(folder).progress_file, 0)
    if not lines:
        return ""
    return f"{TrainingProgress(**json.loads(lines[-1])).in_words()}, {duration(time.time() - file.stat().st_mtime)} ago"


def _follow(
    ranks: Sequence[supervisor.Child],
    progress_file: Path,
    on_progress: Callable[[TrainingProgress], object],
    check: Callable[[], None],
) -> int:
    """Until all ranks of this machine have ended, or one has failed; its exit code."""
    new_steps = progress_reader(progress_file)
    while True:
        codes = [rank.poll() for rank in ranks]
        for step in new_steps():
            on_progress(step)
        check()
        if any(codes) or None not in codes:
            # The others of a killed rank fail in its wake.
            return -signal.SIGKILL if -signal.SIGKILL in codes else next((code for code in codes if code), 0)
        time.sleep(_POLL_SECONDS)


def exit_code(work: Callable[[], int | None]) -> int:
    """Of a child that does ``work``; what a user can act on is printed, for `child_error` to read."""
    try:
        return work() or 0
    except errors.TapirError as error:
        print(f"tapir error {type(error).__name__}: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
        return 1


def child_error(text: str, *, more: str = "") -> errors.TapirError | None:
    """The last error that a child printed, if any, with ``more`` after its words."""
    printed = re.findall(r"^tapir error (\w+): (.*)$", text, flags=re.MULTILINE)
    if not printed:
        return None
    kind, message = printed[-1]
    return getattr(errors, kind)(message + more)


_RECORD = "complete.json"
_PREFIX = "step-"
_KEPT = 2


@dataclass(frozen=True, slots=True)
class SaveRecord:
    """What must be known before a save is loaded."""

    step: int
    seconds: float
    """Seconds of training steps that led here."""
    world_size: int
    """DeepSpeed's partitions can only be loaded by as many ranks as wrote them."""
    resumed_from_steps: Sequence[int]

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{_PREFIX}{self.step:08d}"


def publish_save(written: Path, record: SaveRecord) -> Path:
    """Make the folder ``written`` a complete save, and drop all but the newest two of as many ranks."""
    sync_folder(written)
    Storage(written).write_bytes(_RECORD, json.dumps(asdict(record)).encode())
    place = written.with_name(record.name)
    _drop(place)
    written.rename(place)
    sync_folder(place.parent)
    alike = [each for each in _complete(place.parent) if each.world_size == record.world_size]
    for older in alike[:-_KEPT]:
        _drop(place.with_name(older.name))
    return place


def newest_save(saves: Path, *, world_size: int) -> SaveRecord | None:
    """The newest complete save that ``world_size`` ranks can load."""
    return next((save for save in reversed(_complete(saves)) if save.world_size == world_size), None)


def clear_unfinished(saves: Path) -> None:
    """Delete what a kill left half written."""
    complete = {save.name for save in _complete(saves)}
    for folder in saves.iterdir() if saves.exists() else ():
        if folder.name not in complete:
            shutil.rmtree(folder)


def sync_folder(folder: Path) -> None:
    """Bring every file below ``folder`` to the disk."""
    for path in [*folder.rglob("*"), folder]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _complete(saves: Path) -> list[SaveRecord]:
    return [SaveRecord(**json.loads(each.read_text())) for each in sorted(saves.glob(f"{_PREFIX}*/{_RECORD}"))]


def _drop(folder: Path) -> None:
    # First the record, so that a kill in between leaves no save that looks complete.
    (folder / _RECORD).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
