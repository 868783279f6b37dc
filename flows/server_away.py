"""A Prefect server that is away for a while, as in a restart, ends no flow run of ours and no worker.

Prefect's client asks again what a server does not answer (`PREFECT_CLIENT_MAX_RETRIES`), but one that has never reached
the server gives up at the first refused connection. Prefect makes such clients all the time: a flow for each new set of
tags, for child flows and concurrency limits, a worker for what tells it that a flow run is to be cancelled. Measured
with Prefect 3.8.8 and three tries, at an address where nobody listens: such a client gives up at its first try, in less
than two seconds, one that has reached its server after 20. No setting of Prefect says which of the two a client is.

A process that is to end hardly waits: Prefect tells the server how each flow run ended, and tries for 4 minutes each.

``python -m flows.server_away …`` is Prefect's own command line with that fixed; workers are started with it.
"""

from typing import Any

from prefect.client import base
from prefect.client.base import PrefectHttpxAsyncClient, PrefectHttpxSyncClient
from prefect.events.clients import PrefectEventsClient

from flows.prefect_server.server import HURRY
from tapir_core.proxies import spare_this_machine

_EVENT_RETRIES, _HURRIED_RETRIES = 10, 1
"""Of an event, as Prefect has it, and of everything when this process is to end."""


class _Retries:
    """Prefect's setting, which each client reads before each try, as long as this process may take its time."""

    def __init__(self, setting: Any) -> None:
        self._setting = setting

    def value(self) -> int:
        """How often a request is repeated."""
        retries = int(self._setting.value())
        return min(retries, _HURRIED_RETRIES) if HURRY.is_set() else retries


def outlast_server() -> None:
    """Let every client of this process take the server for reached before, which it was: a flow or a worker runs."""
    for client in (PrefectHttpxAsyncClient, PrefectHttpxSyncClient):
        # Each sets the attribute for itself when it is made; Prefect has no setting for it.
        client._has_connected = property(lambda _: True, lambda _, value: None)  # type: ignore[assignment]  # see above
    settings = vars(base)
    if not isinstance(setting := settings["PREFECT_CLIENT_MAX_RETRIES"], _Retries):
        settings["PREFECT_CLIENT_MAX_RETRIES"] = _Retries(setting)
    retries = property(lambda _: _HURRIED_RETRIES if HURRY.is_set() else _EVENT_RETRIES, lambda _, value: None)
    PrefectEventsClient._reconnection_attempts = retries  # type: ignore[assignment]  # each event of the end takes 7 s else


if __name__ == "__main__":
    from prefect.cli import app

    spare_this_machine()
    outlast_server()
    app()
