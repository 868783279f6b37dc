"""How the nodes of one training find each other and end together; the workers are scripted."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import pytest

from tapir_core.errors import ConfigError, EngineError, NodeLost, Stopped, TapirError
from tapir_core.leases import ReplicaRegistry
from tasks.engines.replicas import Ended
from tasks.engines.training import nodes
from tasks.engines.training.launch import Node
from tasks.engines.training.nodes import FirstNode, OtherNode
from tests import waiting

WAITS = nodes.Waits(look=0.01, meet=5.0, leave=5.0, state=0.2, seen=0.2)

wait_until = partial(waiting.wait_until, seconds=20, every=0.005)


@dataclass
class ScriptedWorkers:
    """Flow runs that do what the test says."""

    registry: ReplicaRegistry
    begin: Callable[[str], None] = lambda _row: None
    asked: list[str] = field(default_factory=list)
    withdrawn: list[str] = field(default_factory=list)
    ends: dict[str, Ended] = field(default_factory=dict)

    def ask(self, number: int, row: str) -> None:
        assert number == 3
        self.asked.append(row)
        self.begin(row)

    def ended(self, row: str) -> Ended | None:
        return self.ends.get(row)

    def withdraw(self, row: str) -> None:
        self.withdrawn.append(row)


@dataclass(eq=False)
class Joining(threading.Thread):
    """A node that was asked for, in a thread of its own: trains until it is told, or something is raised."""

    registry: ReplicaRegistry
    workers: ScriptedWorkers
    row: str
    folder: Path
    ranks: int
    node: Node | None = None
    raised: BaseException | None = None
    finish: threading.Event = field(default_factory=threading.Event)
    fault: Exception | None = None

    def __post_init__(self) -> None:
        super().__init__(daemon=True)

    def run(self) -> None:
        other = OtherNode(self.registry, self.folder, "127.0.0.2", lambda _text: None, self.row, waits=WAITS)
        try:
            with other.meet(self.ranks) as node:
                self.node = node
                while not self.finish.wait(0.01):
                    node.check()
                if self.fault:
                    raise self.fault
        except Exception as raised:  # looked at by the test
            self.raised = raised
        how = "completed" if self.raised is None or isinstance(self.raised, Stopped) else "failed"
        self.workers.ends.setdefault(self.row, Ended(how, str(self.raised or "")))


@dataclass
class Ground:
    registry: ReplicaRegistry
    workers: ScriptedWorkers
    folder: Path
    joining: list[Joining] = field(default_factory=list)

    def join(self, row: str, *, ranks: int = 1, folder: Path | None = None) -> Joining:
        self.joining.append(Joining(self.registry, self.workers, row, folder or self.folder, ranks))
        self.joining[-1].start()
        return self.joining[-1]

    def first(self, count: int, *, attempt: str = "this attempt", note: nodes.Note = lambda _text: None) -> FirstNode:
        return FirstNode(self.registry, self.folder, "127.0.0.1", note, self.workers, 3, count, attempt, waits=WAITS)


@pytest.fixture
def ground(tmp_path: Path) -> Iterator[Ground]:
    registry = ReplicaRegistry(f"sqlite:///{tmp_path / 'store.sqlite'}", "a training")
    ground = Ground(registry, ScriptedWorkers(registry), tmp_path / "attempt")
    yield ground
    for each in ground.joining:
        each.finish.set()
        each.join()
    registry.close()


def test_each_node_learns_its_ranks_and_where_all_meet(ground: Ground) -> None:
    ranks = iter([2, 4])
    ground.workers.begin = lambda row: ground.join(row, ranks=next(ranks)) and None
    with ground.first(3).meet(8) as first:
        wait_until(lambda: all(each.node for each in ground.joining))
        others = [each.node for each in sorted(ground.joining, key=lambda each: each.row)]
        for each in ground.joining:
            each.finish.set()
            each.join()
        first.check()  # those that are done are not missed
    everyone = [first, *(each for each in others if each)]
    assert {each.world_size for each in everyone} == {14}
    assert {each.meeting for each in everyone} == {first.meeting}
    assert first.meeting[0] == "127.0.0.1"
    sizes = [8, *(each.ranks for each in sorted(ground.joining, key=lambda each: each.row))]
    assert [each.first_rank for each in everyone] == [0, 8, 8 + sizes[1]]
    assert [each.raised for each in ground.joining] == [None, None]
    assert ground.registry.all() == []


def test_who_does_not_come_is_named_with_the_remedy(ground: Ground) -> None:
    told: list[str] = []
    with (
        pytest.raises(EngineError, match=r"1 of training\.nodes = 2 came within 0\.1 s.*more workers") as raised,
        replace(ground.first(2, note=told.append), waits=WAITS._replace(meet=0.1)).meet(1),
    ):
        pass
    [row] = ground.workers.asked
    assert row in str(raised.value)
    assert ground.workers.withdrawn == [row]
    assert set(told) == {"1 of 2 nodes are there, waiting for workers of tapir-gpu"}
    assert ground.registry.all() == []


def test_a_node_that_cannot_train_is_not_waited_for(ground: Ground) -> None:
    def fail(row: str) -> None:
        ground.registry.take(row)
        ground.registry.abandon(row)
        ground.workers.ends[row] = Ended("failed", "its torch is built for processors\nmore")

    ground.workers.begin = fail
    with (
        pytest.raises(EngineError, match=r"node \w+ failed: its torch is built for processors") as raised,
        ground.first(2).meet(1),
    ):
        pass
    assert not isinstance(raised.value, NodeLost)


def test_a_node_in_another_folder_says_so_and_trains_nothing(ground: Ground, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "meeting").write_text("an earlier attempt")
    ground.workers.begin = lambda row: ground.join(row, folder=tmp_path / "elsewhere") and None
    with pytest.raises(EngineError, match=r"elsewhere is not the folder .*TAPIR_SCRATCH"), ground.first(2).meet(1):
        pass


def test_a_killed_node_ends_the_others_and_is_told_from_a_fault(ground: Ground) -> None:
    ground.workers.begin = lambda row: (die(row) if len(ground.workers.asked) == 1 else ground.join(row)) and None

    def die(row: str) -> None:
        ground.registry.take(row)
        ground.registry.serve(row, "tcp://127.0.0.3", 1)
        threading.Thread(target=be_killed, args=(row,), daemon=True).start()

    def be_killed(row: str) -> None:
        wait_until(lambda: any(each.node for each in ground.joining))
        ground.registry.abandon(row)

    with pytest.raises(NodeLost, match=r"node \w+ of this training is gone; .*crashed: its worker is gone"):
        train(ground.first(3))
    [survivor] = ground.joining
    survivor.join()
    assert isinstance(survivor.raised, NodeLost | Stopped)
    assert ground.registry.all() == []


def test_a_fault_of_one_node_is_raised_by_the_first(ground: Ground) -> None:
    ground.workers.begin = lambda row: ground.join(row) and None

    def fail() -> None:
        wait_until(lambda: any(each.node for each in ground.joining))
        ground.joining[0].fault = EngineError("ran out of memory")
        ground.joining[0].finish.set()

    threading.Thread(target=fail, daemon=True).start()
    with pytest.raises(EngineError, match=r"failed: ran out of memory") as raised:
        train(ground.first(2))
    assert not isinstance(raised.value, NodeLost)


def test_a_fault_of_the_first_node_ends_the_others_and_stays_what_it_is(ground: Ground) -> None:
    ground.workers.begin = lambda row: ground.join(row) and None
    with pytest.raises(ConfigError, match="empty mixture"), ground.first(2).meet(1):
        raise ConfigError("empty mixture")
    [other] = ground.joining
    other.join()
    assert isinstance(other.raised, Stopped)


def test_the_first_node_is_missed_when_it_is_killed(ground: Ground) -> None:
    row, first = ground.registry.ask(3, "this attempt"), ground.registry.ask(3, "this attempt")
    ground.registry.take(first)
    ground.registry.serve(first, "tcp://127.0.0.1:29500", 1)
    ground.folder.mkdir()
    (ground.folder / "meeting").write_text("this attempt")
    other = ground.join(row)
    wait_until(lambda: other.node is not None)
    ground.registry.abandon(first)
    other.join()
    assert isinstance(other.raised, NodeLost)


def test_an_attempt_begins_when_nothing_of_an_earlier_one_lives(ground: Ground) -> None:
    left = ground.registry.ask(3, "an earlier attempt")
    ground.registry.take(left)
    waiting_in_queue = ground.registry.ask(3, "an earlier attempt")
    told: list[str] = []

    def leave(text: str) -> None:
        told.append(text)
        ground.registry.remove(left)

    ground.workers.begin = lambda row: ground.join(row) and None
    with ground.first(2, note=leave).meet(1):
        assert told[0] == "an earlier attempt at this training ends"
        assert ground.workers.withdrawn == [waiting_in_queue]
        ground.joining[0].finish.set()
        ground.joining[0].join()


def test_a_node_that_nobody_asks_for_any_more_does_nothing(ground: Ground) -> None:
    other = ground.join("0a1b")
    other.join()
    assert isinstance(other.raised, Stopped)
    assert "no training asks for this node" in str(other.raised)


def test_a_database_that_is_away_ends_no_training(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    ground.workers.begin = lambda row: ground.join(row) and None
    with ground.first(2).meet(1) as first:
        with monkeypatch.context() as away:
            away.setattr(ReplicaRegistry, "all", be_away)
            for _ in range(3):
                first.check()
        # Back again, and nobody has had time for a sign of life.
        with monkeypatch.context() as silent:
            silent.setattr("tapir_core.leases.Replica.is_dead", lambda _each: True)
            first.check()
            first.check()
        ground.joining[0].finish.set()
        ground.joining[0].join()


def be_away(_registry: ReplicaRegistry) -> list[object]:
    raise TapirError("the call store cannot be reached")


def train(first: FirstNode) -> None:
    """Until something is raised."""
    with first.meet(1) as node:
        while True:
            node.check()
