"""A server that takes other weights answers with them, or is started anew: never with something between."""

import asyncio
import json
import re
import shutil
import threading
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tapir_core.config import StudentConfig, VllmEngine
from tapir_core.errors import EngineError
from tasks.engines import exchange
from tasks.engines.student_server import Student
from tasks.engines.tiny_student import tiny_student
from tasks.engines.vllm import VllmServer

VLLM_PYTHON = VllmEngine().interpreter
needs_vllm = [
    pytest.mark.slow,
    pytest.mark.skipif(not VLLM_PYTHON.exists(), reason="the student's environment is missing: make student-env"),
]


class FakeVllm(ThreadingHTTPServer):
    """Answers what an exchange asks: each token as likely as its weights say, a number in a file."""

    def __init__(self, folder: Path, *, fault: str = "") -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder, self.fault, self.orders = folder, fault, list[str]()
        self.weights = self.on_disk()

    def on_disk(self) -> float:
        return float((self.folder / exchange.SERVED / "weights").read_text())

    def order(self, path: str) -> None:
        self.orders.append(path)
        if "collective_rpc" in path and self.fault != "stale":
            # What vLLM does with a head that shares the embedding's weights.
            self.weights = self.on_disk() + (0.01 if self.fault == "stale head" else 0)

    def said(self, copy: str | None) -> float:
        return self.weights + (self.fault == "one copy" and copy == "1" and len(self.orders) > 0)


class Handler(BaseHTTPRequestHandler):
    server: FakeVllm

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"] or 0)) or "{}")
        reply: Any = None
        if self.path == "/tokenize":
            reply = {"tokens": [1, 2, 3]}
        elif self.path == "/v1/completions":
            said = self.server.said(self.headers["X-data-parallel-rank"])
            places = [None, *({str(each): {"logprob": said}} for each in body["prompt"][1:])]
            reply = {"choices": [{"prompt_logprobs": places}]}
        else:
            self.server.order(self.path)
            if "prefix" in self.path and self.server.fault != "old version":
                reply = {"success": self.server.fault != "held"}
        failed = self.server.fault and self.server.fault in self.path
        self.send_response(500 if failed else 200)
        self.end_headers()
        self.wfile.write(json.dumps(reply).encode() if reply else b"")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    for name, weights in (("first", -1.0), ("second", -1.5), ("alike", -1.00001)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "weights").write_text(str(weights))
        said = {"ids": [[1, 2, 3]] * 8, "log_probs": [[weights] * 2] * 8}
        (tmp_path / name / exchange.LOG_PROBS).write_text(json.dumps(said))
    (tmp_path / exchange.SERVED).symlink_to(tmp_path / "first")
    monkeypatch.setattr(exchange.os, "readlink", lambda _: str(tmp_path))
    servers = []

    def make(*, fault: str = "", on_gpu: bool = False, copies: int = 1) -> tuple[FakeVllm, exchange.Exchange]:
        server = FakeVllm(tmp_path, fault=fault)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        found = exchange.Exchange(url, "key", "student", 1, "float32", on_gpu=on_gpu, copies=copies, seconds=9.0)
        return server, found

    yield make
    for server in servers:
        server.shutdown()
        server.server_close()


def test_other_weights_are_taken_and_shown_to_be_answered_with(made: Any, tmp_path: Path) -> None:
    server, found = made()
    (tmp_path / f"{exchange.SERVED}.new").symlink_to(tmp_path / "alike")  # of an exchange that was cut off
    assert found.take(tmp_path / "second") == 0
    assert server.orders == ["/collective_rpc", "/reset_prefix_cache"]
    assert found.take(tmp_path / "first") == 0
    found.rest()
    assert len(server.orders) == 4, "on processors nothing sleeps"


