"""Files of benchmarks by their address: fetched once a start, kept by what they hold, read from there."""

import shutil
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from rich.console import Console

from flows.commands.folders import move_run
from tapir_core.config import RunConfig
from tapir_core.errors import ConfigError, RunChanged
from tapir_core.evaluation.benchmark import benchmark_of
from tapir_core.run_folder import RunFolder, RunRef, open_run
from tapir_core.stages import StageAt
from tasks.benchmarks import benchmark_items
from tasks.input_files import gather_files
from tasks.pool import questions
from tasks.runtime import close_all
from tests.benchmark_runs import ALPACA, MT_BENCH, QUESTIONS
from tests.run_config import make_config

ITEMS, ASKED = StageAt("benchmark_items", benchmark="mine"), StageAt("questions")


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Nothing on the terminal."""


class Site:
    """A folder on a web server of this machine, at an address that stays while the server is away."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self._port = 0
        self.come()

    def come(self) -> None:
        handler = partial(_Quiet, directory=str(self.folder))
        self._server = ThreadingHTTPServer(("127.0.0.1", self._port), handler)
        self._port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def go(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def publish(self, path: str) -> str:
        """The address of a copy of this file."""
        shutil.copy(path, self.folder)
        return f"http://127.0.0.1:{self._port}/{Path(path).name}"


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path / "site")
    yield site
    site.go()
    close_all()


def configured(root: Path, settings: dict[str, str], name: str = "fetched") -> RunConfig:
    return make_config(root / "runs", run={"name": name}, evaluation={"benchmarks": {"mine": settings}})


def opened(config: RunConfig, said: list[str] | None = None, *, amend: bool = False) -> RunFolder:
    told = [] if said is None else said
    return open_run(config, gather_files(config, say=told.append), amend=amend)


def read(run: RunFolder) -> None:
    questions.fn(run.ref, StageAt("questions"))
    benchmark_items.fn(run.ref, StageAt("benchmark_items", benchmark="mine"))


def test_what_an_address_holds_is_read_and_kept_and_a_run_goes_on_when_the_server_is_gone(
    tmp_path: Path, site: Site
) -> None:
    by_address = {**MT_BENCH, **{name: site.publish(MT_BENCH[name]) for name in ("questions", "references")}}
    config = configured(tmp_path, by_address)
    run = opened(config)
    read(run)
    of_files = benchmark_of(configured(tmp_path, MT_BENCH, "files"), "mine").items()
    assert run.rows(ITEMS).equals(of_files)
    assert run.rows(ASKED).height == 2 * QUESTIONS
    kept = sorted(file.name.partition("-")[2] for file in (tmp_path / "runs/.tapir/fetched").iterdir())
    assert kept == sorted(Path(by_address[name]).name for name in ("questions", "references"))

    site.go()
    said: list[str] = []
    again = opened(config, said)
    assert again.holds(ITEMS)
    assert again.holds(ASKED)
    assert len(said) == 2
    assert all("nothing can be read at" in line and "Going on with what was fetched before" in line for line in said)
    for at in (ITEMS, ASKED):
        again.storage.remove(at.folder)
    read(again)
    assert again.rows(ITEMS).equals(of_files)
    with pytest.raises(ConfigError, match=r"benchmarks\.mine\.\w+: nothing can be read at 'http://127\.0\.0\.1:\d+/"):
        opened(configured(tmp_path, by_address, "another"))
    site.come()


def test_an_address_that_holds_something_else_is_told_with_the_way_back_and_the_way_on(
    tmp_path: Path, site: Site
) -> None:
    by_address = {**ALPACA, "questions": site.publish(ALPACA["questions"])}
    config = configured(tmp_path, by_address)
    run = opened(config)
    read(run)
    before = run.rows(ITEMS)
    published = site.folder / Path(ALPACA["questions"]).name
    published.write_text(published.read_text().replace('"facts"', '"other"'))
    with pytest.raises(
        RunChanged, match=r"Other than before: file:questions:mine\n(.*\n)* *benchmark_items"
    ) as refused:
        opened(config)
    kept = (tmp_path / "runs/.tapir/fetched").glob("*-alpaca_eval.json")
    first, second = sorted(kept, key=lambda file: file.stat().st_mtime_ns)
    assert f"(what an address held is kept: {first})" in str(refused.value)
    read(RunFolder(run.ref))
    assert run.rows(ITEMS).equals(before), "a run reads what it was opened with"

    back = opened(configured(tmp_path, {**ALPACA, "questions": str(first)}))
    assert back.holds(ITEMS)
    on = opened(config, amend=True)
    assert on.holds(ITEMS) is None
    read(on)
    assert set(on.rows(ITEMS)["category"]) - set(before["category"]) == {"other"}
    assert second.read_bytes() == published.read_bytes()


def test_a_kept_file_that_is_damaged_is_told_and_fetched_anew_at_the_next_start(tmp_path: Path, site: Site) -> None:
    config = configured(tmp_path, {**ALPACA, "questions": site.publish(ALPACA["questions"])})
    run = opened(config)
    [kept] = (tmp_path / "runs/.tapir/fetched").iterdir()
    kept.write_text(kept.read_text()[:-20])
    with pytest.raises(RunChanged, match=r"mine\.questions: .*alpaca_eval\.json' is not the file"):
        benchmark_items.fn(run.ref, StageAt("benchmark_items", benchmark="mine"))
    site.go()
    with pytest.raises(ConfigError, match="nothing can be read at"):
        opened(config)
    site.come()
    read(opened(config))
    assert run.holds(ITEMS)


def test_models_outputs_by_address_are_kept_as_the_files_of_their_benchmark_are(tmp_path: Path, site: Site) -> None:
    address, file = site.publish(ALPACA["baseline"]), ALPACA["baseline"]
    config = configured(tmp_path, {**ALPACA, "outputs": {"gpt": address, "here": file}})
    outputs = opened(config).kept_config.evaluation.judged["mine"].outputs
    assert outputs["here"] == file
    assert Path(outputs["gpt"]).read_bytes() == Path(file).read_bytes()


def test_a_run_that_moves_takes_along_what_it_fetched(tmp_path: Path, site: Site) -> None:
    run = opened(configured(tmp_path, {**ALPACA, "questions": site.publish(ALPACA["questions"])}))
    read(run)
    move_run(run.ref, str(tmp_path / "there"), Console(quiet=True), say=lambda _: None, remove=True)
    site.go()
    there = RunFolder(RunRef(str(tmp_path / "there"), run.ref.name))
    moved = opened(there.config)
    assert moved.holds(ITEMS)
    moved.storage.remove(ITEMS.folder)
    read(moved)
    assert moved.rows(ITEMS).height == QUESTIONS
    site.come()
