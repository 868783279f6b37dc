"""The stages that make the students: those of a round, from answers to the next student, and the mean of the rounds'.

Round 0 (S_0) has only the last two.
"""

import polars as pl

from tapir_core import paths
from tapir_core.config import Imitate, RunConfig
from tapir_core.stages import pool
from tapir_core.stages.stage import CHECKPOINT, COUNT, NUMBER, TEXT, Fields, Stage, StageAt, declare, planned

CHAT_TEMPLATE = "file:chat_template"

CANDIDATES = pl.Schema(
    {
        "instruction_id": TEXT,
        "instruction": TEXT,
        "system": TEXT,
        "task_type": TEXT,
        "seed_id": TEXT,
        "wave": COUNT,
    }
)
"""In list order. ``task_type`` is the wanted one; of what passed the gates, its own."""
EXPANSION = pl.Schema({**CANDIDATES, "response": TEXT})
GATED = pl.Schema({**EXPANSION, "gate": TEXT})
"""With the gate that a candidate failed first; nothing of one that passed."""


def judge_fields(config: RunConfig) -> Fields:
    """Who judges, and how; the order of a panel changes no verdict."""
    judge, who = config.judge, ("endpoint", "panel", "panel_rule", "verifier")
    how = {name: value for name, value in judge.shaping().items() if name not in who}
    return {"judges": sorted(judge.identities), **how, **pool.verifier_fields(config, "judge")}


def score_fields(config: RunConfig) -> Fields:
    """How verdicts become one MFD."""
    return {name: config.judge.shaping()[name] for name in ("mode", "orders", "panel_rule")}


def judge_prompts(config: RunConfig) -> list[str]:
    """The judge's prompt, and the verifier that may stand in the judge's place, as ingredients."""
    return [f"prompt:{config.judge.asked_as.prompt}", *pool.verifier_files(config, "judge")]


def student_fields(config: RunConfig) -> Fields:
    """How the student's answers are drawn; which student it is comes with the checkpoint."""
    return {"sampling": config.student.sampling.shaping(), "engine": config.student.engine.answers_as}


def size_fields(config: RunConfig, number: int) -> Fields:
    """How many examples a round (0: S_0) has, and of which task types."""
    if number == 0:
        return {"seed": config.run.seed, "examples": config.basic_tuning.examples}
    settings, curriculum = config.round(number), config.curriculum
    return {
        "seed": config.run.seed,
        "examples": settings.examples,
        "alpha": settings.alpha,
        "target_shares": curriculum.target_shares,
        "teacher_floor": curriculum.teacher_floor,
        **_pair_fields(config, number),
    }


def _pair_fields(config: RunConfig, number: int) -> Fields:
    """Which instructions make pairs, in a round that learns from those alone."""
    fields = config.objective(number).shaping_of("mix")
    return {"objective": fields} if fields else {}


def tuning_fields(config: RunConfig, number: int) -> Fields:
    """How a round's mixture (0: S_0's) is trained on."""
    settings, objective = config.round(number) if number else config.basic_tuning, config.objective(number)
    return {
        **config.training.shaping(),
        "seed": config.run.seed,
        "epochs": settings.epochs,
        "learning_rate": config.learning_rate(number),
        "batch_size": config.batch_size(number),
        **({} if objective == Imitate() else {"objective": objective.shaping()}),
    }


def wave_fields(config: RunConfig, number: int) -> Fields:
    """How a round's seeds are expanded."""
    teacher, check = config.teacher, None
    if config.checks_expansion(number):
        check = {
            "judge": judge_fields(config),
            "scores": score_fields(config),
            "student": student_fields(config),
            "selection": config.round(number).selection.shaping(),
        }
    return {
        **size_fields(config, number),
        **pool.label_fields(config),
        **pool.verifier_fields(config, "filter"),
        "expansion": config.curriculum.expansion.shaping(),
        "expanding": teacher.expanding.shaping(),
        **pool.answering_fields(config),
        "decontamination": config.evaluation.decontamination.shaping(),
        "check": check,
    }


