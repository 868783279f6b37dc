"""What is told of a whole run: `report.html`, a page that needs nothing else, and the run card, the same in Markdown
without plots; of one student the model card.

All are made from the run folder alone, so they can be made again at any time, of an unfinished run too. Names of files
and folders of the machine that made it stay out of a model card; digests stand in their place.

What report and run card show is listed in `TOP`, `SECTIONS` and `CARD`, in the order in which a reader meets it.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random

import polars as pl

from tapir_core import curriculum, installation, paths, randomness, run_state, verifiers
from tapir_core.comparison.baseline import with_baseline
from tapir_core.config import ACCURACY, EMBEDDED_STUDENT, LENGTHS, NATURAL, RETENTION, RunConfig, StudentConfig
from tapir_core.config.load import resolved_json
from tapir_core.data.decontamination import FEWEST_WORDS
from tapir_core.estimate.run import kept_estimate
from tapir_core.evaluation.scores import ALL
from tapir_core.judging import show_instruction
from tapir_core.judging.agreement import NO_TASK_TYPE
from tapir_core.reporting import benchmarks, estimate_table, page, plots, serving, tables
from tapir_core.run_folder import RunFolder
from tapir_core.stages import ANSWER, ANSWER_HELDOUT, EVALUATE, HELDOUT, JUDGED_HELDOUT, TEACH, checkpoint_at, usable_of
from tapir_core.summary import RunReader, marks_on_test, summarise
from tapir_core.summary.formats import NOTHING, count, first_two_and_last, number, round_name, student_name
from tapir_core.summary.types import Answer, Example, Examples, RunSummary

_EXAMPLES = 10


def write_report(run: RunFolder) -> str:
    """Write `report.html` into the run folder and say where it is."""
    summary, reader = with_baseline(summarise(run), run), RunReader(run)
    # The pool of a round is answered by the student of the round before.
    answered = [each.number - 1 for each in summary.rounds for stage in each.stages if stage.name == "answer"]
    shown = first_two_and_last([each.number for each in summary.by_round] or answered)
    rng = randomness.derive_rng(run.config.run.seed, "report", "examples")
    examples = choose_examples(reader, shown, _EXAMPLES, rng) if shown else None
    run.storage.write_bytes(paths.REPORT, render_report(summary, reader, examples).encode())
    return summary.report_path


def render_report(summary: RunSummary, reader: RunReader, examples: Examples | None) -> str:
    """The page: what the run is, its scores by round, examples, then all else. Everything that is text is escaped."""
    return page.render_page(
        "report.html.jinja2",
        sections_of(SECTIONS, summary, reader),
        summary=summary,
        scores=sections_of(TOP, summary, reader),
        examples=examples,
        config=resolved_json(summary.config),
        judge_reports={
            round_name(each.number): paths.judge_report_file(each.number)
            for each in summary.rounds
            if reader.run.storage.exists(paths.judge_report_file(each.number))
        },
    )


def run_card(summary: RunSummary, reader: RunReader, pages: Mapping[str, Mapping[str, str]] | None = None) -> str:
    """What the run is, its state, its rounds, and where to read more.

    Args:
        summary: The run.
        reader: Reads its folder.
        pages: Where more of it is shown, where this card is: the run or a round, then title, then address. Without it
            the card says how to get there.
    """
    path = summary.report_path
    return page.render(
        "run_card.md.jinja2",
        summary=summary,
        sections=sections_of(CARD, summary, reader),
        address="" if "://" in path else Path(path).absolute().as_uri(),
        pages=pages,
    )


Part = Callable[[RunSummary, RunReader], Iterable[page.Section | page.Table | None]]
"""Makes what a report shows of one thing; what has nothing to show is left out."""


def sections_of(parts: Mapping[str, Part], summary: RunSummary, reader: RunReader) -> list[page.Section]:
    """The sections of all ``parts`` that have something to show."""
    found = (each for part in parts.values() for each in part(summary, reader) if each)
    return [page.section_of(each) if isinstance(each, page.Table) else each for each in found]


def _curves(run: RunSummary, _: RunReader) -> list[page.Section]:
    numbers, students = [each.number for each in run.students], run.students
    beside = [tables.students_table(run, numbers), tables.metric_table(students, ACCURACY)]
    return [replace(plot, table=table) for plot, table in zip(plots.plot_scores(run), beside, strict=False)]


def _training(run: RunSummary, reader: RunReader) -> list[page.Section]:
    trainings = {
        student_name(each.number): training
        | {"prompts": each.mixture and each.mixture.rows, "usd": each.usage.usd}
        | {"machine_seconds": reader.machine_seconds(each.number)}
        for each in run.rounds
        if (training := reader.training(each.number))
    }
    return [replace(plots.plot_training(trainings), table=tables.trainings_table(trainings))]


TOP: dict[str, Part] = {
    "accuracy by round": _curves,
    "judged against the teacher": lambda run, _: [tables.judged_table(run.students)],
    "at natural shares": lambda run, _: [tables.metric_table(run.students, NATURAL)],
    "beside plain fine-tuning": lambda run, _: [tables.baseline_table(run)],
    "benchmarks by round": lambda run, _: [plots.plot_headlines(run)],
}
"""What the report begins with; the examples follow."""

SECTIONS: dict[str, Part] = {
    "accuracy by task type": lambda run, _: [
        replace(plots.plot_score_by_task_type(run), table=tables.accuracy_table(run))
    ],
    "before and after, what it costs to serve": lambda run, reader: serving.serving_tables(reader, run.best),
    "benchmarks by category": lambda run, _: plots.plot_categories(run),
    "benchmarks side by side": lambda run, _: benchmarks.benchmark_tables(run),
    "benchmarks, paired": lambda run, reader: [
        benchmarks.benchmark_gains_table(reader, [each.number for each in run.rounds], run.best)
    ],
    "benchmarks, with intervals": lambda run, _: [
        replace(page.section_of(table, folded=True), title=f"{table.title}, with intervals")
        for who, figures in run.benchmarks.items()
        for table in benchmarks.figures_tables(student_name(who), figures)
    ],
    "rounds": lambda run, _: [tables.rounds_table(run)],
    "how hard the pool is": lambda run, _: [plots.plot_mfd(run.rounds)],
    "order gap": lambda run, _: [
        plots.plot_order_gap(
            {
                round_name(each.number): each.difficulty["order_gap"].drop_nulls()
                for each in run.rounds
                if each.difficulty is not None
            }
        )
    ],
    "task shares": lambda run, _: [
        replace(plots.plot_shares(run.mixed_rounds), table=tables.shares_table(*run.mixed_rounds))
    ],
    "how students write": lambda run, _: [replace(plots.plot_habits(run), table=tables.habits_table(run))],
    "training": _training,
    "left out": lambda run, _: [
        replace(
            page.section_of(tables.left_out_table(run)),
            note="Nothing of this is in a training set; a rejected refined answer leaves its plain answer in place.",
        )
    ],
    "decontamination": lambda run, _: [tables.decontamination_table(run.decontamination)],
    "what holds an evaluation question": lambda run, _: [
        page.section_of(tables.contaminated_table(run.decontamination), folded=True)
    ],
    "what endpoints do not take": lambda run, _: [tables.settled_table(run)],
    "time": lambda run, _: [replace(plots.plot_time(run), table=tables.seconds_table(run))],
    "spend": lambda run, _: [
        replace(page.section_of(tables.spend_table(run)), title="Calls to teacher and judge")
        if run.all_stages
        else None
    ],
    "estimate": lambda run, reader: [estimate_table.comparison_table(kept_estimate(reader.run), run)],
}
"""What follows the examples."""

CARD: dict[str, Part] = {
    "rounds": lambda run, _: [tables.rounds_table(run)],
    "baseline": lambda run, _: [tables.baseline_table(run)],
    "judged": lambda run, _: [tables.judged_table(run.students)],
    "accuracy by task type": lambda run, _: [tables.accuracy_table(run)],
    "how students write": lambda run, _: [tables.habits_table(run)],
    "serving": lambda run, reader: serving.serving_tables(reader, run.best),
    "left out": lambda run, _: [tables.left_out_table(run)],
    "what endpoints do not take": lambda run, _: [tables.settled_table(run)],
    "time": lambda run, _: [tables.seconds_table(run)],
    "spend": lambda run, _: [tables.spend_table(run)],
    "benchmarks": lambda run, _: benchmarks.benchmark_tables(run),
    "decontamination": lambda run, _: [tables.decontamination_table(run.decontamination)],
}
"""What the run card shows."""


def model_card(run: RunFolder, round_number: int, use: str) -> str:
    """The card of the student after round ``round_number``; ``use`` says in Markdown how engines load it."""
    summary, config = with_baseline(summarise(run), run), run.config
    rounds = max(run.trained_rounds) if round_number == paths.AVERAGE else round_number
    known = [each for each in summary.rounds if each.number <= round_number and each.mixture is not None]
    at = EVALUATE.at(round_number)
    scores = run.rows(at) if run.holds(at) else pl.DataFrame(schema=at.stage.columns)
    asked = summary.benchmarks.get(round_number)
    card = page.render(
        "model_card.md.jinja2",
        front_matter=_front_matter(summary, round_number, scores if asked is None else pl.concat([scores, asked])),
        summary=summary,
        config=config,
        number=round_number,
        rounds=rounds,
        use=use,
        backbone=backbone_name(config.student),
        judged=any(map(config.judges, range(1, rounds + 1))),
        mixtures=page.table_of(
            "",
            (
                ("Round", lambda each: round_name(each.number)),
                ("Examples", lambda each: count(each.mixture.conversations if each.mixture else None)),
                ("Asked for", lambda each: count(each.mixture.asked if each.mixture else None)),
                ("Pool", partial(tables.from_origin, "pool")),
                ("Seeds", partial(tables.from_origin, "seed")),
                ("Expansion", partial(tables.from_origin, "expansion")),
                ("Easy", partial(tables.from_origin, "easy")),
                ("Refined", lambda each: count(each.refinement.accepted if each.refinement else None)),
            ),
            known,
        ),
        shares=tables.shares_table(*known),
        scores=_scores(scores),
        benchmarks=benchmarks.figures_tables(student_name(round_number), asked),
        dropped=tables.decontamination_table(summary.decontamination),
        fewest_words=FEWEST_WORDS,
        run=run,
        checkpoint=run.manifest(checkpoint_at(round_number)),
        resolved=run.storage.sha256(paths.RESOLVED_CONFIG),
        training=RunReader(run).training(round_number),
        recipes={student_name(each): _recipe(config, each) for each in range(rounds + 1)},
        own_version=installation.version_of("tapir-distill") or NOTHING,
    )
    return card + "\n"


def _recipe(config: RunConfig, number: int) -> str:
    """Hyperparameters of one training."""
    epochs = config.round(number).epochs if number else config.basic_tuning.epochs
    adapters = f", LoRA of rank {config.training.lora.rank}" if config.training.lora else ""
    return (
        f"{config.objective(number).type}, learning rate {config.learning_rate(number):g}, {epochs:g} "
        f"epoch{'' if epochs == 1 else 's'}, batch of {config.batch_size(number)}{adapters}"
    )


def _front_matter(summary: RunSummary, round_number: int, scores: pl.DataFrame) -> str:
    """What model hubs read: base model and licence, and every figure of a whole split or benchmark."""
    from huggingface_hub import EvalResult, ModelCardData  # loads for a while, and only cards need it

    backbone = summary.config.student.backbone
    of_base = (
        {
            "base_model": backbone,
            "license": "other",
            "license_name": "that-of-the-base-model",
            "license_link": f"https://huggingface.co/{backbone}",
        }
        if _is_hub_id(backbone)
        else {"license": "unknown"}
    )
    wanted = (pl.col("category") == ALL) & pl.col("value").is_not_null() & ~pl.col("metric").is_in(LENGTHS)
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["tapir", "distillation"],
        model_name=f"{summary.name}, {student_name(round_number)}",
        eval_results=[
            EvalResult(
                task_type="text-generation",
                dataset_type=row["benchmark"],
                dataset_name=row["benchmark"],
                dataset_split=row["split"] or None,
                metric_type=row["metric"],
                metric_value=row["value"],
            )
            for row in scores.filter(wanted).iter_rows(named=True)
        ]
        or None,
        **of_base,
    )
    return str(data.to_yaml())


def _scores(found: pl.DataFrame) -> page.Table:
    """Every score of this student, whole splits first."""
    judged = found.select("judge", "settings").unique(maintain_order=True).rows()
    return page.table_of(
        "",
        (
            ("Benchmark", lambda row: row["benchmark"]),
            ("Split", lambda row: row["split"]),
            ("Category", lambda row: row["category"]),
            ("Metric", lambda row: row["metric"]),
            ("Value", lambda row: f"no figure: {row['note']}" if row["value"] is None else number(row["value"], 3)),
            ("95 % interval", lambda row: NOTHING if row["low"] is None else f"{row['low']:.3f} to {row['high']:.3f}"),
            ("n", lambda row: count(row["n"])),
            ("Failed", lambda row: count(row["n_failed"])),
        ),
        found.sort(pl.col("category") != ALL, "benchmark", "split", "metric", maintain_order=True).to_dicts(),
        text_columns=4,
        note=" ".join(f"Judged by {judge}; {settings}." for judge, settings in judged),
    )


def backbone_name(student: StudentConfig) -> str:
    """The backbone's name; of a folder only its own."""
    backbone, revision = student.backbone, student.revision
    if _is_hub_id(backbone):
        return f"{backbone}, revision {revision}" if revision else backbone
    return backbone.partition(":")[2] if backbone == EMBEDDED_STUDENT else Path(backbone).name


