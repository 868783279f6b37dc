"""lm-evaluation-harness as a supervised child: what a task asks, and its marks of given answers.

It lives in an environment of its own (``make lm-eval-env``) and asks no model: a student's answers come through our own
calls, so that they are stored, shared out and counted as everywhere. Limits: tasks that generate text, each question
asked once, in one user message.
"""

import json
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tapir_core.config import LmEvalBenchmark
from tapir_core.data.formats import BrokenRecord, read_records
from tapir_core.errors import ConfigError, EngineError, MissingPrerequisite
from tapir_core.evaluation.benchmarks import HarnessTask
from tasks.engines.keys import keyless_environment
from tasks.engines.supervisor import start_child

__all__ = ["Harness", "Marked", "find_harness"]

_REMEDY = "run `make lm-eval-env`, or let its `python` name an interpreter that has lm-evaluation-harness"

_POLL_SECONDS = 0.1
_LAST_LINES = 8
_NLTK_DATA = re.compile(r"^LookupError:.*nltk\.download\('(\w+)'\)", flags=re.MULTILINE | re.DOTALL)
_VERSION = "from importlib import metadata; print(metadata.version('lm_eval'))"


@dataclass(frozen=True, slots=True)
class Marked:
    """What the harness made of answers."""

    task: HarnessTask
    marks: Mapping[str, Sequence[tuple[str, Sequence[float]]]]
    """Metric → question and its marks, 0-1, in the harness's order of metrics."""
    left_out: tuple[str, ...]
    """Metrics that are no mean of such marks."""


def find_harness(python: str) -> str:
    """Version of lm-evaluation-harness beside an interpreter; nothing heavy is loaded.

    Raises:
        MissingPrerequisite: there is no such interpreter, or it has no harness.
    """
    file = Path(python).expanduser()
    if not os.access(file, os.X_OK):
        raise MissingPrerequisite(f"{python} is no interpreter; {_REMEDY}")
    command = [str(file.absolute()), "-c", _VERSION]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=_environment())
    if done.returncode:
        raise MissingPrerequisite(f"{python} has no lm-evaluation-harness; {_REMEDY}")
    return done.stdout.strip()


