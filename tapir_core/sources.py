"""The pool and the held-out set of a configuration: read from a file, or made by the stand-in.

A kind of your own registers what reads it with `read_pool_of.register` or `read_heldout_of.register`.
"""

import math
from collections import Counter
from typing import NamedTuple

import polars as pl

from tapir_core import config, randomness, stages, text, turns
from tapir_core.curriculum import sizes
from tapir_core.data import readers
from tapir_core.data.decontamination import EvaluationQuestions, loss_in_words
from tapir_core.standin import families, family


@config.by_kind(config.PoolConfig)
def read_pool_of(pool: config.PoolConfig, data: config.DataConfig, seed: int) -> readers.Found:
    """The pool D; ``seed`` is the run's, of which every draw derives.

    Raises:
        ConfigError: it cannot be read, or has bad rows.
    """
    raise NotImplementedError  # never runs: `by_kind` names the kind that lacks it


@read_pool_of.register
def _(pool: config.FilePool, data: config.DataConfig, seed: int) -> readers.Found:
    return readers.read_pool(
        readers.instruction_records(pool.path, pool.columns),
        pool.path,
        on_bad_row=data.on_bad_row,
        limit=pool.limit,
        rng=randomness.derive_rng(seed, "pool"),
        answers=bool(pool.answers_of),
    )


@read_pool_of.register
def _(pool: config.StandinPool, _data: config.DataConfig, seed: int) -> readers.Found:
    return readers.Found(standin_pool(pool.rows, pool.max_level, seed))


def settle_sizes(run: config.RunConfig, pool: readers.Found | None = None) -> tuple[config.RunConfig, tuple[str, ...]]:
    """The configuration with numbers for `"auto"`, and a sentence for each.

    The ``pool`` is read where it is not given, and a number is asked for.

    Raises:
        ConfigError: the pool cannot be read, or has bad rows.
    """
    if not sizes.are_open(run):
        return run, ()
    rows = (pool or read_pool_of(run.data.pool, run.data, run.run.seed)).rows
    return sizes.auto_sizes(run, rows.height, rows["answer"].null_count() if "answer" in rows.columns else rows.height)


@config.by_kind(config.HeldoutConfig)
def read_heldout_of(heldout: config.HeldoutConfig, run: config.RunConfig) -> readers.Found:
    """The held-out set of a run.

    Raises:
        ConfigError: it cannot be read, or has bad rows.
    """
    raise NotImplementedError  # never runs: `by_kind` names the kind that lacks it


@read_heldout_of.register
def _(heldout: config.FileHeldout, run: config.RunConfig) -> readers.Found:
    return readers.read_heldout(
        readers.instruction_records(heldout.path, heldout.columns),
        heldout.path,
        on_bad_row=run.data.on_bad_row,
        # Any name will do until the task types are discovered.
        types=() if run.curriculum.task_types == "discover" else run.curriculum.types.names,
        bare=run.judge.marks_without_reference,
        way_out=_way_out(run.judge.verifier),
    )


def _way_out(verifier: config.VerifierConfig | None) -> str:
    """What would let a held-out row do without a reference."""
    if verifier is None:
        return (
            "Where a function can tell right answers without one, name yours in judge.verifier: it marks them then "
            "(docs/verifiers.md)."
        )
    if verifier.function in config.SHIPPED:
        return f'judge.verifier = "{verifier.function}" says nothing without one; a function of your own may.'
    return f'Or add "heldout" to judge.verifier.uses, so that {verifier.function!r} marks them without one.'


@read_heldout_of.register
def _(heldout: config.StandinHeldout, run: config.RunConfig) -> readers.Found:
    return readers.Found(standin_heldout(heldout.dev, heldout.test, heldout.max_level, run.run.seed))


@read_heldout_of.register
def _(_heldout: config.JudgedHeldout, run: config.RunConfig) -> readers.Found:
    # Its own instructions are drawn from the pool, once the teacher has answered: stage `judged_heldout`.
    references = run.data.references
    nothing = readers.Found(pl.DataFrame(schema=stages.HELDOUT.columns))
    return nothing if references is None else read_heldout_of(references, run)


QUESTION, HELD_OUT = "an evaluation question", "an instruction that the judged held-out set may draw"


class CleanPool(NamedTuple):
    """The pool without what holds an evaluation question."""

    rows: pl.DataFrame
    heldout_rows: int
    """Of the held-out set with references."""
    notes: tuple[str, ...]
    """What its reading left out."""
    lost: str
    """A warning where columns of a file are not read and change what it asks, where much of the pool holds
    evaluation questions, or instructions of a judged held-out set, or where it is small; else empty."""


