"""What is left of a run, why it stopped, which students it has, and which verdicts and scores it lacks. Reads only.

Of a sweep of a curriculum over backbones: which of them lack a finished run, and what became of each.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import polars as pl
from polars import selectors as cs

from tapir_core import errors, paths, probing, stages, thoughts, turns
from tapir_core.config import LENGTHS, RETENTION, SAME_CALLS, WIN_RATE, JudgeConfig, RunConfig
from tapir_core.config.presets import BackboneEntry
from tapir_core.curriculum import Habits, RoundHistory, alarm, best_round, habits_of, should_stop, split_usable
from tapir_core.judging import combine_judges
from tapir_core.judging.agreement import mean_scores
from tapir_core.run_folder import RunFolder, RunRef, Seen
from tapir_core.tools import same_calls

_BACKBONE, _OUTPUTS = "backbone", "outputs"
"""What a person says for the untouched backbone, and for all models of files."""


@dataclass(frozen=True, slots=True)
class RunState:
    """How far a run is."""

    next_stage: stages.StageAt | None
    """The first planned stage that does not hold; of a run that is stopped only the average's are left, if any."""
    stopped: str | None
    """Why the stop rule ended it, if it did."""
    history: list[RoundHistory]
    """S_0 and the rounds that have begun."""
    best: int | None
    """The best student by the dev split, as `best_round` has it."""


def state_of(run: RunFolder, seen: Seen | None = None) -> RunState:
    """How far a run is; ``seen`` is as in `RunFolder.holds`."""
    seen = {} if seen is None else seen
    following = next((at for at in stages.plan(run.config) if run.holds(at, seen) is None), None)
    begun = [
        number
        for number in range(run.config.run.rounds + 1)
        if any(run.holds(at, seen) for at in stages.stages_of(run.config, number))
    ]
    rounds = history(run, begun[-1], seen) if begun else []
    stopped = None
    # What is left of a benchmark belongs to a round that is done: the rule ends rounds, not their evaluation.
    if rounds and following is not None and following.benchmark is None and following.round != paths.AVERAGE:
        # A run that did all its rounds was not stopped.
        ends_here = rounds[-1].number < run.config.run.rounds or rounds[-1].dev_score is None
        stopped = should_stop(rounds, run.config.curriculum.stop) if ends_here else None
    if stopped:
        to_average = averaging(run, seen)
        following = next((at for at in to_average if run.holds(at, seen) is None), None)
        if run.config.student.average and not to_average:
            stopped += "; too few rounds were trained to average their students"
    average = _of_student(run, paths.AVERAGE, seen) if run.config.student.average else None
    return RunState(following, stopped, rounds, best_round(rounds, average))


def averaging(run: RunFolder, seen: Seen | None = None) -> list[stages.StageAt]:
    """What the average of the rounds' students takes; empty where none is asked for, or too few are trained."""
    wanted = run.config.student.average and run.key(stages.AVERAGE.at(paths.AVERAGE), seen)
    return [*stages.stages_of(run.config, paths.AVERAGE)] if wanted else []


def stop_reason(run: RunFolder, number: int) -> str | None:
    """Why the run stops in or after round ``number``, in words; None when it goes on."""
    return should_stop(history(run, number), run.config.curriculum.stop)


def history(run: RunFolder, number: int, seen: Seen | None = None) -> list[RoundHistory]:
    """What the stop rule may know of S_0 and the rounds up to ``number``: dev figures and seeds, no test split."""
    return [_of_student(run, each, seen) for each in range(number + 1)]


def _of_student(run: RunFolder, number: int, seen: Seen | None) -> RoundHistory:
    by_difficulty = number in run.config.round_numbers and run.config.verdict_round(number) is not None
    seeds = run.holds(stages.SELECT.at(number), seen) if by_difficulty else None
    compared = judged_answers(run, number, seen)
    return RoundHistory(
        number,
        None if seeds is None else seeds.rows,
        _dev_score(run, number, seen),
        None
        if compared is None
        else dict(compared.filter(split="dev").select("instruction_id", RETENTION).drop_nulls().iter_rows()),
        alarm_of(run, number, seen),
    )


def alarm_of(run: RunFolder, number: int, seen: Seen | None = None) -> str | None:
    """What is wrong with how a student writes that learned from its own answers; of the average beside S_0.

    Known of its answers once it is scored.
    """
    config, before = run.config, 0 if number == paths.AVERAGE else number - 1
    rounds = config.round_numbers if number == paths.AVERAGE else [number] if number else []
    if not any(config.objective(each).learns_from_own for each in rounds):
        return None
    earlier, habits = (read_habits(run, each, seen) for each in (before, number))
    if number == paths.AVERAGE or number + 1 not in config.round_numbers or not _draws_alike(config, number):
        habits = replace(habits, divergence=None, entropy=None)
    return alarm(earlier, habits, config.curriculum.stop, lambda: habits_of(run.rows(stages.TEACH.at())).length)


