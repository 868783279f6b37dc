"""A benchmark that is asked: its questions, what is judged or marked of a student's answers, its figures.

One class a kind of benchmark, in a module of this folder, registered for its configuration class (`register`) and found
by `benchmark_of`. It is either `Judging`, a judge being asked about every answer, or marks them itself (`marking`).

Grain: an `Exchange` is one question with all its turns and a student's answers; a `Game` is one judgment, one call of
the judge at most. Nothing here makes a call.
"""

import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import polars as pl

from tapir_core import errors, paths, statistics
from tapir_core.config import AskedBenchmark, BenchmarkConfig, RunConfig, Sampling
from tapir_core.config.benchmarks import JudgedBenchmark, RunBaseline
from tapir_core.data import dataset
from tapir_core.evaluation.rows import read_rows
from tapir_core.evaluation.scores import (
    ALL,
    NO_ANSWER,
    NO_BASELINE,
    ItemValues,
    Judgment,
    Order,
    Place,
    Scores,
    failures_in_words,
    scores_table,
    withhold_categories,
)
from tapir_core.prompts import Prompt
from tapir_core.run_folder import RunFolder, RunRef
from tapir_core.stages import BENCHMARK_ANSWERS, BENCHMARK_ITEMS, StageAt
from tapir_core.text import Unparsed, digest, first_few

SHOWN_DIGITS = 12
"""Of a digest, in a figure's record."""
_FILES = "files (SHA-256): "


@dataclass(frozen=True, slots=True)
class Turn:
    """What is asked in one turn, and what was answered."""

    question: str
    reference: str | None
    baseline: str | None
    """The baseline's answer without blanks around it; nothing where it gave none."""
    response: str | None
    """The student's, likewise."""

    @property
    def lacking(self) -> str:
        """Why nobody can set the two answers against each other; empty where both are there."""
        return NO_ANSWER if self.response is None else NO_BASELINE if self.baseline is None else ""

    def shown(self, order: Order) -> tuple[str, str]:
        """Both answers in the order in which a judge sees them; one that is not there is empty."""
        both = (self.response or "", self.baseline or "")
        return both if order == "model_first" else both[::-1]


@dataclass(frozen=True, slots=True)
class Exchange:
    """One question and everything said about it."""

    question_id: str
    category: str
    turns: tuple[Turn, ...]

    def game(self, turn: int, mode: str, order: Order, text: str | None, **known: Any) -> "Game":
        """A judgment on one turn; without a text ``known`` has its reading."""
        return Game(self.question_id, self.category, turn, mode, order, text, **known)


@dataclass(frozen=True, slots=True)
class Game:
    """One judgment to be made: a text for the judge, or what is known without asking."""

    question_id: str
    category: str
    turn: int
    """From 1."""
    mode: str
    order: Order
    text: str | None
    prompt: str = ""
    """The prompt that the text was made with."""
    reading: Judgment | None = None
    """What it comes to where nobody has to be asked, or can be: with the reason why it has failed then."""

    @property
    def place(self) -> Place:
        """What tells it from the other judgments of one student."""
        return self.question_id, self.turn, self.mode, self.order


@dataclass(frozen=True)
class BaselineStudent:
    """A student of another run of the same root, which is only read.

    Its answers are an ingredient of the run that is set against them, so that other answers make other figures.
    """

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
        return (
            BENCHMARK_ITEMS.at(benchmark=self.benchmark),
            BENCHMARK_ANSWERS.at(self.named.round, benchmark=self.benchmark),
        )

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


def baseline_student(config: RunConfig, name: str) -> BaselineStudent | None:
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


class ScriptFailed(Exception):
    """Raised when a script ended without a result; whoever started it says what to do."""

    def __init__(self, code: int, log: str, log_path: Path) -> None:
        super().__init__(f"exit code {code}")
        self.code, self.log, self.log_path = code, log, log_path


class Scripts(Protocol):
    """Runs Python of another interpreter: scripts of `tasks/engines/`, as supervised children without our keys."""

    def run(self, script: str, job: Any, *, python: Path, environment: Mapping[str, str], log: str) -> Any:
        """What ``script`` makes of ``job``; its output goes to the log file of this name.

        Raises:
            ScriptFailed: it ended without a result.
            EngineError: the interpreter cannot be started.
            Stopped: the run is to stop; the child was ended.
        """

    def look(self, code: str, *, python: Path, environment: Mapping[str, str]) -> str | None:
        """What a line of Python prints there, within a minute; nothing where it fails."""


