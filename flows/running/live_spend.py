"""How far a flow run is and what it spends, while it works: one progress artifact in Prefect's UI, changed in place.

The bar counts stages; the table below it holds rows, rate and time left of the stages at work, calls, tokens and USD,
and the share of each cap. Shown by a thread of its own: a server that is away is neither waited for nor an error.
"""

import contextvars
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import cast
from uuid import UUID

from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.context import FlowRunContext

from tapir_core.calls import LiveSpend, Spend
from tapir_core.calls.budget import DRIVING, UNPAID
from tapir_core.config import Caps
from tapir_core.reporting.page import Table, markdown_table
from tapir_core.run_folder import RunFolder, RunRef
from tapir_core.stages import StageAt
from tapir_core.summary.formats import NOTHING, count, duration, number, percent
from tasks.artifacts import artifact_key
from tasks.progress import StageProgress
from tasks.runtime import current

_SECONDS = 5.0
"""Between two looks at the beginning; later a hundredth of the time that has passed, at most a minute."""
_MOST_SECONDS = 60.0
_LAST_SECONDS = 3.0
"""For the last look, at the end of the flow run."""


@contextmanager
def live_spend(ref: RunRef, stages: Sequence[StageAt], *, whole: bool = True) -> Iterator[None]:
    """Show the block's progress through ``stages`` in the flow run at work; nothing happens outside of one.

    ``whole``: the block is to do all of them.
    """
    if FlowRunContext.get() is None:
        yield
        return
    runtime, ended, all_done = current(RunFolder(ref)), threading.Event(), False
    artifact = _Artifact(artifact_key(ref.name, "spend"))

    def show() -> None:
        working, calls, caps = runtime.progress.stages(), runtime.calls, runtime.config.budget
        share = 1.0 if all_done else share_done(working, stages)
        artifact.show(100 * share, f"Run {ref.name}\n\n{spend_card(working, calls.spend(), calls.paid(), caps)}")

    def follow() -> None:
        began, is_last = time.monotonic(), False
        while True:
            # Whatever keeps a look from being shown, a server or a store that is away, ends no run.
            with suppress(Exception):
                show()
            if is_last:
                return
            is_last = ended.wait(min(max(_SECONDS, (time.monotonic() - began) / 100), _MOST_SECONDS))

    following = contextvars.copy_context().run
    thread = threading.Thread(target=following, args=(follow,), name="tapir-live-spend", daemon=True)
    thread.start()
    try:
        yield
        all_done = whole
    finally:
        ended.set()
        thread.join(_LAST_SECONDS)


def share_done(working: Sequence[StageProgress], stages: Sequence[StageAt]) -> float:
    """How far along ``stages`` the last of those that began is, as a share (0–1); stages that are none of them count 0.

    A step of an expansion wave counts as its expansion's beginning.
    """
    places = {at: place for place, at in enumerate(stages)}
    shares = [0.0]
    for stage in working:
        place = places.get(stage.at.whole)
        done, whole = (stage.rows_done, stage.rows) if stage.rows else (stage.shards_done, stage.shards)
        fraction = 0.0 if stage.at.wave else 1.0 if stage.ended else done / max(1, whole)
        shares += [] if place is None else [(place + fraction) / len(stages)]
    return min(1.0, max(shares))


def spend_card(working: Sequence[StageProgress], live: LiveSpend, paid: Mapping[str, Spend], caps: Caps) -> str:
    """In Markdown: the stages at work, what this start asked, what the run has paid for, the share of each cap."""
    at_work = [stage for stage in working if stage.ended is None]
    rows = tuple((str(stage.at), *_rows_cells(stage), stage.note) for stage in at_work)
    stages = Table("Stages", ("Stage at work", "Rows", "Rows/s", "Missing", "Left", ""), rows)
    whole = sum((each for name, each in paid.items() if name not in (DRIVING, UNPAID)), Spend())
    hours = paid.get(DRIVING, Spend()).seconds / 3600
    tokens = whole.prompt_tokens + whole.completion_tokens
    figures = (
        ("Calls", count(live.sent), count(whole.requests), _of(whole.requests, caps.requests)),
        ("From the store", count(live.stored), "", ""),
        ("Tokens", count(live.prompt_tokens + live.completion_tokens), count(tokens), _of(tokens, caps.tokens)),
        ("USD", number(live.usd), number(whole.usd), _of(whole.usd, caps.usd)),
        ("Hours of work", "", number(hours), _of(hours, caps.hours)),
    )
    columns = ("", "This start, student included", "All starts, teacher and judge", "Of the cap")
    parts = [markdown_table(stages)] if rows else []
    return "\n\n".join([*parts, markdown_table(Table("Spend", columns, figures))])


class _Artifact:
    """The artifact of one flow run, which changes in place."""

    def __init__(self, key: str) -> None:
        self._key = key
        self._id: UUID | None = None
        self._shown: tuple[float, str] | None = None

    def show(self, percent_done: float, card: str) -> None:
        """Sent when it differs from what is shown."""
        wanted = round(percent_done, 1), card
        if wanted == self._shown:
            return
        if self._id is None:
            self._id = cast(UUID, create_progress_artifact(wanted[0], self._key, card))
        else:
            update_progress_artifact(self._id, *wanted)
        self._shown = wanted


def _rows_cells(stage: StageProgress) -> tuple[str, str, str, str]:
    if not stage.rows:
        return NOTHING, NOTHING, NOTHING, NOTHING
    rate = stage.rows_done / stage.seconds if stage.seconds else 0.0
    left = duration((stage.rows - stage.rows_done) / rate) if rate else NOTHING
    return f"{count(stage.rows_done)} of {count(stage.rows)}", number(rate, 1), count(stage.missing), left


def _of(used: float, cap: float | None) -> str:
    return f"{percent(used / cap)} of {cap:g}" if cap else ""
