"""`RunReader`, one look at a run folder, and `summarise`: all that reports and status lines say of a run."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from statistics import fmean
from typing import Any

import polars as pl

from tapir_core import curriculum, errors, paths, run_state, stages, statistics, task_types, verifiers
from tapir_core.config import HELDOUT, RETENTION, RunConfig
from tapir_core.curriculum.teacher import FROM_POOL
from tapir_core.data.dataset import TRAIN_AGAIN, DatasetRef, Manifest, read_json
from tapir_core.evaluation.scores import ALL, grade_answers
from tapir_core.judging import combine_judges
from tapir_core.run_folder import RunFolder, by_words
from tapir_core.stages import StageAt
from tapir_core.summary import types
from tapir_core.summary.formats import percent, round_name, student_name

_GATES = ("length", "echo", "near_duplicate", "contaminated", "task_type", "teacher_answer", "verifier", "difficulty")
_UNFIT = ("teacher_below_floor", "student_better")
_SHORTFALL = "shortfall: "


class RunReader:
    """One look at a run folder: the rows and counts of stages that hold; what does not hold is None.

    What it has found it keeps, so it must not outlive the report that it is made for.
    """

    def __init__(self, run: RunFolder) -> None:
        self.run = run
        self.seen: dict[StageAt, DatasetRef | None] = {}
        """What was found of its stages."""
        self._shown: list[Manifest] = []
        """Those of the stages that were summarised."""

    def manifest(self, at: StageAt) -> Manifest | None:
        """The stage's manifest."""
        return self.run.manifest(at) if self.run.holds(at, self.seen) is not None else None

    def rows(self, at: StageAt) -> pl.DataFrame | None:
        """The stage's rows."""
        return self.run.rows(at) if self.run.holds(at, self.seen) is not None else None

    def tables(self, wanted: Sequence[StageAt]) -> list[pl.DataFrame]:
        """The rows of all these stages; empty where one of them does not hold."""
        found = [rows for at in wanted if (rows := self.rows(at)) is not None]
        return found if len(found) == len(wanted) else []

    def waves(self, number: int) -> list[int]:
        """Waves of a round of which something is done."""
        return [
            wave
            for wave in self.run.config.waves(number)
            if self.manifest(stages.WAVE_REQUESTS.at(number, wave)) is not None
        ]

    def training(self, number: int) -> dict[str, Any]:
        """What the trainer wrote of a round's training; empty where that is gone, since no stage needs it."""
        file = paths.training_file(stages.TRAIN.at(number).folder)
        return read_json(self.run.storage, file, TRAIN_AGAIN) if self.run.storage.exists(file) else {}

    def machine_seconds(self, number: int) -> float:
        """Seconds in which this run's machine served or trained a model for round ``number``, starts included.

        Whoever is served elsewhere, and what marks the student, counts in none. Of a stage as `whole_seconds`: NaN
        where its last start found most answers in the store, of earlier starts or of other runs.
        """
        config, training = self.run.config, self.training(number)
        in_turn = {
            at.stage.line for at in stages.plan(config) if stages.served_in_turn(config, at) and at.round == number
        }
        served = self.summarise_stages(stages.lines(stages.ROUND).keys() & in_turn, number)
        seconds = sum(each.whole_seconds for each in served)
        return seconds + float(training.get("seconds", 0.0)) + float(training.get("reference_seconds", 0.0))

    def summarise_stages(self, names: Iterable[str], number: int | None) -> tuple[types.StageSummary, ...]:
        """The lines of ``names`` of which something is done; the steps of a stage count as one."""
        known, found = stages.lines(), []
        for name in names:
            manifests = [manifest for at in self._parts(name, number) if (manifest := self.manifest(at)) is not None]
            self._shown += manifests
            if manifests:
                found.append(
                    types.StageSummary(
                        name,
                        asks=known[name].asks,
                        rows=sum(manifest.rows for manifest in manifests if manifest.stage == known[name].name),
                        seconds=sum(manifest.counts.get("seconds", 0.0) for manifest in manifests),
                        missing=dict(sum((Counter(each.accepted_missing) for each in manifests), Counter[str]())),
                        usage=sum((types.Usage.of(manifest.counts) for manifest in manifests), types.Usage()),
                    )
                )
        return tuple(found)

    @property
    def updated(self) -> str:
        """When the last stage that was summarised was done; empty before the first."""
        return max((manifest.created for manifest in self._shown), default="")

    @property
    def busy_seconds(self) -> float:
        """Time in which one of the stages that were summarised was at work."""
        took = [(datetime.fromisoformat(of.created).timestamp(), of.counts.get("seconds", 0.0)) for of in self._shown]
        busy, end = 0.0, float("-inf")
        for start, stop in sorted((stop - seconds, stop) for stop, seconds in took):
            busy += max(0.0, stop - max(start, end))
            end = max(end, stop)
        return busy

    def _parts(self, name: str, number: int | None) -> list[StageAt]:
        config = self.run.config
        if name not in {stage.name for stage in stages.BENCHMARK}:
            scoring = [stage for stage in stages.EVALUATION if stage.line == name] if number is not None else []
            whole = [stage.at(number) for stage in scoring] or [StageAt(name, number)]
            waves = self.waves(number) if number is not None and number > 0 else []
            return [step for at in whole for step in stages.with_steps(config, at, waves) if step.stage.line == name]
        if number is None:
            return [
                StageAt(name, benchmark=each, model=model)
                for each, of in config.evaluation.judged.items()
                for model in of.outputs
            ]
        return [StageAt(name, number, benchmark=each) for each in config.evaluation.asked]


