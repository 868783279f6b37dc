"""One round of the quickstart: root, results and checkpoints on S3, answers in PostgreSQL.

The real student, both servers processes of their own. The driver is killed with -9 while round 1 is judged; the same
command ends the run on what is, but for the processor, another machine: with another scratch folder.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import psycopg
import pytest
from s3fs import S3FileSystem

from flows.prefect_server.server import DATABASE_VARIABLE, is_taken
from tapir_core.config import ACCURACY
from tapir_core.paths import PREFECT_RESULTS, REPORT, RUN_RECORD, SCRATCH_VARIABLE, log_file, manifest_file
from tapir_core.run_folder import RunFolder, RunRef
from tapir_core.stages import StageAt, plan
from tapir_core.storage import Storage
from tasks.engines.supervisor import start_child
from tests.doubles.standin import StandinServer
from tests.harness.processes import REPOSITORY, free_port, kill, left_over, overrides, tapir
from tests.harness.stand_ins import RequestLog, endpoints
from tests.harness.watches import ListenWatch, open_to_others
from tests.postgres_server import needs_postgres, run_postgres
from tests.students import needs_student_env
from tests.waiting import wait_until

pytestmark = [
    pytest.mark.operations,
    needs_postgres,
    needs_student_env,
    pytest.mark.timeout(3000),
]

RUN = RunRef("s3://runs/all", "quickstart")
JUDGE = StageAt("judge", 1)
SECONDS = 1200
"""For one half of the run on a busy machine."""


@contextmanager
def serve_s3(folder: Path) -> Iterator[str]:
    """The address of moto's server, with the bucket `runs`."""
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with start_child(command, env=os.environ, log_path=folder / "s3.log", name="S3 server") as server:
        wait_until(lambda: is_taken(port) or server.poll() is not None, seconds=60)
        signed = {"Authorization": "AWS AKIDEXAMPLE:unlooked-at"}
        urllib.request.urlopen(urllib.request.Request(f"{address}/runs", method="PUT", headers=signed)).close()
        yield address


