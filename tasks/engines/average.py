"""The mean of checkpoints of one model, tensor by tensor. The driver loads no weights: a child process runs this module
(``python -m tasks.engines.average TO CHECKPOINT…``).

Sums are in fp32. Layout, precision and every file beside the weights are those of the last checkpoint, and so are
tensors that hold no floats. Checkpoints may be sharded in any way. The memory holds the tensors of one written file and
one sum.
"""

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from tasks.engines.backbone import matters


def average(to: Path, *checkpoints: Path) -> None:
    """Write the mean of ``checkpoints`` to ``to``, a folder that is not there yet.

    Raises:
        ValueError: they do not have the same tensors.
    """
    files = [_files_of(each) for each in checkpoints]
    if odd := {*files[-1]}.union(*files) - {*files[-1]}.intersection(*files):
        raise ValueError(f"checkpoints of different models: not all of them have {', '.join(sorted(odd))}")
    to.mkdir(parents=True)
    for file in sorted({*files[-1].values()}):
        with safe_open(file, "pt") as shard:
            names, said = shard.keys(), shard.metadata()
        save_file({name: _mean([each[name] for each in files], name) for name in names}, to / file.name, said)
    for file in checkpoints[-1].iterdir():
        if matters(file.name) and not (to / file.name).exists():
            shutil.copy2(file, to)


def _files_of(checkpoint: Path) -> dict[str, Path]:
    """Tensor → the file that holds it."""
    found = dict[str, Path]()
    for file in sorted(checkpoint.glob("*.safetensors")):
        with safe_open(file, "pt") as shard:
            found |= dict.fromkeys(shard.keys(), file)
    return found


def _mean(files: Sequence[Path], name: str) -> torch.Tensor:
    last = _load(files[-1], name)
    if not last.is_floating_point():
        return last
    total = torch.zeros(last.shape, dtype=torch.float32)
    for file in files:
        total += _load(file, name)
    return total.div_(len(files)).to(last.dtype)


def _load(file: Path, name: str) -> torch.Tensor:
    with safe_open(file, "pt") as shard:
        return shard.get_tensor(name)


if __name__ == "__main__":
    average(*map(Path, sys.argv[1:]))
