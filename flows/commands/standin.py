"""`tapir standin serve`: the offline, rule-based teacher and judge."""

from pathlib import Path
from typing import Annotated

import typer

from tapir_core.standin.batches import BatchRules
from tapir_core.standin.faults import read_faults
from tapir_core.standin.judge import Behaviour, Preference
from tapir_core.standin.server import Service, run_server

standin_app = typer.Typer(no_args_is_help=True)


@standin_app.command()
def serve(
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1; 0 takes a free one.")] = 8041,
    position_bias: Annotated[float, typer.Option(help="Points the judge adds to the answer shown first.")] = 0.5,
    noise: Annotated[float, typer.Option(help="Standard deviation of its scores, in points.")] = 0.5,
    prefers: Annotated[Preference, typer.Option(help="Which answer wins in benchmarks, whatever it says.")] = "better",
    logprobs: Annotated[bool, typer.Option(help="Give log-probabilities to who asks for them.")] = True,
    latency_ms: Annotated[int, typer.Option(help="Milliseconds before each reply.")] = 0,
    faults: Annotated[
        str, typer.Option(help="What fails on purpose: 429=0.1,hang@10-40, or a TOML or JSON file.")
    ] = "",
    batch_seconds: Annotated[float, typer.Option(help="Seconds that a batch takes.")] = 1.0,
    batch_expire_share: Annotated[float, typer.Option(help="Share of batch rows that expire.")] = 0.0,
    batch_fail_share: Annotated[float, typer.Option(help="Share of batch rows that fail with 500.")] = 0.0,
    batch_max_rows: Annotated[int, typer.Option(help="Most rows of a batch file.")] = 50_000,
    batch_max_bytes: Annotated[int, typer.Option(help="Largest batch file.")] = 200 * 2**20,
    log: Annotated[Path | None, typer.Option(help="Append one JSON line a request to this file.")] = None,
) -> None:
    """Serve the stand-in teacher and judge (OpenAI-compatible) until interrupted."""
    service = Service(
        Behaviour(position_bias, noise, prefers, logprobs),
        latency_ms=latency_ms,
        faults=read_faults(faults),
        batches=BatchRules(batch_seconds, batch_expire_share, batch_fail_share, batch_max_rows, batch_max_bytes),
        log_path=log,
    )
    run_server(service, "127.0.0.1", port)
