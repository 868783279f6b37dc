"""The student's server: started when needed, shared, swapped, stopped; each failure is one clear message."""

import asyncio
import json
import logging
import os
import re
import signal
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import ClassVar

import openai
import psutil
import pytest

from tapir_core.calls.types import Endpoint
from tapir_core.config import StudentConfig, VllmEngine
from tapir_core.config.student import EndpointEngine
from tapir_core.errors import ConfigError, EngineError, MissingPrerequisite
from tasks.engines import exchange, machine
from tasks.engines.endpoints import EndpointStudents
from tasks.engines.logs import told_to
from tasks.engines.student_server import ANSWER_SECONDS, Student, serving
from tasks.engines.tiny_student import tiny_student
from tasks.engines.vllm import VllmServer

REPOSITORY = Path(__file__).parents[3]
VLLM_PYTHON = VllmEngine().interpreter

FAKE_PYTHON = '''\
#!{python}
"""Stands in for the interpreter of an environment with vLLM: knows the probe, and serves instead of vLLM."""
import http.server, json, os, sys, time
if sys.argv[1] == "-c":
    print(json.dumps({{"found": True, "device": "cpu", "folder": None, "versions": {{}}}}))
    sys.exit()
options = dict(zip(sys.argv[3:], sys.argv[4:]))
{before}
class Handler(http.server.BaseHTTPRequestHandler):
    def answer(self, status, value):
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(value).encode())
    def do_GET(self):
        self.answer({health}, {{}})
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        key = "Bearer " + os.environ["TAPIR_SERVER_KEY"]
        known = self.headers["Authorization"] == key and body["model"] == "student"
        self.answer({chat} if known else 401, {{"error": "the template is broken"}})
    def log_message(self, *args):
        pass
http.server.ThreadingHTTPServer((options["--host"], int(options["--port"])), Handler).serve_forever()
'''


def fake_python(folder: Path, *, before: str = "", health: int = 200, chat: int = 200) -> str:
    path = folder / "fake-python"
    text = FAKE_PYTHON.format(python=sys.executable, before=textwrap.dedent(before), health=health, chat=chat)
    path.write_text(text)
    path.chmod(0o755)
    return str(path)


def make_checkpoint(folder: Path, name: str = "checkpoint", template: bool = True) -> Path:
    checkpoint = folder / name
    checkpoint.mkdir()
    if template:
        (checkpoint / "chat_template.jinja").write_text("{{ messages }}")
    return checkpoint


def make_engine(python: str, **fields: object) -> VllmEngine:
    return VllmEngine.model_validate({"python": python, "start_timeout_seconds": 20, **fields})


def make_server(folder: Path, python: str, **fields: object) -> VllmServer:
    student = StudentConfig(engine=make_engine(python, **fields))
    return VllmServer(student, folder / "logs" / "student.log", print)


def student_in(checkpoint: Path) -> Student:
    return Student(1, checkpoint, checkpoint.name)


def processes_below(pid: int) -> list[int]:
    return [each.pid for each in psutil.Process(pid).children(recursive=True)]


def servers_left() -> list[int]:
    return [pid for pid in processes_below(os.getpid()) if b"student" in Path(f"/proc/{pid}/cmdline").read_bytes()]


@pytest.fixture
def told() -> list[str]:
    """What `host` reports."""
    return []


def starts(told: list[str]) -> int:
    return sum("student server is ready" in line for line in told)


@pytest.fixture
def host(tmp_path: Path, told: list[str]) -> Iterator[VllmServer]:
    student = StudentConfig(engine=make_engine(fake_python(tmp_path)))
    with closing(VllmServer(student, tmp_path / "student.log", told.append)) as host:
        yield host
    assert servers_left() == []


def test_a_server_answers_on_loopback_until_it_is_stopped(tmp_path: Path) -> None:
    server = make_server(tmp_path, fake_python(tmp_path), concurrency=7)
    endpoint = server.start(make_checkpoint(tmp_path))
    assert endpoint.base_url.startswith("http://127.0.0.1:")
    assert endpoint.base_url.endswith("/v1")
    assert endpoint.concurrency == 7
    assert endpoint.timeout_seconds == ANSWER_SECONDS, "a slow processor is no failure"
    assert server.runs
    server.stop()
    assert not server.runs
    assert servers_left() == []


