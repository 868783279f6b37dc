"""What a student answers, and what is said of it: stages `answer`, `judge`, `difficulty`; of the held-out sets
`answer_heldout`, `judge_heldout`, `evaluate`. With a verifier also its marks: `verify` (of the teacher's answers) and
`verify_heldout`.

ỹ ← S(x); (s_student, s_teacher) ← J(x, ỹ, y) in every configured order, by every judge; MFD(x) ← mean of
s_teacher − s_student.
"""

import logging
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import product
from typing import Any

import polars as pl
from polars import selectors as cs

from tapir_core import errors, run_state, sources, stages, turns
from tapir_core.calls import Outcome, Parsed, Request, Watch, forget_unread
from tapir_core.config import RETENTION, JudgeConfig, JudgedHeldout, VerifierConfig
from tapir_core.curriculum import compute_difficulty
from tapir_core.evaluation.scores import judges_in_words, score_answers, score_judged
from tapir_core.judging import Verdict, combine_judges, levelled, mode_of, unscored, verdict_rows, verified
from tapir_core.prompts import Prompt
from tapir_core.run_folder import RunFolder
from tapir_core.stages import StageAt
from tasks import asking
from tasks._task import shard_task, stage_task
from tasks.engines.verifier import score_rows, source_digest
from tasks.outcomes import FEWEST_ASKED, Worked
from tasks.pool import round_pool
from tasks.runtime import Runtime, current, read_once

logger = logging.getLogger(__name__)


@read_once
def heldout_rows(run: RunFolder, _: StageAt) -> pl.DataFrame:
    """What the students are asked of the held-out sets, sorted by id."""
    asked = cs.by_name("instruction_id", "instruction", "system") | cs.by_name(turns.EARLIER, require_all=False)
    sets = (run.rows(each).select(asked) for each in stages.heldout_stages(run.config))
    return pl.concat(sets, how="diagonal_relaxed").sort("instruction_id")


@shard_task(stages.ANSWER, plan=lambda run, at: round_pool(run, at.number))
def answer_shard(run: RunFolder, at: StageAt, rows: pl.DataFrame) -> Worked:
    """Answers of S_{r−1} to some instructions of the round's pool."""
    return asking.answer_rows(rows, ask_student(run, at, at.number - 1, rows), by=current(run).students.in_words)


@shard_task(stages.ANSWER_HELDOUT, plan=heldout_rows)
def answer_heldout_shard(run: RunFolder, at: StageAt, rows: pl.DataFrame) -> Worked:
    """Answers of S_r (or of the untouched backbone) to some held-out instructions."""
    return asking.answer_rows(rows, ask_student(run, at, at.number, rows), by=current(run).students.in_words)


@stage_task(stages.EVALUATE)
def evaluate(run: RunFolder, at: StageAt) -> Worked:
    """Scores of the student after the round, from its stored answers."""
    answers, settings = run.rows(stages.ANSWER_HELDOUT.at(at.round)), f"student: {run.config.student.sampling.in_words}"
    tables = [pl.DataFrame(schema=stages.EVALUATE.columns)]
    if run.config.data.references is not None:
        verifier, questions = run.config.judge.verifies("heldout"), run.rows(stages.HELDOUT.at())
        _demand_references(run, questions)
        marks = (run.rows(stages.VERIFY_HELDOUT.at(at.round)), verifier.function) if verifier else ()
        weights = sources.natural_weights(run.config.data, questions)
        tables.append(score_answers(questions, answers, settings, *marks, weights=weights))
    if run.config.data.judged is not None:
        tables.append(_score_judged(run, at, answers, settings))
    return Worked(pl.concat(tables), {"missing": heldout_rows(run, at).height - answers.height})


def _demand_references(run: RunFolder, questions: pl.DataFrame) -> None:
    """Refuse a held-out set that was read for a verifier which needs no references, and which the run has no more.

    Raises:
        ConfigError: with the ways out.
    """
    lacking = questions["reference"].null_count()
    if lacking and not run.config.judge.marks_without_reference:
        raise errors.ConfigError(
            f"{lacking} of {questions.height} rows of the held-out set have no `reference`, and only a verifier of "
            "your own marks them without; set judge.verifier to one, or write the references into the file, and run "
            "the same command with --amend"
        )