class Machine:
    """Where the commands are given: nothing of it outlasts them but the scratch folder."""

    def __init__(self, folder: Path, *, s3: str, store: str, prefect: str, standin: str) -> None:
        self.folder, self._store, self._standin = folder, store, standin
        self.log = folder.with_suffix(".log")
        for name in ("home", "tmp"):
            (folder / name).mkdir(parents=True)
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder / "home"),
            "TMPDIR": str(folder / "tmp"),
            SCRATCH_VARIABLE: str(folder / "scratch"),
            "AWS_ENDPOINT_URL": s3,
            "AWS_ACCESS_KEY_ID": "AKIDEXAMPLE",
            "AWS_SECRET_ACCESS_KEY": "not-to-be-seen",
            "AWS_EC2_METADATA_DISABLED": "true",
            DATABASE_VARIABLE: prefect.replace("://", "+asyncpg://", 1),
        }

    def run(self) -> subprocess.Popen[bytes]:
        """The quickstart's first round: the preset, and where its parts lie."""
        places = {"run.root": RUN.root, "calls.store_url": self._store, **endpoints(self._standin)}
        settings = {"run.rounds": "1", **places}
        command = tapir("run", "configs/quickstart.toml", *overrides(settings))
        with self.log.open("ab") as log:
            return subprocess.Popen(
                command, cwd=REPOSITORY, env=self.environment, stdout=log, stderr=log, start_new_session=True
            )

    def said(self) -> str:
        """The end of what the run printed, and of its engines' logs."""
        logs = [self.log, *self.folder.glob("scratch/runs/all/*/logs/*.log")]
        return "\n".join(f"{log}:\n{log.read_text()[-3000:]}" for log in logs)

    def ask(self, *words: str) -> str:
        """What a command prints."""
        done = subprocess.run(
            tapir(*words), cwd=REPOSITORY, env=self.environment, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def bytes_beside_scratch(self) -> int:
        """What the commands left in the folders that they began with."""
        files = [each for name in ("home", "tmp") for each in (self.folder / name).rglob("*") if each.is_file()]
        print(self.folder.name, *(each.relative_to(self.folder) for each in files))
        return sum(each.stat().st_size for each in files)


def make_database(url: str, name: str) -> str:
    """The URL of a new database on the server of another one."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return f"{url.rpartition('/')[0]}/{name}"


def count(url: str, table: str, where: str = "true") -> int:
    """Rows of a table, if it is there already."""
    with psycopg.connect(url) as connection:
        if connection.execute("SELECT to_regclass(%s)", [table]).fetchone() == (None,):
            return 0
        rows = connection.execute(f"SELECT count(*) FROM {table} WHERE {where}").fetchone()
        return rows[0] if rows else 0


def score(run: RunFolder, number: int) -> float:
    """Share of the held-out test set that the student after a round answers rightly."""
    rows = run.rows(StageAt("evaluate", number)).filter(category="all", split="test", metric=ACCURACY)
    return float(rows["value"].item())


@pytest.fixture
def machines() -> Iterator[Path]:
    """Where the machines' folders lie. Not below pytest's: the names of vLLM's sockets have 107 characters at most."""
    with tempfile.TemporaryDirectory(prefix="tapir-") as folder:
        yield Path(folder)


def test_the_quickstart_on_s3_and_postgresql_goes_on_after_a_kill_and_rises(tmp_path, machines, monkeypatch):
    calls = RequestLog(tmp_path / "standin.jsonl")
    with serve_s3(tmp_path) as s3, run_postgres() as store, StandinServer(log_path=calls.path) as standin:
        servers = {"s3": s3, "store": store, "prefect": make_database(store, "prefect"), "standin": standin.base_url}
        first, second = (Machine(machines / name, **servers) for name in ("first", "second"))
        for name, value in first.environment.items():
            monkeypatch.setenv(name, value)
        run, began = RunFolder(RUN), time.monotonic()
        with ListenWatch() as watch:
            driver = first.run()
            judged = partial(count, store, "answers", "role = 'judge'")
            wait_until(lambda: judged() >= 200, seconds=SECONDS, told=first.said, alive=driver)
            assert left_over(kill(driver)) == []
            killed_after, asked = time.monotonic() - began, len(calls.lines())
            assert run.holds(StageAt("train", 0)) is not None
            assert run.holds(JUDGE) is None
            code = second.run().wait(SECONDS)
        assert code == 0, second.said()
        took, again = time.monotonic() - began, calls.answered_again()
        scores, all_asked = [score(run, number) for number in (0, 1)], len(calls.lines())
        print(
            f"\nkilled after {killed_after:.0f} s and {asked} requests; done after {took:.0f} s and {all_asked}, "
            f"of which {again} were answered before; held-out test after S_0, S_1: {scores}"
        )
        assert [str(at) for at in plan(run.config) if run.holds(at) is None] == []
        assert again <= run.config.calls.concurrency, "paid again: more than what was in flight"
        assert scores[1] > scores[0]
        check_places(run, store=store)
        # What the shell names for another Prefect server is left alone, and that is said.
        assert count(servers["prefect"], "task_run") == 0
        assert f"ignoring {DATABASE_VARIABLE}" in second.log.read_text()

        # What is left on the machines is not needed.
        for machine in (first, second):
            assert machine.bytes_beside_scratch() < 2**20
            shutil.rmtree(machine.folder / "scratch")
        assert RUN.name in second.ask("status", "--root", RUN.root)
        assert "–" not in second.ask("status", RUN.name, "--root", RUN.root), "a stage without rows"
        assert REPORT in second.ask("report", RUN.name, "--root", RUN.root)
    heard = " ".join(place[0] for place in watch.seen)
    assert [part for part in ("prefect server", "vllm.entrypoints", "training.trainer") if part not in heard] == []
    assert open_to_others(watch.seen) == []


def check_places(run: RunFolder, *, store: str) -> None:
    """Checkpoints, logs and Prefect's results are in the bucket; answers in the database."""
    there = Storage(RUN.root).files()
    for at in plan(run.config):
        assert f"{RUN.name}/{manifest_file(at.folder)}" in there
    for name in (RUN_RECORD, REPORT, log_file("student"), log_file("train-01")):
        assert f"{RUN.name}/{name}" in there
    results = [path for path in there if path.startswith(f"{PREFECT_RESULTS}/")]
    for path in results:
        json.loads(Storage(RUN.root).read_bytes(path))
    print(f"{len(there)} files in the bucket, {len(results)} of them results")
    assert len(results) > 30
    assert count(store, "answers") > 1000
    S3FileSystem.clear_instance_cache()