@dataclass(frozen=True, slots=True)
class Harness:
    """The harness for one benchmark."""

    name: str
    """What the run's configuration calls the benchmark."""
    settings: LmEvalBenchmark
    log_path: Path
    check_stop: Callable[[], None]
    """Called while the child works; what it raises ends the child."""

    def questions(self) -> list[tuple[str, str, str]]:
        """Question, prompt and target of everything that the task asks, in the order of its file.

        Raises:
            ConfigError: the harness has no such task, or it cannot be asked in a chat.
            MissingPrerequisite: the harness's environment is not there.
            EngineError: the harness failed.
        """
        return [(question, prompt, target) for question, prompt, target in self._do(None)["items"]]

    def mark(self, answers: Sequence[tuple[str, str, str]]) -> Marked:
        """Marks of answers, each a question, its prompt and the answer, in the order of `questions`.

        Raises:
            ConfigError: no metric of the task is a mean of marks between 0 and 1.
            MissingPrerequisite: the harness's environment is not there.
            EngineError: the harness failed.
        """
        said = self._do(answers)
        left_out = tuple(said["left_out"])
        if answers and not said["metrics"]:
            raise ConfigError(
                f"{self._where}: no metric is a mean of marks between 0 and 1 (it has {', '.join(left_out)})"
            )
        marks = {metric: [(question, values) for question, values in rows] for metric, rows in said["metrics"]}
        return Marked(self._task(said), marks, left_out)

    @property
    def _where(self) -> str:
        return f"evaluation.benchmarks.{self.name}: task {self.settings.task!r}"

    def _task(self, said: Mapping[str, Any]) -> HarnessTask:
        return HarnessTask(
            said["harness"], self.settings.task, said["task_version"], self._own_sampling(**said["sampling"])
        )

    def _own_sampling(self, temperature: float | None, max_tokens: int | None) -> str:
        """How the task itself would draw answers, where that is not how they were drawn."""
        drawn = self.settings.answering
        if temperature in (None, drawn.temperature) and max_tokens in (None, drawn.max_tokens):
            return ""
        told = (
            f"temperature {temperature:g}" if temperature is not None else "",
            f"{max_tokens} tokens" if max_tokens else "",
        )
        return ", ".join(filter(None, told))

    def _do(self, answers: Sequence[tuple[str, str, str]] | None) -> Any:
        with tempfile.TemporaryDirectory(prefix="tapir-lm-eval-") as folder:
            job, result = Path(folder, "job.json"), Path(folder, "result.json")
            job.write_text(json.dumps({**self._files(), "answers": answers}))
            self._run(job, result)
            said = json.loads(result.read_text())
        if "refused" in said:
            raise ConfigError(f"{self._where}: {said['refused']}")
        return said

    def _files(self) -> dict[str, object]:
        settings, folder = self.settings, self.settings.include_path
        return {
            "task": settings.task,
            "include_path": str(Path(folder).absolute()) if folder else None,
            "questions": self._records("questions", settings.questions),
            "examples": self._records("examples", settings.examples) if settings.examples else None,
        }

    def _records(self, field: str, path: str) -> list[dict[str, Any]]:
        records = read_records(path)
        if broken := [each for each in records if isinstance(each, BrokenRecord)]:
            where = f"evaluation.benchmarks.{self.name}.{field}"
            raise ConfigError([f"{where}: {path!r}, row {each.number}: {each.reason}" for each in broken[:20]])
        return [each.fields for each in records if not isinstance(each, BrokenRecord)]

    def _run(self, job: Path, result: Path) -> None:
        python = Path(self.settings.python).expanduser()
        if not os.access(python, os.X_OK):
            raise MissingPrerequisite(f"{self._where}: {self.settings.python} is no interpreter; {_REMEDY}")
        start = self.log_path.stat().st_size if self.log_path.exists() else 0
        main = Path(__file__).with_name("lm_eval_main.py")
        # Isolated: the modules beside the script are ours, and its environment holds nothing of us.
        argv = [str(python.absolute()), "-I", str(main), str(job), str(result)]
        with start_child(argv, env=_environment(), log_path=self.log_path, name="lm-evaluation-harness") as child:
            while (code := child.poll()) is None:
                self.check_stop()
                time.sleep(_POLL_SECONDS)
        if code or not result.exists():
            raise self._explain(code, self.log_path.read_bytes()[start:].decode("utf-8", "replace"))

    def _explain(self, code: int, log: str) -> EngineError | MissingPrerequisite:
        if "No module named 'lm_eval'" in log:
            return MissingPrerequisite(f"{self._where}: {self.settings.python} has no lm-evaluation-harness; {_REMEDY}")
        if lacking := _NLTK_DATA.search(log):
            return MissingPrerequisite(
                f"{self._where} is marked with data of nltk that is not here ({lacking[1]}); run "
                f"`{self.settings.python} -m nltk.downloader {lacking[1]} -d FOLDER` where the network is open, bring "
                "FOLDER here, and name it in the environment variable NLTK_DATA"
            )
        last = "\n".join(f"  {line}" for line in list(_meaningful(log))[-_LAST_LINES:])
        return EngineError(
            f"{self._where}: lm-evaluation-harness ended with exit code {code}; the last lines of "
            f"{self.log_path}:\n{last}"
        )


def _meaningful(log: str) -> Iterator[str]:
    return (line.rstrip() for line in log.splitlines() if line.strip())


def _environment() -> dict[str, str]:
    """No hub and no telemetry: what is asked comes from files."""
    offline = dict.fromkeys(("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HF_EVALUATE_OFFLINE", "DO_NOT_TRACK"), "1")
    return {**keyless_environment(), **offline, "HF_HUB_DISABLE_TELEMETRY": "1", "TOKENIZERS_PARALLELISM": "false"}