_S = TypeVar("_S", bound=AskedBenchmark)
_J = TypeVar("_J", bound=JudgedBenchmark)


@dataclass(frozen=True)
class Benchmark(ABC, Generic[_S]):
    """One benchmark of a run, as its part of the configuration says."""

    settings: _S
    name: str = ""
    """What the run's configuration calls it."""
    against: BaselineStudent | None = None
    """The student of another run that its baseline is; nothing where it is a file, or there is none."""
    scripts: Scripts | None = field(default=None, repr=False)
    """What runs other interpreters; only what marks with one asks for it."""

    labels: ClassVar[Mapping[str, str]] = {}
    """Metric → what a figure is called, with its unit; where it lacks, its own name and per cent."""

    @property
    def where(self) -> str:
        """Its place in the configuration."""
        return f"evaluation.benchmarks.{self.name}"

    @abstractmethod
    def items(self) -> pl.DataFrame:
        """The questions with what belongs to them, the table ``items/``, in the order of the file.

        Raises:
            ConfigError: a file is wrong, or lacks what another one asks for.
        """

    def answering(self, _category: str, student: Sampling) -> Sampling:
        """How the student's answers are drawn; ``student`` is its own sampling."""
        return self.settings.drawn(student)

    @abstractmethod
    def scores(self, exchanges: Sequence[Exchange], judged: Mapping[Place, Judgment]) -> Scores:
        """All figures of one student; a judgment that is not there has failed."""

    @abstractmethod
    def values(self, exchanges: Sequence[Exchange], judged: Mapping[Place, Judgment]) -> dict[str, ItemValues]:
        """What each headline is made of, by metric: for a comparison of two students on the same questions."""

    @abstractmethod
    def judged_by(self, config: RunConfig, prompts: Mapping[str, Prompt], replies: pl.DataFrame) -> tuple[str, str]:
        """Who judged or marked, and by which prompts or rules, as it stands beside a figure."""

    def settings_in_words(self, drawn: str) -> Iterator[str]:
        """How the replies of both sides were drawn, and what they were set against; ``drawn`` says the student's."""
        yield drawn

    def score_rows(
        self,
        config: RunConfig,
        scores: Scores,
        prompts: Mapping[str, Prompt],
        replies: pl.DataFrame,
        *,
        outputs: tuple[str, str] | None = None,
        files: Mapping[str, str] = MappingProxyType({}),
    ) -> pl.DataFrame:
        """``scores/`` of one student; ``prompts`` are those of the judge, ``replies`` the rows of ``replies/``.

        ``outputs`` are the model and the SHA-256 of its file where answers come from one, nothing for a student;
        ``files`` are the benchmark's own, field → SHA-256.
        """
        drawn = f"student: {self.settings.answering_in_words(config.student.sampling)}"
        if outputs is not None:
            drawn = f"outputs: {outputs[0]}, from a file (SHA-256 {outputs[1][:SHOWN_DIGITS]})"
        told = [*self.settings_in_words(drawn)]
        if files:
            told.append(_FILES + ", ".join(f"{each} {digest[:SHOWN_DIGITS]}" for each, digest in files.items()))
        # Figures of benchmarks are reported, and read by no decision: that is the split `test`.
        return scores_table(scores, self.name, "test", *self.judged_by(config, prompts, replies), "; ".join(told))

    def look(self) -> str:
        """What of this machine it needs, in words; empty where it needs nothing.

        Raises:
            MissingPrerequisite: it is not there.
        """
        return ""


