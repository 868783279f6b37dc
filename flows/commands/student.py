"""Commands that use a run's student, outside any flow: `tapir ask`, `chat`, `serve`."""

import re
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Annotated

import openai
import typer
from rich.prompt import Prompt

from flows.commands import terminal
from tapir_core import calls, errors, run_state
from tapir_core.calls import wire, words
from tapir_core.run_folder import RunFolder
from tapir_core.summary.formats import student_name
from tasks import asking, runtime

Which = Annotated[
    str | None, typer.Option("--round", metavar="N|best|average", help="0 is S_0; the last one when left out.")
]
_LOOK_SECONDS = 2.0
"""Between two looks at whether the server still runs."""


def ask(
    name: terminal.RunName,
    text: Annotated[str, typer.Argument(help="The instruction.", show_default=False)],
    which: Which = None,
    root: terminal.Root = "runs",
) -> None:
    """`tapir ask`."""
    with _student(name, which, root) as (run, student):
        [outcome] = runtime.current(run).calls.ask([_request(run, student, asking.chat(text))], student.source)
    if isinstance(outcome, calls.Failure):
        raise errors.EngineError(f"the student did not answer ({outcome.kind}): {outcome.message}")
    _show(outcome.text)


def chat(name: terminal.RunName, which: Which = None, root: terminal.Root = "runs") -> None:
    """`tapir chat`. Nothing of it is stored."""
    with _student(name, which, root) as (run, student):
        endpoint, messages = student.source(), list[calls.Message]()
        client = openai.OpenAI(base_url=endpoint.base_url, api_key=endpoint.api_key or "none", max_retries=0)
        terminal.say("each line is a turn; Ctrl-D ends")
        with suppress(EOFError, KeyboardInterrupt):
            while True:
                if text := Prompt.ask("[bold]you[/]", console=terminal.console).strip():
                    messages.append(calls.Message("user", text))
                    body = wire.request_body(_request(run, student, tuple(messages)), endpoint)
                    messages.append(calls.Message("assistant", words.strip_thoughts(_streamed(client, body))))


def serve(name: terminal.RunName, which: Which = None, root: terminal.Root = "runs") -> None:
    """`tapir serve`."""
    with _student(name, which, root) as (run, student), suppress(KeyboardInterrupt):
        shown, is_ours = None, run.config.student.engine.served_by != "others"
        while True:
            # A server that died is started again, at another address.
            if (endpoint := student.source()) != shown:
                terminal.print_lines(
                    terminal.console,
                    f"address  {endpoint.base_url}",
                    f"model    {student.identity.model}",
                    # One of the user's own stays where the user has it.
                    f"key      {(endpoint.api_key or 'none') if is_ours else 'that of student.engine.api_key_env'}",
                )
                terminal.say("serves this machine alone, until Ctrl-C" if is_ours else "served by others; Ctrl-C ends")
                shown = endpoint
            time.sleep(_LOOK_SECONDS)


@contextmanager
def _student(name: str, which: str | None, root: str) -> Iterator[tuple[RunFolder, runtime.AskedModel]]:
    """The run and its student, whose server ends with the block."""
    run = RunFolder(terminal.run_ref(name, root))
    number = run_state.find_student(run, which or str(max(run.trained_rounds, default="last")))
    terminal.say(f"starting {student_name(number)} of run {run.ref.name}")
    # Nothing is lost by Ctrl-C here, and nothing is to be said of it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield run, runtime.current(run).student(number)
    finally:
        runtime.close_all()


def _request(run: RunFolder, student: runtime.AskedModel, messages: tuple[calls.Message, ...]) -> calls.Request:
    return asking.make_request(run, "answer", student.identity, messages, run.config.student.sampling)


def _show(text: str, end: str = "\n") -> None:
    """Write what a student says, tabs included; a terminal gets no character that would steer it."""
    print(
        re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]|\r(?!\n)", "\N{REPLACEMENT CHARACTER}", text)
        if terminal.console.is_terminal
        else text,
        end=end,
        file=terminal.console.file,
        flush=True,
    )


def _streamed(client: openai.OpenAI, body: dict[str, object]) -> str:
    """An answer, printed as it comes.

    Raises:
        EngineError: the server refused, or broke off.
    """
    model, messages, text = body.pop("model"), body.pop("messages"), ""
    try:
        for chunk in client.chat.completions.create(  # type: ignore[call-overload]  # the body is a request's, already whole
            model=model, messages=messages, stream=True, extra_body=body
        ):
            if chunk.choices and (delta := chunk.choices[0].delta) and (more := delta.content):
                text += more
                _show(more, end="")
    except (openai.OpenAIError, ValueError) as error:
        raise errors.EngineError(
            f"the student did not answer: {error}; begin a new chat if this one is too long"
        ) from error
    terminal.console.print()
    return text
