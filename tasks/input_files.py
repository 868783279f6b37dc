"""What goes into a run beside its configuration, by digest: prompt files, input files, the backbone."""

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal

from tapir_core import errors, paths, text
from tapir_core.config import HeldoutConfig, PoolConfig, RunConfig
from tapir_core.data.dataset import file_ingredient, is_address, is_kept
from tapir_core.evaluation.benchmark import baseline_student
from tapir_core.prompts import PROMPT_NAMES, load_prompt
from tapir_core.run_folder import RunFolder, RunRef
from tapir_core.stages import StageAt
from tapir_core.storage import Storage, file_sha256, read_content
from tasks.engines.backbone import cache_of, checkpoint_digest, prepare_backbone
from tasks.engines.verifier import check_verifier, source_digest

Say = Callable[[str], None]
"""Tells the user what is going on, a line at a time."""


def gather_ingredients(config: RunConfig, *, say: Say = lambda _: None) -> dict[str, str]:
    """Name → digest of every ingredient. Converts or fetches the backbone where it is not there yet.

    Raises:
        MissingPrerequisite: the backbone cannot be had.
        ConfigError: a prompt file is broken, or the verifier cannot be imported.
    """
    if config.judge.verifier:
        check_verifier(config.judge.verifier)
    return {**gather_files(config, say=say), "backbone": _backbone(config)}


def check_training_ingredients(run: RunFolder, at: StageAt) -> None:
    """Refuse to train with other files than the run was opened with: edited meanwhile, or another machine's own.

    Raises:
        RunChanged: the backbone or the chat template is another one here.
        MissingPrerequisite: the backbone cannot be had.
    """
    template = run.config.student.template
    for name in at.stage.files(run.config, at):
        found = _backbone(run.config) if name == "backbone" else _sha256(str(template)) if template else ""
        if found != run.record.ingredients.get(name, ""):
            raise errors.RunChanged(
                f"{name} on this machine is not the one that run {run.ref.name!r} was opened with; bring its files "
                "here, where the configuration looks for them"
            )


def check_benchmark_files(run: RunFolder, name: str, fields: Iterable[str] | None = None) -> None:
    """Refuse to read files of a benchmark that are not those that the run was opened with.

    Rows and figures made of them would stand under the old files' keys. ``fields`` name the files; nothing: all.

    Raises:
        RunChanged: a file was edited since, or is another one on this machine.
        ConfigError: a file cannot be read.
    """
    files = run.kept_config.evaluation.benchmarks[name].all_files
    for field, path in ((field, files[field]) for field in (files if fields is None else fields) if field in files):
        run.check_ingredient(
            file_ingredient(name, field), _sha256(path), f"evaluation.benchmarks.{name}.{field}: {path!r}"
        )


def check_data_file(run: RunFolder, name: Literal["heldout", "pool"]) -> None:
    """Refuse rows of a pool or held-out set that is not the one that the run was opened with.

    Raises:
        RunChanged: the file was edited since, or is another one on this machine.
    """
    source: PoolConfig | HeldoutConfig = getattr(run.config.data, name)
    run.check_ingredient(f"file:{name}", source.digest(), f"data.{name}: {', '.join(map(repr, source.files.values()))}")


def gather_files(config: RunConfig, *, say: Say = lambda _: None) -> dict[str, str]:
    """Name → digest of every ingredient but the backbone, which may have to be fetched and takes long to read.

    Files of benchmarks that are given by their address are fetched, and kept below the run root. Where an address
    cannot be read, a run that was opened with it goes on with what is kept, and ``say`` is told.

    Raises:
        ConfigError: a prompt file is broken, a baseline's run has not answered, or an address cannot be read.
    """
    found = {f"prompt:{name}": load_prompt(name, config.run.prompts).version for name in PROMPT_NAMES}
    found |= {
        f"file:{name}": digest
        for name, source in (("pool", config.data.pool), ("heldout", config.data.heldout))
        if source is not None and (digest := source.digest())
    }
    fetched: dict[str, str] = {}
    for name, benchmark in config.evaluation.benchmarks.items():
        for field, path in benchmark.all_files.items():
            if is_address(path) and path not in fetched:
                fetched[path] = _fetch(config, name, field, path, say)
            found[file_ingredient(name, field)] = fetched[path] if is_address(path) else _sha256(path)
    for name, asked in config.evaluation.asked.items():
        if (student := baseline_student(config, name)) is not None:
            found[f"run:baseline:{name}"] = student.digest
        found |= {f"file:{field}:{name}": _folder_sha256(Path(path)) for field, path in asked.folders.items()}
    if template := config.student.template:
        found["file:chat_template"] = _sha256(str(template))
    if config.judge.verifier and (verifier := source_digest(config.judge.verifier)):
        found["file:verifier"] = verifier
    return found


def _fetch(config: RunConfig, name: str, field: str, address: str, say: Say) -> str:
    """Digest of what an address holds now, which is kept; of what the run was opened with, where it cannot be read."""
    root = Storage(config.run.root)
    try:
        content = read_content(address)
    except errors.ConfigError as error:
        held = _opened_with(config, name, field, address)
        if held is None or not is_kept(root, address, held):
            raise errors.ConfigError(f"evaluation.benchmarks.{name}.{field}: {error}") from error
        say(f"{error}. Going on with what was fetched before: {root.url}/{paths.fetched_file(held, address)}")
        return held
    found = hashlib.sha256(content).hexdigest()
    if not is_kept(root, address, found):
        root.write_bytes(paths.fetched_file(found, address), content)
    return found


def _opened_with(config: RunConfig, name: str, field: str, address: str) -> str | None:
    """Digest of what the address held when the run was opened; nothing where it was not, or with another address."""
    run = RunFolder(RunRef(config.run.root, config.run.name))
    if not run.storage.exists(paths.RUN_RECORD):
        return None
    benchmark = run.config.evaluation.benchmarks.get(name)
    same = benchmark is not None and benchmark.all_files.get(field) == address
    return run.record.ingredients.get(file_ingredient(name, field)) if same else None


def _backbone(config: RunConfig) -> str:
    return checkpoint_digest(prepare_backbone(config.student, cache_of(config.run.root)))


def _sha256(path: str) -> str:
    return hashlib.sha256(read_content(path)).hexdigest()


def _folder_sha256(folder: Path) -> str:
    """Of names and contents of all files below it, but for what Python compiles there."""
    files = sorted(each for each in folder.rglob("*") if each.is_file() and "__pycache__" not in each.parts)
    return text.digest({each.relative_to(folder).as_posix(): file_sha256(each) for each in files})
