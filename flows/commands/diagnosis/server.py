"""The Prefect server that runs are shown on, and what `tapir up` or `tapir deploy` put there.

Imports no Prefect before a look is made: its settings must stand in the environment before.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from flows.commands.diagnosis import Check, Finding, finding, told
from flows.prefect_server import (
    DEPLOYMENTS,
    living_server,
    named_server,
    own_settings,
    standing_server,
    worker_settings,
)
from flows.prefect_server.caretaker import POOLS
from tapir_core.paths import SERVER_RECORD, worker_log
from tapir_core.storage import on_this_machine

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

AUTOMATIONS = {
    "tapir: flow runs without a sign of life": "nothing notices a flow run whose worker was killed",
    "tapir: how a cancelled flow run goes on": "a cancelled flow run does not say how it goes on",
    "retry-a-run-that-stopped-in-judging": "a run that its judge stopped waits for *retry-judge* by hand",
    "retry-a-run-that-went-on-without-verdicts": "its verdicts wait for *retry-judge* by hand",
    "sweep-a-registered-backbone": "a backbone that is added waits for *sweep-backbones* by hand",
}
"""Automations and triggers of deployments, by their names on the server; what happens without each."""

OFF_AT_FIRST = ("retry-a-run-that-went-on-without-verdicts",)

_LIMIT_SECONDS = 45.0
"""The first look imports Prefect, which takes seconds."""

_LOGS = (
    "look at the server's log (.tapir/logs/prefect-server.log of the root); a server with a password wants "
    "PREFECT_API_AUTH_STRING"
)


Look = Callable[["SyncPrefectClient", str], Finding]
"""Of a server and the root whose server it is."""


def server_check(root: str) -> Check:
    """Whether a server stands, where one should."""
    return Check("Prefect server", lambda: _look_at_server(root), _LOGS, _LIMIT_SECONDS)


def server_parts(root: str) -> list[Check]:
    """Checks of what is on the server that stands; none where none stands."""
    looks: dict[str, Look] = {
        "work pools": _look_at_pools,
        "deployments": _look_at_deployments,
        "workers": _look_at_workers,
        "automations": _look_at_automations,
    }
    expected = looks if _is_named() or _is_own(root) else {}
    return [Check(part, partial(_ask_server, root, look), _LOGS, _LIMIT_SECONDS) for part, look in expected.items()]


def _is_named() -> bool:
    return bool(os.environ.get("PREFECT_API_URL"))


def _is_own(root: str) -> bool:
    """Whether the server of this root is the one of `tapir up`."""
    return not _is_named() and on_this_machine(root).exists(SERVER_RECORD)


def _look_at_server(root: str) -> Finding:
    if _is_own(root) and living_server(root) is None:
        return told(f"the one that `tapir up` started does not answer; `tapir up` starts it again; {_LOGS}")
    if not _is_own(root) and not _is_named():
        return Finding("", "ok", "none stands: `tapir run` brings its own, `tapir up` starts one that stays")
    api = standing_server(root)
    return _ask_server(root, lambda client, _: Finding("", "ok", f"{api}, Prefect {client.api_version()}"))


def _ask_server(root: str, look: Look) -> Finding:
    """What a look finds on the server that stands, whatever Prefect took for its address when it was imported."""
    # That it answers is seen by the check of the server.
    api = named_server(root) or standing_server(root)
    os.environ.update(own_settings(root))
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: api}), get_client(sync_client=True) as client:
        return look(client, root)


def _look_at_pools(client: "SyncPrefectClient", root: str) -> Finding:
    return _compare(root, POOLS, {each.name: each.is_paused for each in client.read_work_pools()})


def _look_at_deployments(client: "SyncPrefectClient", root: str) -> Finding:
    from flows.deploy import is_foreign, standing_deployments

    standing = standing_deployments(client, DEPLOYMENTS)
    if foreign := [name for name, each in standing.items() if is_foreign(each)]:
        return finding("foreign", names=foreign, remedy=_make(root))
    return _compare(root, DEPLOYMENTS, {name: each.paused for name, each in standing.items()})


def _compare(root: str, names: Sequence[str], is_paused: Mapping[str, bool]) -> Finding:
    """Whether all that is wanted is among what is there, and at work."""
    missing, paused = [name for name in names if name not in is_paused], [name for name in names if is_paused.get(name)]
    return finding("things", names=names, missing=missing, paused=paused, remedy=_make(root))


def _look_at_workers(client: "SyncPrefectClient", root: str) -> Finding:
    from flows.deploy import online_workers

    # Where there is no such pool, its own check says so.
    online = {pool: online_workers(client, pool) for pool in POOLS}
    lacking = [pool for pool, workers in online.items() if not workers]
    return finding(
        "workers",
        online=[name for workers in online.values() for name in workers],
        lacking=lacking,
        is_own=_is_own(root),
        logs=[*map(worker_log, lacking)],
        start=f"{worker_settings(root)} prefect worker start --type process",
    )


def _look_at_automations(client: "SyncPrefectClient", root: str) -> Finding:
    from flows.deploy import automations, standing_deployments, triggers_of

    found = [each for wanted in automations() for each in client.read_automations_by_name(wanted.name)]
    # Those of a deployment that was deleted may be left, and start nothing.
    found += [each for one in standing_deployments(client, DEPLOYMENTS).values() for each in triggers_of(client, one)]
    is_on = {each.name: each.enabled for each in found}
    off = [name for name in AUTOMATIONS if not is_on.get(name, True)]
    missing, paused = (
        [each for each in AUTOMATIONS if each not in is_on],
        [each for each in off if each not in OFF_AT_FIRST],
    )
    return finding("automations", wanted=AUTOMATIONS, missing=missing, paused=paused, off=off)


def _make(root: str) -> str:
    return f"`tapir {'up' if _is_own(root) else 'deploy'}` makes what is missing"
