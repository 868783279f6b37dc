"""Benchmarks that mark answers themselves and ask nobody: what they have in common, and lm-evaluation-harness's tasks.

The harness (a task is IFEval, say) lives in an environment of its own (``make lm-eval-env``), runs there as a child
(`tasks/engines/`, `lm_eval_main`), and asks no model: a student's answers come through our own calls, so that they are
stored, shared out and counted as everywhere. Means are those of the harness, over all marks. Departure: its standard
errors take the marks of one question as independent where it has any for such a metric; here questions are.

Limits of the harness's tasks: those that generate text, each question asked once, in one user message.
"""

import math
import os
import re
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import polars as pl

from tapir_core import errors, installation, statistics
from tapir_core.config import RunConfig
from tapir_core.config.benchmarks import LmEvalBenchmark, MarkedBenchmark
from tapir_core.data.records import read_each, read_records
from tapir_core.evaluation.benchmark import Benchmark, Exchange, ScriptFailed, items_table, register
from tapir_core.evaluation.scores import (
    ALL,
    ItemValues,
    Judgment,
    Place,
    Scores,
    failures_in_words,
    withhold_categories,
)
from tapir_core.prompts import Prompt
from tapir_core.stages import BENCHMARK_REPLIES

UNKNOWN = "marks"
"""Metric of answers of which none could be marked, so that nothing named one."""

_M = TypeVar("_M", bound=MarkedBenchmark)
_REMEDY = (
    f"run `{installation.harness_setup()}`, or let its `python` name an interpreter that has lm-evaluation-harness"
)
_NLTK_DATA = re.compile(r"^LookupError:.*nltk\.download\('(\w+)'\)", flags=re.MULTILINE | re.DOTALL)
_VERSION = "from importlib import metadata; print(metadata.version('lm_eval'))"

