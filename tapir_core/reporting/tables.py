"""The tables of a run as text cells, made once and shown in the terminal, in the report and as artifacts.

Rounds are columns, so that a run of a few rounds reads on a narrow screen.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import product
from typing import Any

import polars as pl

from tapir_core import task_types, text
from tapir_core.config import ACCURACY, LENGTHS, NATURAL, RETENTION, SAME_CALLS, WIN_RATE
from tapir_core.curriculum import Habits
from tapir_core.evaluation.scores import SCORE_RATIO
from tapir_core.reporting import sentences
from tapir_core.reporting.page import Table, table_of
from tapir_core.stages import STAGES, lines
from tapir_core.summary import formats, types

OfRound = tuple[str, Callable[[types.RoundSummary], str]]
"""A name, and what a cell shows of a round."""


def rounds_table(summary: types.RunSummary) -> Table:
    """What each round was made of and came to."""
    rows = [(label, *map(cell, summary.rounds)) for label, cell in _ROUND_ROWS]
    scores = [
        each.score(split, metric=metric)
        for metric in (RETENTION, ACCURACY)
        for each in summary.rounds
        for split in ("test", "dev")
    ]
    reduced = (
        sentences.reduced(summary.config, each.number, each.mixture.reduced_to)
        for each in summary.mixed_rounds
        if each.mixture and each.mixture.reduced_to is not None
    )
    return Table(
        "Rounds",
        ("", *(formats.round_name(each.number) for each in summary.rounds)),
        tuple(row for row in rows if any(cell != formats.NOTHING for cell in row[1:])),
        note=sentences.together([*reduced, sentences.score_note(scores)]),
    )


def stages_table(summary: types.RoundSummary) -> Table:
    """The stages of one round with rows, calls, spend and time."""
    return table_of(
        f"Stages of {formats.round_name(summary.number)}",
        (
            ("Stage", lambda stage: stage.name),
            ("Asks", lambda stage: stage.asks or formats.NOTHING),
            ("Rows", lambda stage: formats.count(stage.rows if STAGES[stage.name].columns else None)),
            ("Missing", lambda stage: formats.count(sum(stage.missing.values()))),
            ("Calls", lambda stage: formats.count(stage.usage.calls if stage.asks else None)),
            ("From store", lambda stage: formats.count(stage.usage.stored if stage.asks else None)),
            (
                "Tokens",
                lambda stage: formats.count(
                    stage.usage.prompt_tokens + stage.usage.completion_tokens if stage.asks else None
                ),
            ),
            ("USD", lambda stage: formats.number(stage.usage.usd if stage.asks in types.ROLES else None)),
            ("Time", lambda stage: formats.duration(stage.seconds)),
        ),
        summary.stages,
        text_columns=2,
        note=_OVERLAP,
    )


def stage_seconds(summary: types.RunSummary) -> dict[str, dict[str, float]]:
    """Part of the run (once, backbone, S_0, round 1, …) → stage → its seconds."""
    parts = {"once": summary.stages} | {formats.round_name(each.number): each.stages for each in summary.rounds}
    return {part: {stage.name: stage.seconds for stage in stages} for part, stages in parts.items() if stages}


def seconds_table(summary: types.RunSummary) -> Table:
    """Time by stage and round."""
    parts = stage_seconds(summary)
    names = [name for name in lines() if any(name in of for of in parts.values())]
    rows = [(name, *(formats.duration(of.get(name)) for of in parts.values())) for name in names]
    rows += [("sum of stages", *(formats.duration(sum(of.values())) for of in parts.values()))] if rows else []
    return Table("Time by stage", ("", *parts), tuple(rows), note=_OVERLAP)


def spend_table(summary: types.RunSummary) -> Table:
    """What teacher and judge were asked, by stage, over the whole run."""
    asks = {stage.name: stage.asks for stage in summary.all_stages if stage.asks in types.ROLES}
    rows = [(name, asks[name], *_usage_cells(summary.usage_of(stage=name))) for name in lines() if name in asks]
    return Table(
        "Spend",
        ("Stage", "Asks", "Calls", "From store", "Tokens in", "Tokens out", "USD"),
        (*rows, ("all", "", *_usage_cells(summary.usage))),
        text_columns=2,
        note="Calls to teacher and judge that the last start of each stage made; from store: answers that were there "
        "already: of another run, an earlier start or an equal request. USD is the price of both, each paid for once.",
    )


def left_out_table(summary: types.RunSummary) -> Table:
    """Everything that was left out, by place and reason."""
    hits = summary.decontamination.benchmarks.rows(named=True) if summary.decontamination else []
    of_pool = {
        "reading": summary.dropped,
        "holds an evaluation question": {each["benchmark"]: each["pool"] for each in hits if each["pool"]},
        "unusable teacher answer": summary.unusable or {},
    }
    of_rounds = {formats.round_name(each.number): _left_out(each) for each in summary.rounds}
    rows = tuple(
        (where, what, reason.replace("_", " "), formats.count(rows))
        for where, kinds in {"pool": of_pool | _missing(summary.stages), **of_rounds}.items()
        for what, reasons in kinds.items()
        for reason, rows in reasons.items()
    )
    return Table("Left out, by reason", ("Where", "What", "Reason", "Rows"), rows, text_columns=3)


def baseline_table(summary: types.RunSummary) -> Table:
    """The last student beside the baselines', each with its scores and what it took; no row without one."""
    found = [each for each in summary.baselines if each.next_stage is None]
    own = [
        (
            f"{formats.student_name(each.last)}, after all rounds",
            summary.round(each.last),
            each.run_tokens,
            each.run_seconds,
        )
        for each in found[:1]
    ]
    beside = [
        (f"Plain fine-tuning {sentences.AS_MUCH[each.equal]} (run {each.run})", each.student, each.tokens, each.seconds)
        for each in found
    ]
    items = formats.count(min((each.difference.n for each in found if each.difference), default=None))
    return Table(
        "Beside plain fine-tuning",
        ("Student", "Test", "Dev", "Tokens after S_0", "Time of the machine after S_0"),
        tuple(
            (
                name,
                *(formats.score(each.score(split) if each else None) for split in ("test", "dev")),
                formats.count(tokens),
                formats.duration(seconds),
            )
            for name, each, tokens, seconds in own + beside
        ),
        note=f"All start from S_0. Differences are paired, over the {items} test instructions that both answered. The "
        "machine's time is that of training and of the models that it served for the rounds, starts included.",
    )


