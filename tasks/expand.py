"""Stage `expand`: E_r ← expand(T, D_S) in waves, as many per task type as the target shares still lack.

A wave is: requests (drawn before any call) → candidates (teacher) → screened (text gates) → examined (label, plain
answer, by option the difficulty) → gated. Each step leaves its rows under `waves/`, so that a killed run goes on from
the last one, and every call from the store.
"""

from collections import Counter
from collections.abc import Mapping

import polars as pl

from tapir_core import curriculum, stages, thoughts
from tapir_core.calls import ask_read
from tapir_core.data.decontamination import texts_asked
from tapir_core.judging import combine_judges, show_instruction
from tapir_core.randomness import derive_rng
from tapir_core.run_folder import RunFolder
from tasks import asking, judge, mixture, pool, teach
from tasks._task import shard_task, stage_task
from tasks.outcomes import Worked, made_of
from tasks.runtime import current, read_once

_TELLING = 10
"""Requests of a wave from which on it tells that the next one would be in vain too."""


@stage_task(stages.WAVE_REQUESTS)
def plan_requests(run: RunFolder, at: stages.StageAt) -> Worked:
    """Draw the wave's requests: task types that still lack, each with a seed to imitate."""
    assert at.wave is not None
    requests = curriculum.plan_wave(
        run.rows(stages.SELECT.at(at.round)),
        _lacks(run, at),
        round_number=at.number,
        wave=at.wave,
        oversample=run.config.curriculum.expansion.oversample,
        rng=derive_rng(run.config.run.seed, at.number, "expand", at.wave),
    )
    return Worked(pl.DataFrame(requests, schema=stages.WAVE_REQUESTS.columns))


@read_once
def _lacks(run: RunFolder, at: stages.StageAt) -> Mapping[str, int]:
    """Task type → rows that seeds and earlier waves lack to the hard part of the round.

    None without seeds, and none after a wave of ten and more that kept nothing: the next would be paid for as little.
    """
    assert at.wave is not None
    seeds = run.rows(stages.SELECT.at(at.round))
    if at.wave > 1 and run.rows(stages.WAVE_REQUESTS.at(at.round, at.wave - 1)).height >= _TELLING:
        kept, before = (_accepted(run, at.number, at.wave - back).height for back in (1, 2))
        if kept == before:
            return {}
    wanted = curriculum.quotas(mixture.round_size(run, at).hard, pool.mixture_shares(run))
    have = Counter(curriculum.supply_of(seeds)) + Counter(curriculum.supply_of(_accepted(run, at.number, at.wave - 1)))
    return curriculum.lacking(wanted, have) if seeds.height else {}


@read_once
def wave_requests(run: RunFolder, at: stages.StageAt) -> pl.DataFrame:
    """The wave's requests in list order."""
    return run.rows(stages.WAVE_REQUESTS.at(at.number, at.wave))


@shard_task(stages.WAVE_CANDIDATES, plan=wave_requests)
def expand_shard(run: RunFolder, at: stages.StageAt, rows: pl.DataFrame) -> Worked:
    """Ask the teacher for new instructions in the manner of the seeds."""
    assert at.wave is not None
    runtime, teacher = current(run), run.config.teacher
    prompt, who, types = runtime.prompt("expand"), runtime.teacher.identity, run.config.curriculum.types
    seeds = rows.select(instruction_id="seed_id").join(
        pool.round_pool(run, at.number).drop("task_type"), on="instruction_id", maintain_order="left"
    )
    wanted = [curriculum.ExpansionRequest(*row) for row in rows.iter_rows()]
    requests = [
        asking.make_request(
            run,
            "expand",
            who,
            asking.chat(curriculum.render_expansion(prompt, show_instruction(seed), types.described(each.task_type))),
            teacher.expanding,
            prompt=prompt,
            sample_index=each.sample_index,
        )
        for each, seed in zip(wanted, seeds.iter_rows(named=True), strict=True)
    ]
    asked = ask_read(
        runtime.calls,
        requests,
        runtime.teacher.source,
        lambda _, reply: curriculum.parse_expansion(reply.text, ended=reply.finish_reason != "length"),
        teacher.reasks,
        asking.watch(run, at),
    )
    candidates = curriculum.candidate_rows(wanted, [each.value for each in asked], at.wave)
    return asking.worked(candidates, asking.counts_of(asked), seeds, [each.outcome for each in asked])