def _draws_alike(config: RunConfig, number: int) -> bool:
    """Whether a round and the next roll out on prompts of one kind, so that what their tokens say can be compared."""
    one, other = (
        (
            each.selection,
            each.alpha,
            each.objective.shaping_of("rollout"),
            each.objective.shaping_of("score").get("first_tokens"),
        )
        for each in map(config.round, (number, number + 1))
    )
    return one == other


def read_habits(run: RunFolder, number: int, seen: Seen | None = None) -> Habits:
    """How a student writes, by its answers to the dev split and by what it drew for the round after it."""
    heldout = stages.heldout_stages(run.config)
    found, scored = Habits(), stages.EVALUATE.at(number)
    if heldout and run.holds(scored, seen):
        dev = pl.concat(run.rows(at).filter(split="dev").select("instruction_id") for at in heldout)
        found = habits_of(run.rows(stages.ANSWER_HELDOUT.at(number)).join(dev, on="instruction_id", how="semi"))
    drawn = stages.SCORE.at(number + 1)
    if number + 1 not in run.config.round_numbers or run.holds(drawn, seen) is None:
        return found
    return found.with_rollouts(run.sealed(drawn).counts)


def _dev_score(run: RunFolder, number: int, seen: Seen | None) -> float | None:
    """The student's score on the dev split; None before its evaluation, without a dev split or a figure of it."""
    if run.holds(stages.EVALUATE.at(number), seen) is None:
        return None
    rows = run.rows(stages.EVALUATE.at(number)).filter(split="dev", category="all", metric=run.config.data.metric)
    scores: list[float | None] = rows["value"].to_list()
    return scores[0] if scores else None


def pool_of(run: RunFolder, number: int) -> pl.DataFrame:
    """The pool of round ``number`` with the teacher's plain answers: usable instructions, sorted by id.

    Grain: one row per instruction. Columns: instruction_id, instruction, system, reference, task_type, response, and
    earlier_turns where the pool has it.
    The pool of round r is the first pool and the accepted expansions of the rounds before it; round 0 is S_0's.
    """
    tables = [run.rows(at) for at in stages.usable_of(run.config)]
    usable = not_held_out(run, split_usable(*tables, refusals=run.config.teacher.takes_refusals).examples)
    first = usable.join(tables[0].select("instruction_id", "reference"), on="instruction_id").select(
        *("instruction_id", "instruction", "system", "reference", "task_type", "response"),
        cs.by_name(turns.EARLIER, "thoughts", "others", require_all=False),
    )
    if number and run.config.teacher.takes_likeliest:
        first = _likeliest(first, run.rows(stages.LIKELIEST.at(1)))
    added = (run.rows(stages.EXPAND.at(earlier)).drop("seed_id", "wave") for earlier in range(1, number))
    return pl.concat([first, *added], how="diagonal_relaxed").sort("instruction_id")


def _likeliest(pool: pl.DataFrame, scored: pl.DataFrame) -> pl.DataFrame:
    """The pool with that answer to each instruction that S_0 finds likeliest; the first one where it scored none."""
    best = scored.sort("log_prob", "sample", descending=[True, False]).unique("instruction_id", keep="first")
    said = pl.DataFrame(
        [
            (identity, *thoughts.split(answer))
            for identity, answer in best.select("instruction_id", "answer").iter_rows()
        ],
        schema=dict.fromkeys(("instruction_id", "thoughts", "response"), pl.String()),
        orient="row",
    )
    if "thoughts" not in pool.columns:
        pool = pool.with_columns(thoughts=pl.lit(None, pl.String))
    return pool.drop("others", strict=False).update(said, on="instruction_id")


def not_held_out(run: RunFolder, examples: pl.DataFrame) -> pl.DataFrame:
    """Usable instructions without the judged held-out set and what holds one of its instructions."""
    for at in stages.held_out_of(run.config):
        examples = examples.join(run.rows(at), on="instruction_id", how="anti", maintain_order="left")
    return examples


