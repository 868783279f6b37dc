"""One training on several GPU workers: how its nodes find each other, and that none outlives the others for long.

The first node is the worker that holds the training's lease. It asks for the others as a run asks for replicas, by rows
of the same registry and flow runs of the same pool. In its row stand its address and the port at which all ranks meet;
the others add theirs. Once each row says how many ranks its node has, each node knows its place and starts them; the
rest is torch's rendezvous. While they train each node looks at the rows. When another one is dead, or the first one has
asked it to leave, it ends its ranks, which would wait for what never comes.

All nodes work in one attempt folder: a save is whole only with the part of every rank, and whichever workers come next
go on from it. By a mark in it they find out whether they see the same one. Limit: no node of a training is replaced;
the next attempt asks for new ones.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from tapir_core import errors, leases, processes
from tapir_core.storage import Storage
from tasks.engines import machine, supervisor
from tasks.engines.replicas import Ended, Fleet, dismiss, forget_dead
from tasks.engines.training.launch import Node

_MARK = "meeting"
"""File of the attempt folder that names the attempt at work there."""

Note = Callable[[str], None]
"""Gets what is waited for, at each look; what it raises ends the wait."""


class Waits(NamedTuple):
    """How long nodes wait, in seconds."""

    look: float = 1.0
    """Between two looks."""
    meet: float = 1800.0
    """At most for the other nodes: a pod's machine may have to be made, and an image of several GB pulled."""
    leave: float = processes.LAPSE_SECONDS + 30
    """At most until the others have ended: one whose machine went silent is dead after `LAPSE_SECONDS`."""
    state: float = 15.0
    """In which the flow run of a node that ended by itself says why."""
    seen: float = 60.0
    """In which a shared folder shows one machine what another has written: NFS remembers for so long what was there."""


@dataclass(frozen=True, slots=True)
class _Member:
    """What every node of a training knows."""

    registry: leases.ReplicaRegistry
    """Of this training."""
    folder: Path
    """Of the attempt, which all nodes see."""
    host: str
    """This machine's address for the others."""
    note: Note
    waits: Waits = field(default=Waits(), kw_only=True)

    def _wait(
        self, seconds: float, is_over: Callable[[], bool], waiting: Callable[[], str], late: Callable[[], str]
    ) -> None:
        """Look until it ``is_over``, and note at each look what is ``waiting`` for what.

        Raises:
            EngineError: it is not within so many seconds; ``late`` says what to do.
        """
        deadline = time.monotonic() + seconds
        while not is_over():
            if time.monotonic() > deadline:
                raise errors.EngineError(late())
            self.note(waiting())
            time.sleep(self.waits.look)