def test_on_a_gpu_it_sleeps_and_gets_its_weights_before_its_cache(made: Any, tmp_path: Path) -> None:
    server, found = made(on_gpu=True)
    found.rest()
    found.wake(tmp_path / "first")
    found.rest()
    found.take(tmp_path / "second")
    wakes = ["/wake_up?tags=weights", "/collective_rpc", "/wake_up?tags=kv_cache", "/reset_prefix_cache"]
    assert server.orders == 2 * ["/sleep?level=2", *wakes]


@pytest.mark.parametrize(
    ("fault", "copies", "why"),
    [
        ("stale", 1, r"is 0\.5000 nats a token from .*second, and was 0\.5000"),
        ("stale head", 1, r"is 0\.0100 nats"),
        ("one copy", 2, "copies answer differently"),
        ("collective_rpc", 1, "collective_rpc: HTTPStatusError"),
        ("reset", 1, "reset_prefix_cache"),
        ("held", 1, "keeps what it computed"),
    ],
)
def test_what_does_not_answer_with_the_new_weights_is_refused(
    made: Any, tmp_path: Path, fault: str, copies: int, why: str
) -> None:
    _, found = made(fault=fault, copies=copies)
    with pytest.raises(EngineError, match=why):
        found.take(tmp_path / "second")


def test_weights_that_cannot_be_told_from_those_before_are_refused(made: Any, tmp_path: Path) -> None:
    _, found = made(fault="stale")
    with pytest.raises(EngineError, match=r"and was 0\.0000 from it before"):
        found.take(tmp_path / "alike")


def test_a_version_that_says_nothing_of_its_cache_is_believed(made: Any, tmp_path: Path) -> None:
    _, found = made(fault="old version", copies=2)
    assert found.take(tmp_path / "second") == 0


def test_what_is_no_number_is_refused(made: Any, tmp_path: Path) -> None:
    _, found = made()
    (tmp_path / "second" / "weights").write_text("nan")
    with pytest.raises(EngineError, match="is nan nats"):
        found.take(tmp_path / "second")


def test_a_checkpoint_whose_trainer_read_other_tokens_is_refused(made: Any, tmp_path: Path) -> None:
    server, found = made()
    (tmp_path / "second" / exchange.LOG_PROBS).write_text(json.dumps({"ids": [[7]] * 8, "log_probs": [[]] * 8}))
    with pytest.raises(EngineError, match="its trainer read other tokens"):
        found.take(tmp_path / "second")
    assert server.orders == []


def test_what_wakes_otherwise_than_it_was_is_refused(made: Any, tmp_path: Path) -> None:
    _, found = made(fault="stale head", on_gpu=True)
    found.rest()
    with pytest.raises(EngineError, match="from what it was before it rested"):
        found.wake(tmp_path / "first")


def test_a_server_that_cannot_score_is_told(made: Any) -> None:
    with pytest.raises(EngineError, match="completions"):
        made(fault="completions")


@pytest.mark.parametrize(
    ("file", "change", "alike"),
    [
        ("config.json", {"use_cache": False, "dtype": "float16", "transformers_version": "0"}, True),
        ("config.json", {"rope_theta": 7.0}, False),
        ("generation_config.json", {"eos_token_id": [1, 2]}, False),
        ("tokenizer_config.json", {"bos_token": "<other>"}, False),
        ("tokenizer_config.json", {"is_local": True}, True),
        ("chat_template.jinja", "{{ messages }} ", False),
        ("training.json", {"loss": 1}, True),
    ],
)
def test_all_but_the_weights_must_be_alike(tmp_path: Path, file: str, change: Any, alike: bool) -> None:
    one = tiny_student(tmp_path / "one", seed=1)
    other = shutil.copytree(tiny_student(tmp_path / "made", seed=2), tmp_path / "other")
    assert exchange.mould(one, own_template=True) == exchange.mould(other, own_template=True)
    if isinstance(change, str):
        (other / file).write_text(change)
    else:
        said = json.loads((other / file).read_text()) if (other / file).exists() else {}
        (other / file).write_text(json.dumps(said | change))
    assert (exchange.mould(one, own_template=True) == exchange.mould(other, own_template=True)) == alike
    if file == "chat_template.jinja":
        assert exchange.mould(one, own_template=False) == exchange.mould(other, own_template=False)