def _is_hub_id(backbone: str) -> bool:
    return backbone.count("/") == 1 and not backbone.startswith((".", "/", "~")) and not Path(backbone).exists()


def choose_examples(reader: RunReader, students: list[int], most: int, rng: Random) -> Examples | None:
    """Draw instructions so that what got better, worse or stayed has its true proportion among those shown.

    ``students`` are rounds in order; the change is between the last two of them (of one student: right or wrong). The
    instructions are those of the test split; without a held-out set those of the pool, with the teacher's answers.
    """
    found = _examples(reader, students)
    groups = {
        change: [each for each in found if each.why == change]
        for change in (*_CHANGES.values(), *_JUDGED_CHANGES.values())
    }
    sizes = {change: len(of_change) for change, of_change in groups.items() if of_change}
    quota = curriculum.fill_quotas(most, {change: float(size) for change, size in sizes.items()}, sizes)
    drawn = {change: sorted(rng.sample(range(size), quota[change])) for change, size in sizes.items()}
    shown = tuple(groups[change][place] for change, places in drawn.items() for place in places)
    return Examples(shown, len(found), sizes) if found else None


def _examples(reader: RunReader, students: list[int]) -> list[Example]:
    """The instructions that all students answered, sorted by id; the teacher's answer stands last, where it is."""
    judged, heldout = reader.rows(JUDGED_HELDOUT.at()), reader.rows(HELDOUT.at())
    changes, taught = _CHANGES, reader.rows(TEACH.at())
    if judged is not None:
        # Nothing is right by its reference there.
        changes, heldout, taught = _JUDGED_CHANGES, judged.with_columns(reference=pl.lit("")), judged
    if heldout is not None:
        questions = heldout.filter(split="test")
    elif of_pool := reader.tables(usable_of(reader.run.config)):
        questions = of_pool[0].join(of_pool[2], on="instruction_id")
    else:
        return []
    rows = {row["instruction_id"]: row for row in questions.sort("instruction_id").iter_rows(named=True)}
    references = {place: row["reference"] or "" for place, row in rows.items()}
    given = [_given(reader, number, None if heldout is not None else references) for number in students]
    teacher = _marked_by("teacher", _texts(taught), references)
    found = []
    for place in (place for place in rows if all(place in of for of in given)):
        answers, row = [of[place] for of in given], rows[place]
        change = changes[answers[-2:][0].correct, answers[-1].correct]
        answers += [teacher[place]] if place in teacher else []
        found.append(
            Example(
                change,
                row["task_type"] or NO_TASK_TYPE,
                show_instruction(row),
                tuple(answers),
                row["system"] or "",
                references[place],
            )
        )
    return found