def _score_judged(run: RunFolder, at: StageAt, answers: pl.DataFrame, settings: str) -> pl.DataFrame:
    judge, judged, verdicts = run.config.judge, run.config.data.judged, run.rows(stages.JUDGE_HELDOUT.at(at.round))
    assert judged is not None
    compared = run_state.compare_answers(judge, run.rows(stages.JUDGED_HELDOUT.at()), answers, verdicts)
    _foretell(at, judged, compared, verdicts)
    return score_judged(
        compared,
        judge=judges_in_words(run.config),
        prompt_version=current(run).prompt(judge.asked_as.prompt).version,
        settings=f"{settings}; {mode_of(judge).in_words()}",
        max_failed_share=judged.max_failed_share,
    )


def _foretell(at: StageAt, judged: JudgedHeldout, compared: pl.DataFrame, verdicts: pl.DataFrame) -> None:
    """Say of a student that gets no figure, when it is known, what lies before the reader at the end of the run.

    Raises:
        ConfigError: the run shall stop there.
    """
    for (split,), rows in compared.group_by("split", maintain_order=True):
        lacking = rows[RETENTION].null_count()
        if lacking <= judged.max_failed_share * rows.height:
            continue
        told = (
            f"{at}: {lacking} of {rows.height} held-out instructions ({split}) have no verdict in every order "
            f"({_commonest(verdicts)}), more than "
            f"data.heldout.max_failed_share = {judged.max_failed_share:g} accepts: there is no figure here, and "
            "likely none later. `tapir judge-check` measures the judge; another one or more "
            "judge.sampling.max_tokens may help, in the same command with --amend"
        )
        if judged.without_figure == "stop":
            raise errors.ConfigError(f'{told}. data.heldout.without_figure = "warn" goes on')
        logger.warning("%s", told)


def ask_student(run: RunFolder, at: StageAt, checkpoint: int, rows: pl.DataFrame) -> list[Outcome]:
    """Ask the student after round ``checkpoint`` for an answer to each row (an instruction)."""
    return asking.ask_plainly(run, at, "answer", current(run).student(checkpoint), run.config.student.sampling, rows)


@shard_task(stages.JUDGE)
def judge_shard(run: RunFolder, at: StageAt, rows: pl.DataFrame) -> Worked:
    """Verdicts on the answers of one answer shard."""
    return judge_rows(run, at, _with_both_answers(run, at, rows))


@shard_task(stages.JUDGE_HELDOUT)
def judge_heldout_shard(run: RunFolder, at: StageAt, rows: pl.DataFrame) -> Worked:
    """Verdicts on the answers of one shard to the judged held-out set; the others have references."""
    return judge_rows(run, at, _with_both_answers(run, at, rows))


@stage_task(stages.DIFFICULTY)
def difficulty(run: RunFolder, at: StageAt) -> Worked:
    """MFD of every instruction whose every order is scored; the others are in neither seeds nor easy.

    Raises:
        ConfigError: none is scored, or more are unscored than accepted.
    """
    pool = round_pool(run, at.number)
    judge = run.config.judge
    verdicts = combine_judges(run.rows(stages.JUDGE.at(at.number)), judge.panel_rule)
    rows = compute_difficulty(verdicts, pool.select("instruction_id", "task_type"), judge.expected_orders)
    check_scored(at, rows, verdicts, pool.height, run.config.calls.max_failed_share)
    return Worked(rows, {"pool": pool.height, "scored": rows.height, "unscored": pool.height - rows.height})


def judge_rows(run: RunFolder, at: StageAt, rows: pl.DataFrame) -> Worked:
    """Verdicts of all judges on rows with both answers; a row without a student answer is unscored with the reason."""
    runtime, settings = current(run), run.config.judge
    prompt = runtime.prompt(settings.asked_as.prompt)
    answered, silent = (rows.filter(pl.col("student").is_null() == empty) for empty in (False, True))
    verdicts, verifying = _verified(run, at, answered)
    done = {verdict.instruction_id for verdict in verdicts}
    texts = asking.render_texts(settings, prompt, answered.filter(~pl.col("instruction_id").is_in(done)).to_dicts())
    replies = _ask_all(runtime, prompt, texts, asking.watch(run, at))
    verdicts += _silent_verdicts(silent, settings)
    for name, each in replies.items():
        verdicts += asking.read_verdicts(mode_of(settings), each, name)
    alike = {
        *answered.filter(pl.col("student").str.strip_chars() == pl.col("teacher").str.strip_chars())["instruction_id"]
    }
    verdicts = sorted(
        (levelled(each) if each.instruction_id in alike else each for each in verdicts),
        key=lambda verdict: (verdict.instruction_id, verdict.order, verdict.judge),
    )
    reasons = Counter(f"unscored: {verdict.reason}" for verdict in verdicts if verdict.status == "unscored")
    instructions = dict(answered.select("instruction_id", "instruction").iter_rows())
    asked = [(identity, instructions[identity]) for each in replies.values() for identity, _ in each]
    parsed = [reply for each in replies.values() for reply in each.values()]
    return asking.worked(
        verdict_rows(verdicts),
        {**asking.counts_of(parsed), **verifying, **reasons},
        pl.DataFrame(asked, schema=["instruction_id", "instruction"], orient="row"),
        [reply.counts_as for reply in parsed],
    )


