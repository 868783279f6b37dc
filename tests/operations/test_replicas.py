"""GPU workers and replicas on one machine: workers are killed with -9 at work, another one joins late."""

import json
import sqlite3
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tapir_core.calls import run_key
from tapir_core.leases import Replica, ReplicaRegistry
from tapir_core.paths import BACKBONE, FLEET_SECRET, attempt_folder
from tapir_core.run_folder import RunFolder
from tapir_core.stages import StageAt
from tasks.engines.keys import replica_key
from tests.acceptance.leaks import find_leaks
from tests.doubles.standin import StandinServer
from tests.harness.flow_run import FlowRun
from tests.harness.processes import overrides
from tests.harness.stand_ins import RequestLog, endpoints
from tests.harness.standing_root import StandingRoot, command
from tests.students import make_checkpoint, make_tiny_students, needs_student_env

pytestmark = pytest.mark.operations

NAME = "served"
IN_FLIGHT = 2
"""At each replica."""
DEADLINE_SECONDS = 600

SLOW_SERVER = '''\
#!{python}
"""Stands in for the interpreter of an environment with vLLM: each answer takes a while and is noted in a file."""
import http.server, json, os, sys, time
if sys.argv[1] == "-c":
    print(json.dumps({{"found": True, "device": "cpu", "folder": None, "versions": {{}}}}))
    sys.exit()
options = dict(zip(sys.argv[3:], sys.argv[4:]))
class Handler(http.server.BaseHTTPRequestHandler):
    def answer(self, value):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(value).encode())
    def do_GET(self):
        self.answer({{}})
    def do_POST(self):
        assert self.headers["Authorization"] == "Bearer " + os.environ["TAPIR_SERVER_KEY"]
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        time.sleep(0.2)
        with open({log!r}, "a") as log:
            log.write(json.dumps([os.getpid(), body["messages"][-1]["content"]]) + "\\n")
        message = {{"role": "assistant", "content": "Answer: 42"}}
        usage = {{"prompt_tokens": 9, "completion_tokens": 3}}
        self.answer({{"choices": [{{"index": 0, "message": message, "finish_reason": "stop"}}], "usage": usage}})
    def log_message(self, *args):
        pass
http.server.ThreadingHTTPServer((options["--host"], int(options["--port"])), Handler).serve_forever()
'''


class ServedRun:
    """A run whose student is served by replicas, begun by a command; seen from outside."""

    def __init__(self, root: StandingRoot, student: Path, base_url: str, *more: str, **settings: str) -> None:
        engine = {"type": "replicas", "replicas": "2", "concurrency": str(IN_FLIGHT)}
        dotted = {
            "run.root": root.root,
            "student.backbone": str(student),
            **endpoints(base_url),
            **{f"student.engine.{field}": value for field, value in engine.items()},
            **{field.replace("__", "."): value for field, value in settings.items()},
        }
        self._root = root
        self.driver = root.begin("run", "configs/test.toml", "--name", NAME, *overrides(dotted), *more)
        self.wait_until(Path(root.root, NAME, "run.json").exists)
        self.registry = ReplicaRegistry(f"sqlite:///{root.root}/.tapir/store.sqlite", run_key(self.folder.config))

    @property
    def folder(self) -> RunFolder:
        """As it is now: what the probes find changes the configuration soon after the run is there."""
        return self._root.run(NAME)

    def wait_until(self, condition: Callable[[], bool]) -> None:
        self._root.wait_until(condition, alive=self.driver)

    def serving(self) -> list[Replica]:
        return [each for each in self.registry.all() if each.base_url and not each.is_dead()]

    def is_listed(self, replica: Replica) -> bool:
        return replica.id in [each.id for each in self.registry.all()]

    def trains(self, number: int) -> bool:
        key = self.folder.key(StageAt("train", number))
        return key is not None and Path(self._root.root, NAME, attempt_folder(number, key), "progress.jsonl").exists()

    def kill_worker_of(self, replica: Replica) -> list[psutil.Process]:
        """``kill -9``; gives what it had started."""
        assert replica.holder is not None
        return self._root.kill_worker_above(psutil.Process(replica.holder.pid))

    def kill_worker_that_trains(self) -> list[psutil.Process]:
        """``kill -9``; gives what it had started."""
        trainer = next(each for each in self._root.family() if "tasks.engines.training.trainer" in command(each))
        return self._root.kill_worker_above(trainer)

    def answers(self) -> int:
        """Of the student, as the store holds them."""
        return self._count("SELECT count(*) FROM answers WHERE role = 'answer'")

    def attempts(self) -> int:
        """Times that the student was asked, or a replica that had just died."""
        return self._count("SELECT sum(requests) FROM spending WHERE role = 'answer'")

    def _count(self, query: str) -> int:
        with sqlite3.connect(Path(self._root.root, ".tapir/store.sqlite"), timeout=10) as connection:
            return int(connection.execute(query).fetchone()[0])

    def trainings(self, number: int) -> list[str]:
        """How each attempt at a round's training ended, in their order."""
        attempts = self._root.flow_runs("fine-tune", tags=(f"run-{NAME}", f"round-{number}"))
        return [each.state().type for each in attempts]

    def replicas(self, after_round: int) -> list[FlowRun]:
        """Flow runs that served, or were to serve, the student after a round."""
        found = self._root.flow_runs("serve-student")
        return [each for each in found if each.read()["parameters"].get("after_round") == after_round]


