"""The stages that a run does once, before its students: held-out set, questions, pool, task types, labels, answers."""

import polars as pl

from tapir_core.config import RunConfig, VerifierUse
from tapir_core.stages.stage import COUNT, NUMBER, TEXT, Fields, Stage, StageAt, declare, planned
from tapir_core.turns import EARLIER

ANSWER_COLUMNS = {"response": TEXT, "finish_reason": TEXT, "prompt_tokens": COUNT, "completion_tokens": COUNT}
"""Columns of every table of answers; one row an answer or a terminal failure."""
ANSWERS = pl.Schema({"instruction_id": TEXT, **ANSWER_COLUMNS})
VERIFIED = pl.Schema({"instruction_id": TEXT, "score": NUMBER, "correct": pl.Boolean(), "reason": TEXT})
"""``correct`` is whether it scores at least `judge.verifier.min_score`; nothing without a score."""


def pool_fields(config: RunConfig) -> Fields:
    """Which instructions are read or generated."""
    return {"seed": config.run.seed, "pool": config.data.pool.shaping(), "on_bad_row": config.data.on_bad_row}


def teacher_fields(config: RunConfig) -> Fields:
    """Who the teacher is."""
    return {"teacher": config.teacher.endpoint.answers_as("teacher")}


def answering_fields(config: RunConfig) -> Fields:
    """How it answers plainly."""
    schema = config.teacher.answer_schema
    return {"answering": config.teacher.answering.shaping(), **({"answer_schema": schema} if schema else {})}


def several_fields(config: RunConfig) -> Fields:
    """How several plain answers to one instruction are asked for, and which are kept; nothing of one alone."""
    teacher = config.teacher
    if teacher.answers_per_prompt == 1:
        return {}
    return {
        "answers": teacher.answers_per_prompt,
        "only_best": teacher.answers_used == "best",
        **verifier_fields(config, "filter"),
    }


def verifier_fields(config: RunConfig, use: VerifierUse) -> Fields:
    """What of a verifier shapes what it is used for; none without that use."""
    verifier = config.judge.verifies(use)
    return {"verifier": verifier and verifier.shaping()}


def verifier_files(config: RunConfig, use: VerifierUse) -> list[str]:
    """The verifier's module, as an ingredient."""
    return ["file:verifier"] if config.judge.verifies(use) else []


def type_fields(config: RunConfig) -> Fields:
    """Which task types there are."""
    return {"task_types": config.curriculum.shaping()["task_types"]}


def label_fields(config: RunConfig) -> Fields:
    """How task types are asked for."""
    teacher = config.teacher
    return {
        **teacher_fields(config),
        "labelling": teacher.labelling.shaping(),
        "replies": teacher.label_replies,
        "reasks": teacher.reasks,
        **type_fields(config),
    }


def question_stages(config: RunConfig) -> list[StageAt]:
    """What the pool is kept apart from as it comes: the held-out set with references, the questions of benchmarks."""
    return planned(config, HELDOUT.at(), QUESTIONS.at())


def _kept_apart(config: RunConfig, at: StageAt) -> list[StageAt]:
    """What the pool, or a round's expansion, is kept apart from; a judged held-out set is drawn from the pool later."""
    return [*question_stages(config), *(planned(config, JUDGED_HELDOUT.at()) if at.round is not None else [])]


HELDOUT = declare(
    Stage(
        name="heldout",
        folder="heldout",
        columns=pl.Schema(
            dict.fromkeys(("instruction_id", "instruction", "system", "task_type", "reference", "split"), TEXT)
        ),
        some_have=pl.Schema({EARLIER: TEXT}),
        row="an instruction of the held-out set",
        when=lambda c, _: c.data.references is not None,
        settings=lambda c, _: {
            "seed": c.run.seed,
            "heldout": c.data.references and c.data.references.shaping(),
            **type_fields(c),
        },
        files=lambda *_: ["file:heldout"],
    )
)

QUESTIONS = declare(
    Stage(
        name="questions",
        folder="questions",
        columns=pl.Schema({"benchmark": TEXT, "question_id": TEXT, "turn": COUNT, "question": TEXT}),
        row="a turn of a benchmark's question",
        when=lambda c, _: bool(c.evaluation.benchmarks),
        files=lambda c, _: [f"file:questions:{name}" for name in sorted(c.evaluation.benchmarks)],
    )
)

CONTAMINATED = declare(
    Stage(
        name="contaminated",
        folder="contaminated",
        columns=pl.Schema(
            {
                "instruction_id": TEXT,
                "instruction": TEXT,
                "benchmark": TEXT,
                "question_id": TEXT,
                "question": TEXT,
                "rule": TEXT,
                "similarity": NUMBER,
            }
        ),
        row="an instruction that holds an evaluation question, with the question",
        when=lambda c, at: bool(_kept_apart(c, at)),
        # Of a round: the candidates of its expansion.
        reads=lambda c, at: [*_kept_apart(c, at), *([StageAt("expansion_rejected", at.round)] if at.round else [])],
        settings=lambda c, at: {
            "decontamination": c.evaluation.decontamination.shaping(),
            # Of the pool as it comes, system texts too, where it has some.
            **({} if at.round else {**pool_fields(c), "system": c.data.pool.has_system_texts}),
        },
        files=lambda _, at: [] if at.round else ["file:pool"],
        step_in_rounds="expand",
    )
)

