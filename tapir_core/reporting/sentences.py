"""What is said of a run in pages, artifacts and the terminal: plain text, empty where there is nothing to say."""

from collections.abc import Iterable, Sequence

from tapir_core.config import RETENTION, RunConfig
from tapir_core.paths import BACKBONE, TASK_TYPES
from tapir_core.stages import TRAIN
from tapir_core.statistics import COVERS, Estimate
from tapir_core.summary.formats import (
    accuracy,
    count,
    duration,
    moment,
    most,
    number,
    percent,
    score_in_words,
    student_name,
)
from tapir_core.summary.types import Baseline, RunSummary, Score

_ROUGH_BELOW = 30
"""Items; with fewer a difference need not be spread as Student's t says."""


def together(parts: Iterable[str]) -> str:
    """Those of the parts that say something, as one text."""
    return " ".join(filter(None, parts))


def outline(run: RunSummary) -> str:
    """Who learns from whom, on what, and how much was asked so far."""
    usage, pool, unusable = run.usage, run.config.data.pool, sum((run.unusable or {}).values())
    planned, judge = run.config.run.rounds, run.config.judge
    # One judge is called as the teacher is, several by what tells them apart.
    judges = (*judge.all_names[:-1], judge.endpoint.name) if len(judge.names) == 1 else judge.all_names
    return together(
        (
            f"The student {run.config.student.backbone} is taught by {run.config.teacher.endpoint.name} and judged by "
            f"{' and '.join(judges)}, over {planned} "
            f"{'round' if planned == 1 else 'rounds'}.",
            f"Its pool: {count(run.pool)} instructions from {pool.source}"
            f"{f', {count(unusable)} of them without a usable answer or task type' if unusable else ''}."
            if run.pool is not None
            else "",
            f"{count(run.own_answers)} of the plain answers came with the pool: those of {pool.answers_of}."
            if run.own_answers
            else "",
            thoughts(run),
            several(run),
            *(
                f"Scored on {most([student.score('dev')])} dev and {most([student.score('test')])} test instructions "
                "that are held out."
                for student in run.students[:1]
            ),
            f"So far: {count(usage.calls + usage.stored)} answers of teacher and judge for {number(usage.usd)} USD "
            f"({count(usage.stored)} of them from the store), {duration(run.busy_seconds)} of work.",
            f"Created {moment(run.created)}{f', last stage done {moment(run.updated)}' if run.updated else ''}.",
        )
    )


def thoughts(run: RunSummary) -> str:
    """What of the teacher's thoughts was trained."""
    thinking, made = run.config.teacher.thinking, [each.mixture for each in run.rounds if each.mixture is not None]
    if thinking == "drop" or not made:
        return ""
    longest = f" of up to {count(run.config.teacher.thinking_tokens)} tokens" if thinking == "cap" else ""
    learnt = "are trained with it" if run.config.training.thoughts == "train" else "have it as context"
    with_one, rows = sum(each.thoughts for each in made), sum(each.conversations for each in made)
    return f"Of {count(rows)} examples {count(with_one)} have a thought{longest} before the answer, and {learnt}."


def several(run: RunSummary) -> str:
    """How many answers to an instruction were asked for, and which are trained."""
    teacher, made = run.config.teacher, [each.mixture for each in run.rounds if each.mixture is not None]
    if teacher.answers_per_prompt == 1 or not made or run.own_answers >= (run.pool or 0):
        return ""
    more, rows = sum(each.conversations for each in made), sum(each.rows for each in made)
    used = {
        "all": f"the {count(rows)} that all trainings drew have {count(more)} usable ones, and all are trained",
        "best": "the one that the verifier scores highest is trained",
        "likeliest": "from round 1 the one that S_0 finds likeliest is trained",
    }
    return (
        f"The teacher gave up to {teacher.answers_per_prompt} answers to an instruction; {used[teacher.answers_used]}."
    )


def state(run: RunSummary) -> str:
    """Stopped, done, or what comes next."""
    return together(
        (f"Stopped early, {_trained(run)}: {run.stopped}.", f"Next stage: {run.next_stage}." if run.next_stage else "")
        if run.stopped
        else (f"{proposed(run.config)}.",)
        if run.next_stage is None and proposed(run.config)
        else (f"Done, {progress(run)}.", best(run))
        if run.next_stage is None
        else (
            f"Unfinished, {progress(run)}. Where no process works on it, the same command goes on.",
            f"The last start ended with: {' '.join(run.error.split())}" if run.error else "",
        )
    )


