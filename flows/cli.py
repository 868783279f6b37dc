"""The command line, `tapir`. Each command checks its input, does its work, and ends with a code (docs/cli.md).

0 done · 1 failed · 2 bad config or usage · 3 budget reached · 4 too much missing · 130 interrupted. The commands stand
in modules of `flows.commands`, which are imported when one of theirs is given: `tapir --help` imports none.
"""

import importlib
import logging
import os
import pkgutil
import signal
import sys
from contextlib import suppress
from functools import partial
from importlib.metadata import version
from typing import Annotated, Any, cast

import typer
from rich.console import Console
from typer.core import TyperGroup

from tapir_core.proxies import spare_this_machine

INTERRUPTED = 130

COMMANDS = {
    "setup": (
        "init:setup",
        "Build the environment of the student's server, once for all runs; nothing is done where it stands already.",
    ),
    "init": ("init:init", "Ask five questions and write a configuration to begin with."),
    "adopt": ("adopt:adopt", "Move a hosted fine-tune: its training file becomes a pool and a configuration."),
    "doctor": (
        "diagnosis.command:doctor",
        "Check every part that a run needs, and say what fixes each fault; ends with 1 when there is one.",
    ),
    "smoke": ("smoke:smoke", "Prove this machine: a tiny student through every stage on the real engines, offline."),
    "sweep": (
        "series:sweep",
        "Distil every backbone of a list that has no finished run of a curriculum; then put them side by side.",
    ),
    "compare": (
        "series:compare",
        "Run the arms of a comparison that are not finished, each matched to the reference; then set them side by "
        "side.",
    ),
    "side-by-side": (
        "series:side_by_side",
        "Put runs with the same held-out set side by side: accuracy, benchmarks, paired differences, cost.",
    ),
    "evaluate": (
        "evaluate:evaluate",
        "Score students of a run on its held-out set and on benchmarks, where scores do not stand; or read "
        "annotations.",
    ),
    "export": (
        "folders:export",
        "Write a student of a run as a model folder with a model card, for transformers and vLLM.",
    ),
    "run": ("run:run", "Run a distillation, or go on with it; a finished one is only reported."),
    "estimate": ("run:estimate", "Say what a run will take: calls, tokens, USD and hours by stage. Asks nobody."),
    "plan": (
        "series:plan",
        "Try on a few hundred rows what money and hours are best spent on: prompts, answers, objectives.",
    ),
    "judge-check": (
        "judge_check:judge_check",
        "Say how far the configured judge can be trusted, before money is spent.",
    ),
    "retry-judge": ("run:retry_judge", "Ask the judge again for the verdicts that a run went on without."),
    "status": (
        "folders:status",
        "Say how far a run is, what it scores and what it paid; works at any time, also while it runs.",
    ),
    "ask": ("student:ask", "Let the trained student answer."),
    "chat": ("student:chat", "Talk with the trained student; its answers come as they are written."),
    "serve": ("student:serve", "Serve the trained student to programs of this machine, as OpenAI's API does."),
    "report": ("folders:report", "Write report.html again from what the run folder holds."),
    "move": (
        "folders:move",
        "Copy a run to another root, local or on S3, and verify every file; given again, it goes on.",
    ),
    "up": (
        "server:up",
        "Start a Prefect server, its deployments and workers for each pool, which stay; start again what is missing.",
    ),
    "down": (
        "server:down",
        "End the server and the workers of `tapir up`; flow runs at work stop first and can go on.",
    ),
    "deploy": (
        "server:apply_deployments",
        "Apply work pools and deployments to the server of PREFECT_API_URL, or to the one of `tapir up`.",
    ),
    "standin": ("server:standin_app", "The offline, rule-based teacher and judge. No LLM."),
    "store": ("store:store_app", "The store of all paid answers: statistics, copy, import, prune, check."),
    "backbone": ("series:backbone_app", "The list of backbones that a curriculum is run for."),
}
"""Command → where it stands below `flows.commands`, as `module:name`, and its help."""


class _Commands(TyperGroup):
    """Lists the commands by their help alone, and imports the one that is given."""

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        name, _, rest = super().resolve_command(ctx, args)
        return name, None if name is None else load_command(name), rest


app = typer.Typer(
    cls=_Commands,
    help="Distil instruction following from a strong LLM into a small one, round by round.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _say_version(asked: bool) -> None:
    if asked:
        print(f"tapir {version('tapir-distill')}")
        raise typer.Exit


@app.callback()
def _all_commands(
    _: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_say_version, help="Say the version, and nothing more.")
    ] = False,
) -> None:
    """Options that stand before a command."""


def load_command(name: str) -> Any:
    """The command of this name, or the group of several, as typer runs it."""
    address, help_text = COMMANDS[name]
    found = pkgutil.resolve_name(f"flows.commands.{address}")
    loaded = typer.Typer()
    if isinstance(found, typer.Typer):
        loaded.add_typer(found, name=name, help=help_text)
    else:
        loaded.command(name, help=help_text)(found)
    return typer.main.get_group(loaded).commands[name]


def main() -> None:
    """Run the command line; every error a user can meet ends in one message and its exit code."""
    spare_this_machine()
    if COMMANDS.keys() & {*sys.argv}:
        # Polars puts a handler of its own before Python's when it is imported, with which a main thread that waits for
        # tasks sleeps through Ctrl-C. So it comes first, and SIGINT is set anew though it looks set.
        importlib.import_module("polars")
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, _interrupted)
    logging.raiseExceptions = (
        False  # by which Prefect tells the terminal of each log record that a server does not take
    )
    for package in ("tapir_core", "tasks"):
        # Prefect has a handler at the root for what libraries warn of, and we keep that one off the terminal.
        logging.getLogger(package).addHandler(cast(logging.Handler, logging.lastResort))
    say = partial(Console(stderr=True).print, markup=False, highlight=False, soft_wrap=True)
    try:
        # typer gives an interrupt back as its exit code; a command gives back nothing.
        code = app(standalone_mode=False) or 0
    except (typer.Abort, KeyboardInterrupt):
        code = INTERRUPTED
    except OSError as error:
        if not error.filename:
            raise
        code = say(f"error: {error.filename}: {error.strerror}; allow it, or name another path", style="red") or 2
    except Exception as error:
        if not hasattr(error, "exit_code"):
            raise
        # Of wrong usage typer's own errors say more than their text; where help was shown they have none.
        said = error.format_message() if hasattr(error, "format_message") else str(error)
        if said:
            say(f"error: {said}", style="red")
        code = error.exit_code
    if code == INTERRUPTED:
        say("interrupted: everything received is stored; the same command goes on", style="yellow")
    sys.exit(code)


def _interrupted(number: int, frame: Any) -> None:
    # No stream: the signal may have come amid a line of it. Who read it may have got the signal too.
    with suppress(OSError, ValueError):
        os.write(
            sys.stderr.fileno(), b"\nstopping: nothing received is lost; a training may take half a minute to end\n"
        )
    signal.default_int_handler(number, frame)


def _given_by_name() -> None:
    """Stands in the list for a command until it is given."""


for listed, (_, summary) in COMMANDS.items():
    app.command(listed, help=summary)(_given_by_name)


if __name__ == "__main__":
    main()