def summarise(run: RunFolder) -> types.RunSummary:
    """Everything that reports and status lines say of a run.

    Raises:
        ConfigError: there is no such run.
    """
    reader, config = RunReader(run), run.config
    pool, labels, of_pool = (
        reader.manifest(stages.POOL.at()),
        reader.rows(stages.LABEL.at()),
        reader.tables(stages.usable_of(config)),
    )
    taught, left_out = reader.manifest(stages.TEACH.at()), {} if pool is None else pool.counts
    usable = curriculum.split_usable(*of_pool, refusals=config.teacher.takes_refusals) if of_pool else None
    examples = None if usable is None else usable.examples.select("instruction_id", "task_type")
    rounds = tuple(
        each for each in (_round(reader, number, examples, labels) for number in config.students) if each.stages
    )
    once = reader.summarise_stages((*stages.lines(stages.ONCE), stages.BENCHMARK_REPLIES.name), None)
    state = run_state.state_of(run, reader.seen)
    students = [each.number for each in rounds if each.scores is not None and each.number in config.round_numbers]
    models = dict.fromkeys(model for each in config.evaluation.judged.values() for model in each.outputs)
    return types.RunSummary(
        config=config,
        name=run.record.name,
        root=run.ref.root,
        created=run.record.created,
        updated=reader.updated,
        next_stage=state.next_stage,
        stopped=state.stopped,
        error=run.error,
        settled=tuple(by_words(run.record.settled)),
        pool=labels.height if labels is not None else pool.rows if pool is not None else None,
        own_answers=0 if taught is None else int(taught.counts.get(FROM_POOL, 0)),
        unusable=None if usable is None else usable.dropped,
        dropped={name.replace("_", " "): int(n) for name, n in left_out.items() if name != "seconds" and n},
        decontamination=_decontamination(reader),
        stages=once,
        rounds=rounds,
        outputs={model: rows for model in models if (rows := _benchmark_figures(reader, model)) is not None},
        best=state.best,
        gain=measure_gain(reader, 0, students[-1]) if students else None,
        busy_seconds=round(reader.busy_seconds, 1),
    )


def _round(
    reader: RunReader, number: int, usable: pl.DataFrame | None, labels: pl.DataFrame | None
) -> types.RoundSummary:
    """What is done of round ``number``; ``usable`` is the pool of round 1, ``labels`` are those of the whole pool."""
    pool = _round_pool(reader, number, usable)
    difficulty = _difficulty(reader, number)
    seeds = reader.manifest(stages.SELECT.at(number))
    return types.RoundSummary(
        number,
        stages=reader.summarise_stages(
            stages.lines(stages.making(number), stages.EVALUATION, stages.BENCHMARK), number
        ),
        pool=None if pool is None else pool.height,
        not_judged=_not_judged(reader, number),
        difficulty=difficulty,
        unscored=None if pool is None or difficulty is None else _unscored(reader, number, pool, difficulty.height),
        seeds=None if seeds is None else seeds.rows,
        delta=None if seeds is None else curriculum.delta_of(seeds.counts),
        unfit={
            name: int(rows)
            for name, rows in (seeds.counts if seeds else {}).items()
            if name in _UNFIT or name.startswith(curriculum.UNPAIRED)
        },
        expansion=_expansion(reader, number),
        refinement=_refinement(reader, number),
        mixture=_mixture(reader, number, labels),
        stated=_stated(reader, number),
        habits=run_state.read_habits(reader.run, number, reader.seen),
        alarm=run_state.alarm_of(reader.run, number, reader.seen),
        scores=reader.rows(stages.EVALUATE.at(number)),
        benchmarks=_benchmark_figures(reader, number),
    )


