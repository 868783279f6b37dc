"""What a run has come to, and what its students got right: a pure reading of its folder, which works at any time.

Right is what stage `evaluate` calls right: the stated final result equals the reference.

Limits: a stage that does not hold (another configuration, a missing part) counts as not done. Seconds and calls are
those of a stage's last start; what a killed start had spent shows as answers from the store.
"""

import random
from collections import Counter
from dataclasses import dataclass
from typing import Any

import polars as pl

from tapir_core.config import HELDOUT
from tapir_core.curriculum import (
    best_round,
    count_unscored,
    delta_of,
    fill_quotas,
    share_table,
    shares_of,
    split_usable,
    target_shares,
)
from tapir_core.data.dataset import Manifest
from tapir_core.data.decontamination import CONTAMINATED
from tapir_core.evaluation.scores import grade_answers
from tapir_core.evaluation.statistics import compare_paired
from tapir_core.judging import expected_orders
from tapir_core.judging.orders import combine_judges
from tapir_core.paths import BACKBONE
from tapir_core.randomness import derive_rng
from tapir_core.run_folder import RunFolder, by_words
from tapir_core.run_state import state_of
from tapir_core.stages import Compared, StageAt, benchmark_stages, lines_of_round, lines_once
from tapir_core.summary.formats import round_name
from tapir_core.summary.run_reader import Look
from tapir_core.summary.types import (
    BenchmarkHits,
    Decontamination,
    Gain,
    GatedSummary,
    MixtureSummary,
    RoundSummary,
    RunSummary,
)
from tapir_core.verifiable import is_correct

__all__ = [
    "CHANGES",
    "Example",
    "ExampleAnswer",
    "Examples",
    "choose_examples",
    "heldout_scores",
    "marks_on_test",
    "measure_gain",
    "summarise",
]

_GATES = ("length", "echo", "near_duplicate", "contaminated", "task_type", "teacher_answer", "difficulty")
_SHORTFALL = "shortfall: "

CHANGES = {
    (False, True): "became right",
    (True, False): "became wrong",
    (True, True): "stayed right",
    (False, False): "stayed wrong",
}
"""(right before, right after) → what happened to an instruction."""


@dataclass(frozen=True, slots=True)
class ExampleAnswer:
    """One student's answer to an example."""

    round: int
    text: str
    correct: bool


@dataclass(frozen=True, slots=True)
class Example:
    """One test instruction with the answers of several students."""

    instruction: str
    system: str
    task_type: str
    reference: str
    change: str
    """What happened between the second-last and the last of the compared students, in words."""
    answers: tuple[ExampleAnswer, ...]


@dataclass(frozen=True, slots=True)
class Examples:
    """Examples to read, and the groups that they were drawn from."""

    shown: tuple[Example, ...]
    n: int
    """Test instructions that every compared student answered."""
    groups: dict[str, int]
    """What happened → test instructions, in the order of ``CHANGES``."""


@dataclass(frozen=True, slots=True)
class _Pool:
    """The first pool of a run, as far as it is known."""

    labels: pl.DataFrame | None = None
    """instruction_id, task_type of every instruction."""
    usable: pl.DataFrame | None = None
    """instruction_id, task_type of those with a usable teacher answer."""


