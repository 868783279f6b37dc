"""What must hold of paid calls, at a bad provider and under kills: nothing lost, invented or paid twice.

Minutes, not seconds: stand-in and asker are processes of their own, so that both can be killed.
"""

import os
import random
import signal
import sqlite3
import subprocess
import sys
from collections import Counter

import psutil
import pytest

from tapir_core.calls import Answer, AnswerStore, CallEngine, Watch
from tapir_core.calls.wire import Reply
from tapir_core.config import CallsConfig
from tapir_core.judging.verdict import PairReply
from tests.acceptance.command_line import Project, descendants
from tests.acceptance.processes import DEADLINE_SECONDS, Asker
from tests.acceptance.workload import ROWS, UNKNOWN, digest_in_log, judge_requests, teacher_requests, undisturbed
from tests.doubles.provider import FakeProvider, Hang, Text, make_request
from tests.harness.processes import REPOSITORY, kill
from tests.harness.stand_ins import StandinProcess, endpoint
from tests.waiting import wait_until

pytestmark = pytest.mark.slow

FAULTS = "429=0.1,500=0.1,reset=0.05,hang=0.02,truncated=0.02,empty=0.01,retry_after_seconds=0.2"
RETRYABLE = {"rate_limited", "server", "timeout", "connection"}
CONCURRENCY = 16


@pytest.fixture(scope="module")
def questions():
    """Each row with its digest in the stand-in's log and the reply without faults."""
    return [(digest_in_log(request), undisturbed(request)) for request in teacher_requests()]


def test_2000_requests_at_a_bad_provider_are_answers_or_typed_failures_and_none_is_paid_twice(tmp_path, questions):
    with StandinProcess(tmp_path, faults=FAULTS) as standin:
        asker = Asker(tmp_path, "teach", standin.base_url, concurrency=32)
        rows = asker.run(max_attempts=2)
        answered = Counter(standin.log.answered())
        for row, (digest, expected) in zip(rows, questions, strict=True):
            assert row == expected or row[0] in RETRYABLE
            assert answered[digest] == (row == expected)
        failed = Counter(status for status, _ in rows if status in RETRYABLE)
        assert set(failed) == RETRYABLE, "with two attempts some rows fail in every way"
        assert standin.log.answered_again() == 0

        again = asker.run()
        assert again == [expected for _, expected in questions], "the same command brings what was missing"
        assert Counter(status for status, _ in again) == {"answer": ROWS - UNKNOWN, "refused": UNKNOWN}
        assert Counter(standin.log.answered()) == dict.fromkeys((digest for digest, _ in questions), 1)
        faults = standin.log.faults()
        assert set(faults) == {"429", "500", "reset", "hang", "truncated", "empty"}
        print(f"first {dict(failed)}; faults {dict(faults)}; answered again {standin.log.answered_again()}")