_OFFLINE = {
    **dict.fromkeys(("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HF_EVALUATE_OFFLINE", "DO_NOT_TRACK"), "1"),
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
"""No hub and no telemetry: what is asked comes from files."""


class Answered(NamedTuple):
    """An answer to be marked."""

    question_id: str
    question: str
    reference: str | None
    response: str
    """As the student gave it, blanks around it included."""


@dataclass(frozen=True, slots=True)
class Marks:
    """What a benchmark that marks answers itself made of them."""

    marker: str
    """Who marks, with its version, as it stands beside a figure in the place of a judge."""
    rules: str
    """By which rules, with their version, as it stands beside a figure in the place of a prompt's version."""
    values: Mapping[str, Sequence[tuple[str, Sequence[float]]]]
    """Metric → question and its marks, each 0-1; the first metric is the headline."""
    left_out: tuple[str, ...] = ()
    """Metrics that are no mean of such marks."""

    def replies(self, failed: Mapping[str, str]) -> pl.DataFrame:
        """A row a metric, question and mark, which are counted as turns: ``replies/``.

        ``failed`` are the questions that have no mark, and why; a row in each metric.
        """
        rows: list[tuple[object, ...]] = []
        for metric in [*self.values] or [UNKNOWN]:
            rows += (
                (question, turn, metric, "single", mark, None, self.rules, "scored", "", "")
                for question, marks in self.values.get(metric, ())
                for turn, mark in enumerate(marks, start=1)
            )
            rows += (
                (question, 1, metric, "single", None, None, self.rules, "failed", reason, "")
                for question, reason in failed.items()
            )
        return pl.DataFrame([(*row, self.marker) for row in rows], schema=BENCHMARK_REPLIES.columns, orient="row")


class Marking(Benchmark[_M]):
    """A benchmark that marks answers itself, each with shares (0-1), and asks nobody.

    A question has one turn, and one mark or several in a metric. A figure is the mean over all marks, in per cent; n,
    what failed and its share count questions, which the interval takes as independent, and not the marks.
    """

    @abstractmethod
    def mark(self, answers: Sequence[Answered]) -> Marks:
        """The marks of a student's answers, which are in the order of the questions; those that failed are not here."""

    def scores(self, exchanges: Sequence[Exchange], judged: Mapping[Place, Judgment]) -> Scores:
        """A mean of each metric, in per cent, in the order of the marks: the first one is the headline."""
        found: dict[tuple[str, str], statistics.Estimate] = {}
        for metric, marks in _by_metric(exchanges, judged).items():
            sums = [_sum(values) for values in marks.values()]
            mean = statistics.in_percent(
                statistics.estimate_ratio(
                    sums, scale=statistics.SHARE, max_failed_share=self.settings.max_failed_share, unit="questions"
                )
            )
            counted = sum(count for _, count in filter(None, sums))
            several = any(len(values) > 1 for values in marks.values())
            found[ALL, metric] = mean.with_note(f"mean of {counted} marks; n counts questions" if several else "")
        return withhold_categories(found, failures_in_words(judged))

    def values(self, exchanges: Sequence[Exchange], judged: Mapping[Place, Judgment]) -> dict[str, ItemValues]:
        """Of the metrics with one mark a question the mark, in per cent."""
        return {
            metric: {question: None if mark is None else 100 * mark for question, [mark] in marks.items()}
            for metric, marks in _by_metric(exchanges, judged).items()
            if all(len(values) == 1 for values in marks.values())
        }

    def judged_by(self, _config: RunConfig, _prompts: Mapping[str, Prompt], replies: pl.DataFrame) -> tuple[str, str]:
        """What marked, which may be another version than is installed by now, and by which rules."""
        marker, rules = replies.select("judge", "how").row(0)
        return marker, rules


@register(LmEvalBenchmark)
class LmEval(Marking[LmEvalBenchmark]):
    """The benchmark with its settings."""

    def items(self) -> pl.DataFrame:
        """The prompts of the task, with its targets as references.

        Raises:
            ConfigError: the harness has no such task, or it cannot be asked in a chat.
            MissingPrerequisite: the harness's environment is not there.
            EngineError: the harness failed.
        """
        return items_table(
            (question, ALL, 1, prompt, target, None) for question, prompt, target in self._do(None)["items"]
        )

    def mark(self, answers: Sequence[Answered]) -> Marks:
        """The harness's marks, in its order of metrics.

        Raises:
            ConfigError: no metric of the task is a mean of marks between 0 and 1.
            MissingPrerequisite: the harness's environment is not there.
            EngineError: the harness failed.
        """
        said = self._do([(each.question_id, each.question, each.response) for each in answers])
        left_out = tuple(said["left_out"])
        if answers and not said["metrics"]:
            raise errors.ConfigError(
                f"{self._task}: no metric is a mean of marks between 0 and 1 (it has {', '.join(left_out)})"
            )
        own = self._own_sampling(**said["sampling"])
        rules = f"{self.settings.task} {said['task_version']}" + (f" (its own sampling: {own})" if own else "")
        return Marks(
            f"{self.settings.marker} {said['harness']}",
            rules,
            {metric: [(question, marks) for question, marks in rows] for metric, rows in said["metrics"]},
            left_out,
        )

    def look(self) -> str:
        """Version of the harness beside its interpreter; nothing heavy is loaded.

        Raises:
            MissingPrerequisite: there is no such interpreter, or it has no harness.
        """
        python = self.settings.python
        assert self.scripts is not None
        version = self.scripts.look(_VERSION, python=self._python(python), environment=_OFFLINE)
        if version is None:
            raise errors.MissingPrerequisite(f"{python} has no lm-evaluation-harness; {_REMEDY}")
        return f"{python}: lm-evaluation-harness {version}, to be asked for its task {self.settings.task!r}"

    @property
    def _task(self) -> str:
        return f"{self.where}: task {self.settings.task!r}"

    def _do(self, answers: Sequence[tuple[str, str, str]] | None) -> Any:
        """What the harness says: of given answers (question, prompt, answer), else of what it asks."""
        settings, folder = self.settings, self.settings.include_path
        job = {
            "task": settings.task,
            "include_path": str(Path(folder).absolute()) if folder else None,
            "questions": self._records("questions", settings.questions),
            "examples": self._records("examples", settings.examples) if settings.examples else None,
            "answers": answers,
        }
        assert self.scripts is not None
        try:
            said = self.scripts.run(
                "lm_eval_main",
                job,
                python=self._python(f"{self._task}: {settings.python}"),
                environment=_OFFLINE,
                log="lm-eval",
            )
        except ScriptFailed as failure:
            raise self._explain(failure) from failure
        if "refused" in said:
            raise errors.ConfigError(f"{self._task}: {said['refused']}")
        return said

    def _python(self, named: str) -> Path:
        python = Path(self.settings.python).expanduser()
        if not os.access(python, os.X_OK):
            raise errors.MissingPrerequisite(f"{named} is no interpreter; {_REMEDY}")
        return python

    def _records(self, field: str, path: str) -> list[dict[str, Any]]:
        found, broken = read_each(read_records(path), dict)
        if broken:
            raise errors.ConfigError([f"{self.where}.{field}: {path!r}, {each}" for each in broken[:20]])
        return [fields for _, fields in found]

    def _own_sampling(self, temperature: float | None, max_tokens: int | None) -> str:
        """How the task itself would draw answers, where that is not how they were drawn."""
        drawn = self.settings.answering
        if temperature in (None, drawn.temperature) and max_tokens in (None, drawn.max_tokens):
            return ""
        return ", ".join(
            [
                *([] if temperature is None else [f"temperature {temperature:g}"]),
                *([f"{max_tokens} tokens"] if max_tokens else []),
            ]
        )

    def _explain(self, failure: ScriptFailed) -> errors.EngineError | errors.MissingPrerequisite:
        python = self.settings.python
        if "No module named 'lm_eval'" in failure.log:
            return errors.MissingPrerequisite(f"{self._task}: {python} has no lm-evaluation-harness; {_REMEDY}")
        if lacking := _NLTK_DATA.search(failure.log):
            return errors.MissingPrerequisite(
                f"{self._task} is marked with data of nltk that is not here ({lacking[1]}); run "
                f"`{python} -m nltk.downloader {lacking[1]} -d FOLDER` where the network is open, bring "
                "FOLDER here, and name it in the environment variable NLTK_DATA"
            )
        last = [f"  {line.rstrip()}" for line in failure.log.splitlines() if line.strip()][-8:]
        return errors.EngineError(
            f"{self._task}: lm-evaluation-harness ended with exit code {failure.code}; the last lines of "
            f"{failure.log_path}:\n" + "\n".join(last)
        )


def _by_metric(
    exchanges: Sequence[Exchange], judged: Mapping[Place, Judgment]
) -> dict[str, dict[str, list[float | None]]]:
    """Metric → question → its marks; one that is nothing where the question has none."""
    found = statistics.grouped((metric, (question, mark.value)) for (question, _, metric, _), mark in judged.items())
    of_questions = {metric: statistics.grouped(marks) for metric, marks in found.items()}
    return {
        metric: {each.question_id: marks.get(each.question_id, [None]) for each in exchanges}
        for metric, marks in of_questions.items()
    }


def _sum(marks: Sequence[float | None]) -> tuple[float, int] | None:
    """A question's marks together, and how many they are; None where one failed."""
    kept = [mark for mark in marks if mark is not None]
    return (math.fsum(kept), len(kept)) if len(kept) == len(marks) else None