def summarise(run: RunFolder) -> RunSummary:
    """Everything that reports and status lines say of a run.

    Raises:
        ConfigError: there is no such run.
    """
    look, config = Look(run), run.config
    first, unusable = _first_pool(look)
    pool, labels = look.manifest(StageAt("pool")), first.labels
    found = (_round(look, number, first) for number in range(BACKBONE, config.run.rounds + 1))
    rounds = tuple(each for each in found if each.stages)
    once = look.summarise_stages((*lines_once(), "benchmark_replies"), None)
    state = state_of(run, look.seen)
    students = [each.number for each in rounds if each.scores is not None and each.number > 0]
    roles = {"teacher": [config.teacher.endpoint], "judge": [*config.judge.endpoints.values()]}
    return RunSummary(
        name=run.record.name,
        root=run.ref.root,
        created=run.record.created,
        updated=look.updated,
        backbone=config.student.backbone,
        teacher=config.teacher.endpoint.name,
        judge=" and ".join(config.judge.names) if config.judge.panel else config.judge.endpoint.name,
        standins=tuple(role for role, endpoints in roles.items() if all(each.is_standin for each in endpoints)),
        judges_itself=config.teacher.endpoint.answers_as("teacher") in config.judge.identities,
        judge_varies=config.judge.sampling.temperature != 0,
        planned_rounds=config.run.rounds,
        next_stage=state.next_stage,
        stopped=state.stopped,
        error=run.error,
        settled=tuple(by_words(run.record.settled)),
        pool=labels.height if labels is not None else pool.rows if pool is not None else None,
        unusable=unusable,
        dropped=_dropped(pool),
        decontamination=_decontamination(look),
        stages=once,
        rounds=rounds,
        outputs=_outputs(look),
        best=best_round(state.history),
        gain=measure_gain(look, 0, students[-1]) if students else None,
        busy_seconds=round(look.busy_seconds(), 1),
    )


def _first_pool(look: Look) -> tuple[_Pool, dict[str, int] | None]:
    """The first pool, and why instructions left it."""
    pool, labels, teacher = (look.rows(StageAt(name)) for name in ("pool", "label", "teach"))
    if pool is None or labels is None or teacher is None:
        return _Pool(labels), None
    split = split_usable(pool, teacher, labels)
    return _Pool(labels, split.examples.select("instruction_id", "task_type")), split.dropped


def _outputs(look: Look) -> dict[str, pl.DataFrame]:
    models = dict.fromkeys(model for each in look.run.config.evaluation.judged.values() for model in each.outputs)
    return {model: rows for model in models if (rows := _benchmark_figures(look, model)) is not None}


def _dropped(pool: Manifest | None) -> dict[str, int]:
    counts = {} if pool is None else pool.counts
    return {name.replace("_", " "): int(count) for name, count in counts.items() if name != "seconds" and count}


def _round(look: Look, number: int, first: _Pool) -> RoundSummary:
    """What is done of round ``number``; ``first`` is the pool of round 1."""
    pool = _round_pool(look, number, first)
    difficulty = _difficulty(look, number)
    seeds = look.manifest(StageAt("select", number))
    return RoundSummary(
        number,
        stages=look.summarise_stages(lines_of_round(), number),
        pool=None if pool is None else pool.height,
        not_judged=_not_judged(look, number),
        difficulty=difficulty,
        unscored=None if pool is None or difficulty is None else _unscored(look, number, pool, difficulty.height),
        seeds=None if seeds is None else seeds.rows,
        delta=None if seeds is None else delta_of(seeds.counts),
        expansion=_expansion(look, number),
        refinement=_refinement(look, number),
        mixture=_mixture(look, number, first),
        scores=heldout_scores(look, number),
        benchmarks=_benchmark_figures(look, number),
    )


def _round_pool(look: Look, number: int, first: _Pool) -> pl.DataFrame | None:
    """instruction_id and task_type of the round's pool; nothing for the backbone, which is trained on none."""
    earlier = [look.rows(StageAt("expand", each)) for each in range(1, number)]
    known = [rows.select("instruction_id", "task_type") for rows in earlier if rows is not None]
    if number < 0 or first.usable is None or len(known) < len(earlier):
        return None
    return pl.concat([first.usable, *known], how="vertical_relaxed")


def _difficulty(look: Look, number: int) -> pl.DataFrame | None:
    rows, seeds = look.rows(StageAt("difficulty", number)), look.rows(StageAt("select", number))
    if rows is None:
        return None
    chosen = (
        pl.lit(None, pl.Boolean) if seeds is None else pl.col("instruction_id").is_in(seeds["instruction_id"].implode())
    )
    return rows.select("instruction_id", "task_type", "mfd", "order_gap", chosen.alias("seed"))