def test_a_flow_is_told_what_matters_of_a_server_until_that_is_to_end(tmp_path: Path) -> None:
    before = """
        import signal
        print("WARNING:  hot", flush=True)
        def end(*_):
            print("ERROR:  broken by the end", flush=True)
            os._exit(0)
        signal.signal(signal.SIGTERM, end)
        """
    told: list[tuple[int, str]] = []
    server = make_server(tmp_path, fake_python(tmp_path, before=before))
    with told_to(lambda level, text: told.append((level, text))):
        server.start(make_checkpoint(tmp_path))
        server.stop()
    log = tmp_path / "logs" / "student.log"
    assert "broken by the end" in log.read_text()
    ready, hot = sorted(told)
    assert hot == (logging.WARNING, f"student server ({log}): hot")
    assert ready[0] == logging.INFO
    assert re.fullmatch(rf"student server \({log}\): ready with {server.checkpoint} after \d+ s", ready[1])


def test_each_start_has_a_key_of_its_own_that_no_argument_shows(tmp_path: Path) -> None:
    keys = []
    server, checkpoint = make_server(tmp_path, fake_python(tmp_path)), make_checkpoint(tmp_path)
    for _ in range(2):
        key = server.start(checkpoint).api_key
        assert key is not None
        assert all(key.encode() not in Path(f"/proc/{pid}/cmdline").read_bytes() for pid in servers_left())
        keys.append(key)
        server.stop()
    assert keys[0] != keys[1]


def test_a_missing_interpreter_says_how_to_make_the_environment(tmp_path: Path) -> None:
    with pytest.raises(MissingPrerequisite, match=r"'/no/python': No such file or directory; run `tapir setup`"):
        make_server(tmp_path, "/no/python").start(make_checkpoint(tmp_path))


def test_an_interpreter_without_vllm_says_how_to_make_the_environment(tmp_path: Path) -> None:
    with pytest.raises(MissingPrerequisite, match="has no vLLM; run `tapir setup`"):
        make_server(tmp_path, sys.executable).start(make_checkpoint(tmp_path))


def test_a_checkpoint_without_chat_template_names_the_field_to_set(tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path, template=False)
    with pytest.raises(ConfigError, match=r"has no chat template; set student\.chat_template"):
        make_server(tmp_path, fake_python(tmp_path)).start(checkpoint)


@pytest.mark.parametrize(
    ("before", "message"),
    [
        (
            "raise ValueError('max_model_len (4096) is greater than the derived one (2048)')",
            "ValueError: max_model_len",
        ),
        (
            """
            print("(Worker pid=7) ERROR 11-20 09:32:12 [x.py:3] RuntimeError: not enough memory", flush=True)
            print("(APIServer pid=5) ERROR 11-20 09:32:12 [y.py:4] RuntimeError: Engine core initialization failed.")
            sys.exit(1)
            """,
            "\n  RuntimeError: not enough memory\nits log",
        ),
        ("print('no device here'); sys.exit(1)", "\n  no device here\nits log"),
        ("sys.exit(1)", "it wrote nothing"),
        (
            "print('libnuma.so.1: cannot open shared object file: No file'); print('X: no attribute'); sys.exit(1)",
            "this machine lacks libnuma.so.1: install its package (Debian, Ubuntu: libnuma1; Fedora: numactl-libs)",
        ),
    ],
    ids=["traceback", "wrapped", "plain words", "silent", "a library"],
)
def test_a_server_that_dies_tells_why_and_where_its_log_is(tmp_path: Path, before: str, message: str) -> None:
    server = make_server(tmp_path, fake_python(tmp_path, before=before))
    with pytest.raises(EngineError, match=r"ended with exit code 1 before it was ready") as caught:
        server.start(make_checkpoint(tmp_path))
    assert message in str(caught.value)
    assert str(tmp_path / "logs" / "student.log") in str(caught.value)


def test_the_error_of_an_earlier_start_is_not_told_again(tmp_path: Path) -> None:
    for word in ("first", "second"):
        python = fake_python(tmp_path, before=f"raise ValueError('{word}')")
        student = StudentConfig(engine=make_engine(python))
        server = VllmServer(student, tmp_path / "log", print)
        with pytest.raises(EngineError) as caught:
            server.start(make_checkpoint(tmp_path, word))
    assert "second" in str(caught.value)
    assert "ValueError: first" not in str(caught.value)


def test_a_server_that_never_gets_ready_is_given_up_and_ended(tmp_path: Path) -> None:
    server = make_server(tmp_path, fake_python(tmp_path, health=503), start_timeout_seconds=0.5)
    with pytest.raises(EngineError, match=r"not ready after \d s; raise student\.engine\.start_timeout_seconds"):
        server.start(make_checkpoint(tmp_path))
    assert servers_left() == []


def test_a_server_that_cannot_answer_is_ended_and_told(tmp_path: Path) -> None:
    server = make_server(tmp_path, fake_python(tmp_path, chat=400))
    with pytest.raises(EngineError, match=r"cannot answer with .*status 400.*the template is broken"):
        server.start(make_checkpoint(tmp_path))
    assert servers_left() == []


