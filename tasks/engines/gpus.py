"""The GPUs that a process may use. Limits: NVIDIA's only, as `nvidia-smi` and ``CUDA_VISIBLE_DEVICES`` tell them."""

import os
import shutil
import subprocess
from itertools import pairwise

__all__ = ["GPUS_VARIABLE", "share_out", "visible_gpus"]

GPUS_VARIABLE = "CUDA_VISIBLE_DEVICES"


def visible_gpus() -> list[str]:
    """What names each GPU in ``CUDA_VISIBLE_DEVICES``; none on a machine without GPUs."""
    named = os.environ.get(GPUS_VARIABLE)
    if named is not None:
        # CUDA stops at the first that is no device.
        return [each for each in named.split(",") if each.strip() not in ("", "-1")]
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    query = [program, "--query-gpu=index", "--format=csv,noheader"]
    done = subprocess.run(query, capture_output=True, text=True, timeout=30, check=False)
    return done.stdout.split() if done.returncode == 0 else []


def share_out(gpus: list[str], workers: int) -> list[list[str]]:
    """The GPUs of each worker, neighbours together; the first ones get those that are left over."""
    size, more = divmod(len(gpus), workers)
    starts = [number * size + min(number, more) for number in range(workers + 1)]
    return [gpus[start:end] for start, end in pairwise(starts)]