def judged_answers(run: RunFolder, number: int, seen: Seen | None = None) -> pl.DataFrame | None:
    """What the judge said of a student's answers to the judged held-out set, as `compare_answers` gives it.

    None without such a set, and before the answers of this student are judged.
    """
    made = [stages.JUDGED_HELDOUT.at(), stages.ANSWER_HELDOUT.at(number), stages.JUDGE_HELDOUT.at(number)]
    is_made = all(run.holds(each, seen) is not None for each in made)
    return compare_answers(run.config.judge, *map(run.rows, made)) if is_made else None


def compare_answers(
    judge: JudgeConfig, questions: pl.DataFrame, answers: pl.DataFrame, verdicts: pl.DataFrame
) -> pl.DataFrame:
    """The student's answers to the judged held-out set beside the teacher's, as the judge sees them.

    An instruction counts where every order of it is scored, by all judges combined. In each order the student matches
    or beats the teacher, or does not: an instruction about which the two orders disagree counts half, so that a judge
    that always prefers the answer it sees first yields 50 % and not 100 %.

    Args:
        judge: how verdicts are combined, and in which orders an instruction must be scored.
        questions: instruction_id, instruction, task_type, split, response (the teacher's).
        answers: instruction_id, response (the student's).
        verdicts: of each judge, the columns of ``verdicts/``.

    Returns:
        One row an instruction of the set, in the order of ``questions``: instruction_id, split, task_type (of calls
        of tools and of what follows their results those words), quality_retention and win_rate (0-1), student_score
        and teacher_score (points of the judge's scale), student_chars and teacher_chars, these null where it is
        unscored; same_calls (0 or 1), null where neither answer calls a tool.
    """
    combined, mfd = combine_judges(verdicts, judge.panel_rule), pl.col("mfd")
    better = {RETENTION: (mfd <= 0).mean(), WIN_RATE: (0.5 - mfd.sign() / 2).mean()}
    scored = (
        mean_scores(combined, judge.expected_orders, **better)
        .drop("mfd")
        .join(answers.select("instruction_id", student_chars=pl.col("response").str.len_chars()), on="instruction_id")
    )
    rows = questions.select(
        *("instruction_id", "split"),
        task_type=pl.when(pl.col("response").str.contains("<tool_call>", literal=True))
        .then(pl.lit("calls of tools"))
        .when(pl.col("instruction").str.starts_with("<tool_response>"))
        .then(pl.lit("after results of tools"))
        .otherwise("task_type"),
        teacher_chars=pl.col("response").str.len_chars(),
    )
    responses = questions.select("instruction_id", "response").join(
        answers.select("instruction_id", said="response"), on="instruction_id", how="left", maintain_order="left"
    )
    called = [same_calls(said or "", meant) for _, meant, said in responses.iter_rows()]
    return (
        rows.with_columns(pl.Series(SAME_CALLS, called, dtype=pl.Float64))
        .join(scored, on="instruction_id", how="left", maintain_order="left")
        .with_columns(pl.when(pl.col(RETENTION).is_not_null()).then(pl.col(LENGTHS).cast(pl.Float64)))
    )


def judge_is_shown(run: RunFolder, number: int) -> bool:
    """Whether the judge report of a round lies there and names the verdicts that hold now."""
    shown = f'data-verdicts="{run.sealed(stages.JUDGE.at(number)).digest}"'.encode()
    return run.storage.exists(file := paths.judge_report_file(number)) and shown in run.storage.read_bytes(file)


@dataclass(frozen=True, slots=True)
class Gaps:
    """Verdicts that a judging stage does without."""

    missing: int
    """It was sealed without them; all of them where it has no seal, or one of other settings."""
    unscored: int
    """Received, but without scores."""


def is_judging(at: stages.StageAt) -> bool:
    """Whether the run's judge gives verdicts there: on the answers to a round's pool, or to the judged held-out set."""
    return at.name in (stages.JUDGE.name, stages.JUDGE_HELDOUT.name)


def judged_at(at: stages.StageAt) -> stages.StageAt:
    """The answers that a judging stage is about."""
    return replace(at, name=at.stage.shards_of)


def count_gaps(run: RunFolder, at: stages.StageAt) -> Gaps:
    """The gaps of a judging stage whose answers stand; unscored are those that lie sealed."""
    manifest = run.manifest(at)
    if manifest is not None and run.holds(at) is not None:
        return Gaps(sum(manifest.accepted_missing.values()), run.rows(at).filter(status="unscored").height)
    answers = run.rows(judged_at(at))
    if at.name == stages.JUDGE_HELDOUT.name:
        # The others are to questions with references.
        answers = answers.join(run.rows(stages.JUDGED_HELDOUT.at()), on="instruction_id", how="semi")
    return Gaps(answers.height * run.config.judge.verdicts_per_instruction, 0)


