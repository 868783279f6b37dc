"""`tapir ask`: one question to the trained student, outside any flow."""

from collections.abc import Callable

from tapir_core.calls import Failure
from tapir_core.errors import ConfigError, EngineError
from tapir_core.run_folder import RunFolder, RunRef
from tasks.asking import chat, make_request
from tasks.runtime import close_all, current

__all__ = ["ask_student_once"]


def ask_student_once(ref: RunRef, text: str, number: int | None, *, say: Callable[[str], None]) -> str:
    """The answer of the student after round ``number`` (the last one trained, when nothing is given).

    Raises:
        ConfigError: there is no such run, or that round is not trained yet.
        EngineError: the student did not answer.
    """
    run = RunFolder(ref)
    trained = run.trained_rounds
    if not trained or (number is not None and number not in trained):
        wanted = "no round" if number is None else f"round {number}"
        raise ConfigError(
            f"run {ref.name!r} has {'trained rounds ' + str(trained) if trained else 'trained nothing yet'}, so "
            f"{wanted} can answer; see `tapir status {ref.name}`"
        )
    number = trained[-1] if number is None else number
    runtime = current(run)
    student = runtime.student(number)
    say(f"S_{number} of run {ref.name}")
    try:
        request = make_request(run, "answer", student.voice, chat(text), run.config.student.sampling)
        outcome = runtime.calls.ask([request], student.source)[0]
    finally:
        close_all()
    if isinstance(outcome, Failure):
        raise EngineError(f"the student did not answer ({outcome.kind}): {outcome.message}")
    return outcome.text