def _round_pool(reader: RunReader, number: int, usable: pl.DataFrame | None) -> pl.DataFrame | None:
    """instruction_id and task_type of the round's pool; nothing for who is trained on none: backbone, average."""
    read = [*stages.held_out_of(reader.run.config), *(stages.EXPAND.at(each) for each in range(1, number))]
    if number in paths.OF_NO_ROUND or usable is None or any(reader.manifest(at) is None for at in read):
        return None
    known = (reader.run.rows(at).select("instruction_id", "task_type") for at in read if at.round)
    return pl.concat([run_state.not_held_out(reader.run, usable), *known], how="vertical_relaxed")


def _difficulty(reader: RunReader, number: int) -> pl.DataFrame | None:
    rows, seeds = reader.rows(stages.DIFFICULTY.at(number)), reader.rows(stages.SELECT.at(number))
    if rows is None:
        return None
    identity = pl.col("instruction_id")
    chosen = pl.lit(None, pl.Boolean) if seeds is None else identity.is_in(seeds["instruction_id"].implode())
    return rows.select(identity, "task_type", "mfd", "order_gap", chosen.alias("seed"))


def _not_judged(reader: RunReader, number: int) -> str | None:
    config = reader.run.config
    if number not in config.round_numbers or config.judges(number):
        return None
    judged = config.verdict_round(number)
    if config.round(number).selection.attempts:
        attempts = reader.rows(stages.ATTEMPT.at(number))
        right = None if attempts is None else attempts.select(pl.mean("correct")).item()
        return f"drawn by pass rate{'' if attempts is None else f', {percent(right)} of its answers right'}"
    return "drawn at random" if judged is None else f"MFD of {round_name(judged)}"


def _unscored(reader: RunReader, number: int, pool: pl.DataFrame, scored: int) -> dict[str, int]:
    verdicts, judge, reasons = reader.rows(stages.JUDGE.at(number)), reader.run.config.judge, {}
    if verdicts is not None:
        reasons = curriculum.count_unscored(combine_judges(verdicts, judge.panel_rule), pool, judge.expected_orders)
    without = pool.height - scored - sum(reasons.values())
    return reasons | ({"no verdict was received": without} if without > 0 else {})


def _expansion(reader: RunReader, number: int) -> types.GatedSummary | None:
    accepted, rejected = reader.manifest(stages.EXPAND.at(number)), reader.rows(stages.EXPANSION_REJECTED.at(number))
    if accepted is None or rejected is None:
        return None
    counts = _counted(rejected["gate"])
    ordered = {gate: counts[gate] for gate in _GATES if gate in counts}
    asked = sum(reader.run.sealed(stages.WAVE_REQUESTS.at(number, wave)).rows for wave in reader.waves(number))
    return types.GatedSummary(asked, accepted.rows, ordered | counts)


def _refinement(reader: RunReader, number: int) -> types.GatedSummary | None:
    rows = reader.rows(stages.REFINE.at(number))
    if rows is None:
        return None
    rejected = rows.filter(~pl.col("accepted"))["reason"]
    return types.GatedSummary(rows.height, rows.height - rejected.len(), _counted(rejected))


def _mixture(reader: RunReader, number: int, labels: pl.DataFrame | None) -> types.MixtureSummary | None:
    at = stages.MIX.at(number)
    rows, manifest = reader.rows(at), reader.manifest(at)
    if rows is None or manifest is None or labels is None:
        return None
    config, rows = reader.run.config, rows.unique("instruction_id", maintain_order=True)
    configured, reduced_to = config.curriculum, manifest.counts.get("reduced_to")
    wanted = curriculum.target_shares(configured.target_shares, curriculum.shares_of(labels))
    return types.MixtureSummary(
        rows.height,
        config.examples(number),
        config.round(number).alpha if number else None,
        None if reduced_to is None else int(reduced_to),
        int(manifest.counts.get("missing_examples", 0)),
        _counted(rows["origin"]),
        {name.removeprefix(_SHORTFALL): int(n) for name, n in manifest.counts.items() if name.startswith(_SHORTFALL)},
        curriculum.share_table(task_types.in_order(configured.types.names), labels, wanted, rows.select("task_type")),
        int(manifest.counts.get("thoughts", 0)),
        manifest.rows,
    )


