"""What comes before the flow: check everything, hold the run's lease, open its folder, see whether work is left.

The order is the order in which things may fail: what costs nothing to check comes first. The command line and the
deployments begin here alike, so that both refuse the same things in the same words.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from tenacity import RetryCallState, Retrying, retry_if_exception, wait_fixed

from tapir_core import errors, leases, paths, prices, probing, run_files, run_state, sources
from tapir_core.calls import AnswerStore, CallEngine, Failure, Outcome, Request, run_key, store_url
from tapir_core.config import EndpointConfig, RunConfig, VllmEndpoint, checks, load
from tapir_core.run_folder import RunFolder, RunRef, forget_damaged, keep_settled, open_run
from tapir_core.stages import StageAt, plan
from tapir_core.storage import Storage
from tasks import input_files, runtime
from tasks.engines import backbone, machine
from tasks.engines.endpoints import Endpoints, endpoint_source
from tasks.input_files import Say

Look = Callable[[RunConfig, Mapping[str, str]], list[str]]
"""Finds what a configuration lacks on this machine, given the environment's variables; a line each."""


def worker_root() -> str:
    """Folder of all runs of the worker that this process belongs to."""
    return os.environ.get(paths.ROOT_VARIABLE, "runs")


def read_config(
    config: str | Path,
    overrides: Sequence[str] = (),
    name: str | None = None,
    *,
    until: str | None = None,
    look: Look = checks.missing_prerequisites,
    say: Say = lambda _: None,
) -> RunConfig:
    """Read what a run is to be, and find everything that is wrong with it before anything starts.

    Args:
        config: A TOML file.
        overrides: Its `section.field=value`.
        name: Of the run, in place of the file's.
        until: The last stage that is wanted.
        look: Finds what this machine lacks.
        say: Told what sizes that are left to the pool became.

    Raises:
        ConfigError: fields, files, folders or the stage ``until`` are wrong; every one of them.
        MissingPrerequisite: a key, an engine environment or a package is not there.
    """
    settings = load.load_config(config, overrides, name)
    if until is not None:
        find_stage(settings, until)
    check_settings(settings, source=str(config), look=look)
    sized, said = sources.settle_sizes(settings)
    for line in said:
        say(line)
    return sized


def check_settings(settings: RunConfig, *, source: str, look: Look = checks.missing_prerequisites) -> None:
    """Find what is wrong with a configuration on this machine, and by ``look`` what that lacks.

    Raises:
        ConfigError: fields, files or folders are wrong; every one of them.
        MissingPrerequisite: a key, an engine environment or a package is not there.
    """
    problems = [*checks.check_config(settings), *prices.missing_prices(settings)]
    if problems:
        raise errors.ConfigError(problems, source=source)
    lacking = look(settings, os.environ)
    if lacking:
        raise errors.MissingPrerequisite("\n".join(lacking))


@contextmanager
def hold_run(
    config: RunConfig, *, say: Say, amend: bool = False, any_version: bool = False, probe: bool = True
) -> Iterator[RunFolder]:
    """Hold the run's lease and open its folder for the block; what the run started in this process ends with it.

    ``amend`` and ``any_version`` are as in `open_run`. Where work is left, endpoints that were not probed yet are;
    without ``probe`` none is, for the configuration is one that a run has kept.

    Raises:
        RunBusy: another process drives the run.
        RunChanged: finished stages would be made otherwise now, and `amend` is not set.
    """
    machine.allow_open_files()
    # A root that cannot be reached is said before a backbone is converted or fetched.
    Storage(config.run.root).exists("")
    with _held(run_lease(config), say) as lease:
        say(f"preparing {config.student.backbone}")
        ingredients = input_files.gather_ingredients(config, say=say)
        folder = RunFolder(RunRef(config.run.root, config.run.name))
        known = folder.record.settled if probe and folder.storage.exists(paths.RUN_RECORD) else {}
        run = open_run(probing.as_settled(config, known), ingredients, amend=amend, any_version=any_version)
        try:
            if probe:
                run = _probed(run, config, amend=amend, say=say)
            runtime.current(run).lease = lease
            run.storage.remove(paths.RUN_ERROR)
            yield run
        except Exception as error:
            if (told := errors.told_by(error)) is None:
                raise
            # Where the folder itself cannot be written the terminal alone says so.
            with suppress(errors.TapirError, OSError):
                run.storage.write_bytes(paths.RUN_ERROR, str(told).encode())
            if told is error:
                raise
            raise told from error
        finally:
            runtime.close_all()
            run_files.publish_logs(run)


def _probed(run: RunFolder, config: RunConfig, *, amend: bool, say: Say) -> RunFolder:
    """The run with what its endpoints take, which are asked where work is left and no earlier start has asked them."""
    for line in forget_damaged(run):
        say(line)
    if is_done(run, None):
        return run
    for field, endpoint in run.config.endpoints.items():
        # Before anything is paid for.
        if isinstance(endpoint, VllmEndpoint):
            say(f"preparing {endpoint.model}")
            backbone.prepare_backbone(endpoint.as_student, backbone.cache_of(run.ref.root), field=f"{field}.model")
    with probing_engine(run, run.ref.root, say) as ask:
        as_found, found = probing.settle(config, run.record.settled, ask)
    if found != run.record.settled:
        run = keep_settled(run, as_found, found, amend=amend)
        for line in probing.in_words(found):
            say(line)
    return run


