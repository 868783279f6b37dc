"""Whoever is killed, nothing that a child started is left."""

import os
import select
import signal
import socket
import subprocess
import sys
import threading
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import psutil
import pytest

from tapir_core.errors import EngineError
from tasks.engines import machine, supervisor_main
from tasks.engines.supervisor import Child, start_child
from tests import waiting

wait_until = partial(waiting.wait_until, seconds=15, every=0.02)

FAMILY = """
import os, signal, sys, time
for _ in range(2):
    if os.fork() == 0:                      # a child in a session of its own …
        os.setsid()
        if os.fork() == 0:                  # … whose child loses it at once
            open(f"{sys.argv[1]}/{os.getpid()}", "w").close()
            time.sleep(600)
        os._exit(0)
    os.wait()
with open(f"{sys.argv[1]}/{os.getpid()}", "w") as file:
    file.write(os.environ["TMPDIR"])
time.sleep(600)
"""
"""Three processes, two of them double-forked into sessions of their own."""
STUBBORN_FAMILY = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n{FAMILY}"

DRIVER = """
import os, psutil, sys, time
from pathlib import Path
from tasks.engines.supervisor import start_child
folder = Path(sys.argv[1])
argv = [sys.executable, "-c", sys.argv[2], str(folder / "pids")]
child = start_child(argv, env=os.environ, log_path=folder / "log", name="family")
above = psutil.Process(child.pid).parents()[:2]
(folder / "supervisors").write_text(" ".join(str(each.pid) for each in above))
if sys.argv[3] == "fork":
    if os.fork() == 0:
        (folder / "forked").write_text(str(os.getpid()))
        time.sleep(600)
time.sleep(600)
"""


def python(code: str, *args: object) -> list[str]:
    return [sys.executable, "-c", code, *map(str, args)]


def start(code: str, folder: Path, *args: object) -> Child:
    return start_child(python(code, *args), env=os.environ, log_path=folder / "logs" / "child.log", name="test child")


def start_family(folder: Path, code: str = FAMILY) -> tuple[Child, list[int], list[int]]:
    """The child, its processes, and guard and keeper above them."""
    (folder / "pids").mkdir()
    child = start(code, folder, folder / "pids")
    keeper, guard = psutil.Process(child.pid).parents()[:2]
    return child, family_pids(folder), [guard.pid, keeper.pid]


def family_pids(folder: Path) -> list[int]:
    wait_until(lambda: len(list((folder / "pids").iterdir())) == 3)
    return [int(path.name) for path in (folder / "pids").iterdir()]


def temporary_folder(folder: Path) -> Path:
    """Where the first process of a family keeps temporary files, in its own words."""
    wait_until(lambda: any(file.read_text() for file in (folder / "pids").iterdir()))
    return next(Path(text) for file in (folder / "pids").iterdir() if (text := file.read_text()))


def runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


def wait_until_gone(pids: list[int]) -> None:
    wait_until(lambda: not any(map(runs, pids)))


@pytest.mark.parametrize("code", [0, 3, 255])
def test_the_exit_code_passes_through(tmp_path: Path, code: int) -> None:
    assert start(f"raise SystemExit({code})", tmp_path).wait() == code


def test_a_child_ended_by_a_signal_has_a_negative_exit_code(tmp_path: Path) -> None:
    child = start("import time; time.sleep(600)", tmp_path)
    os.kill(child.pid, signal.SIGUSR1)
    assert child.wait() == -signal.SIGUSR1


def test_output_is_appended_to_the_log(tmp_path: Path) -> None:
    for word in ("first", "second"):
        with start(
            "import sys; print(sys.argv[1], flush=True); print('aside', file=sys.stderr)", tmp_path, word
        ) as child:
            child.wait()
    assert child.log_path.read_text().split() == ["first", "aside", "second", "aside"]


def test_a_command_that_does_not_exist_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"server could not be started: .*/no/such: No such file or directory; see"):
        start_child(["/no/such"], env={}, log_path=tmp_path / "log", name="server")


def test_the_child_gets_exactly_the_given_environment_and_folder(tmp_path: Path) -> None:
    code = "import os; print(sorted(set(os.environ) - {'LC_CTYPE', 'TMPDIR'}), os.getcwd())"
    child = start_child(python(code), env={"ONLY": "this"}, log_path=tmp_path / "log", cwd=tmp_path, name="test child")
    assert child.wait() == 0
    assert child.log_path.read_text().strip() == f"['ONLY'] {tmp_path}"


def test_a_child_ends_when_it_is_told_also_where_a_thousand_files_are_open(tmp_path: Path) -> None:
    with ExitStack() as held:
        machine.allow_open_files()
        for _ in range(1100):
            held.enter_context(Path(os.devnull).open())
        child = start("import time; time.sleep(600)", tmp_path)
        assert child.terminate(1) == -signal.SIGTERM


