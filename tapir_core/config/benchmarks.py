"""Evaluation: benchmarks from outside, when they are asked, and how far what is trained on stays away from them.

A table without a `type` names questions to keep away from; with one the student answers them, and a judge says how
well, or the benchmark marks the answers itself.
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from tapir_core.config._base import BY_FORM, DIFFERENT, OTHER, TEXT, File, Free, Kind, Section, T, matching, problems
from tapir_core.config.roles import EndpointConfig, Sampling
from tapir_core.installation import harness_setup

HELDOUT = "heldout"
"""What the run's own held-out set is called among benchmarks."""


BenchmarkName = Annotated[
    str,
    matching(
        rf"(?!{HELDOUT}$)[a-z][a-z0-9_-]{{0,39}}",
        f'is no name for a benchmark; use a small letter, then small letters, digits, `_` and `-`, not "{HELDOUT}"',
    ),
]
"""A benchmark's name in tables and folders."""


class RunBaseline(Section):
    """A baseline that is a student of another run: what it answered to the same benchmark."""

    run: str
    """Name of a run in the same root."""

    round: Annotated[int, Field(ge=-1)]
    """Its student: 0 is S_0, -1 the untouched backbone. It must have answered already."""

    benchmark: str | None = None
    """What the benchmark is called there; unset: the same as here."""


Baseline = Annotated[Annotated[str, TEXT] | Annotated[RunBaseline, OTHER], BY_FORM]
"""File or URL, or a student of another run."""


ModelName = Annotated[
    str,
    matching(
        r"(?!backbone$|[sS]_\d+$)[A-Za-z0-9][A-Za-z0-9._-]{0,59}",
        "is no name for a model; use a letter or digit, then letters, digits, `.`, `_` and `-`, and not what a "
        "student of the run is called (backbone, S_0, …)",
    ),
]
"""A model's name in tables and folders."""


Folder = Annotated[T, "free", "folder"]
"""Names a folder, or unset; known by what it holds."""

OfAnswers = Annotated[T, "answers"]
"""Says how the student's answers are drawn, and changes no question."""

OfReplies = Annotated[T, "replies"]
"""Changes judgments or marks, and neither questions nor answers."""

Apart = Annotated[T, "apart"]
"""Shapes no stage's rows as it stands: a judge is known by who it is, and some fields shape figures alone."""


class BenchmarkConfig(Kind):
    """A benchmark from outside; without a `type` it is one that is not asked."""

    questions: File[str]
    """File or URL with its questions."""

    @classmethod
    def read(cls, value: Any) -> Any:
        """The kind that a table describes by its `type`, if it has one."""
        return super().read({"type": "questions", **value} if isinstance(value, dict) else value)

    @property
    def all_files(self) -> dict[str, str]:
        """The same with the outputs of models that stand beside the students, such as `outputs.gpt`."""
        return self.files | {f"outputs.{model}": path for model, path in getattr(self, "outputs", {}).items()}


class QuestionsOnly(BenchmarkConfig):
    """A benchmark that is not asked: its questions are only looked for in what is trained on."""

    type: Literal["questions"] = "questions"

    questions: File[str]
    """File or URL with its questions: `instruction`, `turns` or `prompt` in a JSON list or JSON lines."""


class AskedBenchmark(BenchmarkConfig, ABC):
    """What every benchmark that is asked has. A field that says no more of itself shapes the questions, and so all."""

    questions: File[str]
    """File or URL with its questions, in the benchmark's own form; they are looked for in what is trained on too."""

    max_failed_share: Apart[Annotated[float, Field(ge=0, le=1)]] = 0.05
    """Share of judgments (marked: of questions) that may fail, for want of an answer too; above it no figure."""

    read_for_figures: ClassVar[tuple[str, ...]] = ()
    """Files that are read again for the figures of every student."""

    remedy: ClassVar[str] = ""
    """What to do where this machine lacks what it needs; empty where it needs nothing."""

    def shaping_of(self, stage: Literal["items", "answers", "replies"]) -> dict[str, Any]:
        """The fields that change what a stage makes. Files are known by what they hold."""
        elsewhere = {name for mark in ("answers", "replies", "apart") for name in self.with_mark(mark)}
        chosen = type(self).model_fields.keys() - elsewhere if stage == "items" else self.with_mark(stage).keys()
        return {name: value for name, value in self.shaping().items() if name in chosen}

    @property
    def folders(self) -> dict[str, str]:
        """Its folders, by the field that names them."""
        return {field: path for field in self.with_mark("folder") if (path := getattr(self, field)) is not None}

    def drawn(self, student: Sampling) -> Sampling:
        """How an answer is drawn: by its field `answering`, else as the student's are; its category may change that."""
        return getattr(self, "answering", None) or student

    def answering_in_words(self, student: Sampling) -> str:
        """How the student's answers are drawn, whose own sampling is given."""
        return self.drawn(student).in_words

    @property
    def prompts(self) -> tuple[str, ...]:
        """Prompts of its judge; none where nobody judges."""
        return ()

    @property
    def baseline_run(self) -> RunBaseline | None:
        """The student of another run that is its baseline, if one is."""
        baseline = getattr(self, "baseline", None)
        return baseline if isinstance(baseline, RunBaseline) else None

    def missing(self) -> Iterable[str]:
        """What this machine lacks for it, each to be put behind the benchmark's name."""
        return ()

    def contradictions(self) -> Iterable[str]:
        """What does not fit together, each to be put behind the benchmark's name."""
        return ()


