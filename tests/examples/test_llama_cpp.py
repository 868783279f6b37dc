"""The example engine in an interpreter of its own: for this one, it is unknown. A script stands for `llama-server`."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import psutil
import pytest

from tapir_core.data.dataset import read_rows
from tapir_core.paths import BACKBONE, log_file
from tapir_core.stages import StageAt
from tapir_core.storage import Storage
from tests.harness.processes import REPOSITORY, left_over
from tests.students import make_checkpoint

pytestmark = pytest.mark.slow

LLAMA_SERVER = '''\
#!{python}
"""Takes the options of llama-server, and answers with the name and the words of its file."""
import http.server, json, os, pathlib, sys, time
words = sys.argv[1:]
words.remove("--jinja")
options = dict(zip(words[::2], words[1::2]))
model = pathlib.Path(options["--model"])
if model.read_bytes()[:4] != b"GGUF":
    sys.exit(f"error: {{model}} is no GGUF file")
ready = time.monotonic() + 0.3
class Handler(http.server.BaseHTTPRequestHandler):
    def answer(self, status, value):
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(value).encode())
    def do_GET(self):
        self.answer(200 if time.monotonic() > ready else 503, {{}})
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        known = self.headers["Authorization"] == "Bearer " + os.environ["LLAMA_API_KEY"]
        if not known or body["model"] != options["--alias"]:
            return self.answer(401, {{"error": "who are you?"}})
        text = f"Answer: {{model.name}} {{model.read_text()[4:]}}"
        message = {{"role": "assistant", "content": text}}
        usage = {{"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}}
        self.answer(200, {{"choices": [{{"index": 0, "message": message, "finish_reason": "stop"}}], "usage": usage}})
    def log_message(self, *args):
        pass
http.server.ThreadingHTTPServer((options["--host"], int(options["--port"])), Handler).serve_forever()
'''

CONFIG = """
[run]
name = "small"
root = "runs"

[data.pool]
type = "standin"
rows = 24

[data.heldout]
type = "standin"
dev = 2
test = 4

[teacher.endpoint]
type = "standin"

[judge.endpoint]
type = "standin"

[student]
backbone = "backbone"

[student.engine]
type = "llama_cpp"
gguf = "backbone.gguf"
program = "./llama-server"
"""

ASK = """
import json, sys, urllib.request
from contextlib import closing
from pathlib import Path
from tapir_core.config import StudentConfig
from tapir_core.errors import TapirError
from tasks.engines.student_server import Student, serving
from tests.examples.llama_cpp import LlamaCppEngine

def ask(folder, **fields):
    engine = LlamaCppEngine(gguf="backbone.gguf", program="./llama-server", **fields)
    with closing(serving(engine)(StudentConfig(engine=engine), Path("student.log"), print)) as students:
        endpoint = students.endpoint(Student(1, Path(folder), "identity"))
        body = json.dumps({"model": engine.model_name(Path(folder)), "messages": []}).encode()
        headers = {"Authorization": f"Bearer {endpoint.api_key}"}
        asked = urllib.request.Request(f"{endpoint.base_url}/chat/completions", body, headers)
        return json.load(urllib.request.urlopen(asked))["choices"][0]["message"]["content"]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the example's commands are started."""
    make_checkpoint(tmp_path / "backbone")
    (tmp_path / "backbone.gguf").write_text("GGUF of the backbone")
    program = tmp_path / "llama-server"
    program.write_text(LLAMA_SERVER.format(python=sys.executable))
    program.chmod(0o755)
    (tmp_path / "small.toml").write_text(CONFIG)
    return tmp_path


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "tests.examples.tapir", "llama_cpp", *words]


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(REPOSITORY)}


def run_script(folder: Path, script: str) -> "subprocess.CompletedProcess[str]":
    argv = [sys.executable, "-c", textwrap.dedent(script)]
    return subprocess.run(argv, cwd=folder, env=environment(), capture_output=True, text=True, timeout=120, check=False)


def printed(folder: Path, script: str) -> str:
    done = run_script(folder, script)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().splitlines()[-1]