@dataclass(frozen=True, slots=True)
class FirstNode(_Member):
    """The node that asks for the others; `meet` is for `train_student`."""

    fleet: Fleet
    """Starts the others."""
    number: int
    """The round that is trained."""
    nodes: int
    """How many train, this one included."""
    attempt: str
    """Tells this attempt at the training from every other."""

    @contextmanager
    def meet(self, ranks: int) -> Iterator[Node]:
        """Ask for the others and wait for them; however the block ends, they end.

        Raises:
            NodeLost: one of them is gone.
            EngineError: they did not come, or one failed; the error of the block otherwise.
        """
        self._end_earlier()
        with supervisor.reserved_port(self.host) as port:
            row = self.registry.ask(self.number, self.attempt)
            with _taken(self.registry, row, self.waits.look) as rows:
                self.registry.serve(row, f"tcp://{self.host}:{port}", ranks)
                Storage(self.folder).write_bytes(_MARK, self.attempt.encode())
                others: list[str] = []
                try:
                    # All rows before the first node looks at them: they say how many it waits for.
                    others += [self.registry.ask(self.number, self.attempt) for _ in range(self.nodes - 1)]
                    for each in others:
                        self.fleet.ask(self.number, each)
                    self._wait(
                        self.waits.meet,
                        lambda: self._all_came(rows, others),
                        lambda: f"{len(rows.came)} of {self.nodes} nodes are there, waiting for workers of tapir-gpu",
                        lambda: (
                            f"{len(rows.came)} of training.nodes = {self.nodes} came within {self.waits.meet:g} s; "
                            f"nothing is heard of {', '.join(rows.late(others))} (flow runs of fine-tune with tags "
                            "node-…): start more workers of the pool tapir-gpu, or lower training.nodes"
                        ),
                    )
                    yield rows.place()
                except Exception as error:
                    if (explained := self._explained(error, others)) is error:
                        raise
                    raise explained from error
                except BaseException:
                    with suppress(errors.TapirError):
                        dismiss(self.registry, self.fleet)
                    raise
        forget_dead(self.registry)

    def _all_came(self, rows: "_Rows", others: Sequence[str]) -> bool:
        """Look whether all are there; EngineError where one has ended that is not."""
        if rows.all_came():
            return True
        for each in rows.late(others):
            if ended := self.fleet.ended(each):
                raise errors.EngineError(_in_words(each, ended))
        return False

    def _end_earlier(self) -> None:
        """Have what an earlier attempt left end, before this one works in its folder."""
        dismiss(self.registry, self.fleet)
        self._wait(
            self.waits.leave,
            lambda: not forget_dead(self.registry),
            lambda: "an earlier attempt at this training ends",
            lambda: (
                f"nodes of an earlier attempt do not leave ({', '.join(forget_dead(self.registry))}); cancel their "
                "flow runs of fine-tune"
            ),
        )

    def _explained(self, error: Exception, others: list[str]) -> Exception:
        """End the others, and say what became of them where that may be why."""
        try:
            ends = self._ends(others)
            for each in self.registry.all():
                self.registry.remove(each.id)
        except errors.TapirError:
            return error
        told = [_in_words(each, ended) for each, ended in ends.items() if ended.how != "completed"]
        if not told or not isinstance(error, errors.EngineError):
            return error
        kind = errors.NodeLost if any(ended.how == "crashed" for ended in ends.values()) else errors.EngineError
        return kind("; ".join([str(error), *told]))

    def _ends(self, others: list[str]) -> dict[str, Ended]:
        """How each that a worker had taken has ended, once it has."""
        began, ends = time.monotonic(), dict[str, Ended]()
        taken = set(others) - set(dismiss(self.registry, self.fleet))
        while open_ones := taken - ends.keys():
            waited = time.monotonic() - began
            living = {each.id for each in self.registry.all() if not each.is_dead()}
            gone = {each for each in open_ones if waited > (self.waits.leave if each in living else self.waits.state)}
            lost = dict.fromkeys(gone, Ended("crashed", "its worker is gone"))
            looks = {each: self.fleet.ended(each) or lost.get(each) for each in sorted(open_ones)}
            ends |= {each: ended for each, ended in looks.items() if ended is not None}
            time.sleep(self.waits.look)
        return ends


@dataclass(frozen=True, slots=True)
class OtherNode(_Member):
    """A node that was asked for; `meet` is for `run_ranks`."""

    row: str
    """The id under which it was asked for."""

    @contextmanager
    def meet(self, ranks: int) -> Iterator[Node]:
        """Say that this node is there and wait for all of them.

        Raises:
            Stopped: it is not asked for any more.
            NodeLost: another node is gone.
            EngineError: it sees another folder than the first one, or not all came.
        """
        with _taken(self.registry, self.row, self.waits.look) as rows:
            self._wait(
                self.waits.seen,
                lambda: self._sees_mark(rows),
                lambda: "waiting for the first node's folder",
                lambda: (
                    f"{self.folder} is not the folder that the first node of this training works in: nodes need one "
                    "folder that all of them see, on a shared disk; put the root on one, or, with a root on S3, "
                    "TAPIR_SCRATCH"
                ),
            )
            self.registry.serve(self.row, f"tcp://{self.host}", ranks)
            self._wait(
                self.waits.meet,
                rows.all_came,
                lambda: f"{len(rows.came)} of {len(rows.last)} nodes are there",
                lambda: (
                    f"{len(rows.came)} of {len(rows.last)} nodes came within {self.waits.meet:g} s; look at the flow "
                    "runs of fine-tune and at the workers of the pool tapir-gpu"
                ),
            )
            yield rows.place()

    def _sees_mark(self, rows: "_Rows") -> bool:
        rows.check_now()
        mark = self.folder / _MARK
        return mark.exists() and mark.read_text() == rows.attempt


