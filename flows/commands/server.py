"""`tapir up`, `down` and `deploy`: the Prefect server that stays, and what can be started there."""

from typing import Annotated

import typer

from flows.commands import Root, console, say
from flows.prefect_server import deployments, living_server, standing_server, start_server, stop_server, worker_settings
from flows.prefect_server.caretaker import staff
from tapir_core.errors import ConfigError


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
    stood = living_server(root)
    posts = staff(gpu_workers or (stood.gpu_workers if stood else 1))
    server = stood or start_server(root, port, postgres=postgres, gpu_workers=gpu_workers or 1)
    if gpu_workers not in (None, server.gpu_workers):
        raise ConfigError(f"--gpu-workers {gpu_workers}: {server.gpu_workers} stand; `tapir down` first ends them")
    for made in deployments.deploy(server.api, root, again=stood is None):
        say(f"applied {made}")
    deployments.wait_for_workers(server.api, posts, is_alive=lambda: living_server(root) is not None)
    console.print(f"Prefect UI: {server.address} (process {server.pid}); `tapir down` ends it", highlight=False)
    console.print(f"deployments: {', '.join(deployments.DEPLOYMENTS)}", highlight=False)
    console.print(f"workers: {', '.join(post.label for post in posts)}, for runs in {root!r}", highlight=False)


def down(root: Root = "runs") -> None:
    """`tapir down`."""
    server = stop_server(root)
    console.print(f"ended {server.address}" if server else f"no server of {root!r} runs")


def deploy(root: Root = "runs") -> None:
    """`tapir deploy`."""
    for made in deployments.deploy(standing_server(root), root, again=True):
        console.print(f"applied {made}", highlight=False)
    console.print(
        f"workers that you start: {worker_settings(root)} prefect worker start …", highlight=False, soft_wrap=True
    )
