"""The judge report: how far the judge of a round can be trusted, as tables and on one page that needs nothing else.

All of it is read from the run folder alone, so it can be made again at any time. Only stage `judge` and what it reads
must hold, so a round whose verdicts allow no selection can be looked at too. How to read it: docs/judge.md. What a plot
shows is binned, so its size does not grow with the pool.
"""

from bisect import bisect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import fmean
from typing import Any

import polars as pl

from tapir_core import errors, paths, run_state, statistics
from tapir_core.config import JudgeConfig
from tapir_core.judging import combine_judges, show_instruction
from tapir_core.judging.agreement import (
    WINNERS,
    JudgePair,
    LengthEffects,
    OrderAgreement,
    UnscoredVerdicts,
    compare_judges,
    count_unscored_verdicts,
    favoured_position,
    mean_scores,
    measure_length,
    measure_orders,
    pair_orders,
    with_lengths,
)
from tapir_core.reporting import page, plots
from tapir_core.run_folder import RunFolder
from tapir_core.stages import ANSWER, JUDGE
from tapir_core.summary import RunReader, types
from tapir_core.summary.formats import NOTHING, correlation, count, number, percent, points, round_name
from tapir_core.text import shorten

_EACH = 5
_HALF = 1_000
"""Characters shown of a long text at its beginning, and at its end."""
_BINS = 10
_REASONS = 8
_REASON_CHARS = 48
_GRADES, _GRADE_ENDS = ("weak", "moderate", "good", "very good"), (0.4, 0.6, 0.8)
"""Of an agreement, by Cohen's κ."""

_Cell = Callable[[float], str]


@dataclass(frozen=True, slots=True)
class Measures:
    """One judge in figures, or all of them combined."""

    pairs: pl.DataFrame
    """instruction_id, teacher_first, student_first, order_gap: what is scored in both orders."""
    scores: pl.DataFrame
    """instruction_id, both scores, mfd, student_chars, teacher_chars: what is scored in every order."""
    agreement: OrderAgreement | None
    """Nothing when one order only was asked."""
    length: LengthEffects
    unscored: UnscoredVerdicts


@dataclass(frozen=True, slots=True)
class JudgeRound:
    """The judge of one round."""

    run: str
    number: int
    judge: JudgeConfig
    verdicts: int
    digest: str
    """Of the verdicts: the page names it, by which `run_state.judge_is_shown` knows them."""
    instructions: int
    """With at least one verdict."""
    whole: Measures
    """Of a panel its combined scores, and what all its judges left unscored."""
    single: dict[str, Measures]
    """Each judge of a panel by its name; empty with one."""
    panel: tuple[JudgePair, ...]
    """Every two judges; empty with one."""
    to_read: tuple[types.Example, ...]
    """The widest order gaps, then unscored ones of every reason: both answers, then the replies."""


def summarise_judge(run: RunFolder, number: int) -> JudgeRound:
    """Everything that the judge report of round ``number`` says.

    Raises:
        MissingPrerequisite: the round has no verdicts yet.
    """
    judge = run.config.judge
    asked = RunReader(run).tables([JUDGE.at(number), ANSWER.at(number)])
    if not asked:
        raise errors.MissingPrerequisite(
            f"round {number} of run {run.ref.name!r} has no verdicts yet, so there is no judge to report on; "
            f"`tapir status {run.ref.name} --root {run.ref.root}` says how far it is"
        )
    verdicts, answers = asked
    pool = run_state.pool_of(run, number)
    whole = _measure(verdicts, answers, pool, judge)
    return JudgeRound(
        run=run.record.name,
        number=number,
        judge=judge,
        verdicts=verdicts.height,
        digest=run.sealed(JUDGE.at(number)).digest,
        instructions=verdicts["instruction_id"].n_unique(),
        whole=whole,
        single={
            name: _measure(verdicts.filter(judge=name), answers, pool, judge)
            for name in (judge.names if judge.panel else ())
        },
        panel=compare_judges(verdicts, judge.expected_orders),
        to_read=_choose_verdicts(verdicts, whole.pairs, answers, pool),
    )


def _measure(verdicts: pl.DataFrame, answers: pl.DataFrame, pool: pl.DataFrame, judge: JudgeConfig) -> Measures:
    combined, orders = combine_judges(verdicts, judge.panel_rule), judge.expected_orders
    pairs = pair_orders(combined)
    scores = with_lengths(mean_scores(combined, orders), answers, pool)
    return Measures(
        pairs,
        scores,
        measure_orders(pairs) if len(orders) > 1 else None,
        measure_length(scores),
        count_unscored_verdicts(verdicts, pool),
    )