def _pool(config: RunConfig, at: StageAt) -> list[StageAt]:
    """What the pool of a round is made of: the first pool, what is held out of it, the expansions of earlier rounds."""
    return [
        pool.POOL.at(),
        pool.LABEL.at(),
        pool.TEACH.at(),
        *pool.verified(config),
        *pool.held_out_of(config),
        *(planned(config, LIKELIEST.at(1)) if at.number > 0 and at.name != LIKELIEST.name else []),
        *(EXPAND.at(earlier) for earlier in range(1, at.number)),
    ]


def drawn_at(config: RunConfig, at: StageAt) -> StageAt:
    """What the mixture of ``at``'s round is made of: `DRAW`, or the last stage that the round has in its place."""
    return [DRAW, *(stage for stage in ROUND if stage.replaces == DRAW.name and stage.when(config, at))][-1].at(
        at.round
    )


def _in_place_of_draw(config: RunConfig, at: StageAt) -> list[StageAt]:
    drawn = drawn_at(config, at)
    return [] if drawn.stage.inner else [drawn]


def _drawn_beside(config: RunConfig, at: StageAt) -> list[StageAt]:
    """What is drawn follows from the rest of what refinement and mixture read."""
    return [DRAW.at(at.round)] if at.number and not _in_place_of_draw(config, at) else []


def _student(at: StageAt) -> StageAt:
    """The student with which a round begins."""
    return StageAt("train", at.number - 1)


def _trained_on(at: StageAt) -> list[StageAt]:
    """What a round draws last: the mixtures before its own."""
    return [MIX.at(number) for number in range(at.number)]


def _in_round(config: RunConfig, at: StageAt, *names: str) -> list[StageAt]:
    """The pool of the round, stages of the same round, and what it takes last."""
    return [*_pool(config, at), *(StageAt(name, at.round) for name in names), *_trained_on(at)]


def _measured(config: RunConfig, at: StageAt) -> list[StageAt]:
    """The difficulty that seeds and easy part come from, if any."""
    judged = config.verdict_round(at.number)
    return [] if judged is None else [DIFFICULTY.at(judged)]


def attempted(config: RunConfig, at: StageAt) -> list[StageAt]:
    """The student's answers that the seeds of a round are drawn by, if any."""
    return planned(config, ATTEMPT.at(at.round))


def _own_answers(config: RunConfig, at: StageAt) -> list[StageAt]:
    """The student's answers and the verdicts on them, where the round learns from both."""
    return [ANSWER.at(at.round), JUDGE.at(at.round)] if config.objective(at.number).reads_answers else []


def _mixed(config: RunConfig, at: StageAt) -> list[StageAt]:
    """What a mixture is drawn from; for round 0 the pool alone."""
    if at.number == 0:
        return _pool(config, at)
    return [
        *(*_pool(config, at), *_measured(config, at), *attempted(config, at)),
        *(SELECT.at(at.round), EXPAND.at(at.round), REFINE.at(at.round)),
        *(*_trained_on(at), *_in_place_of_draw(config, at), *_own_answers(config, at)),
    ]


def _expanded(config: RunConfig, at: StageAt) -> list[StageAt]:
    """What every step of a round's expansion reads: seeds, pool, evaluation questions, what earlier waves accepted."""
    return [
        *(*pool.question_stages(config), *_pool(config, at), SELECT.at(at.round)),
        *([_student(at)] if config.checks_expansion(at.number) else []),
        *(StageAt("wave_gated", at.round, wave) for wave in range(1, at.wave or 1)),
    ]


def _expansion_prompts(config: RunConfig, at: StageAt) -> list[str]:
    return [
        *("prompt:expand", "prompt:label"),
        *(judge_prompts(config) if config.checks_expansion(at.number) else []),
        *pool.verifier_files(config, "filter"),
    ]


def _is_numbered(_: RunConfig, at: StageAt) -> bool:
    return at.number > 0


LIKELIEST = declare(
    Stage(
        name="likeliest",
        folder="likeliest",
        columns=pl.Schema({"instruction_id": TEXT, "sample": COUNT, "answer": TEXT, "log_prob": NUMBER}),
        row="one of several answers of the teacher, with the mean log-probability that S_0 gives its tokens",
        when=lambda c, at: at.round == 1 and c.teacher.takes_likeliest,
        reads=lambda c, at: [*_pool(c, at), _student(at)],
        settings=lambda c, _: {"engine": c.student.engine.answers_as, **_thought_fields(c)},
        files=lambda *_: [CHAT_TEMPLATE],
        asks="student",
        version=2,
        roles=("rollout",),
    )
)