class Judging(Benchmark[_J]):
    """A benchmark whose answers a judge is asked about."""

    found_by: ClassVar[tuple[str, ...]] = ("question_id", "turn", "question")
    """Columns of its items by which the answers of a student of another run are found."""

    @property
    @abstractmethod
    def model_field(self) -> str:
        """The field of a file with a model's answers that says which model's they are."""

    @property
    @abstractmethod
    def outputs_form(self) -> str:
        """The form of such a file, in words."""

    @abstractmethod
    def figures(
        self, exchanges: Sequence[Exchange], judged: Mapping[Place, Judgment], *, whole: bool
    ) -> dict[str, statistics.Estimate]:
        """What the judgments come to, by metric, the first one the headline.

        ``whole`` says whether these are all questions, or those of one category.
        """

    @abstractmethod
    def games(self, exchange: Exchange, prompts: Mapping[str, Prompt]) -> list[Game]:
        """Every judgment on one question."""

    @abstractmethod
    def read(self, game: Game, text: str, logprobs: Mapping[str, float]) -> Judgment | Unparsed:
        """What a reply says; ``logprobs`` are those of its first token, none where none came."""

    @abstractmethod
    def read_outputs(self, path: str, items: pl.DataFrame) -> dict[tuple[str, int], str | None]:
        """Question and turn → a model's answer in a file; nothing where it failed.

        Raises:
            ConfigError: the file cannot be read, or has a row that is no answer.
        """

    def scores(self, exchanges: Sequence[Exchange], judged: Mapping[Place, Judgment]) -> Scores:
        """The figures of all questions, then by category; the first one says what failed."""
        names = dict.fromkeys(each.category for each in exchanges)
        categories = {ALL: exchanges, **{name: [each for each in exchanges if each.category == name] for name in names}}
        found = {
            (name, metric): figure
            for name, of in categories.items()
            for metric, figure in self.figures(of, judged, whole=name == ALL).items()
        }
        return withhold_categories(
            found,
            failures_in_words(
                judged, field=self.where, baseline=self.baseline_name, logprobs=self.settings.logprobs_asked
            ),
        )

    def given_answers(self, model: str, items: pl.DataFrame) -> pl.DataFrame:
        """What the file of ``model`` answers: a row for each turn of ``items``, in their order.

        Columns: question_id, turn, response (nothing where the file has none), finish_reason (`given`, or
        `failed:not_given`). What is no question of the benchmark is left out. How they were drawn is not known.

        Raises:
            ConfigError: the file cannot be read, has a row that is none, is of several models, or answers no question.
        """
        where, path = f"{self.where}.outputs.{model}", self.settings.outputs[model]
        try:
            found = self.read_outputs(path, items)
            models = dict.fromkeys(read_rows(path, lambda row: str(row.get(self.model_field) or ""), "output"))
        except errors.ConfigError as exc:
            raise errors.ConfigError(
                f"{where}: {exc}; is it of another benchmark? Expected {self.outputs_form}"
            ) from exc
        if len(models) > 1:
            raise errors.ConfigError(
                f"{where}: {path!r} holds answers of {len(models)} models ({first_few(models, 5)}); give those of one"
            )
        return items.select(
            "question_id",
            "turn",
            response=self._in_places(
                found, items, f"{where}: {path!r}", f"is it of another benchmark? Give a file of {self.name!r}"
            ),
        ).with_columns(
            finish_reason=pl.when(pl.col("response").is_null())
            .then(pl.lit("failed:not_given"))
            .otherwise(pl.lit("given"))
        )

    def with_baseline(self, items: pl.DataFrame) -> pl.DataFrame:
        """The same items with the baseline's answers, of its file or of the student of another run.

        An answer that it lacks, or that failed, is nothing: its question counts as failed.

        Raises:
            ConfigError: the file cannot be read, the student has not answered, or no question is answered in all turns.
        """
        found = (
            self.read_outputs(self.settings.baseline_file or "", items)
            if self.against is None
            else self.against.answers(items, self.found_by)
        )
        return items.with_columns(
            baseline=self._in_places(
                found,
                items,
                f"{self.where}.baseline: {self.baseline_name}",
                "give the answers to the same questions",
            )
        )

    def _in_places(
        self, found: Mapping[tuple[str, int], str | None], items: pl.DataFrame, whose: str, remedy: str
    ) -> pl.Series:
        texts = [found.get(place) for place in items.select("question_id", "turn").iter_rows()]
        lacking = {question for question, text in zip(items["question_id"], texts, strict=True) if text is None}
        if lacking.issuperset(items["question_id"]):
            shown = "; ".join(repr(text[:60]) for text in items["question"].head(5))
            raise errors.ConfigError(
                f"{whose} answers none of the {len(lacking)} questions of {self.settings.questions!r} ({shown}; …) in "
                f"all turns; {remedy}"
            )
        return pl.Series(texts, dtype=pl.String)

    @property
    def baseline_name(self) -> str:
        """Whose answers the student's are set against, in words."""
        return repr(self.settings.baseline_file) if self.against is None else self.against.student

    def judged_by(self, config: RunConfig, prompts: Mapping[str, Prompt], _replies: pl.DataFrame) -> tuple[str, str]:
        """The judge with its identity, and the versions of its prompts."""
        answering = config.judge_of(self.settings).answers_as("judge")
        return f"{answering.model} ({answering.identity})", ", ".join(
            f"{name} {prompts[name].version}" for name in self.settings.prompts
        )

    def settings_in_words(self, drawn: str) -> Iterator[str]:
        """The judge's replies first, and last the student of another run that is the baseline."""
        yield f"judge: {self.settings.judging_in_words}"
        yield drawn
        if self.against is not None:
            yield f"baseline: {self.against.in_words}"


