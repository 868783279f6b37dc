"""What a run does once: its held-out sets and pool, kept apart from each other, and the teacher's labels.

Stages `heldout`, `questions`, `contaminated`, `pool`, `label`, `judged_heldout` and `heldout_overlap`; with the pool of
a round, made of them and of the answers (`tasks.teach`).
"""

import math
from collections import Counter
from collections.abc import Mapping

import polars as pl

from tapir_core import curriculum, errors, paths, randomness, run_state, sources, stages, task_types, thoughts
from tapir_core.calls import Parsed, ask_read
from tapir_core.config import RunConfig
from tapir_core.data import readers
from tapir_core.data.decontamination import EvaluationQuestions, check_left, remedy_of
from tapir_core.estimate.evidence import estimate_tokens
from tapir_core.judging import show_instruction
from tapir_core.run_folder import RunFolder
from tapir_core.stages import StageAt
from tasks import asking, input_files, outcomes, runtime, train
from tasks._task import shard_task, stage_task


@stage_task(stages.HELDOUT)
def heldout(run: RunFolder, _: StageAt) -> outcomes.Worked:
    """Read or generate the held-out set with references."""
    found = sources.read_heldout_of(run.config.data.heldout, run.config)
    input_files.check_data_file(run, "heldout")
    return outcomes.Worked(found.rows, found.counts)


@stage_task(stages.QUESTIONS)
def questions(run: RunFolder, _: StageAt) -> outcomes.Worked:
    """Read the questions of the benchmarks."""
    for name in run.config.evaluation.benchmarks:
        input_files.check_benchmark_files(run, name, ["questions"])
    return outcomes.Worked(readers.read_questions(run.kept_config.evaluation.benchmarks))


@stage_task(stages.CONTAMINATED)
def contaminated(run: RunFolder, at: StageAt) -> outcomes.Worked:
    """List the instructions that hold an evaluation question: of the pool as it comes, or of a round's candidates."""
    if at.round is None:
        rows = _read_pool(run).rows
        return _overlap(evaluation_questions(run, first=rows), rows)
    # A candidate may have been asked for in several waves.
    rejected = run.rows(stages.EXPANSION_REJECTED.at(at.round)).filter(gate=curriculum.CONTAMINATED_GATE)
    return _overlap(evaluation_questions(run), rejected.unique("instruction_id", maintain_order=True))


@stage_task(stages.POOL)
def pool(run: RunFolder, _: StageAt) -> outcomes.Worked:
    """Read or generate the pool, without what holds an evaluation question; refuse it before anything is paid."""
    read = _read_pool(run)
    rows = read.rows
    if run.holds(stages.CONTAMINATED.at()):
        found = run.rows(stages.CONTAMINATED.at())
        check_left(
            found, rows.height, f"{sources.QUESTION} ({run.ref.name}/{stages.CONTAMINATED.at().folder}/ lists them)"
        )
        rows = rows.join(found, on="instruction_id", how="anti", maintain_order="left")
    sources.rehearse_heldout(rows, run.config)
    train.check_tools(run, rows)
    return outcomes.Worked(rows, read.counts)


@runtime.read_once
def pool_rows(run: RunFolder, _: StageAt) -> pl.DataFrame:
    """The pool, sorted by id."""
    return run.rows(stages.POOL.at()).sort("instruction_id")


@shard_task(stages.LABEL, plan=pool_rows)
def label_shard(run: RunFolder, at: StageAt, rows: pl.DataFrame) -> outcomes.Worked:
    """Task types of some instructions; one that the teacher refuses or garbles has none, and leaves the pool."""
    parsed = ask_labels(run, at, rows)
    labels = pl.Series([each.value for each in parsed], dtype=pl.String)
    frame = rows.select("instruction_id", task_type=labels).filter([not each.retryable for each in parsed])
    reasons = Counter(f"unlabelled_{each.reason}" for each in parsed if each.value is None and not each.retryable)
    return asking.worked(frame, {**asking.counts_of(parsed), **reasons}, rows, [each.counts_as for each in parsed])


@runtime.read_once
def pool_sample(run: RunFolder, _: StageAt) -> pl.DataFrame:
    """One row: what the teacher is shown of the pool."""
    texts = [show_instruction(row) for row in pool_rows(run, stages.POOL.at()).iter_rows(named=True)]
    shown = curriculum.sample_instructions(texts, randomness.derive_rng(run.config.run.seed, "discover"))
    return pl.DataFrame({"instruction_id": ["sample"], "instruction": [shown]})


