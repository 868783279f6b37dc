"""What goes into a run beside its configuration, by digest: prompt files, input files, the backbone."""

import hashlib

from tapir_core.config import FileHeldout, FilePool, RunConfig
from tapir_core.data.formats import read_content
from tapir_core.paths import backbone_cache
from tapir_core.prompts import PROMPT_NAMES, load_prompt
from tapir_core.storage import on_this_machine
from tasks.engines.backbone import checkpoint_digest, prepare_backbone

__all__ = ["gather_files", "gather_ingredients"]


def gather_ingredients(config: RunConfig) -> dict[str, str]:
    """Name → digest of every ingredient. Converts or fetches the backbone where it is not there yet.

    Raises:
        MissingPrerequisite: the backbone cannot be had.
        ConfigError: a prompt file is broken.
    """
    cache = on_this_machine(config.run.root).local(backbone_cache())
    return {**gather_files(config), "backbone": checkpoint_digest(prepare_backbone(config.student, cache))}


def gather_files(config: RunConfig) -> dict[str, str]:
    """Name → digest of every ingredient but the backbone, which may have to be fetched and takes long to read.

    Raises:
        ConfigError: a prompt file is broken.
    """
    found = {f"prompt:{name}": load_prompt(name, config.run.prompts).version for name in PROMPT_NAMES}
    for name, source in (("pool", config.data.pool), ("heldout", config.data.heldout)):
        if isinstance(source, FilePool | FileHeldout):
            found[f"file:{name}"] = _sha256(source.path)
    if config.student.chat_template:
        found["file:chat_template"] = _sha256(config.student.chat_template)
    return found


def _sha256(path: str) -> str:
    return hashlib.sha256(read_content(path)).hexdigest()