def read_by_transformers(checkpoint: Path) -> dict[str, Any]:
    """What a trainer leaves beside the weights."""
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
    texts = [tokenizer.apply_chat_template(talk, return_dict=False) for talk in exchange.TALKS]
    found = []
    with torch.inference_mode():
        for ids in map(torch.tensor, texts):
            said = model(ids[None]).logits[0, :-1].log_softmax(-1)
            found.append(said.gather(1, ids[1:, None])[:, 0].tolist())
    return {"ids": texts, "log_probs": found}


def trained(folder: Path, seed: int) -> Path:
    checkpoint = tiny_student(folder / f"tiny-{seed}", seed=seed)
    (checkpoint / exchange.LOG_PROBS).write_text(json.dumps(read_by_transformers(checkpoint)))
    return checkpoint


def greedy(server: VllmServer, checkpoint: Path) -> list[tuple[str, float]]:
    endpoint = server.endpoint(Student(1, checkpoint, checkpoint.name))

    async def ask() -> Any:
        async with openai.AsyncOpenAI(base_url=endpoint.base_url, api_key=endpoint.api_key, max_retries=0) as client:
            return await client.chat.completions.create(
                model="student",
                messages=[{"role": "user", "content": "What is two and two?"}],
                max_tokens=8,
                temperature=0,
                logprobs=True,
            )

    said = asyncio.run(ask()).choices[0].logprobs.content
    return [(each.token, round(each.logprob, 4)) for each in said]


class TestOnVllm:
    pytestmark = needs_vllm

    @pytest.fixture
    def lines(self) -> list[str]:
        return []

    @pytest.fixture
    def server(self, tmp_path: Path, lines: list[str]) -> Iterator[VllmServer]:
        engine = VllmEngine.model_validate({"dtype": "float32", "cpu_kv_cache_gib": 1, "start_timeout_seconds": 300})
        with closing(VllmServer(StudentConfig(engine=engine), tmp_path / "student.log", lines.append)) as server:
            yield server

    def test_a_server_that_took_weights_answers_as_a_fresh_one(
        self, server: VllmServer, lines: list[str], tmp_path: Path
    ) -> None:
        one, other = (trained(tmp_path, seed) for seed in (3, 4))
        first = greedy(server, one)
        server.rest()
        taken = greedy(server, other)
        back = greedy(server, one)
        assert sum("is ready" in line for line in lines) == 1
        assert sum("nats a token from their trainer" in line for line in lines) == 2
        for path in ("/collective_rpc", "/sleep", "/wake_up", "/reset_prefix_cache", "/metrics", "/v1/models"):
            url = server.endpoint(Student(1, one, one.name)).base_url.removesuffix("/v1")
            assert httpx.get(f"{url}{path}").status_code == httpx.post(f"{url}{path}").status_code == 401
        server.stop()
        assert greedy(server, other) == taken
        assert first == back != taken

    def test_a_head_that_keeps_its_old_weights_is_seen(
        self, server: VllmServer, lines: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        plain = tmp_path / "in_vllm" / "tapir_in_vllm.py"
        plain.parent.mkdir()
        ours = Path(exchange.__file__).with_name("in_vllm") / plain.name
        before, after = ours.read_text().split("        kept = list[str]()")
        assert after
        plain.write_text(before)
        make = VllmServer.launch

        def launch(self: VllmServer, port: int, key: str) -> Any:
            made = make(self, port, key)
            made.env["PYTHONPATH"] = str(plain.parent)
            return made

        monkeypatch.setattr(VllmServer, "launch", launch)
        one, other = (trained(tmp_path, seed) for seed in (3, 4))
        greedy(server, one)
        greedy(server, other)
        [said] = [line for line in lines if "started anew" in line]
        assert re.search(r"is \d\.\d+ nats a token from .*, and was", said), said
        assert sum("is ready" in line for line in lines) == 2