class _Rows:
    """The rows of one attempt, as the node that holds the row ``own`` sees them."""

    def __init__(self, registry: leases.ReplicaRegistry, taken: leases.Replica, look_seconds: float) -> None:
        self._registry, self._own, self._look_seconds = registry, taken.id, look_seconds
        self.attempt = taken.checkpoint
        self.last: list[leases.Replica] = [taken]
        """As they were last read: the first node, whose address has a port, then the others by their ids."""
        self._next_look = 0.0
        self._was_away = False

    @property
    def came(self) -> list[str]:
        """Those that have said how many ranks they have."""
        return [each.id for each in self.last if each.base_url]

    def late(self, others: Sequence[str]) -> list[str]:
        """Those of ``others`` that have not."""
        return [each for each in others if each not in self.came]

    def all_came(self) -> bool:
        """Look whether all are there; raises what `check_now` does."""
        self.check_now()
        return len(self.came) == len(self.last)

    def check(self) -> None:
        """As `check_now`, once in ``look_seconds``."""
        if time.monotonic() >= self._next_look:
            self._next_look = time.monotonic() + self._look_seconds
            self.check_now()

    def check_now(self) -> None:
        """See that all of them live.

        One that has left no row is done. Who came to no sign of life while the database was away gets time for one.

        Raises:
            Stopped: this one is to end.
            NodeLost: another node is dead.
        """
        try:
            rows = [each for each in self._registry.all() if each.checkpoint == self.attempt]
        except errors.TapirError:  # the database is away: all of them go on
            self._was_away = True
            return
        self.last = sorted(rows, key=lambda each: (urlsplit(each.base_url).port is None, each.id))
        if self._was_away:
            self._was_away, self._next_look = False, time.monotonic() + 2 * processes.HEARTBEAT_SECONDS
            return
        mine = next((each for each in self.last if each.id == self._own), None)
        if mine is None or mine.leaving:
            raise errors.Stopped("the first node has ended this training; its flow run says why")
        if dead := [each.id for each in self.last if each.is_dead()]:
            raise errors.NodeLost(f"node {', '.join(dead)} of this training is gone")

    def place(self) -> Node:
        """Where the ranks of this node stand among all."""
        mine = next(place for place, each in enumerate(self.last) if each.id == self._own)
        urls = [urlsplit(each.base_url) for each in self.last]
        meeting, own = urls[0], urls[mine]
        assert meeting.hostname
        assert meeting.port
        assert own.hostname
        ranks = [each.concurrency for each in self.last]
        return Node(
            (meeting.hostname, meeting.port),
            machine.interface_of(own.hostname),
            first_rank=sum(ranks[:mine]),
            world_size=sum(ranks),
            check=self.check,
        )


@contextmanager
def _taken(registry: leases.ReplicaRegistry, row: str, look_seconds: float) -> Iterator[_Rows]:
    """Hold a row with signs of life for the block; only a block that ends well is no death of the node."""
    taken = registry.take(row)
    if taken is None:
        raise errors.Stopped("no training asks for this node now")
    heart = processes.Heart(f"node {row}", lambda: registry.beat(row))
    heart.begin()
    leave = registry.abandon
    try:
        yield _Rows(registry, taken, look_seconds)
        leave = registry.remove
    finally:
        heart.stop()
        with suppress(errors.TapirError):  # without a word it is dead after `LAPSE_SECONDS`
            leave(row)


def _in_words(node: str, ended: Ended) -> str:
    return f"node {node} {ended.how}: {(ended.message.splitlines() or [''])[0]}".rstrip(": ")
