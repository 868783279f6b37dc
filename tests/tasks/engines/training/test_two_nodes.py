"""A training on two machines, with DeepSpeed's ZeRO-3 over gloo: one is killed, and the next attempt goes on.

The machines are two network namespaces, which root alone may make; for others two addresses of the loopback interface.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import psutil
import pytest

from tapir_core.config import TrainingConfig
from tapir_core.errors import NodeLost
from tapir_core.leases import ReplicaRegistry
from tasks.engines.replicas import Ended
from tasks.engines.tiny_student import tiny_student
from tasks.engines.training.launch import TrainingJob, TrainingProgress, TrainingSummary, train_student
from tasks.engines.training.nodes import FirstNode, Waits
from tests.tasks.engines.training.test_trainer import EXAMPLES, make_job, write_mixture

NAMESPACE = "tapir-node"

pytestmark = pytest.mark.operations

JOIN = """
import json, sys
from pathlib import Path
from tapir_core.leases import ReplicaRegistry
from tasks.engines.training.nodes import OtherNode
from tasks.engines.training.launch import TrainingJob, run_ranks
store, row, job, host = sys.argv[1:]
job = TrainingJob(**json.loads(job))
run_ranks(job, OtherNode(ReplicaRegistry(store, "a training"), job.output, host, print, row).meet)
"""


@dataclass
class OtherMachine:
    """Its worker starts a process for each node that is asked for."""

    store: str
    job: TrainingJob
    host: str
    enter: tuple[str, ...] = ()
    """The command before every command of that machine."""
    started: list["subprocess.Popen[bytes]"] = field(default_factory=list)
    rows: list[str] = field(default_factory=list)

    def ask(self, _number: int, row: str) -> None:
        job = json.dumps(self.job.to_json())
        command = [*self.enter, sys.executable, "-c", JOIN, self.store, row, job, self.host]
        self.started.append(subprocess.Popen(command))
        self.rows.append(row)

    def ended(self, row: str) -> Ended | None:
        """A killed worker says nothing."""
        code = self.started[self.rows.index(row)].poll()
        return None if code is None or code < 0 else Ended("failed" if code else "completed")

    def withdraw(self, row: str) -> None:
        raise AssertionError(f"{row} was taken")

    def kill(self) -> None:
        """Its worker, whose guard ends the ranks."""
        family = psutil.Process(self.started[-1].pid).children(recursive=True)
        self.started[-1].kill()
        self.started[-1].wait()
        assert psutil.wait_procs(family, timeout=30)[1] == []


@pytest.fixture
def machines() -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Address of the first and of the second machine, and the command that enters the second."""
    if os.geteuid() or not shutil.which("ip"):
        yield "127.0.0.1", "127.0.0.2", ()
        return
    here, there, ip = "10.231.0.1", "10.231.0.2", partial(subprocess.run, check=True)
    ip(["ip", "netns", "add", NAMESPACE])
    try:
        ip(["ip", "link", "add", "tapir0", "type", "veth", "peer", "name", "tapir1", "netns", NAMESPACE])
        ip(["ip", "address", "add", f"{here}/30", "dev", "tapir0"])
        ip(["ip", "link", "set", "tapir0", "up"])
        for words in (["address", "add", f"{there}/30", "dev", "tapir1"], ["link", "set", "tapir1", "up"]):
            ip(["ip", "-n", NAMESPACE, *words])
        yield here, there, ("ip", "netns", "exec", NAMESPACE)
    finally:
        ip(["ip", "netns", "del", NAMESPACE])


def test_a_node_is_killed_and_the_next_attempt_goes_on(
    tmp_path: Path, machines: tuple[str, str, tuple[str, ...]]
) -> None:
    here, there, enter = machines
    tiny_student(tmp_path / "base")
    write_mixture(tmp_path / "part.parquet")
    training = TrainingConfig(zero_stage=3, precision="fp32", batch_size=4, micro_batch_size=2, save_minutes=1e-6)
    job = make_job(tmp_path, training=training, epochs=2.0)
    store = f"sqlite:///{tmp_path / 'store.sqlite'}"
    other = OtherMachine(store, job, there, enter)
    killed: list[int] = []

    def kill_once(progress: TrainingProgress) -> None:
        if progress.step >= 5 and not killed:
            killed.append(progress.step)
            other.kill()

    def attempt(name: str) -> TrainingSummary:
        registry = ReplicaRegistry(store, "a training")
        first = FirstNode(registry, job.output, here, lambda _text: None, other, 0, 2, name, waits=Waits(state=3.0))
        return train_student(job, on_progress=kill_once, meet=first.meet)

    with pytest.raises(NodeLost, match=r"node \w+ crashed: its worker is gone"):
        attempt("the first")
    assert [each for each in psutil.Process().children(recursive=True) if is_rank(each)] == []
    done = attempt("the second")
    assert other.started[-1].wait(60) == 0
    assert done.world_size == 2
    assert done.steps == EXAMPLES * 2 // 4
    assert len(done.resumed_from_steps) == 1
    assert done.resumed_from_steps[0] >= killed[0] - 1, "the newest save"
    assert [each["step"] for each in done.loss_curve] == list(range(1, done.steps + 1))
    assert ReplicaRegistry(store, "a training").all() == []


def is_rank(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return "tasks.engines.training.trainer" in process.cmdline()
    return False
