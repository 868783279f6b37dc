"""`tapir standin serve`: the offline, rule-based teacher and judge."""

import asyncio
from typing import Annotated

import typer

from tapir_core.standin import server
from tapir_core.standin.rules import Behaviour, Preference

standin_app = typer.Typer(no_args_is_help=True)


@standin_app.command()
def serve(
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1; 0 takes a free one.")] = 8041,
    position_bias: Annotated[float, typer.Option(help="Points the judge adds to the answer shown first.")] = 0.5,
    noise: Annotated[float, typer.Option(help="Standard deviation of its scores, in points.")] = 0.5,
    prefers: Annotated[Preference, typer.Option(help="Which answer wins in benchmarks, whatever it says.")] = "better",
    logprobs: Annotated[bool, typer.Option(help="Give log-probabilities to who asks for them.")] = True,
    latency_ms: Annotated[int, typer.Option(help="Milliseconds before each reply.")] = 0,
) -> None:
    """Serve the stand-in teacher and judge (OpenAI-compatible) until interrupted.

    A server that fails on purpose or keeps a log: `python -m tests.doubles.standin` in a clone.
    """
    behaviour = Behaviour(position_bias, noise, prefers, logprobs)
    asyncio.run(server.serve(server.make_application(behaviour, latency_ms), "127.0.0.1", port))