def stages_to_retry(run: RunFolder, number: int | None, *, also_terminal: bool) -> list[stages.StageAt]:
    """The judging stages in which something can be asked again: of all rounds and the backbone, or of ``number`` alone.

    One whose answers stand and which stopped before it had a seal is among them.

    Raises:
        ConfigError: nothing of round ``number`` is judged.
    """
    judged = [at for at in stages.plan(run.config) if is_judging(at) and (run.holds(at) or run.holds(judged_at(at)))]
    if number is not None and not any(at.round == number for at in judged):
        rounds = sorted({at.number for at in judged} - paths.OF_NO_ROUND.keys())
        raise errors.ConfigError(
            f"--round {number}: run {run.ref.name!r} has not judged that round (judged: {rounds or 'none'}); "
            f"see `tapir status {run.ref.name} --root {run.ref.root}`"
        )
    gaps = {at: count_gaps(run, at) for at in judged if number in (None, at.round)}
    return [at for at, found in gaps.items() if found.missing or (also_terminal and found.unscored)]


def changed_stages(run: RunFolder) -> list[stages.StageAt]:
    """The stages that are done, but from verdicts that are not the same any more."""
    return [at for at in stages.plan(run.config) if run.manifest(at) is not None and run.holds(at) is None]


def models_of(run: RunFolder, benchmark: str) -> list[str]:
    """Models whose outputs to a benchmark are files."""
    judged = run.config.evaluation.judged.get(benchmark)
    return [] if judged is None else [*judged.outputs]


def find_students(run: RunFolder, which: str, benchmarks: Sequence[str] = ()) -> list[stages.Compared]:
    """The students that are meant, by round, and models of files by their names.

    ``which`` is `all`, `backbone`, `outputs` (the models alone), or what `find_student` takes.

    Raises:
        ConfigError: the run has no held-out set where no benchmark is meant, or no such student or model.
    """
    models = dict.fromkeys(model for name in benchmarks for model in models_of(run, name))
    if which == _OUTPUTS:
        if not models:
            having = [name for name in run.config.evaluation.judged if models_of(run, name)]
            raise errors.ConfigError(
                f"--round {_OUTPUTS}: no benchmark that is asked has outputs of a model as a file; those of run "
                f"{run.ref.name!r} that have are {', '.join(having) or 'none'}: name them with --benchmark, or give "
                '[evaluation.benchmarks.NAME.outputs] a line `MODEL = "FILE"` and run the configuration again'
            )
        return [*models]
    if run.config.data.heldout is None and not benchmarks:
        raise errors.ConfigError(
            f"run {run.ref.name!r} has no held-out set; set data.heldout and run it with --amend, or under a new name"
        )
    meant: dict[str, list[stages.Compared]] = {
        "all": [paths.BACKBONE, *run.students, *models],
        _BACKBONE: [paths.BACKBONE],
    }
    return meant.get(which) or [find_student(run, which, others=(_BACKBONE, *([_OUTPUTS] if models else [])))]


def find_student(run: RunFolder, which: str, *, others: Sequence[str] = ()) -> int:
    """The student that is meant, by round: `best` (by the dev split), `average`, or the number of a round.

    Args:
        run: The run.
        which: What the user says.
        others: What the user might have said as well.

    Raises:
        ConfigError: the run has no such student.
    """
    students = {paths.OF_NO_ROUND.get(number, str(number)): number for number in run.students}
    number = state_of(run).best if which == "best" else students.get(which)
    if number is None or number not in students.values():
        why = (
            " yet: it takes a dev split, and a round that is scored "
            f"(`tapir evaluate {run.ref.name} --root {run.ref.root}` scores)"
            if which == "best"
            else ""
        )
        raise errors.ConfigError(
            f"--round {which}: run {run.ref.name!r} has no such student{why}; it has "
            f"{', '.join([*others, *students]) or 'none'}; see `tapir status {run.ref.name} --root {run.ref.root}`"
        )
    return number


def find_benchmarks(run: RunFolder, named: str) -> list[str]:
    """The benchmarks of a list with commas, in its order; none of an empty text.

    Raises:
        ConfigError: the run's configuration has no such benchmark that can be asked.
    """
    wanted = list(dict.fromkeys(name.strip() for name in named.split(",") if name.strip()))
    known = run.config.evaluation.asked
    if unknown := [name for name in wanted if name not in known]:
        there = f"it has {', '.join(known)}" if known else "it has none"
        raise errors.ConfigError(
            f"--benchmark {', '.join(unknown)}: run {run.ref.name!r} has no such benchmark that can be asked; {there}. "
            f"Give it [evaluation.benchmarks.{unknown[0]}] with a `type` and run it with --amend (docs/evaluation.md)"
        )
    return wanted