def secrets_left(root: StandingRoot, run: ServedRun) -> list[str]:
    """Where the fleet's secret or a key of a replica stands below the run root."""
    folder = Path(root.root)
    replicas = [file.stem.removeprefix("replica-") for file in (folder / NAME / "logs").glob("replica-*.log")]
    keys = [replica_key(root.root, run.folder.record.id, replica) for replica in replicas]
    assert len(keys) == 4
    secret = (folder / FLEET_SECRET).read_text()
    return sorted({leak.partition(":")[0] for leak in find_leaks(folder, [secret, *keys])})


@pytest.fixture
def root(tmp_path: Path) -> Iterator[StandingRoot]:
    with StandingRoot(tmp_path, patience_seconds=DEADLINE_SECONDS) as root:
        yield root


def up(root: StandingRoot, workers: int) -> None:
    said = root.up("--gpu-workers", str(workers))
    assert f"tapir-gpu-{workers}, for runs in" in said


def test_one_is_killed_and_one_cancelled_one_joins_from_the_ui_and_nothing_answered_is_asked_again(
    tmp_path: Path, root: StandingRoot
) -> None:
    backbone, log, python = make_checkpoint(tmp_path / "backbone"), tmp_path / "answers.jsonl", tmp_path / "python"
    python.write_text(SLOW_SERVER.format(python=sys.executable, log=str(log)))
    python.chmod(0o755)

    def answered() -> list[tuple[int, str]]:
        return [tuple(json.loads(line)) for line in log.read_text().splitlines()] if log.exists() else []

    with StandinServer() as teacher:
        up(root, 3)
        until = ("--until", f"answer_heldout@{BACKBONE}")
        rows = {"data__heldout__dev": "600", "data__heldout__test": "700"}
        run = ServedRun(root, backbone, teacher.base_url, *until, **rows, student__engine__python=str(python))
        run.wait_until(lambda: len(run.serving()) == 2 and len(answered()) >= 40)
        dead, alive = run.serving()
        family = run.kill_worker_of(dead)
        root.start("serve-student", run=NAME)
        run.wait_until(lambda: not run.is_listed(dead))
        assert alive.id in [each.id for each in run.serving()]
        run.wait_until(lambda: len(run.serving()) == 3)
        (cancelled,) = [each for each in run.replicas(BACKBONE) if f"replica-{alive.id}" in each.read()["tags"]]
        cancelled.press("cancel")
        run.wait_until(lambda: not run.is_listed(alive))
        assert run.driver.wait(DEADLINE_SECONDS) == 0, root.said()
        assert len(run.replicas(BACKBONE)) == 3, "the killed one was replaced, the cancelled one was not"
        root.down()
    assert psutil.wait_procs(family, timeout=30)[1] == []
    asked = Counter(prompt for _, prompt in answered() if prompt != "Hello")
    assert len(asked) == run.answers()
    assert sum(asked.values()) - len(asked) <= 2 * IN_FLIGHT
    assert len({server for server, _ in answered()}) == 4
    assert run.registry.all() == []
    assert secrets_left(root, run) == [FLEET_SECRET]


@needs_student_env
def test_a_run_is_served_and_trained_by_two_workers_of_which_one_is_killed_while_it_answers_and_one_while_it_trains(
    tmp_path: Path, root: StandingRoot
) -> None:
    [student], log = make_tiny_students(tmp_path, 1), tmp_path / "standin.jsonl"
    with StandinServer(log_path=log) as server:
        up(root, 2)
        # So many that the first replica cannot answer all while the second starts.
        settings = {"run__rounds": "1", "student__sampling__max_tokens": "192", "data__pool__rows": "800"}
        settings |= {"data__pool__max_level": "3"}
        training = {"runs_on": '"worker"', "save_minutes": "1e-6"}
        settings |= {f"training__{field}": value for field, value in training.items()}
        run = ServedRun(root, student, server.base_url, **settings, rounds__default__epochs="20")

        def round_1_is_answered() -> bool:
            return run.folder.holds(StageAt("evaluate", 0)) is not None and run.answers() >= 86

        run.wait_until(lambda: round_1_is_answered() and len(run.serving()) == 2)
        dead, alive = run.serving()
        family = run.kill_worker_of(dead)
        run.wait_until(lambda: not run.is_listed(dead))
        assert alive.id in [each.id for each in run.serving()]
        run.wait_until(lambda: run.trains(1))
        assert run.registry.all() == [], "the GPUs are given back before training"
        family += run.kill_worker_that_trains()
        assert run.driver.wait(DEADLINE_SECONDS) == 0, root.said()
        assert run.folder.holds(StageAt("evaluate", 1)) is not None
        assert run.trainings(1) == ["CRASHED", "COMPLETED"]
        assert len(run.replicas(0)) == 3, "the killed one was replaced"
        root.down()
    assert psutil.wait_procs(family, timeout=30)[1] == []
    assert RequestLog(log).answered_again() == 0, "nothing of teacher and judge was in flight at a replica"
    assert run.attempts() - run.answers() <= 4 * IN_FLIGHT