_KINDS: dict[type[AskedBenchmark], type[Benchmark[Any]]] = {}
"""Class of a benchmark's settings → the benchmark."""


def register(settings: type[AskedBenchmark]) -> Callable[[type], type]:
    """A class decorator: benchmarks with ``settings`` of this class are of the decorated one.

    Raises:
        TypeError: the class leaves out what a benchmark must do.
    """

    def keep(kind: type) -> type:
        if lacking := sorted(getattr(kind, "__abstractmethods__", ())):
            raise TypeError(f"benchmark {kind.__name__} does not say: {', '.join(lacking)}; write these methods")
        _KINDS[settings] = kind
        return kind

    return keep


def registered() -> dict[type[AskedBenchmark], type[Benchmark[Any]]]:
    """The benchmark of every configuration class that is asked; every module of this folder registers its own.

    Raises:
        TypeError: one has none.
    """
    for module in pkgutil.iter_modules([str(Path(__file__).parent)]):
        import_module(f"{__package__}.{module.name}")
    asked = [kind for kind in BenchmarkConfig.kinds().values() if issubclass(kind, AskedBenchmark)]
    if lacking := ", ".join(kind.__name__ for kind in asked if kind not in _KINDS):
        raise TypeError(
            f"no benchmark is registered for the configuration class {lacking}; write a class of `Judging` or "
            f"`Marking` under `@register({lacking})` in a module of tapir_core/evaluation/, or import the module that "
            "has it"
        )
    return _KINDS


def benchmark_of(config: RunConfig, name: str, scripts: Scripts | None = None) -> Benchmark[Any]:
    """The benchmark of this name; it is one that is asked.

    Raises:
        TypeError: no class is registered for its kind.
    """
    settings = config.evaluation.asked[name]
    return registered()[type(settings)](settings, name, baseline_student(config, name), scripts)


def judging(config: RunConfig, name: str) -> Judging[Any]:
    """The benchmark of this name; it is one whose answers a judge is asked about."""
    found = benchmark_of(config, name)
    assert isinstance(found, Judging)
    return found


def items_table(rows: Iterable[tuple[object, ...]]) -> pl.DataFrame:
    """Rows as the table ``items/``."""
    return pl.DataFrame(list(rows), schema=BENCHMARK_ITEMS.columns, orient="row")


def exchanges_of(items: pl.DataFrame, answers: pl.DataFrame) -> list[Exchange]:
    """Questions (``items/``) with a student's answers (question_id, turn, response), in the order of ``items``.

    Blanks around an answer and around a baseline's are left out: they are no part of either side's length.
    """
    rows = items.join(
        answers.select("question_id", "turn", "response"),
        on=["question_id", "turn"],
        how="left",
        maintain_order="left",
    ).select("question_id", "category", "question", "reference", "baseline", "response")
    turns = statistics.grouped(
        ((question_id, category), Turn(question, reference, *(text and text.strip() for text in replies)))
        for question_id, category, question, reference, *replies in rows.iter_rows()
    )
    return [Exchange(*question, tuple(of)) for question, of in turns.items()]


def without_files(settings: str) -> str:
    """A figure's settings without the digests of files: other bytes may say the same."""
    return "; ".join(each for each in settings.split("; ") if not each.startswith(_FILES))
