"""A Prefect server that is away for a while, as in a restart, ends no flow run of ours.

Prefect's client asks again what a server does not answer (`PREFECT_CLIENT_MAX_RETRIES`), but one that has never reached
the server gives up at the first refused connection. Prefect makes such clients all the time while a flow works: for
each new set of tags, for child flows, for concurrency limits.
"""

from prefect.client.base import PrefectHttpxAsyncClient, PrefectHttpxSyncClient

__all__ = ["outlast_server"]


def outlast_server() -> None:
    """Let every client of this process take the server for reached before, which it was: a flow of ours runs."""
    for client in (PrefectHttpxAsyncClient, PrefectHttpxSyncClient):
        # Each sets the attribute for itself when it is made; Prefect has no setting for it.
        client._has_connected = property(lambda _: True, lambda _, value: None)  # type: ignore[assignment]  # see above