@shard_task(stages.DISCOVER, plan=pool_sample)
def discover_task_types(run: RunFolder, at: StageAt, rows: pl.DataFrame) -> outcomes.Worked:
    """Task types that the teacher finds in a sample of the pool, in a file for the user too; none if it finds none."""
    asked, prompt, settings = runtime.current(run).teacher, runtime.current(run).prompt("discover"), run.config.teacher
    requests = [
        asking.make_request(run, "label", asked.identity, asking.chat(text), settings.answering, prompt=prompt)
        for text in (curriculum.render_discovery(prompt, each) for each in rows["instruction"])
    ]
    parsed = ask_read(
        runtime.current(run).calls,
        requests,
        asked.source,
        lambda _, reply: curriculum.parse_task_types(reply.text),
        settings.reasks,
        asking.watch(run, at),
    )
    found = [pair for each in parsed for pair in (each.value or {}).items()]
    if found:
        run.storage.write_bytes(paths.TASK_TYPES, curriculum.task_types_toml(found).encode())
    frame = pl.DataFrame(found, schema=stages.DISCOVER.columns, orient="row")
    return asking.worked(frame, asking.counts_of(parsed), rows, [each.counts_as for each in parsed])


def check_discovered(run: RunFolder) -> None:
    """Refuse to end without task types where the teacher had to find some.

    Raises:
        ConfigError: it found none.
    """
    if run.holds(stages.DISCOVER.at()) and not run.rows(stages.DISCOVER.at()).height:
        raise errors.ConfigError(
            "curriculum.task_types: the teacher's replies held no task types that can be used; write a table of your "
            "own (docs/own-data.md), or name another teacher"
        )


@stage_task(stages.JUDGED_HELDOUT)
def judged_heldout(run: RunFolder, _: StageAt) -> outcomes.Worked:
    """Draw dev and test from what the teacher answered usably, with its answers; the order of rows changes nothing."""
    examples, judged = _usable(run).examples, run.config.data.judged
    assert judged is not None
    rng = randomness.derive_rng(run.config.run.seed, "judged held-out set")
    taught, usable = run.rows(stages.TEACH.at()), examples.height
    if judged.answers == "teacher" and "answered_by" in taught.columns:
        own = taught.filter(pl.col("answered_by").is_null())
        examples = examples.join(own, on="instruction_id", how="semi", maintain_order="left")
        if examples.height < len(judged.sizes(usable)):
            raise errors.ConfigError(
                f'data.heldout.answers = "teacher": the teacher itself answered {examples.height} instructions usably; '
                "take answers out of the pool file so that it is asked, or compare with those of the file: "
                'data.heldout.answers = "any"'
            )
    references = run.rows(stages.POOL.at()).select("instruction_id", "reference")
    drawn = curriculum.draw_splits(examples, judged.sizes(usable, examples.height), rng)
    return outcomes.Worked(drawn.join(references, on="instruction_id", validate="1:1", maintain_order="left"))


@stage_task(stages.HELDOUT_OVERLAP)
def heldout_overlap(run: RunFolder, _: StageAt) -> outcomes.Worked:
    """List what else of the pool holds an instruction of the judged held-out set."""
    drawn = run.rows(stages.JUDGED_HELDOUT.at())
    rest = run.rows(stages.POOL.at()).join(drawn, on="instruction_id", how="anti", maintain_order="left")
    return _overlap(_questions_of(run, [readers.heldout_questions(drawn)]), rest)


def evaluation_questions(run: RunFolder, *, first: pl.DataFrame | None = None) -> EvaluationQuestions:
    """All questions that expansions must not hold, those of the benchmarks and of the held-out sets.

    The pool as it comes (``first``) is looked through before a judged held-out set is drawn from it.
    """
    drawn_later = [stages.JUDGED_HELDOUT.at()] if first is not None else []
    sets = [run.rows(at) for at in stages.heldout_stages(run.config) if at not in drawn_later]
    of_benchmarks = [run.rows(stages.QUESTIONS.at())] if run.config.evaluation.benchmarks else []
    return _questions_of(run, [*map(readers.heldout_questions, sets), *of_benchmarks], first)


def _questions_of(run: RunFolder, tables: list[pl.DataFrame], first: pl.DataFrame | None = None) -> EvaluationQuestions:
    questions = pl.concat([pl.DataFrame(schema=stages.QUESTIONS.columns), *tables])
    pool = run.rows(stages.POOL.at()) if first is None else first
    return EvaluationQuestions(questions, run.config.evaluation.decontamination, pool)


def _overlap(asked: EvaluationQuestions, rows: pl.DataFrame) -> outcomes.Worked:
    """Which of ``rows`` hold a question of ``asked``."""
    found = asked.find(rows)
    return outcomes.Worked(found, {**asked.count(found), "checked": rows.height})


