"""The stages that score a student: on the held-out set, and on benchmarks; and a model of a file on benchmarks."""

from dataclasses import replace

import polars as pl

from tapir_core.config import AskedBenchmark, RunConfig
from tapir_core.paths import BACKBONE
from tapir_core.stages import pool, students
from tapir_core.stages.stage import COUNT, NUMBER, TEXT, Fields, Stage, StageAt, declare, planned

SCORES = pl.Schema(
    {
        "benchmark": TEXT,
        "split": TEXT,
        "category": TEXT,
        "metric": TEXT,
        "value": NUMBER,
        "stderr": NUMBER,
        "n": COUNT,
        "low": NUMBER,
        "high": NUMBER,
        "n_failed": COUNT,
        "note": TEXT,
        "judge": TEXT,
        "prompt_version": TEXT,
        "settings": TEXT,
    }
)
"""One row a figure and category of one student."""


def _checkpoint(at: StageAt) -> list[StageAt]:
    """The student that is scored; the backbone is a file, and so is a model's output."""
    return [] if at.round is None or at.round == BACKBONE else [students.checkpoint_at(at.round)]


def _student_files(at: StageAt) -> list[str]:
    return [students.CHAT_TEMPLATE, *(["backbone"] if at.round == BACKBONE else [])]


def _of_benchmark(at: StageAt, *names: str) -> list[StageAt]:
    """The items of the benchmark, and stages of the same student or model."""
    return [StageAt("benchmark_items", benchmark=at.benchmark), *(replace(at, name=name) for name in names)]


def heldout_stages(config: RunConfig) -> list[StageAt]:
    """The held-out sets of a run: that with references, and the judged one."""
    return planned(config, pool.HELDOUT.at(), pool.JUDGED_HELDOUT.at())


def _score_settings(config: RunConfig, _: StageAt) -> Fields:
    """How answers are drawn; who marks them, where that is a verifier; of a judged set, whose verdicts make figures."""
    judged, marks = config.data.judged, pool.verifier_fields(config, "heldout") if config.data.references else {}
    return {
        "sampling": config.student.sampling.shaping(),
        "max_failed_share": judged and judged.max_failed_share,
        **({"judge": students.judge_fields(config), "scores": students.score_fields(config)} if judged else {}),
        **marks,
    }


def _asked(config: RunConfig, at: StageAt) -> AskedBenchmark:
    """The benchmark that a stage belongs to."""
    return config.evaluation.asked[at.benchmark_name]


def item_files(config: RunConfig, at: StageAt) -> list[str]:
    """All its files and folders, and the run whose student is its baseline, as ingredients."""
    settings = _asked(config, at)
    return [
        *(f"file:{field}:{at.benchmark}" for field in (*settings.files, *settings.folders)),
        *([f"run:baseline:{at.benchmark}"] if settings.baseline_run else []),
    ]


def _answers(config: RunConfig, at: StageAt) -> Fields:
    """How the student's answers are drawn; which student it is comes with the checkpoint.

    Nothing is known of how those of a file were drawn.
    """
    if at.model is not None:
        return {"model": at.model}
    return {**students.student_fields(config), "answering": _asked(config, at).shaping_of("answers")}


def output_files(_: RunConfig, at: StageAt) -> list[str]:
    """The file with a model's outputs, as an ingredient; none of a student."""
    return [] if at.model is None else [f"file:outputs.{at.model}:{at.benchmark}"]


def _items(config: RunConfig, at: StageAt) -> Fields:
    return {"benchmark": at.benchmark, "items": _asked(config, at).shaping_of("items")}


def _replies(config: RunConfig, at: StageAt) -> Fields:
    """Who judges, and how; where nobody does, all that makes the questions and their marks."""
    judged, how = config.evaluation.judged.get(at.benchmark_name), _asked(config, at).shaping_of("replies")
    who = _items(config, at) if judged is None else {"judge": config.judge_of(judged).answers_as("judge")}
    return {**who, "replies": how}


def _prompts(config: RunConfig, at: StageAt) -> list[str]:
    """The judge's prompts, as ingredients; where nobody judges, the files that are marked by."""
    return [f"prompt:{name}" for name in _asked(config, at).prompts] or item_files(config, at)


