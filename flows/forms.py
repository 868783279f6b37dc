"""What deployments start from a form of Prefect's UI, with the steps of the commands.

Prefect makes each form from the signature: titles and limits stand in the annotations, descriptions in the docstring.
No field may be null: the form would show a switch between types in place of the field. What a form lets through is
checked by the configuration, with the command line's messages. The root of all runs is the worker's (``TAPIR_ROOT``).

*fine-tune*, one training, and *serve-student*, of the pool `tapir-gpu`, are started by runs whose `training.runs_on` is
"worker" or whose `student.engine.type` is "replicas"; a person may add a replica. A training needs no driver to live:
it holds a lease of its own, seals what it made, and leaves it when the run asks for another student by now.
"""

import json
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from functools import partial, wraps
from pathlib import Path
from typing import Annotated, Any

from prefect import get_client, get_run_logger, runtime, states, tags
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
from prefect.concurrency.sync import concurrency
from prefect.exceptions import ObjectAlreadyExists
from pydantic import Field
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

from flows import driver, fleet, series, whole_run
from flows.distill import FLOWS, distill
from flows.prefect_server.server import TAG
from flows.project_flow import GO_ON, heed_suspension, leave_if_suspended, project_flow
from tapir_core import errors, leases, paths, run_files, run_state
from tapir_core.comparison import figures, matching
from tapir_core.config import RunConfig
from tapir_core.reporting import arms_report, sentences
from tapir_core.reporting.benchmarks import benchmarks_sentence
from tapir_core.run_folder import RunFolder, RunRef
from tapir_core.stages import TRAIN, Compared, StageAt, plan
from tapir_core.summary import require_figures, summarise, types
from tasks import artifacts, input_files, serving, train
from tasks.runtime import close_all, current

MAX_ROUNDS = 49

_PRESETS = Path("configs")
"""In the folder in which a worker works."""

_ASK_AGAIN_SECONDS = 60.0
"""Between two looks at whether a run that waits for the machine was suspended."""
_FORGOTTEN_SECONDS = 120.0
"""For so long a flow run that was killed still has the machine."""


def shown(title: str, **more: Any) -> Any:
    """What a form shows of a field beside its description; Prefect takes titles from nowhere else."""
    return Field(json_schema_extra={"title": title, **more})


RunName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,79}$"), shown("TAPIR run")]

Overrides = Annotated[tuple[Annotated[str, Field(pattern="^[^=]+=")], ...], shown("Overrides")]
"""Settings, one `section.field=value` each."""


def presets(*, comparisons: bool = False) -> dict[str, list[str]]:
    """For the field of a form: names of configurations, of runs or of comparisons; any text where there are none."""
    compared = set(_PRESETS.glob("compare_*.toml"))
    files = (
        compared if comparisons else set(_PRESETS.glob("*.toml")) - compared - {_PRESETS / Path(paths.BACKBONES).name}
    )
    return {"enum": sorted(file.stem for file in files)} if files else {}


def given(preset: str) -> str:
    """A field's default: this configuration, or nothing where the worker's folder has none of this name."""
    return preset if (_PRESETS / f"{preset}.toml").exists() else ""


def _source(file: str, preset: str, field: str) -> str | Path:
    if not (file or preset):
        raise errors.ConfigError(
            f"neither Preset nor {field} is given, and {_PRESETS.absolute()} has no preset; give {field}: a TOML file "
            "on the worker, as `tapir init` writes one"
        )
    return file or _PRESETS / f"{preset}.toml"