def proposed(config: RunConfig) -> str:
    """Of a run that ends with the task types that its teacher proposed: what to do with them."""
    return (
        f"Task types are proposed, nothing is trained: edit {TASK_TYPES} in the run's folder, then go on with it"
        if config.curriculum.task_types == "discover"
        else ""
    )


def progress(run: RunSummary) -> str:
    """How many rounds are trained, and the next stage."""
    return f"{_trained(run)}{f'. Next stage: {run.next_stage}' if run.next_stage else ''}"


def _trained(run: RunSummary) -> str:
    names = [stage.name for each in run.rounds if each.number > 0 for stage in each.stages]
    return f"{names.count(TRAIN.name)} of {run.config.run.rounds} rounds trained"


def best(run: RunSummary) -> str:
    """The best round, and which students cannot be."""
    rule = " (the last, unless another one is shown to be better)" if run.config.data.judged else ""
    return together(
        ("" if run.best is None else f"Best round by the dev split{rule}: {student_name(run.best)}.", *alarms(run))
    )


def alarms(run: RunSummary) -> list[str]:
    """Students that write worse than the one before them."""
    return [
        f"Alarm: {student_name(each.number)} is not to be the best, {each.alarm}." for each in run.rounds if each.alarm
    ]


def gain(run: RunSummary) -> str:
    """What the last student gained over S_0, with its interval, and whether that shows a gain."""
    if run.gain is None:
        return ""
    found, numbers = run.gain.paired, (run.gain.before, run.gain.after)
    before, after = (accuracy(student.score("test") if (student := run.round(each)) else None) for each in numbers)
    figure = f"95 % interval {found.low:+.1f} to {found.high:+.1f}" if found.low is not None else found.note
    return (
        f"{'Quality retention (test)' if run.config.data.judged else 'Test accuracy'} from "
        f"{' to '.join(map(student_name, numbers))}: {before} to {after} %, "
    ) + (
        f"no gain is told: {found.note}."
        if found.value is None
        else f"{found.value:+.1f} percentage points ({figure}, p = {number(found.p, 4)}) on the same {found.n} "
        f"instructions, {found.failed} failed{_verdict(found)}."
    )


def _verdict(found: Estimate) -> str:
    if found.low is None or found.high is None:
        return ""
    shown = (
        "the interval holds 0, so no gain is shown"
        if found.low <= 0 <= found.high
        else f"the interval lies {'above' if found.low > 0 else 'below'} 0"
    )
    return f"; {shown}{f'; of fewer than {_ROUGH_BELOW} instructions it is rough' if found.n < _ROUGH_BELOW else ''}"


def added(*baselines: Baseline | None) -> str:
    """What the curriculum added over plain fine-tuning on as many tokens, and in as much time, where there are both."""
    return together(_added(each) for each in baselines if each is not None)


def _added(baseline: Baseline) -> str:
    return (
        f"What the curriculum adds over plain fine-tuning is known when run {baseline.run} is done, which has "
        f"{baseline.next_stage} next; the run's own command goes on with it."
        if baseline.next_stage is not None
        else f"What the curriculum added over plain fine-tuning (run {baseline.run}) is unknown: {baseline.why}."
        if (found := baseline.difference) is None
        else f"The curriculum added {found.value:z.1f} points over plain fine-tuning {AS_MUCH[baseline.equal]} (90 % "
        f"interval {found.low90:z.1f} to {found.high90:z.1f})"
        f"{'; the interval holds 0, so nothing is shown' if found.low90 <= 0 <= found.high90 else ''}"
        f"{'; plain fine-tuning did better' if found.high90 < 0 else ''}. The interval covers {COVERS[found.covers]}."
    )


AS_MUCH = {"tokens": "on as many tokens", "seconds": "in as much time of the machine"}
"""What a baseline has as much of, in words."""


def format_note(run: RunSummary) -> str:
    """How much of the gain is format: the score of a backbone that follows no format says little."""
    return together(
        f"Part of the gain over the backbone is format: {percent(first.stated)} of its answers on the test split state "
        f"a final result (“Answer: …”), against {percent(last.stated)} of those of {student_name(last.number)}; where "
        "none is stated, only a last line that is the bare result counts as right."
        for first in run.rounds
        for last in run.by_round[-1:]
        if first.number == BACKBONE and first.stated is not None and last.stated is not None
        if last.stated - first.stated > 0.1
    )


