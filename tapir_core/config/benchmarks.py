"""Benchmarks from outside: whose questions stay out of what is trained on, and which of them the student is asked.

A table without a `type` names questions to keep away from; with one the student answers them, and a judge or
lm-evaluation-harness says how well.
"""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from tapir_core.config.asked_benchmarks import AskedBenchmark, Baseline, BenchmarkConfig, JudgedBenchmark
from tapir_core.config.endpoints import Sampling

__all__ = [
    "AlpacaEvalBenchmark",
    "FastChatBenchmark",
    "LmEvalBenchmark",
    "MTBenchBenchmark",
    "QuestionsOnly",
    "VicunaBenchmark",
    "benchmark_files",
]


class QuestionsOnly(BenchmarkConfig):
    """A benchmark that is not asked: its questions are only looked for in what is trained on."""

    type: Literal["questions"] = "questions"

    questions: str
    """File or URL with its questions: `instruction`, `turns` or `prompt` in a JSON list or JSON lines."""


class AlpacaEvalBenchmark(JudgedBenchmark):
    """AlpacaEval 2.0: the student's output against a baseline's; an annotator names the better one."""

    type: Literal["alpaca_eval"] = "alpaca_eval"

    baseline: Baseline
    """File or URL with the baseline's outputs: `instruction` and `output` (`model_outputs.json`); or the student of
    another run that answered the same instructions, such as `{ run = "NAME", round = 2 }`."""

    difficulty: str | None = None
    """Table of how hard each question is, in their order; with `anchors` it makes the published length control."""

    anchors: str | None = None
    """Judgments of the anchor models, which hold the effect of length; without both, lengths alone are controlled."""

    answering: Sampling | None = None
    """Sampling of the student's outputs; nothing: that of `[student.sampling]`."""

    sampling: Sampling = Sampling(temperature=1.0, max_tokens=1)
    """Sampling of the annotator's choices, as published."""

    top_logprobs: Annotated[int, Field(ge=0, le=20)] = 5
    """Log-probabilities asked of the annotator; 0 for an endpoint that refuses them: then its choices are counted."""

    @property
    def prompts(self) -> tuple[str, ...]:
        """Prompts of its judge."""
        return ("alpaca_eval",)

    @property
    def files(self) -> dict[str, str | None]:
        """Its files beside the questions, by the field that names them."""
        return {"baseline": self.baseline_file, "difficulty": self.difficulty, "anchors": self.anchors}

    def longest_answer(self, student: Sampling) -> int:
        """Most tokens of one output."""
        return (self.answering or student).max_tokens

    def contradictions(self) -> Iterator[str]:
        """One of the two tables of length control without the other."""
        if (self.difficulty is None) != (self.anchors is None):
            yield (
                ": one of difficulty and anchors alone; the published length control needs both, and lengths alone are "
                "controlled without either"
            )

    def answering_in_words(self, student: Sampling) -> str:
        """How its outputs are drawn."""
        return (self.answering or student).in_words

    @property
    def logprobs_asked(self) -> int:
        """As configured."""
        return self.top_logprobs

    @property
    def read_for_figures(self) -> tuple[str, ...]:
        """Both tables of length control."""
        return ("difficulty", "anchors")


class FastChatBenchmark(JudgedBenchmark):
    """What MT-Bench and Vicuna-Instructions have in common: the temperature of an answer goes by its category."""

    max_tokens: PositiveInt = 1024
    """Longest answer of the student to one turn; temperatures are those of the benchmark, by category."""

    def longest_answer(self, _student: Sampling) -> int:
        """Most tokens of one answer."""
        return self.max_tokens

    def answering_in_words(self, _student: Sampling) -> str:
        """How its answers are drawn."""
        return f"temperature by category, {self.max_tokens} tokens"


MTBenchMode = Literal["single", "pairwise"]