def form_flow(name: str, *, run_name: str = "{run}") -> Callable[[Callable[..., Any]], Any]:
    """A flow that a form starts: its state says what the function returns, or what a user can do about its error."""

    def wrap(function: Callable[..., Any]) -> Any:
        @wraps(function)
        def body(*args: Any, **kwargs: Any) -> Any:
            try:
                done = function(*args, **kwargs)
                return states.Completed(message=done) if isinstance(done, str) else done
            except errors.TapirError as error:
                get_run_logger().error("%s", error)
                # A wrong value stays wrong, and what failed for good has failed: told as the command line tells it.
                return states.Failed(
                    message=str(error)
                    if isinstance(error, errors.ConfigError | errors.NoFigure)
                    else f"{error} {GO_ON}"
                )

        return project_flow(name, run_name=run_name)(body)

    return wrap


def of_one_run(function: Callable[..., Any]) -> Callable[..., Any]:
    """Of a form that works on one run: its flow run is tagged after it, and ready to be suspended."""

    @wraps(function)
    def body(run: str, *args: Any, **kwargs: Any) -> Any:
        tag_flow_run(f"run-{run}")
        with tags(TAG, f"run-{run}"), heed_suspension(lambda: _progress_of(run)):
            return function(run, *args, **kwargs)

    return body


def tag_flow_run(tag: str, *, name: str | None = None) -> None:
    """The form's flow run is there before it is known what it works on, which it may be named after."""
    with get_client(sync_client=True) as client:
        client.update_flow_run(runtime.flow_run.id, name=name, tags=sorted({*runtime.flow_run.tags, tag}))


def machine_for(config: RunConfig, work: whole_run.Work) -> AbstractContextManager[None]:
    """This machine for work that serves a model or trains on it; nothing for work that does neither."""
    served_by = config.student.engine.served_by
    endpoints = {"judge": config.judge.endpoints, "show": {}}.get(work, config.endpoints)
    needed = {
        "distil": served_by == "driver" or config.training.runs_on == "driver",
        # The replicas of a run serve nobody who scores its students.
        "evaluate": served_by != "others",
    }
    serves_others = any(each.takes_turns for each in endpoints.values())
    return _whole_machine() if needed.get(work) or serves_others else nullcontext()


def _do(work: whole_run.Work, run: RunFolder, *given: Any) -> Any:
    """In the form's own flow run, once the machine is free."""
    with machine_for(run.config, work):
        return FLOWS[work].fn(run.ref, *given)


def _progress_of(name: str) -> str:
    run = RunFolder(RunRef(driver.worker_root(), name))
    return f"{sentences.progress(summarise(run))}." if run.storage.exists(paths.RUN_RECORD) else "Nothing had begun."


@contextmanager
def _whole_machine() -> Iterator[None]:
    """Wait until no other deployed run distils on this machine: it takes the GPUs, or the cores, for itself.

    Held in the flow, not before it: a wrong value must not wait for hours before it is refused.
    """
    name = f"distill-on-{socket.gethostname()}"
    with get_client(sync_client=True) as client, suppress(ObjectAlreadyExists):
        client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=name, limit=1))
    get_run_logger().info("taking the machine (concurrency limit %s); another run may have to end first", name)
    with ExitStack() as held:
        while True:
            with suppress(TimeoutError):
                held.enter_context(
                    concurrency(name, timeout_seconds=_ASK_AGAIN_SECONDS, lease_duration=_FORGOTTEN_SECONDS)
                )
                break
            leave_if_suspended()
        yield


_PATIENT = Retrying(
    retry=retry_if_exception_type(errors.RunBusy), wait=wait_fixed(1), stop=stop_after_delay(90.0), reraise=True
)
"""Waits for a training that ends now: longer than another machine's lease lives on, and than it takes to be seen."""


