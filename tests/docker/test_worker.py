import os
import subprocess
import sys
import time
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "docker/worker.py"

WORKER = """#!{python}
import pathlib, signal, subprocess, sys, time
log = pathlib.Path({log!r})
def end(*_):
    log.open("a").write(NAME + " ended\\n")
    sys.exit(0)
if sys.argv[1] == "flow-run":
    NAME = "flow run"
    signal.signal(signal.SIGTERM, lambda *_: (time.sleep(0.2), end()))
    log.open("a").write("flow run begun\\n")
    time.sleep(60)
NAME = "worker"
signal.signal(signal.SIGTERM, end)
log.open("a").write(" ".join(sys.argv[1:]) + "\\n")
subprocess.run([sys.executable, __file__, "flow-run"])
time.sleep(60)
"""


def test_a_flow_run_has_time_to_end_before_its_worker_does(tmp_path):
    log, command = tmp_path / "log", tmp_path / "python"
    command.write_text(WORKER.format(python=sys.executable, log=str(log)))
    command.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    with subprocess.Popen([sys.executable, SCRIPT, "tapir-gpu", "--limit", "1"], env=environment) as process:
        deadline = time.monotonic() + 30
        while not (log.exists() and "flow run begun" in log.read_text()) and time.monotonic() < deadline:
            time.sleep(0.02)
        process.terminate()
        assert process.wait(timeout=30) == 0
    started, *rest = log.read_text().splitlines()
    assert started.startswith("-m flows.server_away worker start --pool tapir-gpu --type process --with-healthcheck")
    assert started.endswith("--limit 1")
    assert rest == ["flow run begun", "flow run ended", "worker ended"]
