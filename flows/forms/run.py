"""The deployments that work on one run; the root of all runs is the worker's (``TAPIR_ROOT``), never typed.

*distill*, *retry-judge* and *evaluate*, of the pool `tapir-cpu`, have the steps of the commands. *fine-tune*, one
training, and *serve-student*, of the pool `tapir-gpu`, are started by runs themselves. A run whose `training.runs_on`
is "worker" starts *fine-tune* and follows it (tasks/train.py). That needs no driver to live: it holds a lease
of its own, seals what it made, and leaves it when the run asks for another student by now. A run whose
`student.engine.type` is "replicas" starts *serve-student* as often as it wants replicas; a person may add one.
"""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Annotated

from prefect import get_run_logger, runtime
from pydantic import Field
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

from flows.distill import distill
from flows.driver import drive, hold_known_run, is_done, read_config, worker_root
from flows.evaluate import evaluate_students
from flows.forms import (
    MAX_ROUNDS,
    Overrides,
    RunName,
    machine_to_distil,
    machine_to_evaluate,
    preset_file,
    presets,
    run_form_flow,
    shown,
)
from flows.retry_judge import retry_judge
from tapir_core.errors import ConfigError, RunBusy
from tapir_core.leases import RunLease
from tapir_core.reporting.benchmarks import benchmarks_sentence, require_figures, require_round_figures
from tapir_core.reporting.page import report_path, sentence
from tapir_core.reporting.run_progress import find_benchmarks, find_students, unscored_students
from tapir_core.run_files import publish_logs
from tapir_core.run_folder import RunFolder, RunRef
from tapir_core.run_state import changed_stages, rounds_to_retry
from tapir_core.stages import StageAt, plan
from tapir_core.summary import summarise
from tasks.engines.training.job import TrainingProgress
from tasks.input_files import check_training_ingredients
from tasks.runtime import close_all, current
from tasks.serving import ASKED_NOW, serve_replica
from tasks.train import check_wanted, lease_token, make_student, training_lease

_PATIENT = Retrying(
    retry=retry_if_exception_type(RunBusy), wait=wait_fixed(1), stop=stop_after_delay(90.0), reraise=True
)
"""Waits for a training that ends now, such as one that was cancelled: longer than another machine's lease lives on, and
than a training takes to see that nobody wants it any more."""

_LOOK_SECONDS = 30.0


@run_form_flow("distill")
def distill_from_form(
    run: RunName,
    preset: Annotated[str, shown("Preset", **presets())] = "quickstart",
    config_file: Annotated[str, shown("Configuration file")] = "",
    backbone: Annotated[str, shown("Backbone")] = "",
    rounds: Annotated[int, Field(ge=0, le=MAX_ROUNDS), shown("Rounds")] = 0,
    budget_usd: Annotated[float, Field(ge=0), shown("Budget in USD")] = 0,
    until: Annotated[str, shown("Stop after stage")] = "",
    amend: Annotated[bool, shown("Amend")] = False,
    overrides: Overrides = (),
) -> str:
    """Distil a student round by round, or go on with a run.

    Args:
        run: The run's name and folder. A new name starts a run, a known one goes on with it. Prefect's own run gets
            this name too.
        preset: What the run is, before the fields below: a file of `configs/`.
        config_file: A TOML file of your own on the worker, in place of the preset.
        backbone: The student: a hub id, a model folder on the worker, or `embedded:smollm2-135m-instruct`. Empty: the
            preset's.
        rounds: Most rounds; the stop rule may end sooner. 0: the preset's.
        budget_usd: The run stops cleanly at this sum and goes on once it is raised. Every price must be known. 0: the
            preset's, or no cap.
        until: Go no further than this stage: `judge` (of round 1), `judge@2`, `train@0`. Empty: to the end.
        amend: Redo what a changed file, setting or version of tapir changes, and keep the rest. Off: such a change is
            refused.
        overrides: Any other setting, one `section.field=value` each, such as `calls.concurrency=16`. They win over the
            fields above.
    """
    given = {"run.root": worker_root(), "student.backbone": backbone, "run.rounds": rounds, "budget.usd": budget_usd}
    settings = [f"{field}={json.dumps(value)}" for field, value in given.items() if value]
    source, last = config_file or preset_file(preset), until or None
    config = read_config(source, [*settings, *overrides], run, until=last)

    def distil(opened: RunFolder) -> None:
        with machine_to_distil(config):
            distill.fn(opened.ref, last)

    summary = drive(config, distil, say=get_run_logger().info, until=last, amend=amend)
    require_round_figures(summary, config.evaluation.each_round)
    shown = f"Report: {report_path(summary)}" if summary.next_stage is None else ""
    return " ".join(filter(None, (sentence("state", summary), sentence("gain", summary), shown)))


@run_form_flow("retry-judge")
def retry_judge_from_form(
    run: RunName,
    round_number: Annotated[int, Field(ge=0, le=MAX_ROUNDS), shown("Round")] = 0,
    also_terminal: Annotated[bool, shown("Ask unscored verdicts too")] = False,
    go_on: Annotated[bool, shown("Continue the run")] = False,
) -> str:
    """Ask the judge again for the verdicts that a run went on without.

    Args:
        run: Name of a run in the worker's root.
        round_number: One round. 0: all that are judged.
        also_terminal: Forget the replies of unscored verdicts (refused, no scores in the reply) and pay for them anew.
        go_on: Redo the stages that the new verdicts change, and go on to the run's end. Off: they are only named.
    """
    log = get_run_logger()
    with hold_known_run(RunRef(worker_root(), run), say=log.info) as opened:
        again = rounds_to_retry(opened, round_number or None, also_terminal=also_terminal)
        counts = retry_judge.fn(opened.ref, again, also_terminal) if again else []
        stale = changed_stages(opened)
        if go_on and (stale or not is_done(opened, None)):
            log.info("going on with the run")
            with machine_to_distil(opened.config):
                distill.fn(opened.ref)
        summary = summarise(opened)
        if go_on:
            require_round_figures(summary, opened.config.evaluation.each_round)
    reached = sentence("state", summary)
    if not again and not stale:
        return f"{sentence('nothing', also_terminal)} {reached}"
    return " ".join([*(sentence("retried", each) for each in counts), sentence("changes", stale, go_on), reached])