def test_a_run_asks_the_file_for_the_backbones_answers(folder: Path) -> None:
    done = subprocess.run(
        command("run", "small.toml", "--until", f"evaluate@{BACKBONE}"),
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    answered = StageAt("answer_heldout", BACKBONE)
    rows = read_rows(Storage(str(folder / "runs" / "small")), answered.folder)
    assert rows.height == 6
    assert all("of the backbone" in row for row in rows["response"])
    assert (folder / "runs" / "small" / log_file("student")).exists()


def test_doctor_and_check_name_what_lacks(folder: Path) -> None:
    (folder / "backbone.gguf").unlink()
    (folder / "llama-server").unlink()
    argv = command("doctor", "small.toml")
    done = subprocess.run(argv, cwd=folder, env=environment(), capture_output=True, text=True, timeout=120, check=False)
    said = " ".join((done.stdout + done.stderr).split())
    assert "student.engine.program: ./llama-server is no program → install llama.cpp" in said
    assert "student.engine.gguf: backbone.gguf is no file → name the backbone's GGUF file" in said


def test_a_trained_student_is_refused_or_converted(folder: Path) -> None:
    make_checkpoint(folder / "trained", training__json="{}")
    convert = """["cp", "backbone.gguf", "{gguf}"]""".replace("backbone.gguf", str(folder / "made.gguf"))
    (folder / "made.gguf").write_text("GGUF made of it")
    assert printed(folder, ASK + 'print(ask("backbone"))') == "Answer: backbone.gguf  of the backbone"
    assert printed(folder, ASK + f'print(ask("trained", convert={convert}))') == "Answer: student.gguf  made of it"
    refused = run_script(folder, ASK + 'ask("trained")')
    assert "was trained, and student.engine.gguf is the backbone; name a command that makes" in refused.stderr
    failed = run_script(folder, ASK + 'ask("trained", convert=["sh", "-c", "echo error: no such shape; exit 3"])')
    assert "ended with exit code 3 before it was ready" in failed.stderr
    assert not list(folder.glob("**/student.gguf"))


def test_a_driver_that_is_killed_leaves_no_server(folder: Path) -> None:
    waits = ASK.replace(
        "        body =", "        print('up', flush=True); __import__('time').sleep(60)\n        body ="
    )
    waits = waits.replace('Path("student.log"), print', 'Path("student.log"), lambda _line: None')
    argv = [sys.executable, "-c", waits + 'ask("backbone")']
    with subprocess.Popen(argv, cwd=folder, env=environment(), stdout=subprocess.PIPE, text=True) as driver:
        assert driver.stdout is not None
        assert driver.stdout.readline() == "up\n"
        family = psutil.Process(driver.pid).children(recursive=True)
        assert any("--ctx-size" in each.cmdline() for each in family)
        os.kill(driver.pid, signal.SIGKILL)
    assert left_over(family) == []


def test_what_shapes_answers_is_in_identity_and_keys_by_itself(folder: Path) -> None:
    script = """
    import json
    from tapir_core.config import StudentConfig
    from tests.examples.llama_cpp import LlamaCppEngine
    changes = {"gguf": "other.gguf", "convert": ["q4"], "max_model_length": 9, "program": "other", "threads": 9,
               "concurrency": 9, "start_timeout_seconds": 9.0}
    assert changes.keys() == LlamaCppEngine.model_fields.keys() - {"type"}, "say of each field what it changes"
    before = LlamaCppEngine(gguf="backbone.gguf")
    after = {name: LlamaCppEngine(**{"gguf": "backbone.gguf", name: value}) for name, value in changes.items()}
    identity = [name for name, each in after.items() if each.identity_suffix != before.identity_suffix]
    keys = [name for name, each in after.items() if each.answers_as != before.answers_as]
    assert identity == keys
    print(json.dumps([identity, before.identity_suffix, before.in_words]))
    """
    changed, suffix, words = json.loads(printed(folder, script))
    assert changed == ["gguf", "convert", "max_model_length"]
    assert suffix.startswith("-llama_cpp-")
    assert words == "llama.cpp with backbone.gguf"


SOURCE = (Path(__file__).parent / "llama_cpp.py").read_text()


LEFT_OUT: list[tuple[dict[str, str], str]] = [
    (
        {'    type: Literal["llama_cpp"] = "llama_cpp"\n': ""},
        "LlamaCppEngine lacks type; define what StudentEngine says of it",
    ),
    (
        {'    served_by: ClassVar = "driver"\n': ""},
        "LlamaCppEngine lacks served_by; define what StudentEngine says of it",
    ),
    ({"def in_words": "def words"}, "LlamaCppEngine lacks in_words; define what StudentEngine says of it"),
    ({"def launch": "def start_it"}, "LlamaServer lacks launch; define what StudentServer says of it"),
    ({"def installed": "def found"}, "LlamaServer lacks installed; define what StudentServer says of it"),
    (
        {"serve(LlamaCppEngine, ": "print("},
        "tasks.engines.student_server.serving does nothing for LlamaCppEngine yet; add",
    ),
]


@pytest.mark.parametrize(("changes", "message"), LEFT_OUT, ids=[message.split(";")[0] for _, message in LEFT_OUT])
def test_each_part_left_out_says_what_to_add(tmp_path: Path, changes: dict[str, str], message: str) -> None:
    text = SOURCE
    for part, instead in changes.items():
        assert part in text
        text = text.replace(part, instead, 1)
    (tmp_path / "example.py").write_text(text)
    script = """
    import sys
    sys.path.insert(0, ".")
    import example
    from tapir_core.config import StudentEngine
    import tasks.engines.endpoints  # declares the kinds of the product, as every run does
    from tasks.engines.student_server import serving
    for kind in StudentEngine.kinds().values():  # as tests/tapir_core/config/test_kinds.py does
        serving(kind.model_construct())
    """
    done = run_script(tmp_path, script)
    assert done.returncode == 1
    assert message in done.stderr