def _not_judged(look: Look, number: int) -> str | None:
    config = look.run.config
    if number < 1 or config.judges(number):
        return None
    judged = config.verdict_round(number)
    return "drawn at random" if judged is None else f"MFD of {round_name(judged)}"


def _unscored(look: Look, number: int, pool: pl.DataFrame, scored: int) -> dict[str, int]:
    verdicts, judge, reasons = look.rows(StageAt("judge", number)), look.run.config.judge, {}
    if verdicts is not None:
        reasons = count_unscored(combine_judges(verdicts, judge.panel_rule), pool, expected_orders(judge))
    without = pool.height - scored - sum(reasons.values())
    return reasons | ({"no verdict was received": without} if without > 0 else {})


def _expansion(look: Look, number: int) -> GatedSummary | None:
    accepted, rejected = look.manifest(StageAt("expand", number)), look.rows(StageAt("expansion_rejected", number))
    if accepted is None or rejected is None:
        return None
    requests = [look.manifest(StageAt("wave_requests", number, wave)) for wave in look.waves(number)]
    counts = _counted(rejected["gate"])
    ordered = {gate: counts.pop(gate) for gate in _GATES if gate in counts}
    asked = sum(manifest.rows for manifest in requests if manifest is not None)
    return GatedSummary(asked, accepted.rows, ordered | counts)


def _refinement(look: Look, number: int) -> GatedSummary | None:
    rows = look.rows(StageAt("refine", number))
    if rows is None:
        return None
    kept = rows.filter(pl.col("accepted"))
    return GatedSummary(rows.height, kept.height, _counted(rows.filter(~pl.col("accepted"))["reason"]))


def _mixture(look: Look, number: int, first: _Pool) -> MixtureSummary | None:
    at = StageAt("mix", number)
    rows, manifest = look.rows(at), look.manifest(at)
    if rows is None or manifest is None or first.labels is None:
        return None
    wanted = target_shares(look.run.config.curriculum.target_shares, shares_of(first.labels))
    return MixtureSummary(
        rows.height,
        int(manifest.counts.get("missing_examples", 0)),
        _counted(rows["origin"]),
        {name.removeprefix(_SHORTFALL): int(n) for name, n in manifest.counts.items() if name.startswith(_SHORTFALL)},
        share_table(first.labels, wanted, rows.select("task_type")),
    )


def heldout_scores(look: Look, number: int) -> pl.DataFrame | None:
    """Held-out accuracies of a student by split and task type; nothing where it was not scored."""
    scores = look.rows(StageAt("evaluate", number))
    return None if scores is None else scores.filter(benchmark="heldout", metric="accuracy")


def _benchmark_figures(look: Look, who: Compared) -> pl.DataFrame | None:
    """Figures of a student, or of a model of a file, on all benchmarks; nothing where it has none."""
    found = [look.rows(benchmark_stages(name, who)[-1]) for name in look.run.config.evaluation.asked]
    tables = [rows for rows in found if rows is not None]
    return pl.concat(tables) if tables else None


def _counted(values: pl.Series) -> dict[str, int]:
    """Value → rows, the most frequent first, then by name."""
    counts: list[tuple[str, int]] = values.drop_nulls().value_counts().rows()
    return dict(sorted(counts, key=lambda pair: (-pair[1], pair[0])))


