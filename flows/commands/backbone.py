"""`tapir backbone add`: one more backbone in the list, and the event that starts *sweep-backbones*."""

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.commands import console, errors
from tapir_core.errors import MissingPrerequisite
from tapir_core.paths import BACKBONES

if TYPE_CHECKING:
    from tapir_core.config.presets import BackboneEntry

__all__ = ["REGISTERED", "backbone_app"]

REGISTERED = "tapir.backbone.registered"
"""The event on which deployments/prefect.yaml starts a sweep."""

backbone_app = typer.Typer(help="The list of backbones that a curriculum is run for.", no_args_is_help=True)


@backbone_app.callback()
def _group() -> None:
    """Keeps `add` a word of its own: typer takes a group's only command for the group."""


@backbone_app.command()
def add(
    name: Annotated[str, typer.Argument(help="What it is called; its run is named after it.", show_default=False)],
    backbone: Annotated[str, typer.Argument(help="Model folder, hub id or embedded student.", show_default=False)],
    template: Annotated[str | None, typer.Option(help="Jinja file that replaces its own chat template.")] = None,
    precision: Annotated[str | None, typer.Option(help="Of its training: auto, bf16 or fp32.")] = None,
    file: Annotated[Path, typer.Option(help="TOML file that lists the backbones.")] = Path(BACKBONES),
    root: Annotated[str, typer.Option(help="Folder of all runs, whose server is told.")] = "runs",
) -> None:
    """Add a backbone to the list and tell Prefect, which starts a sweep where sweep-backbones is deployed."""
    from flows.prefect_server.connection import standing_server
    from tapir_core.config.presets import add_backbone

    fields = {"name": name, "backbone": backbone, "chat_template": template, "precision": precision}
    entry = add_backbone(file, {field: value for field, value in fields.items() if value is not None})
    console.print(f"added {entry.name} to {file}", markup=False, highlight=False)
    try:
        api = standing_server(root)
    except MissingPrerequisite as missing:
        errors.print(f"nobody was told: {missing}; `tapir sweep` runs it too", markup=False, highlight=False)
        return
    announce(api, root, entry, file)
    console.print(f"told {api}: {REGISTERED}", markup=False, highlight=False)


def announce(api: str, root: str, entry: "BackboneEntry", file: Path) -> None:
    """Send the event that a backbone was added, and wait until the server has it.

    Args:
        api: URL of the server's API.
        root: Prefect's own files of this process go below it.
        entry: The new backbone.
        file: The list that it was added to.
    """
    from flows.prefect_server import own_settings

    os.environ.update({**own_settings(root), "PREFECT_API_URL": api})
    # Not before: Prefect reads its settings when it is imported.
    from prefect.events import Event, Resource
    from prefect.events.clients import PrefectEventsClient

    resource = {
        "prefect.resource.id": f"tapir.backbone.{entry.name}",
        "prefect.resource.name": entry.name,
        "tapir.backbone": entry.backbone,
        "tapir.file": str(file),
    }

    async def send() -> None:
        # The client of the library's own events would send later, from a thread, and swallow what goes wrong.
        async with PrefectEventsClient(api, checkpoint_every=1) as client:
            await client.emit(Event(event=REGISTERED, resource=Resource(resource)))

    asyncio.run(send())
