"""What goes into a run beside its configuration, by digest: prompt files, input files, the backbone."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from tapir_core.config import FileHeldout, FilePool, RunConfig
from tapir_core.data.formats import read_content
from tapir_core.errors import RunChanged
from tapir_core.evaluation.benchmarks.baseline import baseline_student
from tapir_core.paths import backbone_cache
from tapir_core.prompts import PROMPT_NAMES, load_prompt
from tapir_core.run_folder import RunFolder
from tapir_core.stages import STAGES, StageAt
from tapir_core.storage import file_sha256, on_this_machine
from tapir_core.text import digest
from tasks.engines.backbone import checkpoint_digest, prepare_backbone

__all__ = ["check_benchmark_files", "check_training_ingredients", "gather_files", "gather_ingredients"]


def gather_ingredients(config: RunConfig) -> dict[str, str]:
    """Name → digest of every ingredient. Converts or fetches the backbone where it is not there yet.

    Raises:
        MissingPrerequisite: the backbone cannot be had.
        ConfigError: a prompt file is broken.
    """
    return {**gather_files(config), "backbone": _backbone(config)}


def check_training_ingredients(run: RunFolder, at: StageAt) -> None:
    """Refuse to train with other files than the driver's, on a machine that finds its own.

    Raises:
        RunChanged: the backbone or the chat template is another one here.
        MissingPrerequisite: the backbone cannot be had.
    """
    template = run.config.student.chat_template
    for name in STAGES[at.name].ingredients(run.config, at):
        found = _backbone(run.config) if name == "backbone" else _sha256(template) if template else ""
        if found != run.record.ingredients.get(name, ""):
            raise RunChanged(
                f"{name} on this worker is not the one that run {run.ref.name!r} was opened with; bring its files "
                "here, where the configuration looks for them"
            )


def check_benchmark_files(run: RunFolder, name: str, fields: Sequence[str]) -> None:
    """Refuse to read files of a benchmark that are not those that the run was opened with.

    Rows and figures made of them would stand under the old files' keys. ``fields`` name the files.

    Raises:
        RunChanged: a file was edited since, or is another one on this machine.
        ConfigError: a file cannot be read.
    """
    settings = run.config.evaluation.asked[name]
    files = {"questions": settings.questions, **settings.files, **settings.output_files}
    for field, path in ((field, files[field]) for field in fields):
        if path and _sha256(path) != run.record.ingredients.get(f"file:{field}:{name}", ""):
            raise RunChanged(
                f"evaluation.benchmarks.{name}.{field}: {path!r} is not the file that run {run.ref.name!r} was opened "
                "with; put that one back and give the same command again, or run it with --amend"
            )


def gather_files(config: RunConfig) -> dict[str, str]:
    """Name → digest of every ingredient but the backbone, which may have to be fetched and takes long to read.

    Raises:
        ConfigError: a prompt file is broken, or a baseline's run has not answered.
    """
    found = {f"prompt:{name}": load_prompt(name, config.run.prompts).version for name in PROMPT_NAMES}
    for name, source in (("pool", config.data.pool), ("heldout", config.data.heldout)):
        if isinstance(source, FilePool | FileHeldout):
            found[f"file:{name}"] = _sha256(source.path)
    for name, benchmark in config.evaluation.benchmarks.items():
        found[f"file:questions:{name}"] = _sha256(benchmark.questions)
    for name, asked in config.evaluation.asked.items():
        files = {**asked.files, **asked.output_files}
        found |= {f"file:{field}:{name}": _sha256(path) for field, path in files.items() if path}
        if (student := baseline_student(config, name)) is not None:
            found[f"run:baseline:{name}"] = student.digest
        found |= {f"file:{field}:{name}": _folder_sha256(Path(path)) for field, path in asked.folders.items() if path}
    if config.student.chat_template:
        found["file:chat_template"] = _sha256(config.student.chat_template)
    return found


def _backbone(config: RunConfig) -> str:
    cache = on_this_machine(config.run.root).local(backbone_cache())
    return checkpoint_digest(prepare_backbone(config.student, cache))


def _sha256(path: str) -> str:
    return hashlib.sha256(read_content(path)).hexdigest()


def _folder_sha256(folder: Path) -> str:
    """Of names and contents of all files below it, but for what Python compiles there."""
    files = sorted(each for each in folder.rglob("*") if each.is_file() and "__pycache__" not in each.parts)
    return digest({each.relative_to(folder).as_posix(): file_sha256(each) for each in files})