def forget_unscored(run: RunFolder, at: StageAt) -> int:
    """Delete the stored replies of every verdict that is unscored, so that its judge is asked anew; gives how many.

    What has scores stays: the other order of the same instruction, and what an earlier start asked anew. Where judging
    was stopped before its seal, no verdict is known, and every stored reply is looked at.
    """
    unscored = None if run.holds(at) is None else run.rows(at).filter(status="unscored")
    settings, calls = run.config.judge, current(run).calls
    requests = asked_for(run, at, unscored)
    return forget_unread(calls, requests, asking.verdict_reader(settings, requests), settings.reasks)


def check_stored(run: RunFolder, at: StageAt) -> None:
    """Look whether the store has the replies of all scored verdicts, which are read again when others are asked.

    Raises:
        ConfigError: some would be paid for again.
    """
    asking.demand_stored(run, at, asked_for(run, at, run.rows(at).filter(status="scored")), "the run's own command")


def asked_for(run: RunFolder, at: StageAt, verdicts: pl.DataFrame | None) -> list[Request]:
    """What the judges were asked for these verdicts, each for its own; nothing means for all."""
    runtime, settings = current(run), run.config.judge
    prompt, mode, requests = runtime.prompt(settings.asked_as.prompt), mode_of(settings), list[Request]()
    rows = _with_both_answers(run, at, run.rows(run_state.judged_at(at)))
    texts = asking.render_texts(settings, prompt, rows.filter(pl.col("student").is_not_null()).to_dicts())
    for name, judge in runtime.judges.items():
        wanted = texts
        if verdicts is not None:
            places = set(verdicts.filter(judge=name).select("instruction_id", "order").iter_rows())
            wanted = {
                (each, place): texts[each, place] for each, place in texts if (each, mode.order_of(place)) in places
            }
        requests += asking.judge_requests(runtime, judge, prompt, wanted)
    return requests


def check_scored(at: StageAt, rows: pl.DataFrame, verdicts: pl.DataFrame, asked: int, accepted_share: float) -> None:
    """Refuse a round in which little is scored: seeds would be drawn from what is left, or the run end as if learnt.

    ``rows`` are the scored ones of ``asked`` instructions.

    Raises:
        ConfigError: with the reasons, most frequent first.
    """
    if rows.height and (asked < FEWEST_ASKED or asked - rows.height <= accepted_share * asked):
        return
    raise errors.ConfigError(
        f"the judge scored {rows.height} of {asked} instructions of round {at.number} in every order "
        f"({_commonest(verdicts)}); calls.max_failed_share = {accepted_share:g} accepts no more unscored. Look at the "
        "replies in column `raw` of "
        f"{stages.JUDGE.at(at.number).folder}/. If judge.endpoint, judge.sampling or the judge prompt is at fault, "
        "fix it and run the same command with --amend; if the judge itself was, and is fixed, ask it again with "
        "`tapir retry-judge RUN --also terminal`"
    )


def _commonest(verdicts: pl.DataFrame) -> str:
    """The reasons of unscored verdicts, most frequent first."""
    return ", ".join(f"{count} x {reason}" for reason, count in Counter(verdicts["reason"].drop_nulls()).most_common(3))


def _ask_all(
    runtime: Runtime, prompt: Prompt, texts: Mapping[asking.VerdictKey, str], watch: Watch
) -> dict[str, dict[asking.VerdictKey, Parsed[Any]]]:
    """What every judge replies, by its name; several are asked at the same time, one from the caller's thread."""
    judges, ask = runtime.judges, partial(asking.ask_judge, runtime, prompt=prompt, texts=texts, watch=watch)
    with ThreadPoolExecutor(max(1, len(judges))) as threads:
        each = threads.map if len(judges) > 1 else map
        return dict(zip(judges, each(ask, judges.values()), strict=True))


def _with_both_answers(run: RunFolder, at: StageAt, answers: pl.DataFrame) -> pl.DataFrame:
    """Student answers with their instruction and the teacher's answer beside them; those to other sets are left out."""
    is_heldout = at.name == stages.JUDGE_HELDOUT.name
    taught = run.rows(stages.JUDGED_HELDOUT.at()) if is_heldout else round_pool(run, at.number)
    students = answers.select("instruction_id", "finish_reason", student="response")
    return students.join(taught.rename({"response": "teacher"}), on="instruction_id", maintain_order="left")