def ask_labels(run: RunFolder, at: StageAt, rows: pl.DataFrame) -> list[Parsed[str]]:
    """Ask the teacher for the task type of each row (an instruction)."""
    asked, settings, prompt = runtime.current(run).teacher, run.config.teacher, runtime.current(run).prompt("label")
    label = curriculum.Labelling(run.config.curriculum.types, settings.label_replies)
    if not label.is_open:
        runtime.current(run).progress.row_counter(at)(rows.height)
        return [Parsed(task_types.OTHERS, "", (asking.NOT_ASKED,))] * rows.height
    requests = [
        asking.make_request(
            run,
            "label",
            asked.identity,
            asking.chat(label.render(prompt, show_instruction(row))),
            settings.labelling,
            prompt=prompt,
            schema=label.schema,
        )
        for row in rows.iter_rows(named=True)
    ]
    return ask_read(
        runtime.current(run).calls,
        requests,
        asked.source,
        lambda _, reply: label.parse(reply.text),
        settings.reasks,
        asking.watch(run, at),
    )


def check_system_texts(run: RunFolder, remedy: str) -> None:
    """Refuse a pool that a student whose chat template takes no system text cannot be asked; ``remedy`` helps.

    Raises:
        ConfigError: an instruction has one.
    """
    rows = run.rows(stages.POOL.at())
    if count := rows.filter(pl.col("system").fill_null("") != "").height:
        raise errors.ConfigError(
            f"data.pool: {count} of {rows.height} instructions have a system text, which the student's chat template "
            f"does not take; {remedy}, or move these texts into the instructions"
        )


def check_pool(run: RunFolder) -> None:
    """Refuse a pool that nothing can be learnt from or balanced in.

    Raises:
        ConfigError: no instruction has a task type and a usable teacher answer, or all have one task type and others
            are wanted.
    """
    usable = _usable(run)
    examples = run_state.not_held_out(run, usable.examples)
    if usable.examples.height and not examples.height:
        raise errors.ConfigError(
            f"data.heldout: of {usable.examples.height} usable instructions none is left to train on: each is one of "
            f"the judged held-out set or holds one ({stages.JUDGED_HELDOUT.folder}/ and "
            f"{stages.HELDOUT_OVERLAP.folder}/ list them); {remedy_of(run.rows(stages.HELDOUT_OVERLAP.at()))}, a "
            "smaller data.heldout.max_share, or a held-out set of your own"
        )
    if not examples.height:
        reasons = ", ".join(f"{count} {reason}" for reason, count in usable.dropped.items())
        raise errors.ConfigError(
            f"data.pool: no instruction has a usable teacher answer and a task type ({reasons}); look at the answers "
            f"in {stages.TEACH.at().folder}/, and give a pool or a teacher that fit each other"
        )
    found = examples["task_type"].unique().to_list()
    wanted = {name for name, share in mixture_shares(run).items() if share > 0}
    if len(found) == 1 and wanted != set(found) and run.config.curriculum.target_shares != "natural":
        raise errors.ConfigError(
            f"data.pool: every usable instruction has the task type {found[0]!r}, so there is nothing to balance; give "
            f'a broader pool, or say that you want this one only: curriculum.target_shares = {{ "{found[0]}" = 1.0 }}'
        )


def mixture_shares(run: RunFolder) -> Mapping[str, float]:
    """Pr(task type) of every mixture of the run; the labels are there."""
    return curriculum.target_shares(
        run.config.curriculum.target_shares, curriculum.shares_of(run.rows(stages.LABEL.at()))
    )


round_pool = runtime.read_once(run_state.pool_of)


def with_trained_thoughts(pool: pl.DataFrame, config: RunConfig) -> pl.DataFrame:
    """The pool with those thoughts, of its more answers too, that are trained.

    A thought that is too long, repeats itself or has a control token is left out whole.
    """
    teacher = config.teacher
    longest = {"drop": 0.0, "keep": math.inf, "cap": teacher.thinking_tokens}[teacher.thinking]

    def shown(thought: str | None) -> str:
        is_sound = curriculum.unusable_reason(thought, "stop", refusals=True) is None
        return thought if thought and is_sound and estimate_tokens(thought) <= longest else ""

    if "thoughts" in pool.columns:
        pool = pool.with_columns(thoughts=pl.Series(map(shown, pool["thoughts"]), dtype=pl.String))
    if "others" not in pool.columns:
        return pool
    parts = ([thoughts.split(each) for each in texts or ()] for texts in pool["others"].to_list())
    others = [[thoughts.join(shown(thought), answer) for thought, answer in each] for each in parts]
    return pool.with_columns(others=pl.Series(others, dtype=pl.List(pl.String)))


def _read_pool(run: RunFolder) -> readers.Found:
    found = sources.read_pool_of(run.config.data.pool, run.config.data, run.config.run.seed)
    # After it was read: a file that was edited meanwhile is another one now.
    input_files.check_data_file(run, "pool")
    return found


def _usable(run: RunFolder) -> curriculum.Usable:
    return curriculum.split_usable(
        *map(run.rows, stages.usable_of(run.config)), refusals=run.config.teacher.takes_refusals
    )