def _decontamination(look: Look) -> Decontamination | None:
    """What was looked for and found; nothing before the pool was looked through, or where nothing is looked for."""
    pool = look.rows(StageAt("contaminated"))
    if pool is None:
        return None
    rounds = look.run.config.round_numbers
    found = {number: rows for number in rounds if (rows := look.rows(StageAt("contaminated", number))) is not None}
    expansion = Counter(name for rows in found.values() for name in rows["benchmark"])
    in_pool = Counter(pool["benchmark"])
    listed = [pool.with_columns(place=pl.lit("pool"))]
    listed += [rows.with_columns(place=pl.lit(f"expansion, {round_name(number)}")) for number, rows in found.items()]
    return Decontamination(
        tuple(
            BenchmarkHits(name, questions, in_pool[name], expansion[name])
            for name, questions in _questions(look).items()
        ),
        pl.concat(listed).select("place", *CONTAMINATED.names()),
    )


def _questions(look: Look) -> dict[str, int]:
    """Benchmark → its questions, a turn counting as one."""
    found: dict[str, int] = {}
    heldout, questions = look.manifest(StageAt("heldout")), look.rows(StageAt("questions"))
    if heldout is not None:
        found[HELDOUT] = heldout.rows
    if questions is not None:
        found |= dict(sorted(Counter(questions["benchmark"]).items()))
    return found


def measure_gain(look: Look, before: int, after: int) -> Gain | None:
    """Test accuracy of student ``after`` less that of ``before``, over the instructions that both answered."""
    marks = [marks_on_test(look, number) for number in (before, after)]
    if not all(marks):
        return None
    rng = derive_rng(look.run.config.run.seed, "gain", before, after)
    return Gain(before, after, compare_paired(marks[1], marks[0], rng=rng, unit="instructions"))


def marks_on_test(look: Look, number: int) -> dict[str, float | None]:
    """Instruction of the test split → 100 where the student is right, 0 where not, None without an answer.

    Empty while the student was not asked.
    """
    questions, answers = look.rows(StageAt("heldout")), look.rows(StageAt("answer_heldout", number))
    if questions is None or answers is None:
        return {}
    test = grade_answers(questions, answers).filter(split="test")
    return dict(test.select("instruction_id", 100.0 * pl.col("correct")).iter_rows())


def choose_examples(look: Look, students: list[int], count: int, rng: random.Random) -> Examples | None:
    """Draw test instructions so that what got better, worse or stayed has its true proportion among those shown.

    ``students`` are rounds in order; the change is between the last two of them (of one student: right or wrong).
    """
    found = _examples(look, students)
    groups = {change: [each for each in found if each.change == change] for change in CHANGES.values()}
    sizes = {change: len(of_change) for change, of_change in groups.items() if of_change}
    quota = fill_quotas(count, {change: float(size) for change, size in sizes.items()}, sizes)
    drawn = {change: sorted(rng.sample(range(size), quota[change])) for change, size in sizes.items()}
    shown = tuple(groups[change][place] for change, places in drawn.items() for place in places)
    return Examples(shown, len(found), sizes) if found else None


def _examples(look: Look, students: list[int]) -> list[Example]:
    """Test instructions that all ``students`` answered, sorted by id."""
    heldout = look.rows(StageAt("heldout"))
    given = [look.rows(StageAt("answer_heldout", number)) for number in students]
    if heldout is None:
        return []
    texts = [
        {} if rows is None else dict(rows.drop_nulls("response").select("instruction_id", "response").iter_rows())
        for rows in given
    ]
    questions = heldout.filter(split="test").sort("instruction_id").iter_rows(named=True)
    return [
        _example(row, students, [of[row["instruction_id"]] for of in texts])
        for row in questions
        if all(row["instruction_id"] in of for of in texts)
    ]


def _example(row: dict[str, Any], students: list[int], texts: list[str]) -> Example:
    answers = tuple(
        ExampleAnswer(number, text, is_correct(text, row["reference"]))
        for number, text in zip(students, texts, strict=True)
    )
    before, after = answers[-2:] if len(answers) > 1 else answers * 2
    change = CHANGES[before.correct, after.correct]
    return Example(row["instruction"], row["system"] or "", row["task_type"], row["reference"], change, answers)