def _choose_verdicts(
    verdicts: pl.DataFrame, pairs: pl.DataFrame, answers: pl.DataFrame, pool: pl.DataFrame
) -> tuple[types.Example, ...]:
    """At most ten instructions with what was judged and the replies, the same ones for the same verdicts."""
    widest = (
        pairs.filter(pl.col("order_gap") != 0)
        .sort(pl.col("order_gap").abs(), "instruction_id", descending=[True, False])
        .head(_EACH)
    )
    chosen = [
        (identity, f"order gap {gap:+.1f}") for identity, gap in widest.select("instruction_id", "order_gap").rows()
    ]
    # The reasons take turns, so that a rare one is seen.
    unscored = verdicts.filter(pl.col("status") != "scored").sort("instruction_id", "order", "judge")
    turns = unscored.with_columns(turn=pl.int_range(pl.len()).over("reason")).sort("turn", maintain_order=True)
    chosen += [(identity, "unscored") for identity in turns["instruction_id"].unique(maintain_order=True).head(_EACH)]
    several = verdicts["judge"].n_unique() > 1
    pool, answers, verdicts = (
        rows.filter(pl.col("instruction_id").is_in([identity for identity, _ in chosen]))
        for rows in (pool, answers, verdicts)
    )
    texts = pool.rows_by_key("instruction_id", named=True, include_key=True, unique=True)
    students = dict(answers.select("instruction_id", "response").iter_rows())
    ordered = verdicts.sort("order", "judge", descending=[True, False])
    found = []
    for identity, why in chosen:
        text = texts[identity]
        judged = {"teacher": text["response"], "student": students.get(identity)}
        shown = [
            *(types.Answer(f"{who}'s answer", "", _short(said or "")) for who, said in judged.items()),
            *(_reply(row, several=several) for row in ordered.filter(instruction_id=identity).iter_rows(named=True)),
        ]
        found.append(types.Example(why, text["task_type"], show_instruction(text), tuple(shown)))
    return tuple(found)


def _reply(row: dict[str, Any], *, several: bool) -> types.Answer:
    who = row["order"].replace("_", " ") + (f", {row['judge']}" if several else "")
    outcome = (
        f"student {row['student_score']:g}, teacher {row['teacher_score']:g}"
        if row["status"] == "scored"
        else f"unscored: {row['reason']}"
    )
    return types.Answer(f"{who}:", outcome, _short(row["raw"] or "(no reply)"))


def _short(text: str) -> str:
    """A long text without its middle, since verdicts stand at the end."""
    left_out = f"\n… ({len(text) - 2 * _HALF} characters left out) …\n"
    return text if len(text) <= 2 * _HALF else f"{text[:_HALF]}{left_out}{text[-_HALF:]}"


def write_judge_report(run: RunFolder, found: JudgeRound) -> str:
    """Write the judge report of a round into the run folder and say where it is."""
    file = paths.judge_report_file(found.number)
    run.storage.write_bytes(file, render_judge_report(found).encode())
    return f"{run.ref.root}/{run.ref.name}/{file}"


def render_judge_report(found: JudgeRound) -> str:
    """The page. Everything that is text is escaped."""
    tables, whole = judge_tables(found), found.whole
    pairs = whole.pairs if whole.agreement is not None else whole.pairs.clear()
    return page.render_page(
        "judge_report.html.jinja2",
        [
            page.Section("", tables["judge"]),
            plots.plot_order_gap({round_name(found.number): pairs["order_gap"]}),
            page.section_of(tables["judge-winners"]),
            page.section_of(tables["judge-panel"]),
            page.section_of(tables["judge-single"]),
            plot_length(whole.scores),
            replace(plot_unscored(whole.unscored.reasons), table=tables["judge-unscored"]),
            page.section_of(tables["judge-task-types"], folded=True) if whole.unscored.reasons else None,
        ],
        found=found,
        said=(position_sentence(found), agreement_sentence(found), length_sentence(found), unscored_sentence(found)),
    )


def position_sentence(found: JudgeRound) -> str:
    """Whether the judge favours the answer that it is shown first, or second."""
    if found.whole.agreement is None:
        return (
            "The judge saw one answer a call, so there is no position to favour."
            if not found.judge.asked_as.shows_both
            else f"The judge saw every pair in one order only, {found.judge.expected_orders[0].replace('_', ' ')}, so "
            "a favoured position cannot be told."
        )
    gap = found.whole.agreement.gap
    favoured, told = favoured_position(gap), f"order gap {in_words(gap, points)}"
    return (
        f"Whether the judge favours a position cannot be told: {told}."
        if favoured is None
        else f"No favoured position can be told from {count(gap.n)} instructions: {told}."
        if favoured == "neither"
        else f"The judge favours the answer shown {favoured}, by {abs(gap.value or 0) / 2:.2f} points a verdict: "
        f"{told}. The MFD is the mean of both orders, in which this cancels."
    )