def _given(reader: RunReader, number: int, of_pool: Mapping[str, str] | None) -> dict[str, Answer]:
    """Instruction → the student's answer and its score, where both are known; ``of_pool``: without the held-out set.

    ``of_pool`` are the references of the pool, which is answered by the student of the round before.
    """
    who = student_name(number)
    if of_pool is not None:
        return _marked_by(who, _texts(reader.rows(ANSWER.at(number + 1))), of_pool)
    if reader.run.config.data.judged:
        compared = run_state.judged_answers(reader.run, number, reader.seen)
        columns = ("instruction_id", "student_score", "teacher_score")
        scores = () if compared is None else compared.drop_nulls(RETENTION).select(columns).iter_rows()
        outcomes = {at: (f"{own:g} points, the teacher {other:g}", own >= other) for at, own, other in scores}
    else:
        marks = marks_on_test(reader, number).items()
        outcomes = {at: (_OUTCOMES[bool(mark)], bool(mark)) for at, mark in marks if mark is not None}
    texts = _texts(reader.rows(ANSWER_HELDOUT.at(number)))
    return {at: Answer(who, told, texts[at], correct) for at, (told, correct) in outcomes.items() if at in texts}


def _texts(rows: pl.DataFrame | None) -> dict[str, str]:
    """Instruction → answer, of those that have one."""
    return {} if rows is None else dict(rows.drop_nulls("response").select("instruction_id", "response").iter_rows())


def _marked_by(who: str, texts: Mapping[str, str], references: Mapping[str, str]) -> dict[str, Answer]:
    """Instruction → the answer, which is right where its final result is exactly the reference."""
    correct = {
        at: verifiers.is_correct(text, references[at]) if references.get(at) else None for at, text in texts.items()
    }
    return {at: Answer(who, _OUTCOMES[correct[at]], text, correct[at]) for at, text in texts.items()}


_Change = tuple[bool | None, bool | None]

_CHANGES: dict[_Change, str] = {
    (False, True): "became right",
    (True, False): "became wrong",
    (True, True): "stayed right",
    (False, False): "stayed wrong",
    (None, None): "drawn at random",
}
"""(right before, right after) → what happened to an instruction."""
_JUDGED_CHANGES: dict[_Change, str] = {
    (False, True): "caught up with the teacher",
    (True, False): "fell behind the teacher",
    (True, True): "stayed level with the teacher",
    (False, False): "stayed behind the teacher",
}
_OUTCOMES = {True: "✓ right", False: "✗ wrong", None: ""}
