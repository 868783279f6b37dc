"""What orchestration costs: one round over 50,000 instructions with engines that answer at once, against bare Prefect.

The round is the product's own flow with its own tasks, up to the mixture, on a Prefect server of its own. Only the call
engine is another one: it answers in the same thread, without a server or a store. The stages' own work, from rows to
written parts, is taken off the round's time. Bare Prefect maps the same number of tasks that do nothing, results
persisted as JSON, in the same process on the same server. What the server still has to write down of one part is waited
for before the next. The last line is one JSON object. What counts as what: docs/benchmarks.md.
"""

import argparse
import json
import resource
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from flows.prefect_server.server import connect_prefect
from tapir_core.calls import UNWATCHED, Answer, EndpointSource, LiveSpend, Outcome, Request, Spend, Watch
from tapir_core.config import RunConfig
from tapir_core.data.dataset import Part
from tapir_core.prompts import PROMPT_NAMES, load_prompt
from tapir_core.run_folder import RunFolder, open_run
from tapir_core.stages import MIX, TRAIN, StageAt
from tapir_core.standin.families import recognise
from tapir_core.standin.rules import Behaviour, read_ask, say
from tasks.progress import Progress
from tasks.runtime import close_all, current


@dataclass(frozen=True, slots=True)
class Took:
    """Seconds on the clock, and processor time of this process."""

    seconds: float
    cpu_seconds: float


@dataclass(frozen=True, slots=True)
class Clock:
    """Takes the time of a part, which begins when the server has written down what was before."""

    pause_seconds: float
    """What the server may take until a task run that has begun shows."""
    since: datetime = field(default_factory=partial(datetime.now, UTC))
    """Flow runs of before are not waited for: a process that was killed has ended none of its own."""

    def __call__(self, work: Callable[[], object]) -> Took:
        """How long ``work`` takes until this process has sent all about it."""
        self._settle()
        began, cpu_began = time.monotonic(), time.process_time()
        work()
        send_left()
        return Took(time.monotonic() - began, time.process_time() - cpu_began)

    def _settle(self) -> None:
        """Wait until the server has written down every task run that has ended."""
        from prefect.client.orchestration import get_client
        from prefect.client.schemas import filters
        from prefect.client.schemas.objects import StateType

        open_states = filters.TaskRunFilterStateType(any_=[StateType.PENDING, StateType.RUNNING])
        at_work = filters.TaskRunFilter(state=filters.TaskRunFilterState(type=open_states))
        of_now = filters.FlowRunFilter(start_time=filters.FlowRunFilterStartTime(after_=self.since))
        with get_client(sync_client=True) as client:
            for _ in range(2):  # a task run of which nothing is written yet shows in the second look
                time.sleep(self.pause_seconds)
                while client.read_task_runs(task_run_filter=at_work, flow_run_filter=of_now, limit=1):
                    time.sleep(0.5)


@dataclass(frozen=True, slots=True)
class Round:
    """A round, and what of it is no orchestration."""

    first: Took
    again: Took
    own_seconds: float
    tasks: int


class InstantCalls:
    """In the place of the call engine: the stand-in's teacher, and a judge that sees which answers are "unknown".

    In the caller's thread; half the student's answers are that.
    """

    def __init__(self) -> None:
        self._behaviour = Behaviour()

    def ask(
        self,
        requests: Sequence[Request],
        _: EndpointSource,
        watch: Watch = UNWATCHED,  # it answers at once: nothing is left to stop
    ) -> list[Outcome]:
        outcomes: list[Outcome] = []
        for place, request in enumerate(requests):
            outcomes.append(Answer(self._say(request), "stop", 50, 20))
            watch.on_outcome(place, outcomes[-1])
        return outcomes

    def spend(self) -> LiveSpend:
        return LiveSpend()

    def paid(self) -> Mapping[str, Spend]:
        return {}

    def close(self) -> None:
        pass

    def _say(self, request: Request) -> str:
        text = request.messages[-1].content
        if request.role == "answer":
            return f"Answer: {recognise(text).reference}" if sum(text.encode()) % 2 else "Answer: unknown"
        if request.role == "judge":
            pair = text.partition("<answer_2>")
            return f"Scores: [[{', '.join('2' if 'Answer: unknown' in pair[place] else '9' for place in (0, 2))}]]"
        return str(say(read_ask([{"role": "user", "content": text}], request.sample_index), self._behaviour))


class TimedProgress(Progress):
    """Adds up the stages' own work, and counts the tasks of the round.

    A stage in one task has the process to itself, so its time on the clock counts; of shards, which share it, the
    processor time of their threads.
    """

    def __init__(self) -> None:
        super().__init__()
        self._adding = threading.Lock()
        self.own_seconds = 0.0
        self.tasks = 0

    def begin(self, at: StageAt, *, shards: int, rows: int = 0, at_work: int = 1) -> None:
        super().begin(at, shards=shards, rows=rows, at_work=at_work)
        self.tasks += 1  # the one that does the whole stage, or the one that seals it

    @contextmanager
    def stage(self, at: StageAt) -> Iterator[None]:
        with super().stage(at):
            began = time.monotonic()
            yield
            self.own_seconds += time.monotonic() - began

    @contextmanager
    def attempt(self, at: StageAt, shard: int) -> Iterator[None]:
        with super().attempt(at, shard):
            began = time.thread_time()
            yield
            with self._adding:
                self.own_seconds += time.thread_time() - began
                self.tasks += 1


