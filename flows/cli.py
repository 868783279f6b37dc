"""The command line, `tapir`. Each command checks its input, does its work, and ends with a code (docs/cli.md).

0 done · 1 failed · 2 bad config or usage · 3 budget reached · 4 too much missing · 130 interrupted. A command stands in
a module of its own; those whose modules are heavy to import are declared here, and import them when they are given.
"""

import importlib
import signal
import sys
from typing import Annotated

import typer

from flows.commands import AsJson, ConfigPath, Overrides, Root, RunName, console, errors, print_line, run_ref, say
from flows.commands.ask import ask
from flows.commands.backbone import backbone_app
from flows.commands.compare import compare
from flows.commands.doctor import doctor
from flows.commands.estimate import estimate
from flows.commands.evaluate import evaluate
from flows.commands.export import export
from flows.commands.standin import standin_app
from flows.commands.store import store_app
from flows.commands.sweep import side_by_side, sweep
from tapir_core.errors import ConfigError, TapirError
from tapir_core.paths import REPORT

__all__ = ["app", "main"]

INTERRUPTED = 130

app = typer.Typer(
    help="Distil instruction following from a strong LLM into a small one, round by round.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """Run the command line; every error a user can meet ends in one message and its exit code."""
    # Polars puts a handler of its own before Python's when it is imported, and with that a main thread that waits for
    # tasks sleeps through Ctrl-C. So it comes first, and SIGINT is set anew though it looks set.
    importlib.import_module("polars")
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    try:
        # typer gives an interrupt back as its exit code; a command gives back nothing.
        code = app(standalone_mode=False)
    except TapirError as error:
        errors.print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(error.exit_code)
    except (typer.Abort, KeyboardInterrupt):
        code = INTERRUPTED
    except Exception as error:
        if not hasattr(error, "exit_code") or not hasattr(error, "format_message"):
            raise
        errors.print(f"error: {error.format_message()}", style="red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(error.exit_code)
    if code == INTERRUPTED:
        errors.print("interrupted: everything received is stored; the same command goes on", style="yellow")
    sys.exit(code or 0)


def run(
    config: ConfigPath,
    name: Annotated[str | None, typer.Option(help="Name of the run, instead of the file's.")] = None,
    overrides: Overrides = None,
    until: Annotated[
        str | None,
        typer.Option(metavar="STAGE", help="Go no further than this stage: judge (of round 1), judge@2, train@0."),
    ] = None,
    amend: Annotated[
        bool, typer.Option(help="Redo what a changed file, setting or version of tapir changes; keep the rest.")
    ] = False,
) -> None:
    """Run a distillation, or go on with it; a finished one is only reported."""
    from flows.commands.live import distil_shown, print_summary
    from flows.driver import hold_run, is_done, read_config
    from flows.prefect_server.connection import connect_prefect
    from tapir_core.estimate.run import save_estimate
    from tapir_core.reporting.benchmarks import require_round_figures
    from tapir_core.reporting.summary import summarise

    settings = read_config(config, overrides or [], name, until=until)
    with hold_run(settings, say=say, amend=amend) as opened:
        if is_done(opened, until):
            say(f"run {opened.ref.name} has nothing left to do")
            if not opened.storage.exists(REPORT):
                report(opened.ref.name, opened.ref.root)
        else:
            save_estimate(opened)
            say("connecting to Prefect")
            with connect_prefect(opened.ref) as address:
                say(f"run {opened.ref.name}; Prefect UI {address} while it runs")
                distil_shown(opened, console, until)
        summary = summarise(opened)
        print_summary(console, summary)
        require_round_figures(summary, settings.evaluation.each_round)


def judge_check(
    config: ConfigPath,
    pairs: Annotated[int, typer.Option(min=1, help="Pairs of each kind; the hostile kind has one for each text.")] = 20,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Say how far the configured judge can be trusted, before money is spent."""
    from flows.commands.judge_check import check_judge, print_check
    from tapir_core.config.load import load_config

    found = check_judge(load_config(config, overrides or []), pairs=pairs, say=say)
    if as_json:
        typer.echo(found.to_json())
    else:
        print_check(console, found)
    raise typer.Exit(found.exit_code)


def retry_judge(
    name: RunName,
    round_number: Annotated[int | None, typer.Option("--round", help="One round; all when left out.")] = None,
    also: Annotated[
        str | None, typer.Option(metavar="terminal", help="`terminal`: ask unscored verdicts again too, at full price.")
    ] = None,
    go_on: Annotated[
        bool, typer.Option("--continue", help="Redo the stages that change, and go on to the end.")
    ] = False,
    root: Root = "runs",
) -> None:
    """Ask the judge again for the verdicts that a run went on without."""
    from flows.commands.retry_judge import ask_again
    from flows.driver import hold_known_run

    if also not in (None, "terminal"):
        raise ConfigError(f"--also {also}: only `terminal` is known")
    with hold_known_run(run_ref(name, root), say=say) as opened:
        ask_again(opened, round_number, console, say=say, also_terminal=also == "terminal", go_on=go_on)


def status(
    name: Annotated[str | None, typer.Argument(help="Name of a run; all runs when left out.")] = None,
    root: Root = "runs",
) -> None:
    """Say how far a run is, what it scores and what it paid; works at any time, also while it runs."""
    from flows.commands.status import print_runs, print_status

    if name is None:
        print_runs(console, root)
    else:
        print_status(console, run_ref(name, root))


def report(name: RunName, root: Root = "runs") -> None:
    """Write report.html again from what the run folder holds."""
    from tapir_core.reporting.report import write_report
    from tapir_core.run_folder import RunFolder

    folder = RunFolder(run_ref(name, root))
    _ = folder.record
    print_line(console, f"report: {write_report(folder)}")


def move(
    name: RunName,
    to: Annotated[str, typer.Argument(metavar="ROOT", help="Folder of all runs, or s3://…", show_default=False)],
    root: Root = "runs",
    remove: Annotated[bool, typer.Option("--remove", help="Delete the original once the copy is verified.")] = False,
) -> None:
    """Copy a run to another root, local or on S3, and verify every file; given again, it goes on."""
    from flows.commands.move import move_run

    move_run(run_ref(name, root), to, console, say=say, remove=remove)


def up(
    root: Root = "runs",
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1.")] = 4200,
    postgres: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Prefect's database; a file of the root when left out."),
    ] = None,
    gpu_workers: Annotated[
        int | None, typer.Option(min=1, help="Workers of the pool tapir-gpu, which share the GPUs; 1 when left out.")
    ] = None,
) -> None:
    """Start a Prefect server, its deployments and workers for each pool, which stay; start again what is missing."""
    from flows.prefect_server.caretaker import staff
    from flows.prefect_server.connection import living_server, start_server
    from flows.prefect_server.deployments import DEPLOYMENTS, deploy, wait_for_workers

    stood = living_server(root)
    posts = staff(gpu_workers or (stood.gpu_workers if stood else 1))
    server = stood or start_server(root, port, postgres=postgres, gpu_workers=gpu_workers or 1)
    if gpu_workers not in (None, server.gpu_workers):
        raise ConfigError(f"--gpu-workers {gpu_workers}: {server.gpu_workers} stand; `tapir down` first ends them")
    for made in deploy(server.api, root, again=stood is None):
        say(f"applied {made}")
    wait_for_workers(server.api, posts, is_alive=lambda: living_server(root) is not None)
    console.print(f"Prefect UI: {server.address} (process {server.pid}); `tapir down` ends it", highlight=False)
    console.print(f"deployments: {', '.join(DEPLOYMENTS)}", highlight=False)
    console.print(f"workers: {', '.join(post.label for post in posts)}, for runs in {root!r}", highlight=False)


def down(root: Root = "runs") -> None:
    """End the server and the workers of `tapir up`; flow runs at work stop first and can go on."""
    from flows.prefect_server.connection import stop_server

    server = stop_server(root)
    console.print(f"ended {server.address}" if server else f"no server of {root!r} runs")


def deploy(root: Root = "runs") -> None:
    """Apply work pools and deployments to the server of PREFECT_API_URL, or to the one of `tapir up`."""
    from flows.prefect_server import worker_settings
    from flows.prefect_server.connection import standing_server
    from flows.prefect_server.deployments import deploy as apply_to

    for made in apply_to(standing_server(root), root, again=True):
        console.print(f"applied {made}", highlight=False)
    console.print(
        f"workers that you start: {worker_settings(root)} prefect worker start …", highlight=False, soft_wrap=True
    )


for command in (
    doctor,
    sweep,
    compare,
    side_by_side,
    evaluate,
    export,
    run,
    estimate,
    judge_check,
    retry_judge,
    status,
    ask,
    report,
    move,
    up,
    down,
    deploy,
):
    app.command()(command)
app.add_typer(standin_app, name="standin")
app.add_typer(store_app, name="store")
app.add_typer(backbone_app, name="backbone")


if __name__ == "__main__":
    main()