def scoring_stages(
    run: RunFolder, compared: Sequence[stages.Compared], benchmarks: Sequence[str]
) -> list[stages.StageAt]:
    """Everything that scoring these students and models takes."""
    scoring = []
    for who in compared:
        if isinstance(who, int):
            scoring += [each.at(who) for each in stages.EVALUATION if each.when(run.config, each.at(who))]
        for name in benchmarks:
            if isinstance(who, int) or who in models_of(run, name):
                scoring += stages.benchmark_stages(name, who)
    return scoring


def unscored_students(
    run: RunFolder, compared: Sequence[stages.Compared], benchmarks: Sequence[str] = (), *, also_terminal: bool = False
) -> list[stages.Compared]:
    """Those of ``compared`` whose scores do not stand; with ``also_terminal`` those too of which judgments failed."""

    def is_unscored(at: stages.StageAt) -> bool:
        lacks_scores = at.stage.columns == stages.EVALUATE.columns and run.holds(at) is None
        return lacks_scores or (also_terminal and failed_judgments(run, at) > 0)

    return [who for who in compared if any(map(is_unscored, scoring_stages(run, [who], benchmarks)))]


def failed_judgments(run: RunFolder, at: stages.StageAt) -> int:
    """How many judgments of a benchmark failed for good, of those that lie sealed; 0 of any other stage."""
    judged = at.name == stages.BENCHMARK_REPLIES.name and at.benchmark in run.config.evaluation.judged
    return run.rows(at).filter(status="failed").height if judged and run.holds(at) else 0


Outcome = Literal["finished before", "finished", "at work elsewhere", "without a figure", "stopped by a cap", "failed"]


@dataclass(frozen=True, slots=True)
class Sweep:
    """What is to be run for which backbones."""

    source: str
    """File of the curriculum's configuration."""
    overrides: tuple[str, ...]
    """`section.field=value` for every backbone; what a backbone sets itself wins over them."""
    curriculum: RunRef
    """Root and name of the curriculum's configuration: a backbone's run is this name with the backbone's."""
    entries: tuple[BackboneEntry, ...]


@dataclass(frozen=True, slots=True)
class Swept:
    """What became of one backbone."""

    name: str
    """In the list."""
    run: RunRef
    outcome: Outcome
    message: str = ""
    """What is wrong with it, or what its run came to."""

    @property
    def is_well(self) -> bool:
        """Whether nothing is left to fix: its run is finished, with every figure, or another process sees to it."""
        return self.outcome in ("finished before", "finished", "at work elsewhere")


def lacks_run(config: RunConfig, files: Mapping[str, str]) -> bool:
    """Whether a backbone has no finished run of this configuration.

    A run belongs to it by name, whole configuration and the digests of the prompt and input ``files`` that go into its
    stages; it is finished when no stage is left. What its probes changed is no difference, and what only looks like one
    (the judge's address) costs a look at the run, no call. Limits: the weights behind a backbone's name are not read
    here. Other weights under an old name are found when the run is opened, which refuses them.

    Raises:
        ConfigError: the run's folder cannot be read.
    """
    run = RunFolder(RunRef(config.run.root, config.run.name))
    if not run.storage.exists(paths.RUN_RECORD):
        return True
    known = {name: digest for name, digest in run.record.ingredients.items() if name != "backbone"}
    same = run.config == probing.as_settled(config, run.record.settled) and (
        stages.used_files(config, known) == stages.used_files(config, files)
    )
    return not same or state_of(run).next_stage is not None


def finished_runs(swept: Sequence[Swept]) -> list[RunFolder]:
    """The runs that can be compared."""
    return [
        RunFolder(each.run) for each in swept if each.outcome in ("finished before", "finished", "without a figure")
    ]


def sweep_sentence(swept: Sequence[Swept]) -> str:
    """How many backbones did what, and what is wrong with which."""
    by_outcome = {outcome: [each.name for each in swept if each.outcome == outcome] for outcome in get_args(Outcome)}
    counts = [f"{len(names)} {outcome} ({', '.join(names)})" for outcome, names in by_outcome.items() if names]
    return "\n".join(
        [f"Backbones: {'; '.join(counts)}.", *(f"{each.name}: {each.message}" for each in swept if not each.is_well)]
    )