ANSWER_HELDOUT = declare(
    Stage(
        name="answer_heldout",
        folder="heldout_answers",
        columns=pool.ANSWERS,
        row="the student's answer to an instruction of the held-out set",
        when=lambda c, _: c.data.heldout is not None,
        reads=lambda c, at: [*heldout_stages(c), *_checkpoint(at)],
        settings=lambda c, _: students.student_fields(c),
        files=lambda _, at: _student_files(at),
        asks="student",
        roles=("answer",),
        shown_as="evaluate",
    )
)

VERIFY_HELDOUT = declare(
    Stage(
        name="verify_heldout",
        folder="heldout_verified",
        columns=pool.VERIFIED,
        row="what the verifier says of a student's answer to an instruction of the held-out set",
        when=lambda c, _: c.data.references is not None and c.judge.verifies("heldout") is not None,
        reads=lambda _, at: [pool.HELDOUT.at(), ANSWER_HELDOUT.at(at.round)],
        settings=lambda c, _: pool.verifier_fields(c, "heldout"),
        files=lambda c, _: pool.verifier_files(c, "heldout"),
        shown_as="evaluate",
    )
)


def graded_of(config: RunConfig, number: int | None) -> list[StageAt]:
    """What says which answers to the set with references are right: set, answers, and a verifier's marks if any.

    In the order in which `grade_answers` takes their rows.
    """
    return [pool.HELDOUT.at(), ANSWER_HELDOUT.at(number), *planned(config, VERIFY_HELDOUT.at(number))]


JUDGE_HELDOUT = declare(
    replace(
        students.JUDGE,
        name="judge_heldout",
        folder="heldout_verdicts",
        row="a verdict on an instruction of the judged held-out set: an order, a judge",
        version=2,
        when=lambda c, _: c.data.judged is not None,
        reads=lambda _, at: [pool.JUDGED_HELDOUT.at(), ANSWER_HELDOUT.at(at.round)],
        shards_of="answer_heldout",
    )
)

EVALUATE = declare(
    Stage(
        name="evaluate",
        folder="scores",
        columns=SCORES,
        row="a figure: a split, a task type",
        version=3,
        when=lambda c, _: c.data.heldout is not None,
        reads=lambda c, at: [
            *(*heldout_stages(c), ANSWER_HELDOUT.at(at.round)),
            *planned(c, VERIFY_HELDOUT.at(at.round), JUDGE_HELDOUT.at(at.round)),
        ],
        settings=_score_settings,
        files=lambda c, _: students.judge_prompts(c) if c.data.judged else [],
    )
)

BENCHMARK_ITEMS = declare(
    Stage(
        name="benchmark_items",
        folder="items",
        columns=pl.Schema(
            {
                "question_id": TEXT,
                "category": TEXT,
                "turn": COUNT,
                "question": TEXT,
                # None where there is no baseline to compare with, or it has failed.
                "reference": TEXT,
                "baseline": TEXT,
            }
        ),
        row="a turn of a question",
        version=2,
        settings=_items,
        files=item_files,
        shown=False,
    )
)

BENCHMARK_ANSWERS = declare(
    Stage(
        name="benchmark_answers",
        folder="answers",
        columns=pl.Schema({"question_id": TEXT, "turn": COUNT, **pool.ANSWER_COLUMNS}),
        row="an answer to a turn",
        reads=lambda _, at: [*_of_benchmark(at), *_checkpoint(at)],
        settings=_answers,
        files=lambda c, at: output_files(c, at) or _student_files(at),
        asks="student",
        roles=("answer",),
    )
)

BENCHMARK_REPLIES = declare(
    Stage(
        name="benchmark_replies",
        folder="replies",
        columns=pl.Schema(
            {
                "question_id": TEXT,
                "turn": COUNT,
                "mode": TEXT,
                "order": TEXT,
                "value": NUMBER,
                "baseline_value": NUMBER,
                "how": TEXT,
                "status": TEXT,
                "reason": TEXT,
                "raw": TEXT,
                "judge": TEXT,
            }
        ),
        row="a judgment, or a mark",
        version=2,
        reads=lambda _, at: _of_benchmark(at, "benchmark_answers"),
        settings=_replies,
        files=_prompts,
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
        columns=SCORES,
        row="a figure: a category, a metric",
        version=4,
        reads=lambda _, at: _of_benchmark(at, "benchmark_answers", "benchmark_replies"),
        settings=lambda c, at: {
            "max_failed_share": _asked(c, at).max_failed_share,
            "answers": _answers(c, at),
            **_replies(c, at),
        },
        files=lambda c, at: [*_prompts(c, at), *item_files(c, at), *output_files(c, at)],
        shown=False,
    )
)