@stage_task(stages.WAVE_SCREENED)
def screen_wave(run: RunFolder, at: stages.StageAt) -> Worked:
    """Run the gates that need no call over the wave's candidates, those held back by the last one before them."""
    assert at.wave is not None
    earlier = [run.rows(each) for each in (stages.POOL.at(), *map(stages.EXPAND.at, range(1, at.number)))]
    known = pl.concat(map(texts_asked, [*earlier, _accepted(run, at.number, at.wave - 1)]))
    before = [run.rows(stages.WAVE_SCREENED.at(at.round, at.wave - 1))] if at.wave > 1 else []
    own = run.rows(stages.WAVE_CANDIDATES.at(at.round, at.wave))
    candidates = pl.concat([*map(curriculum.held_back, before), own], how="vertical_relaxed")
    contaminated = {*pool.evaluation_questions(run).find(candidates)["instruction_id"]}
    gates = curriculum.text_gates(run.config.curriculum.expansion, current(run).prompt("expand"), known, contaminated)
    return _worked(curriculum.apply_gates(candidates, gates))


@read_once
def screened_rows(run: RunFolder, at: stages.StageAt) -> pl.DataFrame:
    """The wave's candidates that passed the text gates, in list order."""
    return run.rows(stages.WAVE_SCREENED.at(at.number, at.wave)).filter(pl.col("gate").is_null())


@shard_task(stages.WAVE_EXAMINED, plan=screened_rows)
def examine_shard(run: RunFolder, at: stages.StageAt, rows: pl.DataFrame) -> Worked:
    """Label the candidates, answer those of a task type that is needed, and by option measure how hard they are."""
    parsed = pool.ask_labels(run, at, rows)
    labels = pl.Series([each.value for each in parsed], dtype=pl.String)
    right = rows.with_columns(task_type=labels).filter(curriculum.needed_types(rows, labels, _lacks(run, at)))
    answers = teach.ask_teacher(run, at, right)
    taught = right.select(
        "instruction_id",
        "instruction",
        "system",
        # Without a thought that was kept.
        response=pl.Series(
            [text and thoughts.split(text)[1] for text in map(asking.text_of, answers)], dtype=pl.String
        ),
        finish_reason=pl.Series(map(asking.ending_of, answers), dtype=pl.String),
    )
    check = Worked(pl.DataFrame(schema={"instruction_id": pl.String, "mfd": pl.Float64}))
    if run.config.checks_expansion(at.number):
        check = _measure(run, at, taught, right["task_type"])
    labelled = rows.select("instruction_id").with_columns(task_type=labels)
    examined = _with(_with(labelled, taught.drop("instruction", "system")), check.rows)
    labelling = asking.worked(labelled, asking.counts_of(parsed), rows, [each.outcome for each in parsed])
    return made_of(examined, [labelling, asking.worked(taught, asking.count_paid(answers), right, answers), check])


@stage_task(stages.WAVE_GATED)
def gate_wave(run: RunFolder, at: stages.StageAt) -> Worked:
    """Run the gates that read the examination, in list order."""
    examined = run.rows(stages.WAVE_EXAMINED.at(at.number, at.wave))
    delta = None
    if run.config.checks_expansion(at.number):
        delta = curriculum.delta_of(run.sealed(stages.SELECT.at(at.round)).counts)
        assert delta is not None, "a round that checks new instructions chose its seeds by difficulty"
    rows = _with(screened_rows(run, at).drop("response", "gate"), examined.rename({"task_type": "label"}))
    verifier = run.config.judge.verifies("filter")
    marks = judge.verify_answers(run, at, verifier, rows.with_columns(reference=pl.lit(None, pl.String)))
    gates = curriculum.paid_gates(_lacks(run, at), delta, judge.wrong_answers(marks.rows) if verifier else None)
    gated = _worked(curriculum.file_by_label(curriculum.apply_gates(rows, gates)))
    return Worked(gated.rows, {**gated.counts, **marks.counts})


