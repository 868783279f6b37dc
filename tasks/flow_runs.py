"""Flow runs that a run starts beside its own, each of a deployment on the Prefect server of this process.

They are no subflows: they outlive who started them, and are known again by an idempotency key or a tag. What goes wrong
between here and that server becomes an error of ours.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterTags
from prefect.client.schemas.objects import FlowRun, State
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.settings import get_current_settings

from tapir_core.errors import EngineError, MissingPrerequisite


@dataclass(frozen=True, slots=True)
class Deployment:
    """A deployment whose flow runs a run starts and looks at.

    Each method raises MissingPrerequisite when the server lacks the deployment, and EngineError when it does not do
    what is asked.
    """

    name: str
    """Flow and deployment: ``flow/deployment``."""
    lacking: str
    """What is said where the server lacks it: what needs it, and the remedy; ``{server}`` is the server's address."""
    away: str
    """What is said after the fault of a server that does not do what is asked: what becomes of the run."""

    def check(self) -> None:
        """Look whether it is there."""
        with self._client() as client:
            client.read_deployment_by_name(self.name)

    def start(self, key: str, parameters: dict[str, Any], *, run_name: str, tags: Sequence[str]) -> FlowRun:
        """The flow run with this idempotency key: the one that is there, or one that waits for a worker from now on."""
        with self._translated():
            flow_run = run_deployment(
                self.name,
                parameters=parameters,
                flow_run_name=run_name,
                tags=tags,
                idempotency_key=key,
                timeout=0,
                as_subflow=False,
            )
        assert isinstance(flow_run, FlowRun), "asked without an event loop"
        return flow_run

    def look(self, flow_run: str) -> FlowRun | None:
        """The flow run with this id as it stands now; nothing when it was deleted."""
        with self._client() as client, suppress(ObjectNotFound):
            return client.read_flow_run(UUID(flow_run))
        return None

    def find(self, tag: str) -> FlowRun | None:
        """The flow run that carries ``tag``, which no other does."""
        tagged = FlowRunFilter(tags=FlowRunFilterTags(all_=[tag]))
        with self._client() as client:
            return next(iter(client.read_flow_runs(flow_run_filter=tagged, limit=1)), None)

    def set_state(self, flow_run: str, state: State[Any]) -> None:
        """Set a flow run's state, unless it was deleted or Prefect's rules speak against it, as they do at its end."""
        with self._client() as client, suppress(ObjectNotFound):
            client.set_flow_run_state(UUID(flow_run), state)

    @contextmanager
    def _client(self) -> Iterator[SyncPrefectClient]:
        with self._translated(), get_client(sync_client=True) as client:
            yield client

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except ObjectNotFound as error:
            raise MissingPrerequisite(self.lacking.format(server=get_current_settings().api.url)) from error
        except (httpx.HTTPError, PrefectHTTPStatusError) as error:
            raise EngineError(f"the Prefect server does not do what is asked ({error}); {self.away}") from error