def test_one_checkpoint_is_served_by_one_start_however_many_ask(
    host: VllmServer, told: list[str], tmp_path: Path
) -> None:
    checkpoint = make_checkpoint(tmp_path)
    got: list[Endpoint] = []
    threads = [threading.Thread(target=lambda: got.append(host.endpoint(student_in(checkpoint)))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(got)) == 1
    assert len(got) == 8
    assert starts(told) == 1


def test_another_checkpoint_replaces_the_server(host: VllmServer, told: list[str], tmp_path: Path) -> None:
    first, second = (make_checkpoint(tmp_path, name) for name in ("first", "second"))
    assert host.endpoint(student_in(first)) != host.endpoint(student_in(second))
    assert starts(told) == 2
    links = [Path(f"/proc/{pid}/cwd/student") for pid in servers_left()]
    assert {link.resolve() for link in links if link.is_symlink()} == {second.resolve()}


class FakeExchange:
    """Records its calls, and raises what `refuses` has for them."""

    def __init__(self, *_: object, **__: object) -> None:
        self.did: list[str] = []

    refuses: ClassVar[dict[str, Exception]] = {}

    def _do(self, what: str) -> None:
        self.did.append(what)
        if what in self.refuses:
            raise self.refuses[what]

    def rest(self) -> None:
        self._do("rest")

    def wake(self, _checkpoint: Path) -> None:
        self._do("wake")

    def take(self, _checkpoint: Path) -> float:
        self._do("take")
        return 0.001


@pytest.fixture
def refuses(monkeypatch: pytest.MonkeyPatch) -> dict[str, Exception]:
    monkeypatch.setattr(exchange, "Exchange", FakeExchange)
    monkeypatch.setattr(FakeExchange, "refuses", {})
    return FakeExchange.refuses


@pytest.fixture
def alike(tmp_path: Path) -> tuple[Student, Student]:
    made = [tiny_student(tmp_path / f"tiny-{seed}", seed=seed) for seed in (1, 2)]
    for each in made:
        (each / exchange.LOG_PROBS).write_text("{}")
    return student_in(made[0]), student_in(made[1])


def test_a_server_that_rests_answers_with_what_comes_next(
    host: VllmServer, told: list[str], refuses: dict[str, Exception], alike: tuple[Student, Student]
) -> None:
    first, second = alike
    before = host.endpoint(first)
    host.rest()
    host.rest()
    assert host.endpoint(first) == before
    assert host.endpoint(second) == before, "the endpoint changed"
    host.rest()
    assert host.endpoint(second) == before
    assert starts(told) == 1
    assert host._exchange.did == ["rest", "wake", "take", "rest", "wake"]  # type: ignore[union-attr]


@pytest.mark.parametrize("error", [EngineError("other weights"), OSError("torn"), ValueError("no number")])
def test_what_takes_weights_in_vain_is_never_asked_as_what_it_was(
    host: VllmServer,
    told: list[str],
    refuses: dict[str, Exception],
    alike: tuple[Student, Student],
    error: Exception,
) -> None:
    first, second = alike
    host.endpoint(first)
    refuses["take"] = error
    host.endpoint(second)
    assert starts(told) == 2
    refuses.clear()
    host.endpoint(first)
    assert starts(told) == 3, "what was refused once is tried no more"
    assert any(str(error) in line for line in told)


def test_a_start_that_failed_before_leaves_no_server_with_other_weights(
    host: VllmServer, refuses: dict[str, Exception], alike: tuple[Student, Student]
) -> None:
    first, second = alike
    host.endpoint(first)
    refuses["take"] = EngineError("other weights")
    host._failures[second.folder] = EngineError("it did not start")
    with pytest.raises(EngineError, match="it did not start"):
        host.endpoint(second)
    assert not host.runs


def test_a_server_that_cannot_rest_is_stopped(host: VllmServer, alike: tuple[Student, Student]) -> None:
    host.endpoint(alike[0])
    host.rest()
    assert not host.runs, "the stand-in for vLLM knows no token"


def test_a_server_that_keeps_nothing_ends_and_has_no_paths_for_developers(
    tmp_path: Path, refuses: dict[str, Exception], alike: tuple[Student, Student]
) -> None:
    with closing(make_server(tmp_path, fake_python(tmp_path), keep=False)) as server:
        server.endpoint(alike[0])
        [pid] = [each for each in servers_left() if "supervisor_main" not in _command_line(each)]
        assert "VLLM_SERVER_DEV_MODE=0" in Path(f"/proc/{pid}/environ").read_text()
        assert "worker-extension" not in _command_line(pid)
        server.rest()
        assert not server.runs


def test_a_run_shares_its_gpus_and_a_dead_server_leaves_them(
    host: VllmServer,
    refuses: dict[str, Exception],
    alike: tuple[Student, Student],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(machine.GPUS_VARIABLE, f"{tmp_path.name}-gpu")

    def fail(*_: object) -> None:
        raise EngineError("waited")

    host.endpoint(alike[0])
    host.rest()
    with host.gpus.hold(fail, fail):
        pass
    with pytest.raises(EngineError, match="waited"), machine.hold_gpus(fail, fail):
        pass
    host.endpoint(alike[0])
    [server] = [psutil.Process(pid) for pid in servers_left() if "supervisor_main" not in _command_line(pid)]
    server.kill()
    while host.runs:
        time.sleep(0.02)
    host.rest()
    with machine.hold_gpus(fail, fail):
        pass


def test_a_stopped_server_starts_again_when_it_is_asked(host: VllmServer, told: list[str], tmp_path: Path) -> None:
    student = student_in(make_checkpoint(tmp_path))
    host.endpoint(student)
    host.stop()
    assert servers_left() == []
    host.endpoint(student)
    assert starts(told) == 2


def test_a_server_that_died_is_replaced(host: VllmServer, told: list[str], tmp_path: Path) -> None:
    student = student_in(make_checkpoint(tmp_path))
    before = host.endpoint(student)
    family = [psutil.Process(pid) for pid in servers_left()]
    [server] = [each for each in family if "supervisor_main" not in _command_line(each.pid)]
    server.kill()
    while any(map(_runs, family)):
        time.sleep(0.02)
    assert host.endpoint(student) != before
    assert starts(told) == 2


def test_an_endpoint_engine_starts_nothing_and_carries_its_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = EndpointEngine(base_url="http://127.0.0.1:1/v1", model="tuned/{checkpoint}", api_key_env="STUDENT_KEY")
    students = serving(engine)(StudentConfig(engine=engine), tmp_path / "log", print)
    assert isinstance(students, EndpointStudents)
    with pytest.raises(MissingPrerequisite, match="STUDENT_KEY"):
        students.endpoint(student_in(tmp_path))
    monkeypatch.setenv("STUDENT_KEY", "secret")
    assert students.endpoint(student_in(tmp_path)).api_key == "secret"
    assert engine.model_name(tmp_path) == f"tuned/{tmp_path}"


def test_a_served_checkpoint_has_the_same_name_wherever_it_lies(tmp_path: Path) -> None:
    assert VllmEngine().model_name(tmp_path) == VllmEngine().model_name(tmp_path / "other")


@pytest.mark.slow
@pytest.mark.skipif(not VLLM_PYTHON.exists(), reason="the student's environment is missing: make student-env")
def test_a_real_vllm_serves_a_tiny_student_and_leaves_nothing_when_killed(tmp_path: Path) -> None:
    checkpoint = tiny_student(tmp_path / "tiny", seed=3)
    engine = make_engine(str(VLLM_PYTHON), enforce_eager=True, cpu_kv_cache_gib=1, start_timeout_seconds=300)
    lines: list[str] = []
    student = StudentConfig(engine=engine)
    with closing(VllmServer(student, tmp_path / "student.log", lines.append)) as host:
        endpoint = host.endpoint(student_in(checkpoint))
        assert "ready" in lines[-1]
        first, again = asyncio.run(_ask_twice(endpoint))
        assert first == again, "greedy answers repeat"
        with pytest.raises(openai.AuthenticationError):
            asyncio.run(_ask_twice(Endpoint(base_url=endpoint.base_url, concurrency=1, api_key="wrong")))
        [api_server] = [pid for pid in servers_left() if "supervisor_main" not in _command_line(pid)]
        below = processes_below(api_server)
        assert below, "vLLM's engine core is a process of its own"
        os.kill(api_server, signal.SIGKILL)
        host.stop()
        assert not any(Path(f"/proc/{pid}").exists() for pid in [api_server, *below])


def _runs(process: psutil.Process) -> bool:
    try:
        # A process whose first thread has ended is shown as a zombie while its other threads still end.
        return bool(process.status() != psutil.STATUS_ZOMBIE or process.num_threads() > 1)
    except psutil.NoSuchProcess:
        return False


def _command_line(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")


async def _ask_twice(endpoint: Endpoint) -> list[str]:
    async with openai.AsyncOpenAI(base_url=endpoint.base_url, api_key=endpoint.api_key, max_retries=0) as client:
        replies = [
            await client.chat.completions.create(
                model="student",
                messages=[{"role": "user", "content": "What is two and two?"}],
                max_tokens=8,
                temperature=0,
            )
            for _ in range(2)
        ]
    return [json.dumps(reply.choices[0].message.model_dump()) for reply in replies]
