"""Servers that a user starts: Prefect's, which stays (`tapir up`, `down`, `deploy`), and the stand-in's."""

import asyncio
import json
import random
from pathlib import Path
from typing import Annotated

import typer

from flows.commands.terminal import Root, console, print_lines, say
from flows.prefect_server import caretaker
from flows.prefect_server import server as prefect_server
from tapir_core.errors import ConfigError
from tapir_core.standin import families, rules, server


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
    """`tapir up`."""
    prefect_server.ignore_settings(root, say, database=True)
    stood = prefect_server.living_server(root)
    posts = caretaker.staff(gpu_workers or (stood.gpu_workers if stood else 1))
    server = stood or prefect_server.start_server(root, port, postgres=postgres, gpu_workers=gpu_workers or 1)
    if gpu_workers not in (None, server.gpu_workers):
        raise ConfigError(f"--gpu-workers {gpu_workers}: {server.gpu_workers} stand; `tapir down` first ends them")
    prefect_server.enter_server(server.api, root)
    # Not before: Prefect reads its settings when it is imported.
    from flows.deploy import deploy, wait_for_workers

    for made in deploy(root, again=stood is None):
        say(f"applied {made}")
    wait_for_workers(server.api, posts, is_alive=lambda: prefect_server.living_server(root) is not None)
    print_lines(
        console,
        f"Prefect UI: {server.address} (process {server.pid}); `tapir down` ends it\n"
        f"deployments: {', '.join(prefect_server.DEPLOYMENTS)}\n"
        f"workers: {', '.join(post.label for post in posts)}, for runs in '{root}'",
    )


def down(root: Root = "runs") -> None:
    """`tapir down`."""
    server = prefect_server.stop_server(root)
    console.print(f"ended {server.address}" if server else f"no server of {root!r} runs")


def apply_deployments(root: Root = "runs") -> None:
    """`tapir deploy`."""
    prefect_server.ignore_settings(root, say)
    prefect_server.enter_server(prefect_server.standing_server(root), root)
    # Not before: Prefect reads its settings when it is imported.
    from flows.deploy import deploy

    applied = "".join(f"applied {made}\n" for made in deploy(root, again=True))
    print_lines(
        console, f"{applied}workers that you start: {prefect_server.worker_command(root)} --type process --pool …"
    )


standin_app = typer.Typer(no_args_is_help=True)


@standin_app.command()
def serve(
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1; 0 takes a free one.")] = 8041,
    position_bias: Annotated[float, typer.Option(help="Points the judge adds to the answer shown first.")] = 0.5,
    noise: Annotated[float, typer.Option(help="Standard deviation of its scores, in points.")] = 0.5,
    prefers: Annotated[
        rules.Preference, typer.Option(help="Which answer wins in benchmarks, whatever it says.")
    ] = "better",
    logprobs: Annotated[bool, typer.Option(help="Give log-probabilities to who asks for them.")] = True,
    latency_ms: Annotated[int, typer.Option(help="Milliseconds before each reply.")] = 0,
) -> None:
    """Serve the stand-in teacher and judge (OpenAI-compatible) until interrupted.

    A server that fails on purpose or keeps a log: `python -m tests.doubles.standin` in a clone.
    """
    behaviour = rules.Behaviour(position_bias, noise, prefers, logprobs)
    asyncio.run(server.serve(server.make_application(behaviour, latency_ms), "127.0.0.1", port))


@standin_app.command()
def write(
    file: Annotated[Path, typer.Argument(help="JSON file to write.", show_default=False)],
    rows: Annotated[int, typer.Option(min=1, help="How many instructions.")] = 1000,
    max_level: Annotated[int, typer.Option(min=1, max=5, help="Hardest level; 1 is the easiest.")] = 2,
    seed: Annotated[int, typer.Option(help="Another seed draws other instructions.")] = 1,
) -> None:
    """Write instructions that the stand-in can answer in Alpaca format, its plain answers as `output`."""
    if file.exists():
        raise ConfigError(f"{file} exists already; give another name, or remove it")
    problems = families.sample_problems(rows, max_level=max_level, rng=random.Random(seed))
    records = [{"instruction": each.instruction, "input": "", "output": each.plain} for each in problems]
    file.write_text(json.dumps(records, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    say(f"wrote {len(records):,} instructions with answers to {file}")