POOL = declare(
    Stage(
        name="pool",
        folder="pool",
        columns=pl.Schema(dict.fromkeys(("instruction_id", "instruction", "system", "source", "reference"), TEXT)),
        some_have=pl.Schema({EARLIER: TEXT, "answer": TEXT}),
        row="an instruction",
        reads=lambda c, _: [CONTAMINATED.at()] if question_stages(c) else [],
        settings=lambda c, _: pool_fields(c),
        files=lambda *_: ["file:pool"],
    )
)

DISCOVER = declare(
    Stage(
        name="discover",
        folder="discovered",
        columns=pl.Schema({"task_type": TEXT, "definition": TEXT}),
        row="a task type that the teacher found in a sample of the pool",
        when=lambda c, _: c.curriculum.task_types == "discover",
        reads=lambda *_: [POOL.at()],
        settings=lambda c, _: {
            "seed": c.run.seed,
            **teacher_fields(c),
            "answering": c.teacher.answering.shaping(),
            "reasks": c.teacher.reasks,
        },
        files=lambda *_: ["prompt:discover"],
        asks="teacher",
        roles=("label",),
        ends_run=True,
    )
)

LABEL = declare(
    Stage(
        name="label",
        folder="labels",
        columns=pl.Schema({"instruction_id": TEXT, "task_type": TEXT}),
        row="an instruction of the pool",
        reads=lambda *_: [POOL.at()],
        settings=lambda c, _: label_fields(c),
        files=lambda *_: ["prompt:label"],
        asks="teacher",
        roles=("label",),
        calls_per_row=1,
    )
)

TEACH = declare(
    Stage(
        name="teach",
        folder="teacher",
        columns=ANSWERS,
        # Of several answers those that are trained or scored beside it, each behind its thought.
        some_have=pl.Schema({"answered_by": TEXT, "thoughts": TEXT, "others": pl.List(TEXT)}),
        row="the teacher's plain answer to an instruction of the pool",
        reads=lambda *_: [POOL.at()],
        settings=lambda c, _: {
            **teacher_fields(c),
            **answering_fields(c),
            "answers_of": c.data.pool.answers_of,
            **several_fields(c),
            # Whoever reads the answers takes the usable ones.
            **({"refusals": True} if c.teacher.takes_refusals else {}),
        },
        files=lambda c, _: verifier_files(c, "filter") if several_fields(c) else [],
        asks="teacher",
        roles=("teach",),
        calls_per_row=1,
    )
)

JUDGED_HELDOUT = declare(
    Stage(
        name="judged_heldout",
        folder="judged_heldout",
        columns=pl.Schema({**HELDOUT.columns, "response": TEXT}),
        some_have=pl.Schema({EARLIER: TEXT}),
        row="an instruction of the judged held-out set, with the teacher's answer",
        when=lambda c, _: c.data.judged is not None,
        reads=lambda c, _: [POOL.at(), LABEL.at(), TEACH.at(), *verified(c)],
        settings=lambda c, _: {"seed": c.run.seed, "heldout": c.data.judged and c.data.judged.drawn_as},
    )
)

VERIFY = declare(
    Stage(
        name="verify",
        folder="verified",
        columns=VERIFIED,
        row="what the verifier says of a teacher's answer",
        when=lambda c, _: c.judge.verifies("filter") is not None,
        reads=lambda *_: [POOL.at(), TEACH.at()],
        settings=lambda c, _: verifier_fields(c, "filter"),
        files=lambda c, _: verifier_files(c, "filter"),
    )
)

HELDOUT_OVERLAP = declare(
    Stage(
        name="heldout_overlap",
        folder="heldout_overlap",
        columns=CONTAMINATED.columns,
        row="an instruction of the pool that holds one of the judged held-out set, with that one",
        when=lambda c, _: c.data.judged is not None,
        reads=lambda *_: [POOL.at(), JUDGED_HELDOUT.at()],
        settings=lambda c, _: {"decontamination": c.evaluation.decontamination.shaping()},
    )
)


def usable_of(config: RunConfig) -> list[StageAt]:
    """What says which instructions of the first pool are usable: pool, answers, labels, and the filter if there is one.

    In the order in which `split_usable` takes their rows.
    """
    return [POOL.at(), TEACH.at(), LABEL.at(), *verified(config)]


def held_out_of(config: RunConfig) -> list[StageAt]:
    """Which of these leave the pool of every round: a judged held-out set, and what holds one of its instructions."""
    return planned(config, JUDGED_HELDOUT.at(), HELDOUT_OVERLAP.at())


def verified(config: RunConfig) -> list[StageAt]:
    """What filters the teacher's answers, if anything does."""
    return planned(config, VERIFY.at())
