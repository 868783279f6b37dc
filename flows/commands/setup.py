"""`tapir setup`: the environment of the student's server, from the pins that come with this package."""

import subprocess
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from flows.commands.terminal import console, print_line
from tapir_core.errors import ConfigError, MissingPrerequisite
from tapir_core.installation import BUILDER, interpreter, student_environment
from tasks.engines import machine

Pins = Literal["vllm-cpu", "vllm-cuda", "vllm-cuda-torch-2.11"]


def setup(
    student: Annotated[
        Pins | None,
        typer.Option(help="vLLM for processors or NVIDIA GPUs; left out, what this machine has.", show_default=False),
    ] = None,
    torch_index: Annotated[
        str, typer.Option(metavar="URL", help="Index that torch comes from; left out, pip's usual one.")
    ] = "",
    python: Annotated[Path, typer.Option(help="The Python to build with.", show_default="this one")] = Path(
        sys.executable
    ),
) -> None:
    """`tapir setup`."""
    folder = student_environment()
    pins = student or ("vllm-cuda" if machine.visible_gpus() else "vllm-cpu")
    index = ["--torch-index", torch_index] if torch_index else []
    _build([str(python), "-I", str(BUILDER), str(folder), pins, *index])
    print_line(console, f"student environment: {interpreter(folder)}")


def _build(command: list[str]) -> None:
    try:
        done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    except OSError as exc:
        raise ConfigError(f"--python {command[0]}: {exc.strerror}; name an interpreter") from exc
    if done.returncode:
        raise MissingPrerequisite(f"the student's environment could not be built: {done.stderr.strip()}")
