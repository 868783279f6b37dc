"""`tapir ask`: one question to the trained student, outside any flow."""

from typing import Annotated

import typer

from flows.commands import Root, RunName, console, run_ref, say
from tapir_core.errors import ConfigError, EngineError

__all__ = ["ask"]


def ask(
    name: RunName,
    text: Annotated[str, typer.Argument(help="The instruction.", show_default=False)],
    round_number: Annotated[int | None, typer.Option("--round", help="0 is S_0; the last one when left out.")] = None,
    root: Root = "runs",
) -> None:
    """Let the trained student answer."""
    from tapir_core.calls import Failure
    from tapir_core.run_folder import RunFolder
    from tasks.asking import chat, make_request
    from tasks.runtime import close_all, current

    run = RunFolder(run_ref(name, root))
    trained = run.trained_rounds
    if not trained or (round_number is not None and round_number not in trained):
        wanted = "no round" if round_number is None else f"round {round_number}"
        raise ConfigError(
            f"run {run.ref.name!r} has {'trained rounds ' + str(trained) if trained else 'trained nothing yet'}, so "
            f"{wanted} can answer; see `tapir status {run.ref.name}`"
        )
    number = trained[-1] if round_number is None else round_number
    runtime = current(run)
    student = runtime.student(number)
    say(f"S_{number} of run {run.ref.name}")
    try:
        request = make_request(run, "answer", student.voice, chat(text), run.config.student.sampling)
        outcome = runtime.calls.ask([request], student.source)[0]
    finally:
        close_all()
    if isinstance(outcome, Failure):
        raise EngineError(f"the student did not answer ({outcome.kind}): {outcome.message}")
    console.print(outcome.text, markup=False, highlight=False)