def agreement_sentence(found: JudgeRound) -> str:
    """How far both orders agree."""
    agreement = found.whole.agreement
    kappa = agreement.kappa.value if agreement else None
    grade = "" if kappa is None else f": {_GRADES[bisect(_GRADE_ENDS, kappa)]} agreement beyond chance"
    return (
        ""
        if agreement is None
        else "No instruction is scored in both orders, so their agreement is not defined."
        if agreement.same_winner.value is None
        else f"Both orders name the same winner for {percent(agreement.same_winner.value)} of "
        f"{count(agreement.same_winner.n)} instructions; Cohen's κ is {in_words(agreement.kappa, correlation)}{grade}."
    )


def length_sentence(found: JudgeRound) -> str:
    """Whether longer answers score higher."""
    effect = found.whole.length.difference
    told = f"rank correlation of MFD and length difference {in_words(effect, correlation)}"
    return (
        f"Whether scores go with length cannot be told: {told}."
        if effect.low is None or effect.high is None
        else f"No link between score and length can be told: {told}."
        if effect.low <= 0 <= effect.high
        else f"The {'longer' if effect.low > 0 else 'shorter'} of two answers tends to score higher: {told}. It may "
        "also be the better one."
    )


def unscored_sentence(found: JudgeRound) -> str:
    """How many verdicts are unscored, and the most frequent reason."""
    reasons, share = found.whole.unscored.reasons, percent(found.whole.unscored.share.value)
    return (
        f"{count(sum(reasons.values()))} of {count(found.verdicts)} verdicts ({share}) are unscored; the most frequent "
        f"reason is “{next(iter(reasons))}” ({count(next(iter(reasons.values())))})."
        if reasons
        else f"All {count(found.verdicts)} verdicts are scored."
        if found.verdicts
        else "There are no verdicts."
    )


def in_words(estimate: statistics.Estimate, cell: _Cell) -> str:
    """A figure with its interval, or why it has none."""
    return (
        f"not defined ({estimate.note})"
        if estimate.value is None
        else f"{cell(estimate.value)} (95 % interval {span})"
        if (span := estimate.span(cell))
        else f"{cell(estimate.value)} (no interval: {estimate.note})"
    )


def judge_tables(found: JudgeRound) -> dict[str, page.Table]:
    """Artifact name → table; a table without rows has nothing to show."""
    name, whole = round_name(found.number), found.whole
    # A standard error has no sign.
    measures = [
        (measure, *_cells(each, cell), (percent if cell is percent else number)(each.stderr), count(each.n))
        for measure, each, cell in _estimates(whole)
    ]
    single = [
        (judge, measure, *_cells(each, cell), count(each.n))
        for judge, measured in found.single.items()
        for measure, each, cell in _estimates(measured)
    ]
    of_figure = ("Value", "95 % interval")
    return {
        "judge": page.Table(
            f"The judges of {name}, combined" if found.single else f"The judge of {name}",
            ("Measure", *of_figure, "Standard error", "n"),
            tuple(measures),
            note="n counts instructions; of the unscored verdicts, verdicts. A correlation has no standard error of "
            "its own.",
        ),
        "judge-single": page.Table(
            f"Each judge alone, {name}", ("Judge", "Measure", *of_figure, "n"), tuple(single), text_columns=2
        ),
        "judge-winners": _winners(found),
        "judge-unscored": page.Table(
            f"Unscored verdicts by reason, {name}",
            ("Reason", "Verdicts", "Share of all"),
            tuple(
                (reason, count(rows), percent(rows / found.verdicts)) for reason, rows in whole.unscored.reasons.items()
            ),
        ),
        "judge-task-types": page.Table(
            f"Unscored verdicts by task type, {name}",
            ("Task type", "Verdicts", "Unscored", "95 % interval"),
            tuple((each, count(share.n), *_cells(share, percent)) for each, share in whole.unscored.task_types.items()),
        ),
        "judge-panel": _panel(found),
    }


def _winners(found: JudgeRound) -> page.Table:
    agreement = found.whole.agreement
    winners = agreement.winners if agreement is not None and agreement.gap.n else None
    rows = [(first, *(count(winners[first, second]) for second in WINNERS)) for first in WINNERS] if winners else []
    return page.Table(
        f"Winners in the two orders, {round_name(found.number)}",
        ("Teacher shown first ↓, student first →", *WINNERS),
        tuple(rows),
        note="Instructions; on the diagonal both orders agree." if winners else "",
    )