class JudgedBenchmark(AskedBenchmark, ABC):
    """What every benchmark has that a judge is asked about."""

    judge: Apart[EndpointConfig | None] = None
    """Who judges the answers; unset: the judge of `[judge]`, of a panel the first one."""

    sampling: OfReplies[Sampling] = Sampling(max_tokens=2048)
    """Sampling of the judge's replies."""

    reasks: OfReplies[NonNegativeInt] = 2
    """Times that a judgment which cannot be parsed is asked for again before it has failed."""

    outputs: Free[dict[ModelName, str]] = Field({})
    """Models to compare the students with: name → file or URL with its answers, in the form of a baseline's.
    `tapir evaluate` has them judged as the students' are."""

    @property
    def prompts(self) -> tuple[str, ...]:
        """Prompts of its judge: the one that is named after the kind."""
        return (self.type,)

    @property
    def logprobs_asked(self) -> int:
        """Log-probabilities asked of its judge, where a field of it says so."""
        return getattr(self, "top_logprobs", 0)

    @property
    def judging_in_words(self) -> str:
        """How its judge is asked."""
        return self.sampling.in_words + (f", {self.logprobs_asked} log-probabilities" if self.logprobs_asked else "")

    @property
    def baseline_file(self) -> str | None:
        """The file that its baseline is, if one is."""
        return self.files.get("baseline")


class MarkedBenchmark(AskedBenchmark, ABC):
    """What every benchmark has that marks the answers itself, and asks nobody."""

    answering: OfAnswers[Sampling | None] = None
    """Sampling of the student's answers; unset: that of `[student.sampling]`."""

    @property
    @abstractmethod
    def marker(self) -> str:
        """Who marks, in words."""


class AlpacaEvalBenchmark(JudgedBenchmark):
    """AlpacaEval 2.0: the student's output against a baseline's; an annotator names the better one."""

    type: Literal["alpaca_eval"] = "alpaca_eval"

    baseline: File[Baseline]
    """File or URL with the baseline's outputs: `instruction` and `output` (`model_outputs.json`); or the student of
    another run that answered the same instructions, such as `{ run = "NAME", round = 2 }`."""

    difficulty: File[str | None] = None
    """Table of how hard each question is, in their order; with `anchors` it makes the published length control."""

    anchors: File[str | None] = None
    """Judgments of the anchor models, which hold the effect of length; without both, lengths alone are controlled."""

    answering: OfAnswers[Sampling | None] = None
    """Sampling of the student's outputs; unset: that of `[student.sampling]`."""

    sampling: OfReplies[Sampling] = Sampling(temperature=1.0, max_tokens=1)
    """Sampling of the annotator's choices, as published."""

    top_logprobs: OfReplies[Annotated[int, Field(ge=0, le=20)]] = 5
    """Log-probabilities asked of the annotator; 0 for an endpoint that refuses them: then its choices are counted."""

    read_for_figures: ClassVar[tuple[str, ...]] = ("difficulty", "anchors")

    def contradictions(self) -> Iterable[str]:
        """One of the two tables of length control without the other."""
        return problems(
            {
                ": one of difficulty and anchors alone; the published length control needs both, and lengths alone are "
                "controlled without either": (self.difficulty is None) != (self.anchors is None)
            }
        )


class FastChatBenchmark(JudgedBenchmark, ABC):
    """What MT-Bench and Vicuna-Instructions have in common: the temperature of an answer goes by its category."""

    max_tokens: OfAnswers[PositiveInt] = 1024
    """Longest answer of the student to one turn; temperatures are those of the benchmark, by category."""

    def drawn(self, _student: Sampling) -> Sampling:
        """The longest answer; the temperature goes by category."""
        return Sampling(max_tokens=self.max_tokens)

    def answering_in_words(self, _student: Sampling) -> str:
        """How its answers are drawn."""
        return f"temperature by category, {self.max_tokens} tokens"


class MTBenchBenchmark(FastChatBenchmark):
    """MT-Bench: two turns a question; a judge rates each answer, 1-10."""

    type: Literal["mt_bench"] = "mt_bench"

    references: File[str | None] = None
    """Reference answers to questions on mathematics, reasoning and coding (`reference_answer/gpt-4.jsonl`)."""

    @property
    def prompts(self) -> tuple[str, ...]:
        """The prompt of its judge."""
        return ("mt_bench_single",)

    def shaping_of(self, stage: Literal["items", "answers", "replies"]) -> dict[str, Any]:
        """With the mode that stage keys name from when there was another."""
        return super().shaping_of(stage) | ({"modes": ["single"]} if stage == "items" else {})