def caution(run: RunSummary) -> str:
    """What weakens every figure: a stand-in, a teacher that judges itself, a judge that draws its scores."""
    judge = run.config.judge
    endpoints = {"teacher": [run.config.teacher.endpoint], "judge": [*judge.endpoints.values()]}
    standins = [who for who, of in endpoints.items() if of and all(each.is_standin for each in of)]
    return together(
        (
            f"The {' and '.join(standins)} of this run {'is' if len(standins) == 1 else 'are'} the stand-in: rules for "
            "verifiable instructions, no LLM. The run shows that the whole loop works, not what a strong teacher would "
            "give."
            if standins
            else "",
            "The judge is the teacher, so it judges its own answers." if run.config.judges_itself else "",
            "The judge's temperature is not 0: asked again, it may score the same pair differently."
            if judge.endpoints and judge.sampling.temperature != 0
            else "",
        )
    )


def scarce(run: RunSummary) -> str:
    """Rounds whose expansion brought next to nothing, with the gate that most candidates failed."""
    similar = f"were too similar (curriculum.expansion.max_rouge_l = {run.config.curriculum.expansion.max_rouge_l:g})"
    return together(
        f"Round {each.number}: {count(new.accepted)} of {count(new.asked)} new instructions were kept"
        f"{f'; {count(failed)} ' if failed else ''}"
        f"{'' if not failed else similar if gate == 'near_duplicate' else f'failed at the gate {gate}'}; "
        f"trained on {count(mixture.rows)} of {count(mixture.asked)}."
        for each in run.rounds
        if (new := each.expansion) and (mixture := each.mixture) and new.asked
        if 10 * new.accepted < new.asked or 2 * mixture.rows < mixture.asked
        for failed, gate in [max(((rows, gate) for gate, rows in new.rejected.items()), default=(0, ""))]
    )


def scores(run: RunSummary, numbers: Sequence[int]) -> str:
    """The scores of these students."""
    found = "; ".join(
        f"{student_name(each.number)} {split} {score_in_words(score)}"
        for each in run.students
        for split in ("dev", "test")
        if each.number in numbers and (score := each.score(split)) is not None
    )
    return found and (
        f"{'Quality retention' if run.config.data.judged else 'Held-out accuracy'} with 95 % interval: {found}."
    )


def reduced(config: RunConfig, number: int, examples: int) -> str:
    """Why a round is smaller than it was asked to be."""
    return (
        f"Round {number} takes {count(examples)} examples and not the {count(config.examples(number))} that were asked "
        f"for: its easy instructions reach no further at α = {config.round(number).alpha:.2f}. Use a larger pool, a "
        "smaller N or a larger α."
    )


def score_note(found: Iterable[Score | None]) -> str:
    """What these scores are, who judged, and why some have no figure."""
    known = [each for each in found if each is not None]
    judged, marked = (
        [each for each in known if (each.metric == RETENTION) is is_judged] for is_judged in (True, False)
    )
    return together(
        (
            "Quality retention is the per cent of held-out instructions on which the student's answer matches or beats "
            "the teacher's (equal ones match); one on which the two orders disagree counts half, and unscored ones "
            "count in no figure. "
            "The 95 % interval is Student's t, or Wilson's where nothing counts half."
            if judged
            else "",
            *(f"Judged by {each}." for each in dict.fromkeys(each.judge for each in judged)),
            *(f"Answers: {each}." for each in dict.fromkeys(each.settings for each in judged)),
            "Accuracy is the per cent of right answers, with Wilson's 95 % interval; what failed counts in no figure."
            if marked
            else "",
            *(f"Judged by {who}; {how}." for who, how in dict.fromkeys((each.judge, each.settings) for each in marked)),
            *(f"No figure: {each}." for each in dict.fromkeys(each.note for each in known if each.value is None)),
        )
    )


def ui(run: RunSummary) -> str:
    """How to find the run in Prefect's UI. No page of a server may open a file, so there is no link."""
    return (
        f"To see this run in the Prefect UI: start `tapir up` for the run root `{run.root}`, open the address that it "
        f"prints, and look for the flow run {run.name} (tag run-{run.name}) and its artifacts."
    )


def nothing_to_retry(*, also_terminal: bool) -> str:
    """A retry of the judge that has nothing to do."""
    return f"Nothing to ask again: no verdict is missing{'.' if also_terminal else '; see --also terminal.'}"


def changes(stale: Sequence[object], *, redone: bool) -> str:
    """The stages that new verdicts change."""
    return (
        f"Stages that the new verdicts change{' and that were redone' if redone else ''}: {', '.join(map(str, stale))}."
        if stale
        else "No stage changes."
    )