class MTBenchBenchmark(FastChatBenchmark):
    """MT-Bench: two turns a question; a judge rates the answers, or compares them with a baseline's in both orders."""

    type: Literal["mt_bench"] = "mt_bench"

    references: str | None = None
    """Reference answers to questions on mathematics, reasoning and coding (`reference_answer/gpt-4.jsonl`)."""

    baseline: Baseline | None = None
    """A baseline's answers in the same form, or the student of another run; `pairwise` needs them."""

    modes: Annotated[tuple[MTBenchMode, ...], Field(min_length=1, max_length=2, strict=False)] = ("single",)
    """`single` rates each answer, 1-10; `pairwise` compares it with the baseline's, in both orders."""

    @property
    def prompts(self) -> tuple[str, ...]:
        """Prompts of its judge."""
        names = {"single": "mt_bench_single", "pairwise": "mt_bench_pair"}
        return tuple(names[mode] for mode in self.modes)

    @property
    def files(self) -> dict[str, str | None]:
        """Its files beside the questions, by the field that names them."""
        return {"references": self.references, "baseline": self.baseline_file}

    def contradictions(self) -> Iterator[str]:
        """Pairs without a baseline; a mode twice."""
        if "pairwise" in self.modes and self.baseline is None:
            yield ".baseline: missing; modes has pairwise, which compares with a baseline's answers"
        if len(set(self.modes)) < len(self.modes):
            yield ".modes: names a mode twice; each is asked once"


class VicunaBenchmark(FastChatBenchmark):
    """Vicuna-Instructions: a referee scores the student's answer and a baseline's, 1-10."""

    type: Literal["vicuna"] = "vicuna"

    baseline: Baseline
    """A baseline's answers, in the form of MT-Bench's, or the student of another run."""

    sampling: Sampling = Sampling(temperature=0.2, max_tokens=1024)
    """Sampling of the referee's replies, as published."""

    orders: Literal["both", "baseline_first"] = "both"
    """`baseline_first` is the one order of 2023, in which a referee's liking for a position stays in the figures."""

    @property
    def judging_in_words(self) -> str:
        """How its referee is asked, and in which orders."""
        return f"{super().judging_in_words}, {'both orders' if self.orders == 'both' else 'baseline first'}"

    @property
    def prompts(self) -> tuple[str, ...]:
        """Prompts of its judge."""
        return ("vicuna",)

    @property
    def files(self) -> dict[str, str | None]:
        """Its files beside the questions, by the field that names them."""
        return {"baseline": self.baseline_file}


class LmEvalBenchmark(AskedBenchmark):
    """One task of lm-evaluation-harness, such as IFEval: its prompts, asked of the student, and its own marks."""

    type: Literal["lm_eval"] = "lm_eval"

    questions: str
    """File or URL with the task's questions and what belongs to them, in the fields that the task reads."""

    task: Annotated[str, Field(min_length=1)]
    """Name of the task, as `lm_eval ls subtasks` lists it: one that generates text."""

    examples: str | None = None
    """The same form; solved examples for a task that shows some before each question."""

    include_path: str | None = None
    """Folder with tasks of your own: YAML files, and the Python that they name, which runs as you."""

    answering: Sampling = Sampling(max_tokens=1280)
    """Sampling of the student's answers, in place of the task's own; the default is that of the task `ifeval`."""

    python: str = ".venv-lm-eval/bin/python"
    """Interpreter of the environment that holds the harness; relative to the folder that the command is started in."""

    @property
    def files(self) -> dict[str, str | None]:
        """Its files beside the questions, by the field that names them."""
        return {"examples": self.examples}

    @property
    def folders(self) -> dict[str, str | None]:
        """Its folders, by the field that names them."""
        return {"include_path": self.include_path}

    def longest_answer(self, _student: Sampling) -> int:
        """Most tokens of one answer."""
        return self.answering.max_tokens

    def answering_in_words(self, _student: Sampling) -> str:
        """How its answers are drawn."""
        return self.answering.in_words


def benchmark_files(benchmark: BenchmarkConfig) -> dict[str, str]:
    """Every file of a benchmark, or its address, by the field that names it: `questions`, `baseline`, `outputs.gpt`."""
    files = {"questions": benchmark.questions}
    if isinstance(benchmark, AskedBenchmark):
        files |= {field: path for field, path in benchmark.files.items() if path}
        files |= benchmark.output_files
    return files
