"""The stages that score a student: on the held-out set, and on benchmarks; and a model of a file on benchmarks."""

from dataclasses import replace

from tapir_core import benchmark_fields as benchmark
from tapir_core.config import RunConfig
from tapir_core.paths import BACKBONE
from tapir_core.stage_fields import student_fields
from tapir_core.stages.once import ANSWER_COLUMNS, HELDOUT
from tapir_core.stages.round import CHAT_TEMPLATE, TRAIN
from tapir_core.stages.stage import Stage, StageAt, declare

__all__ = [
    "ANSWER_HELDOUT",
    "BENCHMARK_ANSWERS",
    "BENCHMARK_ITEMS",
    "BENCHMARK_REPLIES",
    "BENCHMARK_SCORES",
    "EVALUATE",
    "SCORE_COLUMNS",
]

SCORE_COLUMNS = (
    *("benchmark", "split", "category", "metric", "value", "stderr", "n"),
    *("low", "high", "n_failed", "note", "judge", "prompt_version", "settings"),
)


def _checkpoint(at: StageAt) -> list[StageAt]:
    """The student that a round came to; the backbone is a file, and so is a model's output."""
    return [] if at.round in (BACKBONE, None) else [TRAIN.at(at.round)]


def _student_files(at: StageAt) -> list[str]:
    return [CHAT_TEMPLATE, *(["backbone"] if at.round == BACKBONE else [])]


def _of_benchmark(at: StageAt, *names: str) -> list[StageAt]:
    """The items of the benchmark, and stages of the same student or model."""
    return [StageAt("benchmark_items", benchmark=at.benchmark), *(replace(at, name=name) for name in names)]


def _has_heldout(config: RunConfig, _: StageAt) -> bool:
    return config.data.heldout is not None


ANSWER_HELDOUT = declare(
    Stage(
        name="answer_heldout",
        folder="heldout_answers",
        columns=ANSWER_COLUMNS,
        row="the student's answer to an instruction of the held-out set",
        when=_has_heldout,
        reads=lambda _, at: [HELDOUT.at(), *_checkpoint(at)],
        settings=lambda c, _: student_fields(c),
        files=lambda _, at: _student_files(at),
        asks="student",
        roles=("answer",),
        shown_as="evaluate",
    )
)

EVALUATE = declare(
    Stage(
        name="evaluate",
        folder="scores",
        columns=SCORE_COLUMNS,
        row="a figure: a split, a task type",
        version=2,
        when=_has_heldout,
        reads=lambda _, at: [HELDOUT.at(), ANSWER_HELDOUT.at(at.round)],
        settings=lambda c, _: c.student.sampling.model_dump(),
    )
)

BENCHMARK_ITEMS = declare(
    Stage(
        name="benchmark_items",
        folder="items",
        columns=("question_id", "category", "turn", "question", "reference", "baseline"),
        row="a turn of a question",
        version=2,
        settings=benchmark.items,
        files=benchmark.item_files,
        shown=False,
    )
)

BENCHMARK_ANSWERS = declare(
    Stage(
        name="benchmark_answers",
        folder="answers",
        columns=("question_id", "turn", "response", "finish_reason", "prompt_tokens", "completion_tokens"),
        row="an answer to a turn",
        reads=lambda _, at: [*_of_benchmark(at), *_checkpoint(at)],
        settings=benchmark.answers,
        files=lambda c, at: benchmark.outputs(c, at) or _student_files(at),
        asks="student",
        roles=("answer",),
    )
)

BENCHMARK_REPLIES = declare(
    Stage(
        name="benchmark_replies",
        folder="replies",
        columns=(
            *("question_id", "turn", "mode", "order", "value", "baseline_value"),
            *("how", "status", "reason", "raw", "judge"),
        ),
        row="a judgment, or a mark",
        version=2,
        reads=lambda _, at: _of_benchmark(at, "benchmark_answers"),
        settings=benchmark.replies,
        files=benchmark.prompts,
        asks="judge",
        roles=("benchmark",),
        calls_per_row=1,
        shards_of="benchmark_answers",
    )
)

BENCHMARK_SCORES = declare(
    Stage(
        name="benchmark_scores",
        folder="scores",
        columns=SCORE_COLUMNS,
        row="a figure: a category, a metric",
        version=4,
        reads=lambda _, at: _of_benchmark(at, "benchmark_answers", "benchmark_replies"),
        settings=benchmark.scores,
        files=benchmark.score_files,
        shown=False,
    )
)