@stage_task(stages.EXPANSION_REJECTED)
def collect_rejected(run: RunFolder, at: stages.StageAt) -> Worked:
    """Every candidate of the round that a gate kept back, with the gate."""
    waves = _waves(run, at.number)
    screened, gated = (
        [run.rows(step.at(at.round, wave)) for wave in waves] for step in (stages.WAVE_SCREENED, stages.WAVE_GATED)
    )
    rejected = curriculum.all_rejected(screened, gated)
    return Worked(rejected, {f"gate_{gate}": count for gate, count in rejected["gate"].value_counts().iter_rows()})


@stage_task(stages.EXPAND)
def collect_expansion(run: RunFolder, at: stages.StageAt) -> Worked:
    """What the waves of the round accepted, with what the task types still lack."""
    waves = _waves(run, at.number)
    return Worked(_accepted(run, at.number, len(waves)), {"waves": len(waves)})


def _measure(run: RunFolder, at: stages.StageAt, taught: pl.DataFrame, task_types: pl.Series) -> Worked:
    """MFD of new instructions with a usable teacher answer: the student answers, the judge scores."""
    endings = taught.select("response", "finish_reason", "instruction").iter_rows()
    usable = pl.Series([curriculum.unusable_reason(*each) is None for each in endings], dtype=pl.Boolean)
    rows = taught.with_columns(task_type=task_types, reference=pl.lit(None, pl.String)).filter(usable)
    outcomes = judge.ask_student(run, at, at.number - 1, rows)
    student = pl.Series(map(asking.text_of, outcomes), dtype=pl.String)
    judged = judge.judge_rows(run, at, rows.rename({"response": "teacher"}).with_columns(student=student))
    verdicts = combine_judges(judged.rows, run.config.judge.panel_rule)
    mfd = curriculum.compute_difficulty(
        verdicts, rows.select("instruction_id", "task_type"), run.config.judge.expected_orders
    )
    mfd = curriculum.trusted(mfd, run.config.curriculum.teacher_floor)
    return made_of(mfd.select("instruction_id", "mfd"), [asking.worked(mfd, {}, rows, outcomes), judged])


def _with(rows: pl.DataFrame, columns: pl.DataFrame) -> pl.DataFrame:
    return rows.join(columns, on="instruction_id", how="left", maintain_order="left")


def _worked(gated: curriculum.Gated) -> Worked:
    # What passed has no gate, and as yet no response.
    rows = pl.concat([gated.passed, gated.rejected], how="diagonal_relaxed").select(*stages.WAVE_GATED.columns)
    return Worked(rows, {f"gate_{gate}": count for gate, count in gated.counts.items()})


def _accepted(run: RunFolder, number: int, waves: int) -> pl.DataFrame:
    """What waves 1 to ``waves`` of a round accepted, in list order."""
    gated = (run.rows(stages.WAVE_GATED.at(number, wave)) for wave in _waves(run, number)[:waves])
    accepted = (each.filter(pl.col("gate").is_null()).select(*stages.EXPAND.columns) for each in gated)
    return pl.concat([pl.DataFrame(schema=stages.EXPAND.columns), *accepted], how="vertical_relaxed")


def _waves(run: RunFolder, number: int) -> list[int]:
    """Waves of a round that are whole, in order."""
    return [wave for wave in run.config.waves(number) if run.holds(stages.WAVE_GATED.at(number, wave))]
