"""What a user calls a run: its name below a root, its folder, or its address."""

import os
from pathlib import Path

from tapir_core.paths import RUN_RECORD
from tapir_core.run_folder import RunRef

__all__ = ["run_ref"]


def run_ref(name: str, root: str) -> RunRef:
    """The run that ``name`` means; ``root`` counts where it is a bare name."""
    if "://" in name:
        folder_of_runs, _, name = name.rstrip("/").rpartition("/")
        return RunRef(folder_of_runs, name)
    folder = Path(name)
    if os.sep in name or (folder / RUN_RECORD).exists():
        return RunRef(str(folder.parent), folder.name)
    return RunRef(root, name)