def test_asker_and_provider_killed_midway_lose_and_invent_nothing(tmp_path, questions):
    with StandinProcess(tmp_path, faults=FAULTS) as standin:
        asker = Asker(tmp_path, "teach", standin.base_url, concurrency=32)
        with asker.start() as process:
            wait_until(lambda: len(standin.log.answered()) >= ROWS // 3, seconds=DEADLINE_SECONDS, alive=process)
            kill(process)
        standin.kill()
        standin.start()
        assert asker.run() == [expected for _, expected in questions]
        assert set(standin.log.answered()) == {digest for digest, _ in questions}
        assert standin.log.answered_again() <= 32
        print(f"answered again {standin.log.answered_again()}, at most 32 were in flight")


def kill_after(answers: int, asker: Asker, standin: StandinProcess) -> None:
    """Start ``asker`` and end it once the stand-in has given so many ``answers`` more."""
    enough = len(standin.log.answered()) + answers
    with asker.start() as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "asking\n"
        wait_until(lambda: len(standin.log.answered()) >= enough, seconds=DEADLINE_SECONDS, every=0.01, alive=process)
        kill(process)


@pytest.mark.parametrize("kills", [5, pytest.param(50, marks=pytest.mark.operations)])
def test_after_kills_every_row_is_scored_and_only_calls_in_flight_were_answered_again(tmp_path, kills):
    rng = random.Random(kills)
    requests = judge_requests()
    with StandinProcess(tmp_path, latency_ms=150) as standin:
        asker = Asker(tmp_path, "judge", standin.base_url, CONCURRENCY)
        for _ in range(kills):
            kill_after(rng.randrange(ROWS // (2 * kills)), asker, standin)
        before = len(set(standin.log.answered()))
        rows = Asker(tmp_path, "judge", standin.base_url, concurrency=4 * CONCURRENCY).run()
        for row, request in zip(rows, requests, strict=True):
            scores = PairReply.scores_in_text(undisturbed(request)[1])
            assert isinstance(scores, tuple)
            assert row == ("scored", f"{scores[0]:g}, {scores[1]:g}")
        assert set(standin.log.answered()) == {digest_in_log(request) for request in requests}
        assert 0 < before < ROWS, "the kills came while it worked"
        assert standin.log.answered_again() <= kills * CONCURRENCY
        print(f"{kills} kills, {before} rows by then, answered again {standin.log.answered_again()}")


def test_a_hang_holds_back_its_own_row_only(tmp_path):
    hung = iter([Hang()])

    def script(call):
        return next(hung, Text("late")) if call.prompt == "question 0" else Text("soon")

    config = CallsConfig(timeout_seconds=3, backoff_seconds=0.01)
    requests = [make_request(f"question {number}") for number in range(40)]
    arrived = []
    store = AnswerStore(f"sqlite:///{tmp_path / 'store.sqlite'}")
    with FakeProvider(script) as provider, CallEngine(store, config, run="a-run") as engine:
        outcomes = engine.ask(
            requests, lambda: provider.endpoint(concurrency=8), Watch(lambda row, _: arrived.append(row))
        )
    assert [outcome.text for outcome in outcomes if isinstance(outcome, Answer)] == ["late"] + ["soon"] * 39
    assert provider.prompts()[-1] == "question 0", "all others were asked before it was given up the first time"
    assert arrived[-1] == 0


def test_ctrl_c_keeps_what_was_received_and_the_same_command_goes_on(tmp_path, lay_prefect_database):
    with StandinProcess(tmp_path, latency_ms=100) as standin:
        settings = {"teacher.endpoint": endpoint(standin.base_url, "standin-teacher"), "calls.concurrency": "2"}
        project = Project(tmp_path, settings)
        lay_prefect_database(project.root)
        # A shell that starts the tests in the background has them ignore Ctrl-C, and children would inherit that.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        with project.start_run() as driver:
            wait_until(lambda: len(standin.log.answered()) >= 30, seconds=DEADLINE_SECONDS, alive=driver)
            family = descendants(driver)
            os.killpg(driver.pid, signal.SIGINT)
            _, said = driver.communicate(timeout=60)
        assert driver.returncode == 130, said
        assert "the same command goes on" in said
        assert "Traceback" not in said
        assert psutil.wait_procs(family, timeout=15)[1] == []

        received = len(standin.log.answered())
        assert received < 160, "80 labels and 80 answers were wanted, and the run was ended early"
        with sqlite3.connect(f"file:{project.root}/.tapir/store.sqlite?mode=ro", uri=True) as connection:
            stored = connection.execute("SELECT count(*) FROM answers WHERE role != 'probe'").fetchone()[0]
        connection.close()
        assert received - stored <= 2, "but for the calls in flight, what was answered is committed"

        with project.start_run() as driver:
            said = "".join(driver.communicate(timeout=DEADLINE_SECONDS))
        assert driver.returncode == 0, said
        assert len(set(standin.log.answered())) == 160
        assert standin.log.answered_again() == received - stored
        print(f"{received} answered by the Ctrl-C, {stored} stored, {standin.log.answered_again()} answered again")


ASK_WHAT_IS_KNOWN = """
import sys
from pathlib import Path
from tapir_core.calls import Answer, AnswerStore, CallEngine
from tapir_core.config import CallsConfig
from tests.doubles.provider import make_request

def nobody():
    raise AssertionError("everything is known")

def peak_mib():
    # Not getrusage: its peak goes on from the process that started this one.
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024

requests = [make_request(f"question {number}") for number in range(100_000)]
with CallEngine(AnswerStore(sys.argv[1]), CallsConfig(), run="a-run") as engine:
    start = peak_mib()
    outcomes = engine.ask(requests, nobody)
assert [outcome.text[:20].rstrip(".") for outcome in outcomes] == [f"answer {number}" for number in range(100_000)]
print(peak_mib() - start)
"""


@pytest.mark.operations
def test_100_000_known_answers_are_looked_up_in_bounded_memory(tmp_path):
    url = f"sqlite:///{tmp_path / 'store.sqlite'}"
    with AnswerStore(url) as store:
        for number in range(100_000):
            request, text = make_request(f"question {number}"), f"answer {number}".ljust(400, ".")
            committed = store.put(request.key, request, Reply(Answer(text, "stop", 10, 100), raw=text * 2))
        committed.result()
    child = [sys.executable, "-c", ASK_WHAT_IS_KNOWN, url]
    done = subprocess.run(child, cwd=REPOSITORY, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    growth_mib = float(done.stdout)
    print(f"{growth_mib:.0f} MiB over its start")
    assert 10 < growth_mib < 400
