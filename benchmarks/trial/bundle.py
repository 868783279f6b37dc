"""All that the trial of the real pair needs on a machine with a GPU, torch and transformers, without a network.

    python -m benchmarks.trial.bundle OUT --student DIR --student-gguf FILE --teacher DIR --teacher-gguf FILE
        --converter FILE --data DIR

OUT/first is carried before all others; then come OUT/000, OUT/001, …, of at most 40 MiB each. On the other machine
`first/take.sh` takes each in its turn, and with the last one unpacks, installs the wheels and converts the models;
`first/go.sh` runs the trial. A converter is called with a GGUF file and the folder to write. Wheels are of the versions
that this Python has.
"""

import argparse
import importlib.metadata as metadata
import json
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

CHUNK = 40 * 2**20
WHEELS = ("transformers", "huggingface-hub", "httpx2", "httpcore2", "truststore", "gguf")
WHEELS += ("pydantic", "pydantic-core", "typing-inspection", "typing-extensions", "annotated-types", "regex")
TAKE = """#!/bin/bash
# take.sh FOLDER_OF_CHUNKS NUMBER: chunks come in order; where one is missing it says so. With the last one it unpacks,
# installs the wheels and converts the models.
set -eu
HERE=$(cd "$(dirname "$0")" && pwd); T=${T:-$HOME/trial}; PYTHON=${PYTHON:-python3}; mkdir -p $T
NEXT=$(cat $T/next 2>/dev/null || echo 0)
[ $NEXT = $((10#$2)) ] || { echo "chunk $NEXT is expected"; exit 1; }
touch $T/stream; truncate -s $((NEXT * CHUNK)) $T/stream; cat "$1/$2" >> $T/stream; echo $((NEXT + 1)) > $T/next
[ $((NEXT + 1)) = COUNT ] || exit 0
cd $T
sha256sum --quiet -c $HERE/stream.sha256 || { rm -f next stream; echo "begin again with chunk 0"; exit 1; }
tar xf stream; rm stream
$PYTHON -m pip install -q --no-index --no-deps --no-compile --target site wheels/*.whl
export PYTHONPATH=$T/site HF_HUB_OFFLINE=1
convert() { $PYTHON converter.py $1.gguf $1.part || [ -f $1.part/config.json ]; mv $1.part/model.safetensors $1/; }
convert student & A=$!
convert teacher & B=$!
wait $A; wait $B; echo ready
"""
GO = """#!/bin/bash
# go.sh MINUTES FOLDER [OPTIONS OF THE TRIAL]: runs, and goes on where it was. FOLDER gets found.tgz, anew every minute:
# results, marks and prices, without what is larger.
set -eu
T=${T:-$HOME/trial}; PYTHON=${PYTHON:-python3}; MINUTES=$1; FOLDER=$(realpath "$2"); FOUND=${FOUND:-$T/found}; shift 2
export PYTHONPATH=$T/site:$T/source PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1 PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True
keep() {
  tar czf $FOLDER/found.part -C $FOUND --exclude=material --exclude=s0 . && mv $FOLDER/found.part $FOLDER/found.tgz
}
mkdir -p $FOUND; cd $T/source
MODELS="--student $T/student --teacher $T/teacher"
$PYTHON -m benchmarks.trial gsm8k $FOUND $MODELS --data $T/data --minutes $MINUTES "$@" &
TRIAL=$!
(while sleep 60; do keep; done) & KEEPER=$!
wait $TRIAL && ENDED=0 || ENDED=$?
kill $KEEPER; keep; exit $ENDED
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
    for name in ("benchmarks/trial", "tapir_core", "tasks"):
        shutil.copytree(name, stage / "source" / name, ignore=shutil.ignore_patterns("__pycache__"))
    (stage / "source" / "benchmarks" / "__init__.py").touch()  # or another package of that name may come first
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
    (first / "take.sh").write_text(TAKE.replace("COUNT", str(count)).replace("CHUNK", str(CHUNK)))
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
