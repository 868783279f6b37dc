"""Which rows of the store a command works on: by role, model, identity, run, status and age."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import ColumnElement

from tapir_core.calls.store_tables import answers
from tapir_core.errors import ConfigError

__all__ = ["RowFilter", "read_age", "read_moment"]

UNITS = {"h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}


@dataclass(frozen=True, slots=True)
class RowFilter:
    """Rows that meet every condition; a condition left out is met by all."""

    roles: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    identities: tuple[str, ...] = ()
    runs: tuple[str, ...] = ()
    """Runs that asked first."""
    statuses: tuple[str, ...] = ()
    """`answer`, or kinds of terminal failures."""
    finish_reasons: tuple[str, ...] = ()
    """Why answers ended: `stop`, or `length` where they were cut off."""
    since: datetime | None = None
    """UTC; rows of this moment or later."""
    before: datetime | None = None
    """UTC; rows before this moment."""

    @property
    def is_empty(self) -> bool:
        """True when every row meets it."""
        return self == RowFilter()

    def conditions(self) -> list[ColumnElement[bool]]:
        """The conditions of the filter in SQL."""
        columns = answers.c
        listed = {
            columns.role: self.roles,
            columns.model: self.models,
            columns.identity: self.identities,
            columns.run: self.runs,
            columns.status: self.statuses,
            columns.finish_reason: self.finish_reasons,
        }
        found: list[ColumnElement[bool]] = [column.in_(values) for column, values in listed.items() if values]
        if self.since is not None:
            found.append(columns.created >= self.since)
        if self.before is not None:
            found.append(columns.created < self.before)
        return found

    def as_json(self) -> dict[str, object]:
        """The conditions that are set, for a manifest."""
        listed = {
            "roles": self.roles,
            "models": self.models,
            "identities": self.identities,
            "runs": self.runs,
            "statuses": self.statuses,
            "finish_reasons": self.finish_reasons,
        }
        times = {"since": self.since, "before": self.before}
        return {
            **{name: list(values) for name, values in listed.items() if values},
            **{name: moment.isoformat() for name, moment in times.items() if moment is not None},
        }


def read_age(text: str) -> timedelta:
    """An age such as `12h`, `30d` or `8w`.

    Raises:
        ConfigError: it is none.
    """
    match = re.fullmatch(r"(\d{1,4})([hdw])", text.strip())
    if match is None:
        raise ConfigError(f"{text!r} is no age; write it as 12h, 30d or 8w")
    return int(match[1]) * UNITS[match[2]]


def read_moment(text: str, *, now: datetime) -> datetime:
    """A date (`2026-11-01`), a date and time, or an age before ``now``; as UTC without a zone, as the store has it.

    Raises:
        ConfigError: it is none of them.
    """
    if re.fullmatch(r"\d+[hdw]", text.strip()):
        return _as_stored(now - read_age(text))
    try:
        return _as_stored(datetime.fromisoformat(text.strip()))
    except ValueError as exc:
        raise ConfigError(f"{text!r} is no moment; write it as 2026-11-01, 2026-11-01T12:00 (UTC) or 30d") from exc


def _as_stored(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(tzinfo=None) if moment.tzinfo else moment
