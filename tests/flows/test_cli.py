"""Bad input: one clear message with the remedy, the right exit code, no traceback."""

import errno
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys

import psutil
import pytest

from flows import cli
from tapir_core.leases import RunLease
from tapir_core.standin.families import FAMILIES, draw_problem
from tests.doubles.standin import StandinServer
from tests.harness.processes import REPOSITORY
from tests.harness.stand_ins import endpoint
from tests.waiting import wait_until

pytestmark = pytest.mark.slow


def tapir(*words, env=None):
    return subprocess.run(
        [sys.executable, "-m", "flows.cli", *map(str, words)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PREFECT_API_URL": "", **(env or {})},
    )


def refused(done, code, *words):
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    flat = " ".join(done.stderr.split())
    for word in words:
        assert word in flat
    return flat


@pytest.fixture
def run(tmp_path, backbone, standing_prefect):
    def run(*more):
        place = ("--set", f"run.root={tmp_path / 'runs'}", "--set", f"student.backbone={backbone}")
        engine = ("--set", f"student.engine.python={sys.executable}")
        return tapir("run", "configs/test.toml", *place, *engine, *more, env={"PREFECT_API_URL": standing_prefect.api})

    return run


def test_an_unknown_field_names_the_nearest_known_one(run):
    refused(run("--set", "judge.ordres=1"), 2, "judge.ordres", "orders")


def test_every_problem_is_reported_at_once(run):
    flat = refused(run("--set", "run.rounds=many", "--set", "training.zero_stage=9"), 2, "run.rounds", "zero_stage")
    assert "2 problems" in flat


def test_a_missing_configuration_is_said_to_be_missing():
    refused(tapir("run", "nowhere.toml"), 2, "nowhere.toml", "configs/")


def test_a_missing_pool_file_is_named(run):
    refused(run("--set", 'data.pool={ type = "file", path = "no.json" }'), 2, "no.json", "data.pool.path")


def test_an_empty_pool_is_refused(run, tmp_path):
    (tmp_path / "empty.json").write_text("[]")
    refused(run("--set", f'data.pool={{ type = "file", path = "{tmp_path / "empty.json"}" }}'), 2, "empty.json")


def test_a_broken_row_is_named_by_number_and_reason(run, tmp_path):
    rows = [{"instruction": "Add 1 and 2."}, {"output": "no instruction"}]
    (tmp_path / "pool.json").write_text(json.dumps(rows))
    path = tmp_path / "pool.json"
    refused(run("--set", f'data.pool={{ type = "file", path = "{path}" }}'), 2, "row 2", "data.on_bad_row")


def test_a_missing_key_names_the_variable(run):
    endpoint = 'judge.endpoint={ type = "openai", model = "m", identity = "i", api_key_env = "TAPIR_NO_SUCH_KEY" }'
    refused(run("--set", endpoint), 1, "TAPIR_NO_SUCH_KEY", "export")


def test_a_missing_key_file_is_named(run, tmp_path):
    endpoint = f'judge.endpoint={{ type = "openai", model = "m", identity = "i", api_key_file = "{tmp_path}/no-key" }}'
    refused(run("--set", endpoint), 1, "judge.endpoint.api_key_file", "no-key")


def test_a_cap_on_usd_needs_every_price(run):
    endpoint = 'judge.endpoint={ type = "openai", model = "nobody-knows-it", identity = "i" }'
    refused(run("--set", endpoint, "--set", "budget.usd=5"), 2, "judge.endpoint", "nobody-knows-it", "usd_per_million")


def test_a_missing_student_environment_names_the_command_that_builds_it(run):
    refused(run("--set", "student.engine.python=.venv-nowhere/bin/python"), 1, ".venv-nowhere", "tapir setup")


def test_a_student_without_chat_template_is_refused(run, backbone):
    (backbone / "chat_template.jinja").unlink()
    refused(run(), 2, "chat template", "student.chat_template")


def test_a_run_folder_that_cannot_be_written_is_named(run, tmp_path):
    (tmp_path / "runs").write_text("a file in the way")
    refused(run(), 2, "run.root")


def test_an_unreachable_endpoint_is_said_to_be_unreachable(run):
    endpoint = 'teacher.endpoint={ type = "openai", base_url = "http://127.0.0.1:9/v1", model = "m", identity = "i", '
    done = run("--set", endpoint + 'api_key_env = "" }', "--set", "calls.shard_retries=0")
    refused(done, 1, "127.0.0.1:9", "teacher.endpoint")


def test_a_pool_of_one_task_type_is_refused(run, tmp_path):
    problems = [draw_problem(FAMILIES["sum"], 2, "pool", random.Random(seed)) for seed in range(40)]
    rows = [{"instruction": problem.instruction} for problem in problems]
    path = tmp_path / "sums.json"
    path.write_text(json.dumps(rows))
    done = run("--set", f'data.pool={{ type = "file", path = "{path}" }}', "--set", "data.heldout=")
    refused(done, 2, "Math", "curriculum.target_shares")


def test_a_pool_that_the_teacher_knows_nothing_of_is_refused_with_the_reasons(run, tmp_path):
    path = tmp_path / "strange.json"
    path.write_text(json.dumps([{"instruction": f"Tell me of river {number}."} for number in range(5)]))
    done = run("--set", f'data.pool={{ type = "file", path = "{path}" }}', "--set", "data.heldout=")
    refused(done, 2, "data.pool", "5 refused")


def test_a_run_that_discovers_task_types_names_the_file_and_the_way_on(run, tmp_path):
    done = run("--set", "curriculum.task_types=discover")
    file = tmp_path / "runs" / "test" / "task_types.toml"
    said = " ".join((done.stdout + done.stderr).split())
    assert done.returncode == 0, said
    assert "Math = " in file.read_text().replace('"Math"', "Math")
    assert f"--amend --set curriculum.task_types={file}" in said
    told = tapir("status", "test", "--root", tmp_path / "runs").stdout
    assert "Task types are proposed, nothing is trained" in " ".join(told.split())
    assert "Done" not in said + told


def test_a_second_driver_is_refused_with_the_first_one_named(run, tmp_path):
    store = tmp_path / "runs" / ".tapir" / "store.sqlite"
    store.parent.mkdir(parents=True)
    with RunLease(f"sqlite:///{store}", f"{tmp_path / 'runs'}/test"):
        refused(run(), 1, str(os.getpid()), "driven by process")


def test_status_and_ask_of_a_run_that_is_not_there_say_so(tmp_path):
    refused(tapir("status", "nothing", "--root", tmp_path), 2, "no run 'nothing'")
    refused(tapir("ask", "nothing", "Hi", "--root", tmp_path), 2, "no run 'nothing'")
    refused(tapir("report", "nothing", "--root", tmp_path), 2, "no run 'nothing'")


@pytest.mark.parametrize("why", [errno.EACCES, errno.ENAMETOOLONG, errno.EROFS, errno.ENOSPC])
def test_what_may_not_be_looked_at_is_named(monkeypatch, capsys, why):
    def refuse(**_):
        raise OSError(why, os.strerror(why), "/home/other/pool.jsonl")

    monkeypatch.setattr(cli, "app", refuse)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert f"error: /home/other/pool.jsonl: {os.strerror(why)}; allow it" in capsys.readouterr().err


@pytest.mark.parametrize("field", ["run.root", "data.pool.path", "student.backbone"])
def test_a_name_that_is_too_long_for_a_file_is_refused(field, tmp_path):
    config = tmp_path / "own.toml"
    config.write_text(
        f'[run]\nname = "x"\n[data.pool]\ntype = "file"\npath = "{tmp_path}/pool.jsonl"\n'
        '[teacher.endpoint]\ntype = "standin"\n[judge.endpoint]\ntype = "standin"\n'
    )
    (tmp_path / "pool.jsonl").write_text('{"instruction": "Name a prime."}\n')
    refused(tapir("estimate", config, "--set", f"{field}={'a' * 300}"), 2, "a" * 300)


def test_a_wrong_flag_is_a_usage_error():
    refused(tapir("run", "configs/test.toml", "--nmae", "x"), 2, "--nmae")


@pytest.mark.parametrize(
    "number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.operations)], ids=["ctrl-c", "sigterm"]
)
def test_an_interrupt_ends_a_run_at_work_soon_and_the_same_command_goes_on(
    number, tmp_path, backbone, lay_prefect_database
):
    lay_prefect_database(tmp_path / "runs")
    with StandinServer(latency_ms=300, log_path=tmp_path / "standin.jsonl") as server:
        words = ["run", "configs/test.toml", "--set", f"run.root={tmp_path / 'runs'}"]
        words += ["--set", f"student.backbone={backbone}", "--set", f"student.engine.python={sys.executable}"]
        teacher = endpoint(server.base_url, "standin-teacher")
        words += ["--set", f"teacher.endpoint={teacher}", "--set", "calls.concurrency=1"]
        driver = subprocess.Popen(
            [sys.executable, "-m", "flows.cli", *words], cwd=REPOSITORY, stderr=subprocess.PIPE, text=True
        )
        wait_until(lambda: server.stats()["requests"] >= 5, seconds=90, alive=driver)
        family = psutil.Process(driver.pid).children(recursive=True)
        driver.send_signal(number)
        assert driver.stderr is not None
        said = iter(driver.stderr.readline, "")
        assert any(line.startswith("stopping") and driver.poll() is None for line in said), "at once"
        message = driver.communicate(timeout=30)[1]
        assert driver.returncode == 130, message
        assert "the same command goes on" in message
        assert "Traceback" not in message
        _, alive = psutil.wait_procs(family, timeout=15)
        assert alive == []
        answered = server.stats()["requests"]
    assert answered < 80, "80 labels and 80 answers were wanted, and the run was ended early"


def test_an_interrupt_is_one_though_nobody_reads_what_is_said_of_it(monkeypatch):
    def write(*_: object) -> int:
        raise BrokenPipeError

    monkeypatch.setattr(cli.os, "write", write)
    with pytest.raises(KeyboardInterrupt):
        cli._interrupted(signal.SIGINT, None)


@pytest.mark.parametrize(
    ("words", "code", "said"), [(["--version"], 0, r"tapir \d+\.\d+\.\d+\n"), ([], 2, r"(?s).*Usage.*")]
)
def test_without_a_command_it_says_its_version_or_how_it_is_used(words: list[str], code: int, said: str) -> None:
    done = subprocess.run([sys.executable, "-m", "flows.cli", *words], cwd=REPOSITORY, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (code, "")
    assert re.fullmatch(said, done.stdout)


def test_a_stand_in_on_a_taken_port_ends_with_2_and_says_what_to_do() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        words = ["standin", "serve", "--port", str(taken.getsockname()[1])]
        done = subprocess.run(
            [sys.executable, "-m", "flows.cli", *words], cwd=REPOSITORY, capture_output=True, text=True, timeout=60
        )
    assert (done.returncode, done.stdout) == (2, "")
    assert "choose another --port" in done.stderr


WARNS = """
import logging, sys
sys.argv = ["tapir", "status", "--help"]
from flows.cli import main
try:
    main()
except SystemExit:
    import prefect.logging
    prefect.logging.configuration.setup_logging()
    logging.getLogger("tapir_core.calls.store_writer").warning("the database is away")
"""


def test_what_our_modules_warn_of_is_on_the_terminal_once_though_prefect_is_silenced():
    environment = {**os.environ, "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL"}
    done = subprocess.run(
        [sys.executable, "-c", WARNS], cwd=REPOSITORY, capture_output=True, text=True, timeout=120, env=environment
    )
    assert done.stderr.count("the database is away") == 1, done.stderr