@run_form_flow("evaluate")
def evaluate_from_form(
    run: RunName,
    students: Annotated[str, Field(pattern=r"^(all|best|backbone|outputs|[0-9]{1,2})$"), shown("Students")] = "all",
    benchmarks: Annotated[str, shown("Benchmarks")] = "",
    also_terminal: Annotated[bool, shown("Ask failed judgments too")] = False,
) -> str:
    """Score students of a run on its held-out set, and on benchmarks, where their scores do not stand yet.

    Args:
        run: Name of a run in the worker's root, finished or not.
        students: `all` (backbone, S_0, every round that is trained, models of files), `best` by the dev split,
            `backbone`, the number of a round, or `outputs` (models whose outputs to the benchmarks are files).
        benchmarks: names of benchmarks that the run's configuration has, with commas between them; none if empty.
        also_terminal: Forget the replies of judgments that failed (refused, not to be read) and pay for them anew.
    """
    log = get_run_logger()
    with hold_known_run(RunRef(worker_root(), run), say=log.info, any_version=True) as opened:
        asked = find_benchmarks(opened, benchmarks)
        compared = find_students(opened, students, asked)
        numbers = [who for who in compared if isinstance(who, int)]
        unscored = unscored_students(opened, compared, asked, also_terminal=also_terminal)
        with machine_to_evaluate(opened.config) if unscored else nullcontext():
            evaluate_students.fn(opened.ref, compared, asked, also_terminal)
        summary = summarise(opened)
        require_figures(summary, compared, asked)
        said = (sentence("scores", summary, numbers), benchmarks_sentence(summary, compared, asked))
        return " ".join(filter(None, said))


@run_form_flow("fine-tune", run_name="{run} round-{round_number}")
def fine_tune_from_form(
    run: RunName, round_number: Annotated[int, Field(ge=0, le=MAX_ROUNDS), shown("Round")] = 0
) -> str:
    """Train the student of one round on this worker; a killed training goes on from its last save.

    Args:
        run: Name of a run in the worker's root. Its configuration says how it is trained.
        round_number: The round whose mixture is trained on. 0: basic tuning, which makes S_0.
    """
    opened, at = RunFolder(RunRef(worker_root(), run)), StageAt("train", round_number)
    if at not in plan(opened.config):
        raise ConfigError(f"round_number: value {round_number}: run {run!r} has rounds 0 to {opened.config.run.rounds}")
    if opened.key(at) is None:
        raise ConfigError(
            f"round_number: value {round_number}: run {run!r} has no mixture of it yet; *distill* makes it"
        )
    check_training_ingredients(opened, at)
    lease = training_lease(opened, at, lease_token(str(runtime.flow_run.id), runtime.flow_run.run_count))
    try:
        with _hold(lease):
            if opened.holds(at) is not None:
                return f"S_{round_number} is there already; nothing was done."
            summary = make_student(opened, at, lease, _watch(opened, at))
    finally:
        close_all()
        publish_logs(opened)
    return f"S_{round_number}: {summary.in_words()}."


@run_form_flow("serve-student")
def serve_student_from_form(
    run: RunName,
    after_round: Annotated[int, Field(ge=ASKED_NOW, le=MAX_ROUNDS), shown("After round")] = ASKED_NOW,
    replica: Annotated[str, Field(pattern="^[0-9a-f]*$"), shown("Replica")] = "",
) -> str:
    """Serve a run's student on all GPUs of a worker until the run does not need it.

    Args:
        run: Name of a run in the worker's root that is at work.
        after_round: The student after this round; 0 is S_0, -1 the untouched backbone, -2 the one that the run asks
            now. Nothing is served when the run asks for another.
        replica: Filled in by runs, to know again which one they asked for. Empty: one more than the run asked for.
    """
    opened = RunFolder(RunRef(worker_root(), run))
    return f"Ended: {serve_replica(opened, after_round, replica, say=get_run_logger().info)}."


@contextmanager
def _hold(lease: RunLease) -> Iterator[None]:
    """Hold the lease for the block; an interrupt leaves it to end with this process.

    A worker that is killed takes this process along before Prefect hears of it: that the holder of a lease is gone is
    then all that its driver can see.
    """
    _PATIENT(lease.acquire)
    try:
        yield
    except BaseException as raised:
        if isinstance(raised, Exception):
            lease.release()
        raise
    lease.release()


def _watch(run: RunFolder, at: StageAt) -> Callable[[TrainingProgress], None]:
    """Ends what is suspended, at its next step, and what nobody wants any more."""
    key, next_look = run.key(at), time.monotonic()

    def look(_: TrainingProgress) -> None:
        nonlocal next_look
        current(run).check_stop(at)
        if time.monotonic() >= next_look:
            next_look = time.monotonic() + _LOOK_SECONDS
            check_wanted(run, at, key)

    return look
