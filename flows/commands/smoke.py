"""`tapir smoke`: proves a machine. A tiny random student goes through the stages of a run, on the real engines.

It is a run like any other, with the stand-in as teacher and judge, in a temporary folder: no key, no network. It ends
with the training of round 1, when every kind of stage has been at work. Limits: the student learns nothing, and no
score is looked at.
"""

import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flows import driver, whole_run
from flows.commands import live, terminal
from tapir_core import run_folder, run_state
from tapir_core.config import RunConfig, load
from tapir_core.summary.formats import duration
from tasks.engines import supervisor

_TUNING = {"examples": 32, "epochs": 1.0, "learning_rate": 1e-3}
_MAX_LENGTH = 1024
"""Tokens: a small vocabulary needs many for a prompt."""


def smoke(overrides: terminal.Overrides = None) -> None:
    """`tapir smoke`."""
    folder, began = Path(tempfile.mkdtemp(prefix="tapir-smoke-")), time.monotonic()
    try:
        prove(folder, overrides or [])
    except Exception:  # told here, and raised again
        terminal.print_lines(
            terminal.console, f"FAIL after {duration(time.monotonic() - began)}; logs and run: {folder}"
        )
        raise
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    shutil.rmtree(folder)
    terminal.print_lines(terminal.console, f"PASS: {duration(time.monotonic() - began)}")


def prove(folder: Path, overrides: Sequence[str] = ()) -> None:
    """Take a tiny student, made in ``folder``, through a run.

    Raises:
        ConfigError: an override is wrong.
        TapirError: this machine lacks something, or an engine failed.
    """
    with _told("tiny student"):
        supervisor.run_module(
            "tasks.engines.tiny_student",
            folder / "student",
            log_path=folder / "student.log",
            name="the maker of a tiny student",
        )
    with _told("configuration"):
        config = smoke_config(folder, overrides)
        driver.check_settings(config, source="tapir smoke")
    with live.shown_flows(run_folder.RunRef(config.run.root, config.run.name), terminal.console) as shown:

        def distil(run: run_folder.RunFolder, until: str | None) -> None:
            with _told("Prefect server"):
                shown.connect()
            try:
                shown.do("distil", run, until)
            except Exception:  # as above: only now is it known which stage failed
                terminal.print_lines(terminal.console, f"{run_state.state_of(run).next_stage}: failed")
                raise

        with _told("run"):
            whole_run.drive(config, distil, say=lambda _: None, until="train@1")


@contextmanager
def _told(step: str) -> Iterator[None]:
    """A line when the block ends: how long it took, or that it failed."""
    began, end = time.monotonic(), "failed"
    try:
        yield
        end = duration(time.monotonic() - began)
    finally:
        terminal.print_lines(terminal.console, f"{step}: {end}")


def smoke_config(folder: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """One round on some dozen instructions of the stand-in; precision and processes are the machine's own.

    Raises:
        ConfigError: an override is wrong.
    """
    standin = {"endpoint": {"type": "standin"}}
    table: dict[str, Any] = {
        "run": {"name": "smoke", "root": str(folder / "runs"), "rounds": 1},
        "data": {
            "pool": {"type": "standin", "rows": 60, "max_level": 1},
            "heldout": {"type": "standin", "dev": 10, "test": 10, "max_level": 1},
        },
        "student": {
            "backbone": str(folder / "student"),
            "engine": {
                "cpu_kv_cache_gib": 1,
                "gpu_memory_utilization": 0.3,
                "max_model_length": _MAX_LENGTH,
                "concurrency": 32,
            },
            "sampling": {"max_tokens": 16},
        },
        "teacher": standin,
        "judge": standin,
        "curriculum": {
            "alpha_start": 0.5,
            "refine": True,
            "target_shares": "equal",
            "expansion": {"max_waves": 1, "max_rouge_l": 0.9},
            "stop": {"min_seeds": 0},
        },
        "basic_tuning": _TUNING,
        "rounds": {"default": {**_TUNING, "selection": {"type": "hard_share"}}},
        "training": {"batch_size": 16, "micro_batch_size": 4, "max_length": _MAX_LENGTH},
        "evaluation": {"baseline": "none"},
    }
    return load.validated(RunConfig, table, "tapir smoke", overrides)
