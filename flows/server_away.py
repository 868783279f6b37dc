"""A Prefect server that is away for a while, as in a restart, ends no flow run of ours and no worker.

Prefect's client asks again what a server does not answer (`PREFECT_CLIENT_MAX_RETRIES`), but one that has never reached
the server gives up at the first refused connection. Prefect makes such clients all the time: a flow for each new set of
tags, for child flows and concurrency limits, a worker for what tells it that a flow run is to be cancelled. Measured
with Prefect 3.8.8 and three tries, at an address where nobody listens: such a client gives up at its first try, in less
than two seconds, one that has reached its server after 20. No setting of Prefect says which of the two a client is.

``python -m flows.server_away …`` is Prefect's own command line with that fixed; workers are started with it.
"""

from prefect.client.base import PrefectHttpxAsyncClient, PrefectHttpxSyncClient

from tapir_core.proxies import spare_this_machine


def outlast_server() -> None:
    """Let every client of this process take the server for reached before, which it was: a flow or a worker runs."""
    for client in (PrefectHttpxAsyncClient, PrefectHttpxSyncClient):
        # Each sets the attribute for itself when it is made; Prefect has no setting for it.
        client._has_connected = property(lambda _: True, lambda _, value: None)  # type: ignore[assignment]  # see above


if __name__ == "__main__":
    from prefect.cli import app

    spare_this_machine()
    outlast_server()
    app()