def _verified(run: RunFolder, at: StageAt, rows: pl.DataFrame) -> tuple[list[Verdict], dict[str, float]]:
    """The verdicts of the verifier, on rows whose both answers it scores, and what it counted."""
    verifier = run.config.judge.verifies("judge")
    if verifier is None:
        return [], {}
    answers = pl.concat([rows.with_columns(response=pl.col(who)) for who in ("student", "teacher")])
    found = verify_answers(run, at, verifier, answers)
    marks = found.rows.select("score", "reason").rows()
    of = zip(rows["instruction_id"], marks[: rows.height], marks[rows.height :], strict=True)
    return [verdict for each in of for verdict in verified(run.config.judge, verifier, *each)], found.counts


def _silent_verdicts(rows: pl.DataFrame, judge: JudgeConfig) -> list[Verdict]:
    """The verdicts on instructions without a student answer, which no judge is asked about."""
    names = judge.names or [verifier.function for verifier in [judge.verifier] if verifier]
    return [
        unscored(row["instruction_id"], order, f"no student answer: {row['finish_reason']}", None, name)
        for row, order, name in product(rows.iter_rows(named=True), judge.expected_orders, names)
    ]


@stage_task(stages.VERIFY)
def verify(run: RunFolder, at: StageAt) -> Worked:
    """Marks of the teacher's plain answers."""
    return verify_answers(
        run, at, run.config.judge.verifies("filter"), _with_answers(run, stages.POOL.at(), stages.TEACH.at())
    )


@stage_task(stages.VERIFY_HELDOUT)
def verify_heldout(run: RunFolder, at: StageAt) -> Worked:
    """Marks of a student's answers to the held-out set."""
    rows = _with_answers(run, stages.HELDOUT.at(), stages.ANSWER_HELDOUT.at(at.round))
    return verify_answers(run, at, run.config.judge.verifies("heldout"), rows)


def verify_answers(run: RunFolder, at: StageAt, verifier: VerifierConfig | None, rows: pl.DataFrame) -> Worked:
    """Marks of the ``rows`` (instruction_id, instruction, reference, response) that have a response, in their order.

    No rows without a verifier. Its failures are counted by kind.

    Raises:
        ConfigError: it cannot be imported any more, or failed on more rows than `calls.max_failed_share` accepts.
        RunChanged: its module was edited since the run was opened.
    """
    rows = rows.filter(pl.col("response").is_not_null())
    if verifier is None or not rows.height:
        return Worked(pl.DataFrame(schema=stages.VERIFY.columns))
    run.check_ingredient(
        "file:verifier", source_digest(verifier), f"the module of judge.verifier {verifier.function!r}"
    )
    marks = score_rows(verifier, rows.select("instruction", "response", "reference").rows(), current(run).scripts(at))
    kinds = Counter(mark.reason.partition(":")[0] for mark in marks if mark.reason is not None)
    failed, accepted = kinds.total() - kinds["none"], run.config.calls.max_failed_share
    if len(marks) >= FEWEST_ASKED and failed > accepted * len(marks):
        said = next(mark.reason for mark in marks if mark.reason not in (None, "none"))
        raise errors.ConfigError(
            f"{at}: judge.verifier {verifier.function!r} failed on {failed} of {len(marks)} answers ({said}), more "
            f"than calls.max_failed_share = {accepted:g} accepts; correct it, or raise its limits "
            "(judge.verifier.timeout_seconds, judge.verifier.memory_gib), and run the same command with --amend"
        )
    table = [
        (identity, score, None if score is None else score >= verifier.min_score, reason)
        for identity, (score, reason) in zip(rows["instruction_id"], marks, strict=True)
    ]
    counts = {f"verifier_{kind}": float(count) for kind, count in sorted(kinds.items())}
    return Worked(
        pl.DataFrame(table, schema=stages.VERIFY.columns, orient="row"),
        {"verified": len(marks) - kinds.total(), **counts},
    )


def _with_answers(run: RunFolder, asked: StageAt, answered: StageAt) -> pl.DataFrame:
    answers = run.rows(answered).select("instruction_id", "response")
    return run.rows(asked).join(answers, on="instruction_id", maintain_order="left")


def wrong_answers(marks: pl.DataFrame) -> frozenset[str]:
    """The instructions whose answers are wrong by a verifier."""
    return frozenset(marks.filter(~pl.col("correct"))["instruction_id"])