def make_run(root: Path, name: str, rows: int, rows_per_shard: int) -> RunFolder:
    """A run whose engines are never started."""
    config = RunConfig.model_validate(
        {
            "run": {"name": name, "root": str(root), "rounds": 1},
            # Up to level 3 there are half a million instructions.
            "data": {"pool": {"type": "standin", "rows": rows, "max_level": 3 if rows <= 400_000 else 4}},
            "student": {"engine": {"type": "endpoint", "base_url": "http://127.0.0.1:1/v1"}},
            "teacher": {"endpoint": {"type": "standin"}},
            "judge": {"endpoint": {"type": "standin"}},
            "calls": {"rows_per_shard": rows_per_shard},
            "curriculum": {
                "target_shares": "equal",
                "alpha_start": 0.5,
                "expansion": {"max_rouge_l": 1.0},  # 4 ms for each candidate, which would only be taken off again
            },
            "basic_tuning": {"examples": min(1000, rows)},
            "rounds": {"default": {"examples": rows, "selection": {"type": "threshold", "threshold": 2.0}}},
        }
    )
    prompts = {f"prompt:{name}": load_prompt(name).version for name in PROMPT_NAMES}
    run = open_run(config, {**prompts, "backbone": "none"})
    current(run)._calls = InstantCalls()  # type: ignore[assignment]  # it stands in for one
    return run


def fake_first_student(run: RunFolder) -> None:
    """S_0 as a folder that can be told from others."""
    at, names = TRAIN.at(0), ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
    for name in names:
        run.storage.write_bytes(f"{at.folder}/{name}", b"{}")
    run.seal(at, [Part(name, 0, run.storage.sha256(f"{at.folder}/{name}")) for name in names])


def time_round(run: RunFolder, clock: Clock) -> Round:
    """A whole round up to its mixture, and the same again when all of it is done."""
    from prefect import flow, tags

    from flows.distill import round_flow
    from flows.steps import run_stages
    from tapir_core.stages import LABEL, POOL, TEACH
    from tasks.artifacts import publish_judge

    @flow
    def prepare() -> None:
        run_stages(run.ref, [POOL.at(), LABEL.at(), TEACH.at(), MIX.at(0)])

    def one_round() -> object:
        return round_flow(run.ref, 1, "mix@1")

    with tags("tapir", f"run-{run.ref.name}"):
        clock(prepare)
        fake_first_student(run)
        runtime = current(run)
        runtime.progress = timed = TimedProgress()
        first = clock(one_round)
        assert run.holds(MIX.at(1)), "the round did not reach its mixture"
        again = clock(one_round)
    # What else the flow does of the stages' own work: once more, by itself.
    report = clock(lambda: publish_judge(run.ref, 1))  # outside a flow it publishes nothing
    plans = clock(lambda: read_plans(run))
    return Round(first, again, timed.own_seconds + report.seconds + plans.seconds, timed.tasks)


def read_plans(run: RunFolder) -> None:
    """Read the rows that the large stages of a round are cut into, as its flow does before it submits their shards."""
    from tapir_core.stages import ANSWER, REFINE
    from tasks._task import work_of

    for at in (ANSWER.at(1), REFINE.at(1)):
        current(run).forget_tables()  # as when the stage before is done
        plan = work_of(run.config, at).plan
        assert plan is not None
        plan(run, at)


def send_left() -> None:
    """Wait until Prefect's threads have sent the states of task runs and the logs: no process ends before that."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogHandler

    EventsWorker.instance().wait_until_empty()
    APILogHandler().flush()


def time_bare(tasks: int, clock: Clock, repeats: int) -> Took:
    """Prefect maps ``tasks`` tasks that do nothing: the median of ``repeats``, which differ by a fifth and more."""
    from prefect import flow, task
    from prefect.futures import wait

    @task(persist_result=True, result_serializer="json", result_storage_key="{task_run.id}")
    def nothing(number: int) -> int:
        return number

    @flow(persist_result=True, result_serializer="json")
    def bare() -> None:
        wait(nothing.map(range(tasks)))

    return sorted((clock(bare) for _ in range(repeats)), key=lambda took: took.seconds)[repeats // 2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--rows-per-shard", type=int, default=256)
    parser.add_argument(
        "--pause-seconds",
        type=float,
        default=2.0,
        help="what the server may take until a task run that has begun shows",
    )
    options = parser.parse_args()
    clock = Clock(options.pause_seconds)
    with tempfile.TemporaryDirectory() as folder:
        run = make_run(Path(folder), "orchestration", options.rows, options.rows_per_shard)
        with connect_prefect(run.ref):
            time_round(make_run(Path(folder), "small", 64, 16), clock)  # what is imported at first use is not counted
            time_bare(16, clock, 1)
            found = time_round(run, clock)
            memory_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            bare = time_bare(found.tasks, clock, 3)
        close_all()
    ours, ours_cpu = (spent - found.own_seconds for spent in (found.first.seconds, found.first.cpu_seconds))
    line = {
        "name": "orchestration",
        "ratio": round(ours / bare.seconds, 3),
        "ours": round(ours, 1),
        "theirs": round(bare.seconds, 1),
        "unit": "s",
        "ours_cpu_seconds": round(ours_cpu, 2),
        "theirs_cpu_seconds": round(bare.cpu_seconds, 2),
        "round_seconds": round(found.first.seconds, 1),
        "own_seconds": round(found.own_seconds, 2),
        "tasks": found.tasks,
        "resume_seconds": round(found.again.seconds, 1),
        "memory_mib": round(memory_mib),
        "rows": options.rows,
        "rows_per_shard": options.rows_per_shard,
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