def _stated(reader: RunReader, number: int) -> float | None:
    """Of its answers to the test split with references, the share that state their result as they were taught to.

    Nothing where a verifier marks them, to which that need not matter.
    """
    asked = reader.tables([stages.HELDOUT.at(), stages.ANSWER_HELDOUT.at(number)])
    if not asked or reader.run.config.judge.verifies("heldout"):
        return None
    test = asked[0].filter(split="test")["instruction_id"].implode()
    given = asked[1].filter(pl.col("instruction_id").is_in(test))["response"].drop_nulls()
    return sum(map(verifiers.states_result, given)) / given.len() if given.len() else None


def _benchmark_figures(reader: RunReader, who: stages.Compared) -> pl.DataFrame | None:
    """Figures of a student, or of a model of a file, on all benchmarks; nothing where it has none."""
    asked = (reader.rows(stages.benchmark_stages(name, who)[-1]) for name in reader.run.config.evaluation.asked)
    found = [rows for rows in asked if rows is not None]
    return pl.concat(found) if found else None


def _counted(values: pl.Series) -> dict[str, int]:
    """Value → rows, the most frequent first, then by name."""
    return dict(values.drop_nulls().value_counts().sort("count", values.name, descending=[True, False]).iter_rows())


def _decontamination(reader: RunReader) -> types.Decontamination | None:
    """What was looked for and found; nothing before the pool was looked through, or where nothing is looked for."""
    places = {
        "pool": stages.CONTAMINATED.at(),
        "pool, held-out": stages.HELDOUT_OVERLAP.at(),
        **{f"expansion, {round_name(n)}": stages.CONTAMINATED.at(n) for n in reader.run.config.round_numbers},
    }
    found = {place: rows for place, at in places.items() if (rows := reader.rows(at)) is not None}
    if not any(place.startswith("pool") for place in found):
        return None
    rows = pl.concat(rows.with_columns(place=pl.lit(place)) for place, rows in found.items())
    heldout, asked = map(reader.manifest, stages.heldout_stages(reader.run.config)), reader.rows(stages.QUESTIONS.at())
    sizes = [manifest.rows for manifest in heldout if manifest is not None]
    questions = {HELDOUT: sum(sizes)} if sizes else {}
    # A turn counts as one.
    questions |= {} if asked is None else dict(sorted(Counter(asked["benchmark"]).items()))
    in_pool = Counter(rows.filter(pl.col("place").str.starts_with("pool"))["benchmark"])
    everywhere = Counter(rows["benchmark"])
    return types.Decontamination(
        pl.DataFrame(
            [
                {
                    "benchmark": name,
                    "questions": n,
                    "pool": in_pool[name],
                    "expansion": everywhere[name] - in_pool[name],
                }
                for name, n in questions.items()
            ]
        ),
        rows.select("place", *stages.CONTAMINATED.columns),
    )


def read_progress(reader: RunReader, likely_hours: Mapping[str, float]) -> types.RunProgress:
    """How far a run is, from manifests and scores alone: cheap enough for every run of a root, also while it works.

    ``likely_hours`` are what its estimate expects of each stage, over the run.
    """
    config = reader.run.config
    manifests = {at: reader.manifest(at) for at in stages.plan(config)}
    state = run_state.state_of(reader.run, reader.seen)
    scored = (
        types.RoundSummary(number, scores=reader.rows(stages.EVALUATE.at(number)))
        for number in reversed(config.students)
    )
    scores = ((each.number, split, each.score(split)) for each in scored for split in ("test", "dev"))
    student, split, score = next((found for found in scores if found[2] is not None), (None, "", None))
    return types.RunProgress(
        {at: None if manifest is None else manifest.rows for at, manifest in manifests.items()},
        next_stage=state.next_stage,
        stopped=state.stopped,
        student=student,
        split=split,
        score=score,
        seconds_left=_seconds_left(reader, manifests, likely_hours, state) if state.next_stage else 0.0,
    )


def _seconds_left(
    reader: RunReader,
    manifests: Mapping[StageAt, Manifest | None],
    likely_hours: Mapping[str, float],
    state: run_state.RunState,
) -> float | None:
    """What the stages that are left took before in this run, or else what the run's estimate says of them.

    Stages that overlap count in full. Nothing where a stage of some length was never done and never estimated.
    """
    planned, took = Counter(at.name for at in manifests), defaultdict[str, list[float]](list)
    # A run that is stopped goes on with its average alone.
    undone = [at for at, manifest in manifests.items() if manifest is None]
    left = [at.name for at in undone if at.round == paths.AVERAGE or not state.stopped]
    for at, manifest in ((at, manifest) for at, manifest in manifests.items() if manifest is not None):
        seconds = manifest.counts.get("seconds", 0.0)
        if at.name == stages.EXPAND.name:  # most of it lies in the waves
            seconds = sum(stage.seconds for stage in reader.summarise_stages((at.name,), at.number))
        if seconds:  # what was taken over from another run took no time here
            took[at.name].append(seconds)
    expected = {
        # What a quick stage will take is not counted before the first of them was seen.
        **{name: 0.0 for name, stage in stages.STAGES.items() if not stage.asks and not stage.trains},
        **{name: 3600 * hours / planned[name] for name, hours in likely_hours.items() if name in planned},
        **{name: fmean(seconds) for name, seconds in took.items()},
    }
    return sum(expected[name] for name in left) if expected.keys() >= set(left) else None