ANSWER = declare(
    Stage(
        name="answer",
        folder="answers",
        columns=pool.ANSWERS,
        row="the answer of S_{r−1} to an instruction of the round's pool",
        when=lambda c, at: c.judges(at.number),
        reads=lambda c, at: [*_pool(c, at), _student(at)],
        settings=lambda c, _: student_fields(c),
        files=lambda *_: [CHAT_TEMPLATE],
        asks="student",
        roles=("answer",),
    )
)

JUDGE = declare(
    Stage(
        name="judge",
        folder="verdicts",
        columns=pl.Schema(
            {
                "instruction_id": TEXT,
                "order": TEXT,
                "student_score": NUMBER,
                "teacher_score": NUMBER,
                "status": TEXT,
                "reason": TEXT,
                "raw": TEXT,
                "judge": TEXT,
            }
        ),
        row="a verdict: an instruction, an order, a judge",
        version=3,
        when=lambda c, at: c.judges(at.number),
        reads=lambda c, at: _in_round(c, at, "answer"),
        settings=lambda c, _: judge_fields(c),
        files=lambda c, _: judge_prompts(c),
        asks="judge",
        roles=("judge",),
        calls_per_row=1,
        shards_of="answer",
        rows_per_row=lambda c: c.judge.verdicts_per_instruction,
    )
)

DIFFICULTY = declare(
    Stage(
        name="difficulty",
        folder="difficulty",
        columns=pl.Schema(
            {
                "instruction_id": TEXT,
                "task_type": TEXT,
                "student_score": NUMBER,
                "teacher_score": NUMBER,
                "mfd": NUMBER,
                "orders": COUNT,
                "order_gap": NUMBER,
            }
        ),
        row="an instruction whose every order is scored",
        when=lambda c, at: c.judges(at.number),
        reads=lambda c, at: _in_round(c, at, "judge"),
        settings=lambda c, _: score_fields(c),
    )
)

ATTEMPT = declare(
    Stage(
        name="attempt",
        folder="attempts",
        columns=pl.Schema({"instruction_id": TEXT, "sample": COUNT, "response": TEXT, "correct": pl.Boolean()}),
        row="an answer that S_{r−1} drew to an instruction of the round's pool, right or wrong",
        when=lambda c, at: at.number > 0 and bool(c.round(at.number).selection.attempts),
        reads=lambda c, at: [*_pool(c, at), _student(at)],
        # It draws at temperature 1 whatever the student's own, and marks whatever else the verifier is used for.
        settings=lambda c, at: {
            "max_tokens": c.student.sampling.max_tokens,
            "engine": c.student.engine.answers_as,
            "samples": c.round(at.number).selection.attempts,
            "tokens": c.objective(at.number).rolls_out,
            "verifier": c.judge.marker.shaping() | {"uses": None, "only": None},
        },
        files=lambda c, _: [CHAT_TEMPLATE, *(["file:verifier"] if c.judge.verifier else [])],
        asks="student",
        roles=("rollout",),
    )
)

SELECT = declare(
    Stage(
        name="select",
        folder="seeds",
        columns=pl.Schema({"instruction_id": TEXT, "task_type": TEXT, "mfd": NUMBER}),
        row="a seed",
        version=3,
        when=_is_numbered,
        reads=lambda c, at: [*(_measured(c, at) or _in_round(c, at)), *attempted(c, at), *_own_answers(c, at)],
        settings=lambda c, at: {
            "seed": c.run.seed,
            "selection": c.round(at.number).selection.shaping(),
            **({"weighs": c.objective(at.number).learns_from_own} if c.round(at.number).selection.attempts else {}),
            "teacher_floor": c.curriculum.teacher_floor,
            **_pair_fields(c, at.number),
        },
    )
)


def _wave_step(name: str, folder: str, columns: pl.Schema, before: str | None = None, **more: object) -> Stage:
    return declare(
        Stage(
            name=name,
            folder=folder,
            columns=columns,
            when=_is_numbered,
            reads=lambda c, at: [*_expanded(c, at), *([StageAt(before, at.round, at.wave)] if before else [])],
            reads_beside=_measured,
            settings=lambda c, at: wave_fields(c, at.number),
            files=_expansion_prompts,
            step_of="expand",
            **more,  # type: ignore[arg-type]  # fields of `Stage`
        )
    )


