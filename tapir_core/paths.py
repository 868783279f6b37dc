"""Every path and file name of a run root and a run folder. No other module builds one.

The run folder is a contract: other programs read it (docs/run-folder.md).
"""

import re

BACKBONE = -1
"""The round number of the untouched backbone, before S_0 (round 0)."""

AVERAGE = 50
"""The round number of the mean of the rounds' students, after every round."""

OF_NO_ROUND = {BACKBONE: "backbone", AVERAGE: "average"}
"""What is called by a name and not by its round."""

MANIFEST = "manifest.json"
RUN_RECORD = "run.json"
RESOLVED_CONFIG = "config.resolved.json"
RUN_ERROR = "error.txt"
REPORT = "report.html"
ESTIMATE = "estimate.json"
TASK_TYPES = "task_types.toml"
JUDGE_REPORT = "judge_report.html"
RESULTS = ".results"
LOGS = "logs"
TRAINING = "training"

TRAINING_SUMMARY = "training.json"
"""What a training reports of itself, beside the checkpoint that it made."""

EXPORT_RECORD = "tapir_export.json"
"""In the folder of an exported student: what it is of."""

MODEL_CARD = "README.md"
"""In the folder of an exported student, where model hubs look for it."""

MODELFILE = "Modelfile"
"""There too, where Ollama is told of it."""

ROOT_VARIABLE = "TAPIR_ROOT"
"""Environment variable of a worker: the folder of all runs that it works on."""

SCRATCH_VARIABLE = "TAPIR_SCRATCH"
"""Environment variable: the folder of this machine in which engines work for runs whose root is elsewhere."""

BACKBONES = "configs/backbones.toml"
"""The list of backbones, in the folder in which a command or a worker works."""

SIDE_BY_SIDE = "side-by-side.html"
"""What `tapir side-by-side` wrote last, below the run root."""

SWEEP_PLACE = ".tapir/sweep"
"""In a run's place, where a sweep in one process keeps Prefect's log and results."""

COMPARE_PLACE = ".tapir/compare"
"""In a run's place, where a comparison in one process keeps Prefect's log and results."""

STORE = ".tapir/store.sqlite"
SPEEDS = ".tapir/speeds.json"
FLEET_SECRET = ".tapir/fleet-secret"
SERVER_RECORD = ".tapir/server.json"
SERVER_LOG = ".tapir/logs/prefect-server.log"
CARETAKER_LOG = ".tapir/logs/caretaker.log"

PREFECT_HOME = ".tapir/prefect"
"""Prefect's own files, below the run root."""

PREFECT_RESULTS = ".tapir/prefect-results"
"""What flow runs and task runs return, below a run root that is not on this machine."""

BACKBONE_CACHE = ".tapir/backbones"
"""Backbones that were converted or fetched once, below the run root."""


def round_folder(number: int) -> str:
    """Folder of a round: `backbone`, `round_00` (S_0), `round_01`, …, `average`."""
    return OF_NO_ROUND.get(number, f"round_{number:02d}")


def model_folder(model: str) -> str:
    """Folder of a model whose outputs to benchmarks come from files."""
    return f"outputs/{model}"


def judge_report_file(number: int) -> str:
    """The judge report of a round."""
    return f"{round_folder(number)}/{JUDGE_REPORT}"


def sweep_report_file(curriculum: str) -> str:
    """The backbones of a curriculum side by side, below the run root."""
    return f"{curriculum}-backbones.html"


def comparison_file(name: str, ending: str) -> str:
    """What a comparison of arms came to, below the run root: `html` or `json`."""
    return f"{name}-comparison.{ending}"


BASELINES = {"tokens": "-sft", "seconds": "-sft-seconds"}
"""What a baseline has as much of as the run beside it → what its name ends with."""


def baseline_run(run: str, equal: str = "tokens") -> str:
    """The run that is the baseline of another one."""
    return f"{run}{BASELINES[equal]}"


def training_file(folder: str) -> str:
    """What a training came to, in the folder of its checkpoint."""
    return f"{folder}/{TRAINING_SUMMARY}"


def wave_folder(wave: int, step: str) -> str:
    """Working folder of one step of an expansion wave, in its round's folder."""
    return f"waves/{wave:02d}_{step}"


def benchmark_folder(benchmark: str, step: str) -> str:
    """Folder of one step of a benchmark, in its round's folder; of its items, in the run's."""
    return f"benchmarks/{benchmark}/{step}"


def attempt_folder(number: int, key: str) -> str:
    """Folder in which one training works before its checkpoint is promoted."""
    return f"{round_folder(number)}/{TRAINING}/{key[:16]}"


def manifest_file(folder: str) -> str:
    """Manifest of a folder of rows or of a checkpoint."""
    return f"{folder}/{MANIFEST}"


def part_name(sha256: str) -> str:
    """File of rows, named by what it holds."""
    return f"part-{sha256[:16]}.parquet"


def is_part(name: str) -> bool:
    """Whether a file's name is one that `part_name` gives."""
    return name.startswith("part-") and name.endswith(".parquet")


def goes_with_run(path: str) -> bool:
    """Whether a file of a run folder belongs to the run: no result of Prefect, no unfinished write or training."""
    folders = path.split("/")
    return not any(each.startswith(".") for each in folders) and TRAINING not in folders[1:2]


def export_folder(run: str, number: int) -> str:
    """Where a student goes that is exported to no place by name; below the folder that a command is started in."""
    return f"exports/{run}-{OF_NO_ROUND.get(number, f'S_{number}')}"


def log_file(name: str) -> str:
    """Log of a child process."""
    return f"{LOGS}/{name}.log"


def worker_log(worker: str) -> str:
    """Log of a worker, or of the only one of a work pool, below the run root."""
    return f".tapir/logs/worker-{worker}.log"


def probe_file(name: str) -> str:
    """A file that is written and removed to see whether the run root can be written."""
    return f".tapir/probe-{name}"


def fetched_file(sha256: str, address: str) -> str:
    """What an address held, by its digest and the name that it had there; below the run root."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", address.partition("?")[0].rstrip("/").rpartition("/")[2])
    return f".tapir/fetched/{sha256[:16]}-{name[-60:]}"
