"""The stages that a run does once: what it is evaluated on, the pool, the teacher's labels and plain answers."""

from tapir_core.config import RunConfig
from tapir_core.stages.keys import pool_fields, searched_fields, teacher_fields
from tapir_core.stages.stage import Stage, StageAt, declare

ANSWER_COLUMNS = ("instruction_id", "response", "finish_reason", "prompt_tokens", "completion_tokens")


def question_stages(config: RunConfig) -> list[StageAt]:
    """What pool and expansion are kept apart from: the held-out set, the questions of benchmarks."""
    return [stage.at() for stage in (HELDOUT, QUESTIONS) if stage.when(config, stage.at())]


HELDOUT = declare(
    Stage(
        name="heldout",
        folder="heldout",
        columns=("instruction_id", "instruction", "system", "task_type", "reference", "split"),
        row="an instruction of the held-out set",
        when=lambda c, _: c.data.heldout is not None,
        settings=lambda c, _: [c.run.seed, c.data.heldout and c.data.heldout.shaping()],
        files=lambda *_: ["file:heldout"],
    )
)

QUESTIONS = declare(
    Stage(
        name="questions",
        folder="questions",
        columns=("benchmark", "question_id", "turn", "question"),
        row="a turn of a benchmark's question",
        when=lambda c, _: bool(c.evaluation.benchmarks),
        files=lambda c, _: [f"file:questions:{name}" for name in sorted(c.evaluation.benchmarks)],
    )
)

CONTAMINATED = declare(
    Stage(
        name="contaminated",
        folder="contaminated",
        columns=("instruction_id", "instruction", "benchmark", "question_id", "question", "rule", "similarity"),
        row="an instruction that holds an evaluation question, with the question",
        when=lambda c, _: bool(question_stages(c)),
        # Of a round: the candidates of its expansion.
        reads=lambda c, at: [*question_stages(c), *([StageAt("expansion_rejected", at.round)] if at.round else [])],
        settings=lambda c, at: [c.evaluation.decontamination.shaping(), *([] if at.round else searched_fields(c))],
        files=lambda _, at: [] if at.round else ["file:pool"],
    )
)

POOL = declare(
    Stage(
        name="pool",
        folder="pool",
        columns=("instruction_id", "instruction", "system", "source", "reference"),
        row="an instruction",
        reads=lambda c, _: [CONTAMINATED.at()] if question_stages(c) else [],
        settings=lambda c, _: pool_fields(c),
        files=lambda *_: ["file:pool"],
    )
)

LABEL = declare(
    Stage(
        name="label",
        folder="labels",
        columns=("instruction_id", "task_type"),
        row="an instruction of the pool",
        reads=lambda *_: [POOL.at()],
        settings=lambda c, _: [teacher_fields(c), c.teacher.labelling.shaping(), c.teacher.reasks],
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
        columns=ANSWER_COLUMNS,
        row="the teacher's plain answer to an instruction of the pool",
        reads=lambda *_: [POOL.at()],
        settings=lambda c, _: [teacher_fields(c), c.teacher.answering.shaping()],
        asks="teacher",
        roles=("teach",),
        calls_per_row=1,
    )
)