def test_temporary_files_go_with_the_child(tmp_path: Path) -> None:
    child = start("import tempfile; print(tempfile.mkdtemp())", tmp_path)
    assert child.wait() == 0
    left = Path(child.log_path.read_text().strip())
    assert not left.exists()
    assert not left.parent.exists()


def test_poll_does_not_wait(tmp_path: Path) -> None:
    with start("import time; time.sleep(600)", tmp_path) as child:
        assert child.poll() is None


def test_terminate_lets_the_child_finish_its_work(tmp_path: Path) -> None:
    code = "import signal, sys, time; signal.signal(15, lambda *_: sys.exit(7)); print('ready', flush=True)"
    child = start(f"{code}\ntime.sleep(600)", tmp_path)
    wait_until(lambda: "ready" in child.log_path.read_text())
    assert child.terminate(10) == 7
    assert child.terminate(10) == 7, "ending twice changes nothing"


def test_terminate_ends_what_ignores_it(tmp_path: Path) -> None:
    child, pids, (guard, keeper) = start_family(tmp_path, STUBBORN_FAMILY)
    below = psutil.Process(guard).children(recursive=True)
    assert sorted(each.pid for each in below) == sorted([keeper, *pids])
    assert child.terminate(0.2) == -signal.SIGKILL
    assert not any(map(runs, [*pids, guard, keeper]))


def test_a_child_that_ends_by_itself_leaves_nothing(tmp_path: Path) -> None:
    code = "import subprocess, sys; print(subprocess.Popen(['sleep', '600'], start_new_session=True).pid)"
    child = start(code, tmp_path)
    assert child.wait() == 0
    assert not runs(int(child.log_path.read_text()))


def test_killing_the_child_leaves_nothing(tmp_path: Path) -> None:
    child, pids, supervisors = start_family(tmp_path)
    os.kill(child.pid, signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    assert not any(map(runs, [*pids, *supervisors]))


@pytest.mark.parametrize("victim", [0, 1], ids=["guard", "keeper"])
def test_killing_a_supervisor_leaves_nothing(tmp_path: Path, victim: int) -> None:
    child, pids, supervisors = start_family(tmp_path)
    os.kill(supervisors[victim], signal.SIGKILL)
    assert child.wait() < 0
    assert not any(map(runs, pids))
    wait_until_gone(supervisors)


def test_a_driver_that_dies_before_it_hears_of_the_start_leaves_nothing() -> None:
    ours, theirs = socket.socketpair()
    argv = [
        sys.executable,
        "-I",
        supervisor_main.__file__,
        str(theirs.fileno()),
        *python("import time; time.sleep(600)"),
    ]
    with subprocess.Popen(argv, pass_fds=[theirs.fileno()]) as guard:
        theirs.close()
        assert select.select([ours], [], [], 15)[0], "the start was not reported"
        ours.close()
        assert guard.wait(15) == 0


@pytest.mark.parametrize("mode", ["alone", "fork"])
def test_killing_the_driver_leaves_nothing(tmp_path: Path, mode: str) -> None:
    """`fork`: a process that the driver forked without exec keeps a copy of the pipe's end."""
    (tmp_path / "pids").mkdir()
    family = STUBBORN_FAMILY if mode == "alone" else FAMILY
    driver = subprocess.Popen(python(DRIVER, tmp_path, family, mode), cwd=Path(__file__).parents[3])
    pids = family_pids(tmp_path)
    wait_until((tmp_path / "supervisors").exists)
    supervisors = [int(pid) for pid in (tmp_path / "supervisors").read_text().split()]
    if mode == "fork":
        wait_until((tmp_path / "forked").exists)
    temporary = temporary_folder(tmp_path)
    assert temporary.exists()
    driver.kill()
    driver.wait()
    wait_until_gone([*pids, *supervisors])
    assert not temporary.exists()
    if mode == "fork":
        os.kill(int((tmp_path / "forked").read_text()), signal.SIGKILL)


def test_children_started_by_many_threads_end_one_by_one(tmp_path: Path) -> None:
    children: list[Child] = []

    def start_one() -> None:
        children.append(start("import time; time.sleep(600)", tmp_path))

    threads = [threading.Thread(target=start_one) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, child in enumerate(children):
        assert child.poll() is None
        child.terminate(5)
        assert all(other.poll() is None for other in children[number + 1 :])


def test_our_descriptors_are_closed_when_a_child_has_ended(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        start("", tmp_path).wait()
    assert len(os.listdir("/proc/self/fd")) == before