@form_flow("distill")
@of_one_run
def distill_from_form(
    run: RunName,
    preset: Annotated[str, shown("Preset", **presets())] = given("quickstart"),
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
    fields = {
        "run.root": driver.worker_root(),
        "student.backbone": backbone,
        "run.rounds": rounds,
        "budget.usd": budget_usd,
    }
    settings = [f"{field}={json.dumps(value)}" for field, value in fields.items() if value]
    source, last = _source(config_file, preset, "Configuration file"), until or None
    config = driver.read_config(source, [*settings, *overrides], run, until=last, say=get_run_logger().info)

    summary = whole_run.drive(config, partial(_do, "distil"), say=get_run_logger().info, until=last, amend=amend)
    require_figures(summary)
    shown = f"Report: {summary.report_path}" if summary.next_stage is None else ""
    return sentences.together(
        (sentences.state(summary), sentences.gain(summary), sentences.added(*summary.baselines), shown)
    )


@form_flow("retry-judge")
@of_one_run
def retry_judge_from_form(
    run: RunName,
    round_number: Annotated[int, Field(ge=0, le=MAX_ROUNDS), shown("Round")] = 0,
    also_terminal: Annotated[bool, shown("Ask unscored verdicts too")] = False,
    go_on: Annotated[bool, shown("Continue the run")] = False,
    only_if_stopped: Annotated[bool, shown("Only if it stands stopped")] = False,
) -> str:
    """Ask the judge again for the verdicts that a run went on without.

    Args:
        run: Name of a run in the worker's root.
        round_number: One round. 0: all that are judged.
        also_terminal: Forget the replies of unscored verdicts (refused, no scores in the reply) and pay for them anew.
        go_on: Redo the stages that the new verdicts change, and go on to the run's end. Off: they are only named.
        only_if_stopped: Do nothing where its last start did not end with an error, or was followed by another.
    """
    ref, say, told = RunRef(driver.worker_root(), run), get_run_logger().info, list[str]()
    if only_if_stopped and not RunFolder(ref).error:
        return f"Run {run!r} does not stand stopped any more; nothing was done."
    summary = whole_run.retry_run(
        ref, round_number or None, _do, told.append, say=say, also_terminal=also_terminal, go_on=go_on
    )
    return sentences.together((*told, sentences.state(summary)))


@form_flow("evaluate")
@of_one_run
def evaluate_from_form(
    run: RunName,
    students: Annotated[
        str, Field(pattern=r"^(all|best|backbone|average|outputs|[0-9]{1,2})$"), shown("Students")
    ] = "all",
    benchmarks: Annotated[str, shown("Benchmarks")] = "",
    also_terminal: Annotated[bool, shown("Ask failed judgments too")] = False,
) -> str:
    """Score students of a run on its held-out set, and on benchmarks, where their scores do not stand yet.

    Args:
        run: Name of a run in the worker's root, finished or not.
        students: `all` (backbone, S_0, every round that is trained, their average, models of files), `best` by the dev
            split, `backbone`, `average`, the number of a round, or `outputs` (models whose outputs to the benchmarks
            are files).
        benchmarks: names of benchmarks that the run's configuration has, with commas between them; none if empty.
        also_terminal: Forget the replies of judgments that failed (refused, not to be read) and pay for them anew.
    """
    ref, say = RunRef(driver.worker_root(), run), get_run_logger().info
    return whole_run.evaluate_run(ref, students, benchmarks, _do, _scores, say=say, also_terminal=also_terminal)


def _scores(_run: RunFolder, summary: types.RunSummary, compared: Sequence[Compared], asked: Sequence[str]) -> str:
    numbers = [who for who in compared if isinstance(who, int)]
    return sentences.together((sentences.scores(summary, numbers), benchmarks_sentence(summary, compared, asked)))


@form_flow("fine-tune", run_name="{run} round-{round_number}")
@of_one_run
def fine_tune_from_form(
    run: RunName,
    round_number: Annotated[int, Field(ge=0, le=MAX_ROUNDS), shown("Round")] = 0,
    node: Annotated[str, Field(pattern="^[0-9a-f]*$"), shown("Node")] = "",
) -> Any:
    """Train the student of one round on this worker; a killed training goes on from its last save.

    Args:
        run: Name of a run in the worker's root. Its configuration says how it is trained.
        round_number: The round whose mixture is trained on. 0: basic tuning, which makes S_0.
        node: Filled in by the first worker of several that train together, to know again which one it asked for.
    """
    opened, at = RunFolder(RunRef(driver.worker_root(), run)), TRAIN.at(round_number)
    if at not in plan(opened.config):
        raise errors.ConfigError(
            f"round_number: value {round_number}: run {run!r} has rounds 0 to {opened.config.run.rounds}"
        )
    if opened.key(at) is None:
        raise errors.ConfigError(
            f"round_number: value {round_number}: run {run!r} has no mixture of it yet; *distill* makes it"
        )
    input_files.check_training_ingredients(opened, at)
    try:
        return _join(opened, at, node) if node else _fine_tune(opened, at)
    except errors.NodeLost as lost:
        # No fault of this node: whoever follows it starts the training again, and others do not.
        return states.Crashed(message=f"{lost}; the next attempt goes on from the last save")
    finally:
        close_all()
        run_files.publish_logs(opened)


def _fine_tune(run: RunFolder, at: StageAt) -> str:
    attempt = train.lease_token(str(runtime.flow_run.id), runtime.flow_run.run_count)
    lease = train.training_lease(run, at, attempt)
    with _hold(lease):
        if run.holds(at) is not None:
            return f"S_{at.number} is there already; nothing was done."
        meet = train.meeting_place(run, at, fleet.training_fleet(run), attempt, _noted(run, at))
        summary = train.make_student(run, at, lease, lambda _: current(run).check_stop(at), meet)
    return f"S_{at.number}: {summary.in_words()}."


def _join(run: RunFolder, at: StageAt, node: str) -> str:
    try:
        train.join_student(run, at, node, _noted(run, at))
    except errors.Stopped as stopped:
        return f"Ended: {stopped}."
    return f"Node {node} of S_{at.number} is done."


def _noted(run: RunFolder, at: StageAt) -> Callable[[str], None]:
    """Logs what is waited for when it changes, and ends the wait of what is suspended."""
    last = ""

    def note(text: str) -> None:
        nonlocal last
        current(run).check_stop(at)
        if text != last:
            get_run_logger().info(text)
            last = text

    return note


@form_flow("serve-student")
@of_one_run
def serve_student_from_form(
    run: RunName,
    after_round: Annotated[
        int, Field(ge=serving.ASKED_NOW, le=paths.AVERAGE), shown("After round")
    ] = serving.ASKED_NOW,
    replica: Annotated[str, Field(pattern="^[0-9a-f]*$"), shown("Replica")] = "",
) -> str:
    """Serve a run's student on all GPUs of a worker until the run does not need it.

    Args:
        run: Name of a run in the worker's root that is at work.
        after_round: The student after this round; 0 is S_0, -1 the untouched backbone, 50 the average of the rounds'
            students, -2 the one that the run asks now. Nothing is served when the run asks for another.
        replica: Filled in by runs, to know again which one they asked for. Empty: one more than the run asked for.
    """
    opened = RunFolder(RunRef(driver.worker_root(), run))
    return f"Ended: {serving.serve_replica(opened, after_round, replica, say=get_run_logger().info)}."


@contextmanager
def _hold(lease: leases.RunLease) -> Iterator[None]:
    """Hold the lease for the block; an interrupt leaves it to end with this process, and its driver sees that."""
    _PATIENT(lease.acquire)
    try:
        yield
    except Exception:  # raised again: only an interrupt leaves the lease
        lease.release()
        raise
    lease.release()


@form_flow("compare", run_name="compare")
def compare_from_form(
    preset: Annotated[str, shown("Preset", **presets(comparisons=True))] = given("compare_recommended"),
    comparison_file: Annotated[str, shown("Comparison file")] = "",
    only: Annotated[str, shown("Arms")] = "",
    run_seeds: Annotated[str, shown("Run seeds")] = "",
    results: Annotated[str, shown("Results folder")] = "",
    overrides: Overrides = (),
) -> str:
    """Run the arms of a comparison that are not finished, each matched to the reference, and set them side by side.

    Args:
        preset: What is compared: a file `compare_*.toml` of `configs/`. Prefect's own run gets the comparison's name.
        comparison_file: A TOML file of your own on the worker, in place of the preset.
        only: Run these arms, with commas between, and what they are matched to. Empty: all.
        run_seeds: Run these run seeds of the comparison, with commas between. Empty: all.
        results: A folder on the worker for what finished runs came to; none is run that is there already. Empty: none.
        overrides: Settings for all arms, one `section.field=value` each, such as `run.rounds=2`.
    """
    source, settings = _source(comparison_file, preset, "Comparison file"), [_root_setting(), *overrides]
    asked = series.read_asked(source, settings, only=only, run_seeds=run_seeds, results=results)
    name = asked.plan.comparison.name

    def drive_below(matched: matching.MatchedRun) -> None:
        _in_flow_run(
            matched.planned(),
            matched.ref,
            lambda ref: whole_run.drive_matched(matched, _distil, say=get_run_logger().info),
        )

    tag_flow_run(f"comparison-{name}", name=name)
    with heed_suspension(lambda: "Runs that are finished stay finished."):
        shown = series.finish_comparison(asked, drive_below, _show_arms, say=get_run_logger().info)
    return shown or "Nothing is finished yet, so there is nothing to compare."


def _distil(run: RunFolder, until: str | None) -> None:
    """In the flow run of the run that is worked on."""
    distill.fn(run.ref, until)


def _show_arms(compared: figures.ComparedArms, written: str) -> str:
    artifacts.publish_comparison(compared.name, arms_report.arms_card(compared), arms_report.arms_plots_card(compared))
    return " ".join([*figures.verdicts(compared), f"Page: {written}"])


def _in_flow_run(config: RunConfig, ref: RunRef, work: Callable[..., Any]) -> None:
    """Do the work on a run in a flow run of its own below the form's, once the machine is free.

    The parameter of ``work`` is called `ref`: it names the flow run.
    """
    with machine_for(config, "distil"), tags(TAG, f"run-{ref.name}"):
        # Made anew for each, for what a flow is given stands on its page.
        project_flow("distill", run_name="{ref.name}", child=True)(work)(ref)


@form_flow("sweep-backbones", run_name="sweep-{backbones}")
def sweep_from_form(
    backbones: Annotated[str, Field(min_length=1), shown("List of backbones")] = paths.BACKBONES,
    config_file: Annotated[str, shown("Configuration file")] = "",
    overrides: Overrides = (),
) -> Any:
    """Distil every backbone of a list that has no finished run of a curriculum, and put them side by side.

    Args:
        backbones: The TOML file on the worker that lists them; `tapir backbone add` adds to it.
        config_file: The curriculum, a TOML file on the worker. Empty: the one that the list names.
        overrides: Settings for every backbone, one `section.field=value` each, such as `run.rounds=2`. What a backbone
            sets itself wins over them.
    """
    sweep = series.open_sweep(backbones, config_file or None, [_root_setting(), *overrides])
    tag_flow_run(f"sweep-{sweep.curriculum.name}")

    def distil_below(run: RunFolder, until: str | None) -> None:
        _in_flow_run(run.config, run.ref, lambda ref: distill.fn(ref, until))

    with heed_suspension(lambda: "Backbones that are done stay done."):
        swept = series.finish_sweep(
            sweep, distil_below, partial(artifacts.publish_sweep, sweep.curriculum.name), say=get_run_logger().info
        )
    failed = not all(each.is_well for each in swept)
    return (states.Failed if failed else states.Completed)(message=run_state.sweep_sentence(swept))


def _root_setting() -> str:
    return f"run.root={json.dumps(driver.worker_root())}"