def clean_pool(run: config.RunConfig, pool: readers.Found | None = None) -> CleanPool:
    """The pool that a run will work on; ``pool`` is what was read of it, where it was.

    Raises:
        ConfigError: a file cannot be read, has bad rows, or nothing of the pool is left.
    """
    data = run.data
    read = pool or read_pool_of(data.pool, data, run.run.seed)
    heldout = [] if data.references is None else [read_heldout_of(data.references, run)]
    asked = [
        *(readers.heldout_questions(each.rows) for each in heldout),
        readers.read_questions(run.evaluation.benchmarks),
    ]
    found = EvaluationQuestions(pl.concat(asked), run.evaluation.decontamination, read.rows).find(read.rows)
    rows = read.rows.join(found, on="instruction_id", how="anti", maintain_order="left")
    lost = loss_in_words(found, read.rows.height, QUESTION) or rehearse_heldout(rows, run)
    with_tools = count_tools(rows)
    unheard = with_tools and not getattr(run.student.engine, "tool_parser", "none")
    tools = unheard and f"{with_tools} instructions have tools; set student.engine.tool_parser (docs/tools.md)"
    warnings = filter(
        None, (read.unread, tools or "", *(each.unread for each in heldout), lost, few_in_words(rows.height, run))
    )
    return CleanPool(rows, sum(len(each.rows) for each in heldout), tuple(read.noted), "; ".join(warnings))


def count_tools(rows: pl.DataFrame) -> int:
    """Instructions that have tools."""
    talks = rows.drop_nulls(turns.EARLIER) if turns.EARLIER in rows.columns else rows.clear()
    return sum(turns.has_tools(row) for row in talks.iter_rows(named=True))


_REHEARSED = 20_000
"""Instructions of a pool that a held-out set drawn by lot is compared with, at most."""
_FEW = 200
"""Instructions; of fewer a tenth is a handful."""


def few_in_words(rows: int, run: config.RunConfig) -> str:
    """A warning where a judged held-out set out of so many instructions says little; else empty."""
    if run.data.judged is None or rows >= _FEW:
        return ""
    test = run.data.judged.sizes(rows)["test"]
    return (
        f"{rows} instructions are few: {test} of them are held out as the test, so that a figure is right to "
        f"{98 / math.sqrt(test):.0f} percentage points; give {_FEW} or more, which leave a round a choice"
    )


def rehearse_heldout(rows: pl.DataFrame, run: config.RunConfig) -> str:
    """A warning where much of a pool holds an instruction of a judged held-out set, if one were drawn by lot.

    The set itself is drawn by task types from what the teacher answered, and so after that is paid. Of a large pool a
    part is looked at.

    Raises:
        ConfigError: nothing of the pool would be left.
    """
    if run.data.judged is None:
        return ""
    # Where only the teacher's own answers are compared with, the file's stay in the pool.
    asked = run.data.judged.answers == "teacher" and "answer" in rows.columns
    candidates = rows.filter(pl.col("answer").is_null()) if asked else rows
    size = sum(run.data.judged.sizes(rows.height, candidates.height).values())
    rng = randomness.derive_rng(run.run.seed, "rehearsal")
    drawn = candidates[sorted(rng.sample(range(candidates.height), min(size, candidates.height)))]
    where, some = HELD_OUT, rows
    if rows.height > _REHEARSED:
        where, some = (
            f"{HELD_OUT} ({_REHEARSED:,} of {rows.height:,} were looked at)",
            rows[sorted(rng.sample(range(rows.height), _REHEARSED))],
        )
    rest = some.join(drawn, on="instruction_id", how="anti", maintain_order="left")
    found = EvaluationQuestions(readers.heldout_questions(drawn), run.evaluation.decontamination, some).find(rest)
    return loss_in_words(found, rest.height, where)


def standin_pool(rows: int, max_level: int, seed: int) -> pl.DataFrame:
    """The pool D, one row per instruction, with natural shares. ``source`` is ``standin:FAMILY``.

    Raises:
        ConfigError: there are not that many distinct instructions.
    """
    records = [
        (text.instruction_id(each.instruction), each.instruction, None, f"standin:{each.family}", each.reference)
        for each in families.sample_problems(
            rows, max_level=max_level, rng=randomness.derive_rng(seed, "standin", "pool")
        )
    ]
    return pl.DataFrame(records, schema=stages.POOL.columns, orient="row")


def standin_heldout(dev: int, test: int, max_level: int, seed: int) -> pl.DataFrame:
    """The held-out set, one row per instruction, with equal shares of the families in each split; dev lacks some.

    Raises:
        ConfigError: there are not that many distinct instructions.
    """
    splits: tuple[tuple[family.Stream, int, dict[str, float]], ...] = (
        ("dev", dev, families.DEV_SHARES),
        ("test", test, families.EQUAL_SHARES),
    )
    records = [
        (text.instruction_id(each.instruction), each.instruction, None, each.task_type, each.reference, split)
        for split, count, shares in splits
        for each in families.sample_problems(
            count, max_level=max_level, rng=randomness.derive_rng(seed, "standin", split), shares=shares, stream=split
        )
    ]
    return pl.DataFrame(records, schema=stages.HELDOUT.columns, orient="row")


def natural_weights(data: config.DataConfig, heldout: pl.DataFrame) -> dict[str, float]:
    """instruction_id → weight of a row of the stand-in's held-out set, so that families have their shares of the pool.

    A split that lacks families has the others in proportion. Nothing of a set that is another's.
    """
    if data.references is None or not data.references.generated:
        return {}
    problems = map(families.recognise, heldout["instruction"])
    places = list(zip(heldout["split"], [each.family if each else "" for each in problems], strict=True))
    rows = Counter(places)
    return {
        instruction: families.NATURAL_SHARES.get(place[1], 0.0) / rows[place]
        for instruction, place in zip(heldout["instruction_id"], places, strict=True)
    }