WAVE_REQUESTS = _wave_step(
    "wave_requests", "requests", pl.Schema({"task_type": TEXT, "seed_id": TEXT, "sample_index": COUNT}), version=2
)
WAVE_CANDIDATES = _wave_step(
    "wave_candidates", "candidates", CANDIDATES, "wave_requests", asks="teacher", roles=("expand",)
)
WAVE_SCREENED = _wave_step("wave_screened", "screened", GATED, "wave_candidates", version=2)
WAVE_EXAMINED = _wave_step(
    "wave_examined",
    "examined",
    pl.Schema({"instruction_id": TEXT, "task_type": TEXT, "response": TEXT, "finish_reason": TEXT, "mfd": NUMBER}),
    "wave_screened",
    version=3,
    asks="teacher",
    roles=("label", "teach", "answer", "judge"),
)
WAVE_GATED = _wave_step("wave_gated", "gated", GATED, "wave_examined", version=2)
WAVE = (WAVE_REQUESTS, WAVE_CANDIDATES, WAVE_SCREENED, WAVE_EXAMINED, WAVE_GATED)
"""The steps of one wave of an expansion, in their order."""

EXPANSION_REJECTED = _wave_step(
    "expansion_rejected", "expansion_rejected", GATED, row="a candidate that a gate kept back", version=2
)

EXPAND = declare(
    Stage(
        name="expand",
        folder="expansion",
        columns=EXPANSION,
        row="a new instruction that passed every gate",
        version=3,
        when=_is_numbered,
        reads=_expanded,
        reads_beside=_measured,
        settings=lambda c, at: wave_fields(c, at.number),
        files=_expansion_prompts,
        asks="teacher",
        roles=("expand", "label", "teach", "answer", "judge"),
        calls_per_row=3,
        wave_steps=WAVE,
        last_steps=(EXPANSION_REJECTED, pool.CONTAMINATED),
    )
)

DRAW = declare(
    Stage(
        name="draw",
        folder="drawn",
        columns=pl.Schema({**SELECT.columns, "origin": TEXT}),
        row="an instruction of the hard or the easy part of the mixture, before its answer is refined",
        version=2,
        when=_is_numbered,
        reads=lambda c, at: [
            *(*_pool(c, at), *_measured(c, at), *attempted(c, at)),
            *(SELECT.at(at.round), EXPAND.at(at.round), *_trained_on(at)),
        ],
        settings=lambda c, at: size_fields(c, at.number),
        inner=True,
        shown=False,
    )
)

REFINE = declare(
    Stage(
        name="refine",
        folder="refinement",
        columns=pl.Schema(
            {
                "instruction_id": TEXT,
                "task_type": TEXT,
                "plain": TEXT,
                "refined": TEXT,
                "accepted": pl.Boolean(),
                "reason": TEXT,
            }
        ),
        row="an answer of the hard part that the teacher rewrote",
        version=3,
        when=_is_numbered,
        reads=lambda c, at: [*_in_round(c, at, "select", "expand"), *_in_place_of_draw(c, at)],
        reads_beside=_drawn_beside,
        settings=lambda c, at: {
            **size_fields(c, at.number),
            **pool.teacher_fields(c),
            **pool.type_fields(c),
            **pool.verifier_fields(c, "filter"),
            "refine": c.refines(at.number),
            "refining": c.teacher.refining.shaping(),
        },
        files=lambda c, _: [
            *("prompt:refine_steps", "prompt:refine_code", "prompt:refine_prose"),
            *pool.verifier_files(c, "filter"),
        ],
        asks="teacher",
        roles=("refine",),
        calls_per_row=1,
    )
)

