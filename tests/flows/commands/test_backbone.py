"""`tapir backbone add`: the entry is in the list, and a server that stands is told."""

import asyncio
from pathlib import Path

import pytest
from prefect.events import Event
from prefect.events.clients import PrefectEventSubscriber
from prefect.events.filters import EventFilter, EventNameFilter
from typer.testing import CliRunner

from flows.cli import app
from flows.commands.series import REGISTERED, announce
from flows.prefect_server.server import own_settings
from tapir_core.config import EMBEDDED_STUDENT
from tapir_core.config.presets import BackboneEntry, load_backbones
from tests.conftest import StandingServer


def test_without_a_server_the_entry_is_added_and_the_message_says_that_no_sweep_was_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "")
    (tmp_path / "list.toml").write_text('config = "configs/quickstart.toml"\n')
    words = ["backbone", "add", "new", EMBEDDED_STUDENT, "--precision", "fp32", "--file", str(tmp_path / "list.toml")]
    done = CliRunner().invoke(app, [*words, "--root", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert "no sweep was started" in done.stderr
    assert "tapir sweep" in done.stderr
    added = load_backbones(tmp_path / "list.toml").backbones
    assert added == (BackboneEntry(name="new", backbone=EMBEDDED_STUDENT, precision="fp32"),)


def test_a_server_has_the_event_when_the_command_ends(
    standing_prefect: StandingServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in [*own_settings(str(tmp_path)), "PREFECT_API_URL"]:
        monkeypatch.setenv(variable, "")
    entry, api = BackboneEntry(name="new", backbone="org/new"), standing_prefect.api

    async def listen() -> Event:
        wanted = EventFilter(event=EventNameFilter(name=[REGISTERED]))
        async with PrefectEventSubscriber(api, filter=wanted) as events:
            await asyncio.to_thread(announce, api, str(tmp_path), entry, Path("list.toml"))
            return await asyncio.wait_for(anext(events), 15)

    event = asyncio.run(listen())
    assert event.resource["prefect.resource.id"] == "tapir.backbone.new"
    assert event.resource["tapir.backbone"] == "org/new"