class VicunaBenchmark(FastChatBenchmark):
    """Vicuna-Instructions: a referee scores the student's answer and a baseline's, 1-10."""

    type: Literal["vicuna"] = "vicuna"

    baseline: File[Baseline]
    """A baseline's answers in FastChat's form, or the student of another run."""

    sampling: OfReplies[Sampling] = Sampling(temperature=0.2, max_tokens=1024)
    """Sampling of the referee's replies, as published."""

    orders: OfReplies[Literal["both", "baseline_first"]] = "both"
    """`baseline_first` is the one order of 2023, in which a referee's liking for a position stays in the figures."""

    @property
    def judging_in_words(self) -> str:
        """How its referee is asked, and in which orders."""
        return f"{super().judging_in_words}, {'both orders' if self.orders == 'both' else 'baseline first'}"


class LmEvalBenchmark(MarkedBenchmark):
    """One task of lm-evaluation-harness, such as IFEval: its prompts, asked of the student, and its own marks."""

    type: Literal["lm_eval"] = "lm_eval"

    questions: File[str]
    """File or URL with the task's questions and what belongs to them, in the fields that the task reads."""

    task: Annotated[str, Field(min_length=1)]
    """Name of the task, as `lm_eval ls subtasks` lists it: one that generates text."""

    examples: File[str | None] = None
    """The same form; solved examples for a task that shows some before each question."""

    include_path: Folder[str | None] = None
    """Folder with tasks of your own: YAML files, and the Python that they name, which runs as you."""

    answering: OfAnswers[Sampling] = Sampling(max_tokens=1280)
    """Sampling of the student's answers, in place of the task's own; the default is that of the task `ifeval`."""

    python: Free[str] = ".venv-lm-eval/bin/python"
    """Interpreter of the environment that holds the harness; relative to the folder that the command is started in."""

    marker: ClassVar[str] = "lm-evaluation-harness"
    remedy: ClassVar[str] = f"`{harness_setup()}` builds its environment anew"

    def missing(self) -> Iterable[str]:
        """The interpreter that holds the harness."""
        return problems(
            {
                f".python: {self.python} is no interpreter, so that lm-evaluation-harness cannot start; "
                f"`{harness_setup()}` builds its environment, or take the benchmark out of each_round": (
                    not os.access(Path(self.python).expanduser(), os.X_OK)
                )
            }
        )


class DecontaminationConfig(Section):
    """When an instruction of pool or expansion holds an evaluation question, and is dropped."""

    overlap_words: Annotated[int, Field(ge=5)] = 13
    """It shares this many words in a row with a question, or holds a shorter one of at least 8 words whole."""

    max_rouge_l: Annotated[float, Field(ge=0.8, le=1)] = 0.8
    """Highest ROUGE-L F1 to a benchmark's question that passes; 1 switches near-duplicates off."""


class EvaluationConfig(Section):
    """Benchmarks from outside; the held-out set is a part of `[data]`."""

    benchmarks: dict[BenchmarkName, BenchmarkConfig] = Field({})
    """`[evaluation.benchmarks.NAME]`, one table a benchmark; the names are yours, such as `alpaca_eval`."""

    each_round: Free[Annotated[tuple[BenchmarkName, ...], Field(strict=False), DIFFERENT]] = ()
    """Benchmarks that backbone, S_0 and the student of every round are asked; the others wait for `tapir evaluate`."""

    baseline: Free[Literal["sft", "none"] | None] = None
    """`"sft"`: beside the run a plain fine-tune on as many tokens as all its rounds, as run `NAME-sft`, and where they
    learn from its own answers one of as long a time, `NAME-sft-seconds`; the report says what the curriculum added
    (docs/compare.md). `"none"`: without. Unset: with it where a held-out set scores
    it and, by the run's first estimate, it costs under a tenth of the whole, in USD and in hours, training included;
    where no earlier run tells those hours, it is left out. A run that began before there were baselines has none."""

    decontamination: DecontaminationConfig = DecontaminationConfig()
    """What keeps their questions, and the held-out set, out of what is trained on."""

    @property
    def asked(self) -> dict[str, AskedBenchmark]:
        """The benchmarks that can be asked, by name."""
        return {name: each for name, each in self.benchmarks.items() if isinstance(each, AskedBenchmark)}

    @property
    def judged(self) -> dict[str, JudgedBenchmark]:
        """Those whose answers a judge is asked about, by name."""
        return {name: each for name, each in self.benchmarks.items() if isinstance(each, JudgedBenchmark)}

    @property
    def judges(self) -> dict[str, EndpointConfig]:
        """The judges that benchmarks have of their own, by the field that sets them."""
        return {
            f"evaluation.benchmarks.{name}.judge": each.judge
            for name, each in self.judged.items()
            if each.judge is not None
        }