def _panel(found: JudgeRound) -> page.Table:
    rows = [
        (
            *(pair.first, pair.second, *_cells(pair.same_winner, percent)),
            *(*_cells(pair.kappa, correlation), *_cells(pair.spearman, correlation), count(pair.same_winner.n)),
        )
        for pair in found.panel
    ]
    return page.Table(
        f"Agreement between judges, {round_name(found.number)}",
        (
            *("Judge", "Other judge", "Same winner", "95 % interval"),
            *("Winner, Cohen's κ", "95 % interval", "MFD, Spearman's ρ", "95 % interval", "n"),
        ),
        tuple(rows),
        text_columns=2,
    )


def _estimates(measures: Measures) -> list[tuple[str, statistics.Estimate, _Cell]]:
    """What is measured of a judge: name, figure, and how a cell shows it."""
    between, length = measures.agreement, measures.length
    of_orders: list[tuple[str, statistics.Estimate, _Cell]] = (
        []
        if between is None
        else [
            ("Order gap, points", between.gap, points),
            ("Same winner in both orders", between.same_winner, percent),
            ("Winner in both orders, Cohen's κ", between.kappa, correlation),
            ("MFD in both orders, Spearman's ρ", between.spearman, correlation),
        ]
    )
    return [
        *of_orders,
        ("Student's score and length, Spearman's ρ", length.student, correlation),
        ("Teacher's score and length, Spearman's ρ", length.teacher, correlation),
        ("MFD and length difference, Spearman's ρ", length.difference, correlation),
        ("Unscored verdicts", measures.unscored.share, percent),
    ]


def _cells(estimate: statistics.Estimate, cell: _Cell) -> tuple[str, str]:
    """A figure and its interval, or why there is none."""
    if estimate.value is None:
        return f"not defined: {estimate.note}", NOTHING
    return cell(estimate.value), estimate.span(cell) or f"none: {estimate.note}"


def plot_length(scores: pl.DataFrame) -> page.Section:
    """Mean score of student and teacher by length of the answer, in ten equal groups, with 95 % intervals."""

    def fill(axes: Any) -> None:
        for who, colour, marker in (("student", page.COLOURS[1], "o"), ("teacher", page.COLOURS[0], "s")):
            page.points_with_intervals(
                axes, _by_length(scores, who), color=colour, marker=marker, label=f"{who}'s answer"
            )
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.set(
            xlim=(0, None),
            xlabel="mean length of the answers of a group, characters",
            ylim=(0.5, 10.5),
            ylabel="mean score, points",
        )
        axes.legend(loc="lower right")

    return page.Section(
        "What the length of an answer does",
        plot=page.draw("Score by length of the answer", 2.6, fill) if scores.height else None,
        note="Answers in ten groups of equal size, from short to long. Bars are 95 % intervals of the mean.",
    )


def plot_unscored(reasons: Mapping[str, int]) -> page.Section:
    """Unscored verdicts by reason, the most frequent first; the rarest reasons are one bar."""
    # What any font can write: Latin letters only, on one short line.
    latin = (
        "".join(c if c.isprintable() and ord(c) < 0x250 else "?" for c in " ".join(each.split())) for each in reasons
    )
    names, counts = [shorten(each, _REASON_CHARS) for each in latin][:_REASONS], [*reasons.values()]
    if len(counts) > _REASONS:
        names, counts = [*names, "other reasons"], [*counts[:_REASONS], sum(counts[_REASONS:])]
    return page.Section(
        "What was left unscored",
        plot=page.draw_stacked(
            "Unscored verdicts by reason", names, [("", page.COLOURS[0], counts)], "unscored verdicts"
        )
        if names
        else None,
        note="An unscored verdict is in no mean; its instruction is in neither seeds nor easy.",
    )


def _by_length(scores: pl.DataFrame, who: str) -> list[tuple[float, statistics.Estimate]]:
    """Mean length and mean score of up to ten groups of equal size, from the shortest answers to the longest."""
    rows, groups = scores.sort(f"{who}_chars", "instruction_id"), min(_BINS, scores.height)
    cuts = [rows.height * step // groups for step in range(groups + 1)]
    parts = [rows.slice(start, stop - start) for start, stop in pairwise(cuts)]
    return [(fmean(part[f"{who}_chars"]), statistics.estimate_mean(part[f"{who}_score"].to_list())) for part in parts]