@contextmanager
def probing_engine(run: RunFolder, root: str, say: Say) -> Iterator[probing.Ask]:
    """Asks endpoints before the engines of the run are made; needs its store and its endpoints alone.

    ``root`` has the models that are fetched. Rows of endpoints that work in batches are asked live here.
    """
    calls = run.config.calls
    endpoints = Endpoints(calls.concurrency, lambda name: run.workplace.local(paths.log_file(name)), root, report=say)
    store = AnswerStore(store_url(run.config))
    with closing(endpoints), CallEngine(store, calls, run=run.record.id, budget=run.config.budget) as engine:

        def ask(field: str, endpoint: EndpointConfig, request: Request) -> Outcome:
            try:
                [outcome] = engine.ask(
                    [replace(request, run=run.ref.name)], endpoint_source(endpoint.live, endpoints, field)
                )
            except errors.MissingPrerequisite as error:
                return Failure("connection", str(error))
            if isinstance(outcome, Failure) and outcome.kind in ("bad_request", "used_up", "no_answer"):
                # Whoever corrects it is to be probed again, and not to be told from the store.
                engine.forget([request])
            return outcome

        yield ask


def hold_known_run(ref: RunRef, *, say: Say, any_version: bool = False) -> AbstractContextManager[RunFolder]:
    """Hold and open a run by its own configuration, wherever its folder lies now; ``any_version`` as in `open_run`.

    Raises:
        ConfigError: there is no such run.
        RunBusy: another process drives the run.
        RunChanged: finished stages would be made otherwise now.
    """
    return hold_run(RunFolder(ref).config, say=say, any_version=any_version, probe=False)


def run_lease(config: RunConfig) -> leases.RunLease:
    """The right to drive the run, under the name that all its drivers know."""
    return leases.RunLease(store_url(config), run_key(config), flow_run=_own_flow_run())


@contextmanager
def _held(lease: leases.RunLease, say: Say) -> Iterator[leases.RunLease]:
    """Hold a lease for the block. What is resumed or retried waits for an earlier process of its own flow run."""

    def tell(tried: RetryCallState) -> None:
        if tried.attempt_number == 1 and tried.outcome is not None:
            say(f"waiting for an earlier process of this flow run: {tried.outcome.exception()}")

    own = _own_flow_run()
    is_earlier = retry_if_exception(lambda error: own is not None and getattr(error, "flow_run", None) == own)
    Retrying(retry=is_earlier, wait=wait_fixed(0.5), before_sleep=tell, reraise=True)(lease.acquire)
    try:
        yield lease
    finally:
        lease.release()


def _own_flow_run() -> str | None:
    """Where the UI shows the flow run of a deployment that this process was started for."""
    flow_run = os.environ.get("PREFECT__FLOW_RUN_ID")
    api = os.environ.get("PREFECT_API_URL", "").rstrip("/")
    shown_at = os.environ.get("PREFECT_UI_URL") or api.removesuffix("/api")
    return f"{shown_at}/runs/flow-run/{flow_run}" if flow_run else None


def is_done(run: RunFolder, until: str | None) -> bool:
    """Whether nothing is left to do, as far as the user wants to go."""
    return run_state.state_of(run).next_stage not in stages_until(run.config, until)


def find_stage(config: RunConfig, name: str) -> StageAt:
    """The stage that a person names: `teach`, `judge` (of round 1), `judge@2`, `train@0` (of S_0).

    Raises:
        ConfigError: the run has no such stage.
    """
    stage, _, place = name.partition("@")
    number = {called: str(each) for each, called in paths.OF_NO_ROUND.items()}.get(place, place)
    found = [at for at in plan(config) if at.name == stage]
    wanted = [at for at in found if number == ("" if at.round is None else str(at.round))]
    wanted += [at for at in found if not number and at.round in (1, paths.AVERAGE)]
    if not wanted:
        raise errors.ConfigError(f"--until {name}: this run has no such stage; it has {_known(config)}")
    return wanted[0]


def stages_until(config: RunConfig, name: str | None) -> list[StageAt]:
    """The plan as far as a person wants to go: to the stage of that name, or all of it.

    Raises:
        ConfigError: the run has no such stage.
    """
    stages = list(plan(config))
    return stages if name is None else stages[: stages.index(find_stage(config, name)) + 1]


def _known(config: RunConfig) -> str:
    """All names, each with its rounds: `pool, label, mix@0-2`."""
    rounds: dict[str, list[int]] = {}
    for at in plan(config):
        rounds.setdefault(at.name, []).extend([] if at.round in (None, paths.AVERAGE) else [at.round])
    spans = {name: f"@{min(numbers)}-{max(numbers)}" if numbers else "" for name, numbers in rounds.items()}
    return ", ".join(f"{name}{span}" for name, span in spans.items())
