"""What a benchmark reads: rows of JSON files, and the answers of a student of another run.

A file is a list or lines; every object in it is read by a function, and every bad one is named at once. The other run
is only read. Its answers are an ingredient of the run that is set against them, so that other answers make other
figures.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import polars as pl

from tapir_core import errors, paths
from tapir_core.config import RunConfig
from tapir_core.config.benchmarks import RunBaseline
from tapir_core.data import dataset, records
from tapir_core.evaluation.scores import ALL
from tapir_core.run_folder import RunFolder, RunRef
from tapir_core.stages import BENCHMARK_ANSWERS, BENCHMARK_ITEMS, StageAt
from tapir_core.text import digest, encodable

SHOWN_DIGITS = 12
"""Of a digest, in a figure's record."""

_FAILED = "$ERROR$"
"""What FastChat writes where a provider gave no answer."""


def read_rows(path: str, read_one: Callable[[records.Fields], records.T], what: str) -> list[records.T]:
    """What ``read_one`` makes of every object in a file or at a URL; ``what`` names a row in messages.

    Raises:
        ConfigError: the file cannot be read or holds nothing, or ``read_one`` raised `BadRecordError`.
    """
    found, bad = records.read_each(records.read_records(path, tables=False), read_one)
    if bad:
        raise errors.ConfigError(records.first_of(bad), source=path)
    if not found:
        raise errors.ConfigError(f"{path!r} holds no {what}; expected a JSON list or JSON lines, an object a {what}")
    return [row for _, row in found]


def text_of(fields: records.Fields, name: str) -> str:
    """The text in a field, `encodable`.

    Raises:
        BadRecordError: there is none.
    """
    found = fields.get(name)
    if not isinstance(found, str):
        raise records.BadRecordError(f"{name} must be a text, got {found!r}")
    return encodable(found)


def answer_of(found: Any, name: str) -> str | None:
    """The answer that a field holds, `encodable`; nothing where it failed: `null`, or FastChat's mark of it.

    Raises:
        BadRecordError: it is no text.
    """
    if found is not None and not isinstance(found, str):
        raise records.BadRecordError(f"{name} must be a text, or null for an answer that failed; got {found!r}")
    return None if found is None or found.strip() == _FAILED else encodable(found)


def check_category(name: str) -> str:
    """The category.

    Raises:
        BadRecordError: it has the name that the whole has among figures.
    """
    if name == ALL:
        raise records.BadRecordError(f"the category {ALL!r} stands for all questions together; give it another name")
    return name


def baseline_student(config: RunConfig, name: str) -> "BaselineStudent | None":
    """The student that the baseline of benchmark ``name`` is; nothing where it is a file, or there is none."""
    named = config.evaluation.asked[name].baseline_run
    if named is None:
        return None
    return BaselineStudent(
        f"evaluation.benchmarks.{name}.baseline",
        RunFolder(RunRef(config.run.root, named.run)),
        named,
        named.benchmark or name,
    )


@dataclass(frozen=True)
class BaselineStudent:
    """A student of another run of the same root."""

    field: str
    """Of the configuration, which names it."""
    run: RunFolder
    named: RunBaseline
    benchmark: str
    """What the benchmark is called there."""

    @property
    def student(self) -> str:
        """The student and its run, in words."""
        number = self.named.round
        return f"{paths.OF_NO_ROUND.get(number, f'S_{number}')} of run {self.named.run}"

    @property
    def in_words(self) -> str:
        """Which student it is, to stand beside a figure: round, run, benchmark, SHA-256 of its configuration."""
        configuration = self.run.storage.sha256(paths.RESOLVED_CONFIG)[:SHOWN_DIGITS]
        return f"{self.student} (benchmark {self.benchmark}, configuration {configuration})"

    @property
    def digest(self) -> str:
        """Of the questions and of its answers.

        Raises:
            ConfigError: there is no such run, or its student has not answered the benchmark.
        """
        return digest([each.digest for each in self._held])

    def answers(self, items: pl.DataFrame, by: Sequence[str]) -> dict[tuple[str, int], str | None]:
        """Question and turn of ``items`` → the answer to what is alike there in the columns ``by``.

        An answer that failed, or that nobody asked for there, is nothing.

        Raises:
            ConfigError: as `digest`.
        """
        assert self._held
        asked, answered = (self.run.rows(at) for at in self._places)
        rows = asked.join(answered, on=["question_id", "turn"], how="left", maintain_order="left")
        given = dict(zip(rows.select(by).iter_rows(), rows["response"], strict=True))
        return {
            (question, turn): given.get(key)
            for (question, turn), key in zip(
                items.select("question_id", "turn").iter_rows(), items.select(by).iter_rows(), strict=True
            )
        }

    @property
    def _places(self) -> tuple[StageAt, StageAt]:
        items = BENCHMARK_ITEMS.at(benchmark=self.benchmark)
        return items, BENCHMARK_ANSWERS.at(self.named.round, benchmark=self.benchmark)

    @cached_property
    def _held(self) -> list[dataset.DatasetRef]:
        try:
            known = self.run.config.evaluation.asked
        except errors.ConfigError as exc:
            raise errors.ConfigError(f"{self.field}.run: {exc}") from exc
        if self.benchmark not in known:
            raise errors.ConfigError(
                f"{self.field}: run {self.named.run!r} has no benchmark {self.benchmark!r} that can be asked; it has "
                f"{', '.join(known) or 'none'}: name one with the same questions in `benchmark`, or give it this one "
                "and run it with --amend"
            )
        held = [self.run.holds(at) for at in self._places]
        if any(each is None for each in held):
            which = paths.OF_NO_ROUND.get(self.named.round, self.named.round)
            raise errors.ConfigError(
                f"{self.field}: {self.student} has not answered benchmark {self.benchmark!r}; ask it with `tapir "
                f"evaluate {self.named.run} --benchmark {self.benchmark} --round {which}`, then give this command again"
            )
        return [each for each in held if each is not None]
