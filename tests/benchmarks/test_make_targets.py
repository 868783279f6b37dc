"""Each benchmark of the Makefile by its own target, at its smallest size and without peers."""

import json
import re
import shlex
import subprocess
from collections import Counter

import pytest

from tapir_core.paths import comparison_file
from tests.doubles.standin import StandinServer
from tests.harness.processes import REPOSITORY, overrides
from tests.students import make_tiny_students, needs_student_env

RUN_HERE = {
    "bench-calls",
    "bench-decontamination",
    "bench-orchestration",
    "bench-scale",
    "bench-student",
    "bench-train",
    "compare-smoke",
    "gpu-check",
}


def make(target: str, **variables: str) -> str:
    """What a target prints, in the environments that are there: the tests build none."""
    given = [f"{name}={value}" for name, value in variables.items()]
    command = ["make", "--no-print-directory", "--assume-old=setup", "--assume-old=main-env", target, *given]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def measure(target: str, options: str, **variables: str) -> dict[str, object]:
    """The figures of a benchmark: its last line."""
    found: dict[str, object] = json.loads(make(target, BENCH_OPTIONS=options, **variables).splitlines()[-1])
    return found


def test_every_benchmark_of_the_makefile_is_run_here() -> None:
    targets = re.findall(
        r"^(bench-[a-z]+|[a-z]+-smoke|gpu-check):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE
    )
    assert set(targets) == RUN_HERE


@pytest.mark.operations
def test_paid_calls_are_measured_beside_the_ceiling() -> None:
    options = "--rows 64 --small-rows 64 --repeats 1"
    found = measure("bench-calls", options, BENCH_PEERS="")
    assert (found["name"], found["peers"]) == ("calls", {})
    assert all(found[side]["requests_per_second"] > 0 for side in ("our_side", "ceiling"))


def test_planted_questions_are_found() -> None:
    found = measure("bench-decontamination", "--rows 2000 --questions 100 --planted 10")
    assert set(found["recall"].values()) == {1.0}


@pytest.mark.operations
def test_what_grows_with_the_rows_is_measured_at_two_sizes() -> None:
    printed = make("bench-scale", BENCH_OPTIONS="--rows 300 600 --kills 12 8").splitlines()
    *parts, last = (json.loads(line) for line in printed if line.startswith("{"))
    assert Counter(each["name"] for each in parts) == dict.fromkeys(last["growth"], 2)
    assert all(each["seconds"] > 0 and each["memory_mib"] > 0 for each in parts)
    [again] = {each["bytes_a_token"] for each in parts if each["name"] == "corpus again" and each["rows"] == 600}
    assert 4 <= again < 5, "labels are made of the tokens"


@pytest.mark.operations
def test_a_round_is_timed_beside_bare_prefect_and_what_grows_with_its_rows_is_own_work() -> None:
    """Processor time against processor time, in one process: no speed is asked for."""
    few, many = (
        measure("bench-orchestration", f"--rows {rows} --rows-per-shard {rows // 16} --pause-seconds 0")
        for rows in (512, 4096)
    )
    assert many["tasks"] > 32, "sixteen shards each are answered and judged"
    assert all(many[figure] > 0 for figure in ("ratio", "round_seconds", "own_seconds", "resume_seconds"))
    beside, own = (many[figure] - few[figure] for figure in ("ours_cpu_seconds", "own_seconds"))
    assert beside <= 0.4 * own, "rows cost time outside the work that is counted as theirs"


@pytest.mark.operations
@needs_student_env
def test_the_student_is_measured_beside_offline_vllm(tmp_path) -> None:
    [student] = make_tiny_students(tmp_path, 1)
    options = f"--backbone {student} --root {tmp_path} --prompts 4 --max-tokens 4 --concurrency 4 --repeats 1"
    found = measure("bench-student", f"{options} --dtype float32")
    assert found["name"] == "student"
    assert found["ratio"] > 0


@pytest.mark.operations
@needs_student_env
def test_the_check_of_a_gpu_is_rehearsed_with_a_tiny_student(tmp_path) -> None:
    options = f"--rehearse --root {tmp_path} --only run student 1.8B 135M 7B"
    lines = make("gpu-check", BENCH_OPTIONS=options).splitlines()
    found = {told["name"]: told for told in map(json.loads, (line for line in lines if line.startswith("{")))}
    assert list(found) == ["machine", "run", "student", "training-1.8B", "training-135M", "training-7B", "memory"]
    assert [told for told in found.values() if "error" in told or "left_out" in told] == []
    assert all(told["ratio"] > 0 for name, told in found.items() if name not in ("machine", "run", "memory"))
    assert found["run"]["server_starts"] == 1
    assert min(found["run"]["first_answer_after_seconds"]) > 0
    assert found["run"]["again_seconds"] < found["run"]["seconds"] / 3
    assert all(told["packed"] > 0 for name, told in found.items() if name.startswith("training"))


@pytest.mark.operations
def test_training_is_measured_beside_plain_trl_that_does_the_same_work(tmp_path) -> None:
    found = measure("bench-train", f"--small --root {tmp_path}")
    assert found["name"] == "training"
    assert min(found["ours"], found["theirs"], found["ratio"], *found["whole_seconds"].values()) > 0
    assert found["loss"]["ours"] == pytest.approx(found["loss"]["plain"], rel=0.01)
    assert found["padding"]["ours"] < found["padding"]["plain"]


@pytest.mark.operations
def test_arms_are_compared_on_a_tiny_student(tmp_path) -> None:
    """The teacher answers in the student's place, who is trained all the same: this is not about vLLM."""
    with StandinServer() as server:
        engine = f'{{ type = "endpoint", base_url = "{server.base_url}", model = "standin-teacher", api_key_env = "" }}'
        settings = {
            "run.root": str(tmp_path),
            "student.engine": engine,
            "run.rounds": "1",
            "rounds.default.examples": "128",
            "data.pool.rows": "240",
        }
        options = shlex.join([*overrides(settings), "--only", "random", "--run-seeds", "1"])
        make("compare-smoke", RUN_OPTIONS=options)
    compared = json.loads((tmp_path / comparison_file("compare-smoke", "json")).read_text())
    assert [row["name"] for row in compared["rows"]] == ["backbone", "S_0", "multi_round", "random"]