def settled_table(summary: types.RunSummary) -> Table:
    """What endpoints do not take, and what the run does in its place."""
    return Table(
        "What endpoints do not take", ("Field", "In this run", "The endpoint said"), summary.settled, text_columns=3
    )


def shares_table(*rounds: types.RoundSummary) -> Table:
    """Task shares: the pool's own, the target, and what each round's mixture got, with what it lacks."""
    mixed = {formats.round_name(each.number): each.mixture for each in rounds if each.mixture is not None}
    rows = []
    for place, (name, natural, target, _) in enumerate([*mixed.values()][-1].shares.rows() if mixed else ()):
        got = [(of.shares["got"][place], of.shortfall.get(name, 0)) for of in mixed.values()]
        if natural or target or any(share for share, _ in got):
            cells = (
                formats.percent(share) + (f", {formats.count(short)} short" if short else "") for share, short in got
            )
            rows.append((name, formats.percent(natural), formats.percent(target), *cells))
    title = " of ".join(["Task shares", *(mixed if len(mixed) == 1 else ())])
    return Table(title, ("Task type", "Natural", "Target", *mixed), tuple(rows))


def mfd_table(summary: types.RoundSummary) -> Table:
    """The MFD histogram of one round as text."""
    bins = Counter(
        int(value // 1) for value in ([] if summary.difficulty is None else summary.difficulty["mfd"].to_list())
    )
    highest = max(bins.values(), default=1)
    return table_of(
        f"MFD of {formats.round_name(summary.number)}",
        (
            ("MFD, points", lambda place: f"{place} to {place + 1}"),
            ("Instructions", lambda place: formats.count(bins[place])),
            ("Histogram", lambda place: "█" * round(30 * bins[place] / highest)),
        ),
        range(min(bins, default=0), max(bins, default=-1) + 1),
        note=f"δ = {formats.number(summary.delta)}, {formats.count(summary.seeds)} seeds; "
        "a bin holds its lower end, not its upper.",
    )


def accuracy_table(summary: types.RunSummary) -> Table:
    """The held-out score by task type: backbone, S_0 and the last student."""
    students = {formats.student_name(each.number): each for each in formats.first_two_and_last(summary.by_round)}
    return task_types_table(
        f"{formats.metric_name(summary.metric).capitalize()} by task type (test)",
        students,
        sentences.together(
            (
                "n counts what failed, too.",
                sentences.score_note(each.score("test") for each in students.values()),
                sentences.format_note(summary),
            )
        ),
    )


def task_types_table(title: str, students: Mapping[str, types.RoundSummary | None], note: str) -> Table:
    """The score on the test split by task type, a column for each of ``students`` under its name."""
    found = {name for each in students.values() if each is not None for name in each.by_task_type()}
    scores = {
        name: [None if each is None else each.score("test", name) for each in students.values()]
        for name in ("all", *task_types.in_order(found))
    }
    rows = tuple((name, *map(formats.score, of), formats.most(of)) for name, of in scores.items() if any(of))
    return Table(title, ("Task type", *students, "n"), rows, note=note)


def scores_table(summary: types.RoundSummary) -> Table:
    """The held-out score of one student by split and task type."""
    found = None if summary.scores is None else summary.scores.filter(metric=summary.metric)
    scores = {} if found is None else {row: summary.score(*row) for row in found.select("split", "category").rows()}
    return _scores_table(summary.metric, f" of {formats.student_name(summary.number)}", ("Split", "Task type"), scores)


def students_table(summary: types.RunSummary, numbers: Sequence[int]) -> Table:
    """The held-out score of these students, by split; of one student alone by task type too."""
    found = [each for each in summary.students if each.number in numbers]
    return scores_table(found[0]) if len(found) == 1 else metric_table(found, summary.metric)


def metric_table(students: Sequence[types.RoundSummary], metric: str) -> Table:
    """One metric of the held-out set by student and split."""
    return _scores_table(
        metric,
        "",
        ("Student", "Split"),
        {
            (formats.student_name(each.number), split): each.score(split, metric=metric)
            for each in students
            for split in ("dev", "test")
        },
    )


_JUDGED: dict[str, tuple[str, Callable[[types.Score], str]]] = {
    "Quality retention, %": (RETENTION, formats.accuracy),
    "Win rate, %": (WIN_RATE, formats.accuracy),
    "Score ratio": (SCORE_RATIO, lambda score: formats.number(score.value)),
    "Characters, student": (LENGTHS[0], lambda score: formats.count(score.value)),
    "Characters, teacher": (LENGTHS[1], lambda score: formats.count(score.value)),
    "n": (RETENTION, lambda score: formats.count(score.n)),
    "Unscored": (RETENTION, lambda score: formats.count(score.failed)),
    "Same calls, %": (SAME_CALLS, lambda score: f"{formats.accuracy(score)} (n = {score.n})"),
}
"""Column → the metric that it is of, and what a cell shows of its score."""


def judged_table(students: Sequence[types.RoundSummary]) -> Table:
    """What the judge says of every student: each figure by split, with the length of both answers."""
    judged = [
        (each, split) for each, split in product(students, ("dev", "test")) if each.score(split, metric=RETENTION)
    ]
    calls = any(each.score(split, metric=SAME_CALLS) for each, split in judged)
    columns = {name: shown for name, shown in _JUDGED.items() if calls or shown[0] != SAME_CALLS}
    note = sentences.score_note(each.score("test", metric=RETENTION) for each in students)
    return Table(
        "Judged against the teacher",
        ("Student", "Split", *columns),
        tuple(
            (
                *(formats.student_name(each.number), split),
                *(
                    cell(score) if (score := each.score(split, metric=metric)) else formats.NOTHING
                    for metric, cell in columns.values()
                ),
            )
            for each, split in judged
        ),
        text_columns=2,
        note=f"{note} Win rate: ties count half. Score ratio: mean score of the student over that of the teacher. "
        "Characters: mean length of their answers; judges tend to prefer longer ones."
        + (" Same calls: of the instructions on which either calls a tool." if calls else ""),
    )


def _scores_table(
    metric: str, whose: str, columns: tuple[str, str], scores: Mapping[tuple[str, str], types.Score | None]
) -> Table:
    name = formats.metric_name(metric).capitalize()
    return Table(
        ("Held-out accuracy" if metric == ACCURACY else name) + whose,
        (*columns, f"{name}, %", "95 % interval", "n", "Failed"),
        tuple(
            (
                *names,
                formats.accuracy(found),
                formats.interval(found),
                formats.count(found.n),
                formats.count(found.failed),
            )
            for names, found in scores.items()
            if found is not None
        ),
        text_columns=2,
        note=sentences.score_note(scores.values()),
    )


def decontamination_table(found: types.Decontamination | None) -> Table:
    """Instructions that were dropped, by the benchmark whose question they hold."""
    return table_of(
        "Decontamination",
        (
            ("Benchmark", lambda row: row["benchmark"]),
            ("Questions", lambda row: formats.count(row["questions"])),
            ("Dropped from the pool", lambda row: formats.count(row["pool"])),
            ("Kept out of the expansion", lambda row: formats.count(row["expansion"])),
        ),
        found.benchmarks.rows(named=True) if found else (),
        note="An instruction that holds questions of several benchmarks counts for each. Held-out instructions are "
        "looked for by equality and shared words, those of benchmarks by near-duplicates too.",
    )


def contaminated_table(found: types.Decontamination | None) -> Table:
    """Some of the dropped instructions with the question that each holds: the least similar first, to be looked at."""
    rows = pl.DataFrame() if found is None else found.rows.sort("similarity", maintain_order=True)
    listed = rows.head(_LISTED).to_dicts()
    return table_of(
        "Instructions that hold an evaluation question",
        (
            ("Where", lambda row: row["place"]),
            ("Question", lambda row: f"{row['benchmark']} {row['question_id']}"),
            ("Rule", lambda row: row["rule"].replace("_", " ")),
            ("Instruction", lambda row: text.shorten(row["instruction"], _SHOWN_CHARACTERS)),
            ("Question's text", lambda row: text.shorten(row["question"], _SHOWN_CHARACTERS)),
            ("ROUGE-L", lambda row: formats.number(row["similarity"])),
        ),
        listed,
        text_columns=5,
        note=f"{formats.count(len(listed))} of {formats.count(rows.height)}, the least similar; all of them are in "
        "`contaminated/`.",
    )


def trainings_table(trainings: Mapping[str, Mapping[str, Any]]) -> Table:
    """What each student was trained on and what it took: what ``training.json`` says, and its round."""
    return table_of(
        "Training",
        (
            ("Student", lambda each: each["student"]),
            ("Learns to", lambda each: each.get("objective", "imitate")),
            ("Steps", lambda each: formats.count(each.get("steps"))),
            ("Batch", lambda each: formats.count(each.get("batch_size"))),
            ("Prompts", lambda each: formats.count(each.get("prompts"))),
            ("Examples", lambda each: formats.count(each.get("examples"))),
            ("Left out", lambda each: formats.count(each.get("left_out"))),
            ("Tokens", lambda each: formats.count(each.get("total_tokens"))),
            ("With loss", lambda each: formats.count(each.get("trained_tokens"))),
            ("Final loss", lambda each: formats.number(each.get("final_loss"), 3)),
            (
                "Preferred, last step",
                lambda each: formats.percent([{}, *each.get("loss_curve", ())][-1].get("preferred")),
            ),
            ("Weights changed", lambda each: formats.percent(each.get("changed"))),
            ("Tokens/s", lambda each: formats.count(each.get("tokens_per_second"))),
            ("Time", lambda each: formats.duration(each.get("seconds"))),
            ("Time of the machine", lambda each: formats.duration(each.get("machine_seconds"))),
            ("USD", lambda each: formats.number(each.get("usd"))),
            ("Precision", lambda each: each.get("precision", formats.NOTHING)),
        ),
        ({"student": name, **each} for name, each in trainings.items()),
    )


def habits_table(summary: types.RunSummary) -> Table:
    """How each student writes that was measured."""
    return table_of(
        "How the students write",
        (
            ("Student", lambda each: formats.student_name(each.number)),
            ("Tokens a whole answer", lambda each: formats.count(each.habits.length)),
            ("Broken off", lambda each: formats.percent(each.habits.unended)),
            ("Repeated words", lambda each: formats.percent(each.habits.repeated)),
            ("From the teacher, nats a token", lambda each: formats.number(each.habits.divergence)),
            ("Entropy, nats a token", lambda each: formats.number(each.habits.entropy)),
            ("Alarm", lambda each: each.alarm or formats.NOTHING),
        ),
        [each for each in summary.rounds if each.habits != Habits()],
    )


def _usage_cells(usage: types.Usage) -> tuple[str, ...]:
    counts = map(formats.count, (usage.calls, usage.stored, usage.prompt_tokens, usage.completion_tokens))
    return (*counts, formats.number(usage.usd))


def _missing(stages: Iterable[types.StageSummary]) -> dict[str, dict[str, int]]:
    """What was left out → reason → rows."""
    return {f"missing in {stage.name}": stage.missing for stage in stages}


def _left_out(summary: types.RoundSummary) -> dict[str, dict[str, int]]:
    """The same of one round, with what its own stages judged unfit."""
    gates = summary.expansion.rejected if summary.expansion is not None else {}
    return {
        "unscored": summary.unscored or {},
        "neither seed nor easy": summary.unfit,
        "expansion rejected": {f"gate {gate}": rows for gate, rows in gates.items()},
        "refined answer rejected": summary.refinement.rejected if summary.refinement is not None else {},
        **_missing(summary.stages),
    }


def _gated(found: types.GatedSummary | None) -> str:
    return formats.NOTHING if found is None else f"{formats.count(found.accepted)} / {formats.count(found.asked)}"


def from_origin(origin: str, each: types.RoundSummary) -> str:
    """How many examples of an origin a round's mixture has."""
    return formats.count(each.mixture.origins.get(origin) if each.mixture else None)


def _score_rows(metric: str, split: str) -> tuple[OfRound, ...]:
    name = f"{formats.metric_name(metric).capitalize()}, {split}, %"
    return (
        (name, lambda each: formats.accuracy(each.score(split, metric=metric))),
        ("  95 % interval", lambda each: formats.interval(each.score(split, metric=metric))),
        (
            "  n / failed",
            lambda each: (
                formats.NOTHING
                if (found := each.score(split, metric=metric)) is None
                else f"{formats.count(found.n)} / {formats.count(found.failed)}"
            ),
        ),
    )


_ROUND_ROWS: tuple[OfRound, ...] = (
    ("Pool", lambda each: formats.count(each.pool)),
    ("Scored", lambda each: formats.count(each.scored)),
    ("Seeds", lambda each: formats.count(each.seeds)),
    ("  not judged", lambda each: each.not_judged or formats.NOTHING),
    ("Hard share", lambda each: formats.percent(each.hard_share)),
    ("δ, points", lambda each: formats.number(each.delta)),
    ("Order gap, points", lambda each: formats.number(each.order_gap)),
    ("Expansion accepted / asked", lambda each: _gated(each.expansion)),
    ("Refined accepted / drawn", lambda each: _gated(each.refinement)),
    ("Mixture", lambda each: formats.count(each.mixture.rows if each.mixture else None)),
    ("  from the pool", partial(from_origin, "pool")),
    ("  seeds", partial(from_origin, "seed")),
    ("  expansion", partial(from_origin, "expansion")),
    ("  easy", partial(from_origin, "easy")),
    ("  asked for (N)", lambda each: formats.count(each.mixture.asked if each.mixture else None)),
    ("  short of N", lambda each: formats.count(each.mixture.missing if each.mixture else None)),
    (
        "  α, asked for / got",
        lambda each: (
            formats.NOTHING
            if (made := each.mixture) is None or made.alpha is None
            else f"{formats.percent(made.alpha)} / {formats.percent(made.hard_share)}"
        ),
    ),
    *_score_rows(RETENTION, "test"),
    *_score_rows(RETENTION, "dev"),
    *_score_rows(ACCURACY, "test"),
    *_score_rows(ACCURACY, "dev"),
    *_score_rows(NATURAL, "test"),
    *_score_rows(NATURAL, "dev"),
    ("Calls", lambda each: formats.count(each.usage.calls) if each.number > 0 else formats.NOTHING),
    ("From store", lambda each: formats.count(each.usage.stored) if each.number > 0 else formats.NOTHING),
    ("USD", lambda each: formats.number(each.usage.usd) if each.number > 0 else formats.NOTHING),
    ("Time", lambda each: formats.duration(each.seconds)),
)

_LISTED = 50
_SHOWN_CHARACTERS = 160

_OVERLAP = (
    "Time is that of a stage's last start. Answer and judge overlap, so do label and teach: sums exceed the clock."
)