def measure_gain(reader: RunReader, before: int, after: int) -> types.Gain | None:
    """Test score of student ``after`` less that of ``before``, over the instructions that both answered."""
    marks = [marks_on_test(reader, number) for number in (before, after)]
    if not all(marks):
        return None
    return types.Gain(
        before,
        after,
        statistics.compare_paired(
            marks[1], marks[0], max_failed_share=max_failed_share(reader.run.config), unit="instructions"
        ),
    )


def max_failed_share(config: RunConfig) -> float:
    """Share of the held-out instructions that may fail before there is no figure."""
    return config.data.judged.max_failed_share if config.data.judged else statistics.MAX_FAILED_SHARE


def marks_on_test(reader: RunReader, number: int) -> dict[str, float | None]:
    """Instruction of the test split → 100 where the student is right, 0 where not, None without an answer.

    Of a judged set: where it matches or beats the teacher, 50 where it does in one of two orders, None without a
    verdict. Empty while the student was not asked.
    """
    config = reader.run.config
    if config.data.judged:
        marked = run_state.judged_answers(reader.run, number, reader.seen)
    else:
        asked = reader.tables(stages.graded_of(config, number))
        marked = grade_answers(*asked) if asked else None
    mark = 100.0 * pl.col(RETENTION if config.data.judged else "correct")
    return {} if marked is None else dict(marked.filter(split="test").select("instruction_id", mark).iter_rows())


def figures_of(
    summary: types.RunSummary, compared: Sequence[stages.Compared] | None = None, names: Sequence[str] | None = None
) -> pl.DataFrame:
    """Figures of these students and models on these benchmarks; of all of them when left out.

    Columns: those of stage `evaluate` with `student`, its name, and `number`, its round.
    """
    known = summary.benchmarks
    tables = [
        known[who].with_columns(
            pl.lit(student_name(who)).alias("student"),
            pl.lit(who if isinstance(who, int) else None, pl.Int64).alias("number"),
        )
        for who in (known if compared is None else compared)
        if who in known
    ]
    columns = {**stages.EVALUATE.columns, "student": pl.String(), "number": pl.Int64()}
    found = pl.concat([pl.DataFrame(schema=columns), *tables])
    return found if names is None else found.filter(pl.col("benchmark").is_in(list(names)))


def headlines(figures: pl.DataFrame) -> pl.DataFrame:
    """The rows of the metric that stands for each benchmark: its first one."""
    return figures.filter(pl.col("metric") == pl.col("metric").first().over("benchmark"))


def require_figures(
    summary: types.RunSummary, compared: Sequence[stages.Compared] | None = None, names: Sequence[str] | None = None
) -> None:
    """Say where too many judgments failed for a figure.

    Args:
        summary: The run.
        compared: Students, and models of files; every student that there is when left out.
        names: Benchmarks; those that are asked after each round when left out.

    Raises:
        NoFigure: a student or model has no headline on one of the benchmarks.
    """
    compared = [each.number for each in summary.rounds] if compared is None else compared
    names = summary.config.evaluation.each_round if names is None else names
    missing = headlines(figures_of(summary, compared, names)).filter(pl.col("value").is_null(), category=ALL)
    if missing.height:
        reasons = missing.group_by("benchmark", "note", maintain_order=True).agg(
            pl.col("student").unique(maintain_order=True)
        )
        said = "; ".join(f"{', '.join(who)} on {name}: {note}" for name, note, who in reasons.rows())
        raise errors.NoFigure(
            f"no figure, since failures are no random sample: {said}. The run's benchmarks/ folders hold "
            f"the replies. Once the judge is fixed, `tapir evaluate {summary.name} --root {summary.root} --benchmark "
            f"{','.join(names)} --also terminal` asks it again where it failed (in the UI: evaluate, Ask failed "
            "judgments too). Answers that the student failed to give: forget them with `tapir store prune --role "
            "answer --status KIND --yes`, remove those folders and give the same command again. A baseline without "
            "answers needs a file that has them. Or raise max_failed_share of [evaluation.benchmarks] and run the "
            "configuration with --amend"
        )