MIX = declare(
    Stage(
        name="mix",
        folder="mixture",
        columns=pl.Schema(
            {
                "example_id": TEXT,
                "instruction_id": TEXT,
                "messages": pl.List(pl.Struct({"role": TEXT, "content": TEXT})),
                # seed, expansion or easy; S_0's examples come from the ``pool``.
                "task_type": TEXT,
                "origin": TEXT,
                "mfd": NUMBER,
                "refined": pl.Boolean(),
            }
        ),
        some_have=pl.Schema({"rejected": TEXT}),
        row="an example of the round's training set",
        version=3,
        reads=_mixed,
        reads_beside=_drawn_beside,
        settings=lambda c, at: {**size_fields(c, at.number), **_thought_fields(c), **_answer_fields(c, at.number)},
    )
)

IDS, LOG_PROBS = pl.List(pl.Int32()), pl.List(pl.Float32())


def _thought_fields(config: RunConfig) -> Fields:
    kept = {name: value for name, value in config.teacher.shaping().items() if name in ("thinking", "thinking_tokens")}
    # In place of another version, which would train anew where there are no thoughts.
    return {**kept, "sound_thoughts": True} if kept else {}


def _answer_fields(config: RunConfig, number: int) -> Fields:
    trained = config.teacher.answers_trained(config.objective(number).type)
    return {"answers": trained} if trained > 1 else {}


ROLLOUT = declare(
    Stage(
        name="rollout",
        folder="rollouts",
        columns=pl.Schema(
            {
                "instruction_id": TEXT,
                "sample": COUNT,
                "prompt_ids": IDS,
                "token_ids": IDS,
                # Of each of these tokens, as it was sampled.
                "log_probs": LOG_PROBS,
                "finish_reason": TEXT,
            }
        ),
        row="an answer that S_{r−1} drew to a prompt of the mixture, token by token",
        when=lambda c, at: c.objective(at.number).rolls_out,
        reads=lambda _, at: [MIX.at(at.round), _student(at)],
        settings=lambda c, at: {**student_fields(c), **c.objective(at.number).shaping_of("rollout")},
        files=lambda *_: [CHAT_TEMPLATE],
        asks="student",
        roles=("rollout",),
    )
)

SCORE = declare(
    Stage(
        name="score",
        folder="rollout_scores",
        columns=pl.Schema(
            {
                "instruction_id": TEXT,
                "sample": COUNT,
                "log_probs": LOG_PROBS,
                "top_ids": pl.List(IDS),
                "top_log_probs": pl.List(LOG_PROBS),
            }
        ),
        row="the teacher's log-probabilities of a rollout's tokens, and of those that it finds likeliest",
        when=lambda c, at: c.objective(at.number).rolls_out,
        reads=lambda _, at: [ROLLOUT.at(at.round)],
        settings=lambda c, at: {**pool.teacher_fields(c), **c.objective(at.number).shaping_of("score")},
        asks="teacher",
        roles=("score",),
        shards_of="rollout",
    )
)


TRAIN = declare(
    Stage(
        name="train",
        folder=CHECKPOINT,
        # What the student answered for the training, and what the teacher says of it, where the round learns from that.
        reads=lambda c, at: [
            *(MIX.at(at.round), *([_student(at)] if at.round else [])),
            *planned(c, ROLLOUT.at(at.round), SCORE.at(at.round)),
        ],
        settings=lambda c, at: tuning_fields(c, at.number),
        files=lambda _, at: [CHAT_TEMPLATE, *([] if at.round else ["backbone"])],
        trains=True,
    )
)

AVERAGE = declare(
    Stage(
        name="average",
        folder=CHECKPOINT,
        when=lambda c, at: at.round == paths.AVERAGE and c.student.average is not None,
        # A run that a stop rule ended has not trained all of them.
        reads=lambda c, _: [TRAIN.at(number) for number in c.round_numbers],
        fewest=2,
    )
)

ROUND = [LIKELIEST, ANSWER, JUDGE, DIFFICULTY, ATTEMPT, SELECT, EXPAND, DRAW, REFINE, MIX, ROLLOUT, SCORE, TRAIN]
"""A round, from the student's answers to the next student. S_0 is round 0."""


def making(number: int) -> list[Stage]:
    """The stages that make a student, the last of them its checkpoint; none of the untouched backbone."""
    return {paths.BACKBONE: [], paths.AVERAGE: [AVERAGE]}.get(number, ROUND)


def checkpoint_at(number: int) -> StageAt:
    """The stage whose files are the student after round ``number``."""
    return making(number)[-1].at(number)
