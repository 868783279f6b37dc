"""All that the trial of the real pair needs on a machine with a GPU, torch and transformers, without a network.

    python -m benchmarks.trial.bundle OUT --student DIR --student-gguf FILE --teacher DIR --teacher-gguf FILE
        --converter FILE --data DIR

OUT/first is carried before all others; then come OUT/000, OUT/001, …, of at most 56 MiB each. On the other machine
`first/take.sh` takes each in its turn, and with the last one unpacks; `first/go.sh` converts the models and runs the
trial. A converter is called with a GGUF file and the folder to write. Wheels are of the versions that this Python has.
"""

import argparse
import importlib.metadata as metadata
import json
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

CHUNK = 56 * 2**20
WHEELS = ("transformers", "huggingface-hub", "httpx2", "httpcore2", "truststore", "gguf")
WHEELS += ("pydantic", "pydantic-core", "typing-inspection", "annotated-types")
SOURCES = ("benchmarks", "tapir_core", "tasks")
TAKE = """#!/bin/bash
# take.sh FOLDER_OF_CHUNKS NUMBER: chunks come in order; where one is missing it says so. Unpacks with the last one.
set -eu
HERE=$(cd "$(dirname "$0")" && pwd); T=${T:-$HOME/trial}; mkdir -p $T
NEXT=$(cat $T/next 2>/dev/null || echo 0)
[ $NEXT = $((10#$2)) ] || { echo "chunk $NEXT is expected"; exit 1; }
cat "$1/$2" >> $T/stream; echo $((NEXT + 1)) > $T/next
[ $((NEXT + 1)) = COUNT ] || exit 0
cd $T; sha256sum --quiet -c $HERE/stream.sha256; tar xf stream; rm stream; echo unpacked
"""
GO = """#!/bin/bash
# go.sh MINUTES [OPTIONS OF THE TRIAL]: converts what is not converted yet, then runs, and goes on where it was.
set -eu
T=${T:-$HOME/trial}; PYTHON=${PYTHON:-python3}; cd $T; export PYTHONPATH=$T/site:$T/source PYTHONUNBUFFERED=1
[ -d site ] || { $PYTHON -m pip install -q --no-index --no-deps --target site.part wheels/*.whl && mv site.part site; }
for of in student teacher; do
  [ -f $of/model.safetensors ] ||
    { $PYTHON converter.py $of.gguf $of.part && mv $of.part/model.safetensors $of/; } &
done; wait
MINUTES=$1; shift; cd source
MODELS="--student $T/student --teacher $T/teacher"
exec $PYTHON -m benchmarks.trial gsm8k $T/found $MODELS --data $T/data --minutes $MINUTES "$@"
"""


def main(given: argparse.Namespace) -> None:
    stage = given.out / "stage"
    (stage / "wheels").mkdir(parents=True)
    wanted = [f"{name}=={metadata.version(name)}" for name in WHEELS]
    platforms = [f"--platform={of}_x86_64" for of in ("manylinux_2_28", "manylinux_2_17", "manylinux2014")]
    python = [f"--python-version={given.python}", "--implementation=cp", "--only-binary=:all:", "--no-deps"]
    command = [sys.executable, "-m", "pip", "download", "-q", *python, *platforms, "-d", stage / "wheels", *wanted]
    subprocess.run(command, check=True)
    for name in ("student", "teacher"):
        model = getattr(given, name)
        shutil.copytree(model, stage / name, ignore=shutil.ignore_patterns("*.safetensors"), dirs_exist_ok=True)
        shutil.copy2(getattr(given, f"{name}_gguf"), stage / f"{name}.gguf")
    shutil.copy2(given.converter, stage / "converter.py")
    shutil.copytree(given.data, stage / "data", dirs_exist_ok=True)
    for name in SOURCES:
        shutil.copytree(
            name, stage / "source" / name, ignore=shutil.ignore_patterns("__pycache__", "results"), dirs_exist_ok=True
        )
    print(json.dumps(pack(stage, given.out)))


def pack(stage: Path, out: Path) -> dict[str, int]:
    """Cut what is staged into chunks, with the two scripts."""
    first, stream, count = out / "first", out / "stream", 0
    with tarfile.open(stream, "w") as tar:
        for each in sorted(stage.iterdir()):
            tar.add(each, each.name)
    first.mkdir()
    said = subprocess.run(["sha256sum", "stream"], cwd=out, check=True, capture_output=True, text=True).stdout
    (first / "stream.sha256").write_text(said)
    with stream.open("rb") as whole:
        while part := whole.read(CHUNK):
            (out / f"{count:03}").write_bytes(part)
            count += 1
    (first / "take.sh").write_text(TAKE.replace("COUNT", str(count)))
    (first / "go.sh").write_text(GO)
    size = stream.stat().st_size
    stream.unlink()
    shutil.rmtree(stage)
    return {"MiB": round(size / 2**20), "transfers": count + 1}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    for option in ("student", "student-gguf", "teacher", "teacher-gguf", "converter", "data"):
        parser.add_argument(f"--{option}", type=Path, required=True)
    parser.add_argument("--python", default="3.12", help="that of the other machine")
    main(parser.parse_args())
