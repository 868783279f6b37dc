"""The stages that a run does once, before its students: held-out set, questions, pool, task types, labels, answers."""

from tapir_core.config import RunConfig, VerifierUse
from tapir_core.stages.stage import Json, Stage, StageAt, declare
from tapir_core.turns import EARLIER

ANSWER_COLUMNS = ("instruction_id", "response", "finish_reason", "prompt_tokens", "completion_tokens")
VERIFIED_COLUMNS = ("instruction_id", "score", "correct", "reason")


def pool_fields(config: RunConfig) -> Json:
    """Which instructions are read or generated."""
    return [config.run.seed, config.data.pool.shaping(), config.data.on_bad_row]


def searched_fields(config: RunConfig) -> Json:
    """What of the pool is looked through for evaluation questions: system texts too, where it has some."""
    return [*pool_fields(config), *(["system"] if config.data.pool.has_system_texts else [])]


def teacher_fields(config: RunConfig) -> Json:
    """Who the teacher is."""
    return config.teacher.endpoint.answers_as("teacher")


def verifier_fields(config: RunConfig, use: VerifierUse) -> list[Json]:
    """What of a verifier shapes what it is used for; none without that use."""
    verifier = config.judge.verifies(use)
    return [verifier.shaping()] if verifier else []


def verifier_files(config: RunConfig, use: VerifierUse) -> list[str]:
    """The verifier's module, as an ingredient."""
    return ["file:verifier"] if config.judge.verifies(use) else []


def type_fields(config: RunConfig) -> Json:
    """Which task types there are; nothing for the paper's by name, which keys have always meant."""
    said = config.curriculum.shaping()
    return {name: said[name] for name in ("task_types",) if name in said}


def label_fields(config: RunConfig) -> Json:
    """How task types are asked for."""
    by_schema = {"replies": "json"} if config.teacher.label_replies == "json" else {}
    return config.teacher.labelling.shaping() | by_schema | type_fields(config)


def if_any(fields: Json) -> list[Json]:
    """The fields as one more entry of a list; no entry where there are none."""
    return [fields] if fields else []


def question_stages(config: RunConfig) -> list[StageAt]:
    """What the pool is kept apart from as it comes: the held-out set with references, the questions of benchmarks."""
    return [stage.at() for stage in (HELDOUT, QUESTIONS) if stage.when(config, stage.at())]


def _kept_apart(config: RunConfig, at: StageAt) -> list[StageAt]:
    """What the pool, or a round's expansion, is kept apart from; a judged held-out set is drawn from the pool later."""
    drawn = [JUDGED_HELDOUT.at()] if config.data.judged and at.round is not None else []
    return [*question_stages(config), *drawn]


HELDOUT = declare(
    Stage(
        name="heldout",
        folder="heldout",
        columns=("instruction_id", "instruction", "system", "task_type", "reference", "split"),
        some_have=(EARLIER,),
        row="an instruction of the held-out set",
        when=lambda c, _: c.data.references is not None,
        settings=lambda c, _: [c.run.seed, c.data.references and c.data.references.shaping(), *if_any(type_fields(c))],
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
        when=lambda c, at: bool(_kept_apart(c, at)),
        # Of a round: the candidates of its expansion.
        reads=lambda c, at: [*_kept_apart(c, at), *([StageAt("expansion_rejected", at.round)] if at.round else [])],
        settings=lambda c, at: [c.evaluation.decontamination.shaping(), *([] if at.round else searched_fields(c))],
        files=lambda _, at: [] if at.round else ["file:pool"],
    )
)

POOL = declare(
    Stage(
        name="pool",
        folder="pool",
        columns=("instruction_id", "instruction", "system", "source", "reference"),
        some_have=(EARLIER, "answer"),
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
        columns=("task_type", "definition"),
        row="a task type that the teacher found in a sample of the pool",
        when=lambda c, _: c.curriculum.task_types == "discover",
        reads=lambda *_: [POOL.at()],
        settings=lambda c, _: [c.run.seed, teacher_fields(c), c.teacher.answering.shaping(), c.teacher.reasks],
        files=lambda *_: ["prompt:discover"],
        asks="teacher",
        roles=("label",),
    )
)

LABEL = declare(
    Stage(
        name="label",
        folder="labels",
        columns=("instruction_id", "task_type"),
        row="an instruction of the pool",
        reads=lambda *_: [POOL.at()],
        settings=lambda c, _: [teacher_fields(c), label_fields(c), c.teacher.reasks],
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
        some_have=("answered_by",),
        row="the teacher's plain answer to an instruction of the pool",
        reads=lambda *_: [POOL.at()],
        settings=lambda c, _: [
            *(teacher_fields(c), c.teacher.answering.shaping()),
            *([c.data.pool.answers_of] if c.data.pool.answers_of else []),
        ],
        asks="teacher",
        roles=("teach",),
        calls_per_row=1,
    )
)

JUDGED_HELDOUT = declare(
    Stage(
        name="judged_heldout",
        folder="judged_heldout",
        columns=("instruction_id", "instruction", "system", "task_type", "reference", "split", "response"),
        some_have=(EARLIER,),
        row="an instruction of the judged held-out set, with the teacher's answer",
        when=lambda c, _: c.data.judged is not None,
        reads=lambda c, _: [POOL.at(), LABEL.at(), TEACH.at(), *verified(c)],
        settings=lambda c, _: [c.run.seed, c.data.judged and c.data.judged.drawn_as],
    )
)

VERIFY = declare(
    Stage(
        name="verify",
        folder="verified",
        columns=VERIFIED_COLUMNS,
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
        settings=lambda c, _: c.evaluation.decontamination.shaping(),
    )
)


def usable_of(config: RunConfig) -> list[StageAt]:
    """What says which instructions of the first pool are usable: pool, answers, labels, and the filter if there is one.

    In the order in which `split_usable` takes their rows.
    """
    return [POOL.at(), TEACH.at(), LABEL.at(), *verified(config)]


def held_out_of(config: RunConfig) -> list[StageAt]:
    """Which of these leave the pool of every round: a judged held-out set, and what holds one of its instructions."""
    return [JUDGED_HELDOUT.at(), HELDOUT_OVERLAP.at()] if config.data.judged else []


def verified(config: RunConfig) -> list[StageAt]:
    """What filters the teacher's answers, if anything does."""
    return [VERIFY.at()] if config.judge.verifies("filter") else []
