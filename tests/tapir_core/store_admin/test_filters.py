from datetime import UTC, datetime, timedelta

import pytest

from tapir_core.errors import ConfigError
from tapir_core.store_admin import RowFilter, read_age, read_moment

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "age"),
    [("12h", timedelta(hours=12)), ("30d", timedelta(days=30)), ("8w", timedelta(weeks=8)), (" 0d ", timedelta(0))],
)
def test_an_age_has_a_number_and_a_unit(text: str, age: timedelta):
    assert read_age(text) == age


@pytest.mark.parametrize("text", ["", "30", "d", "-3d", "3.5d", "3 days", "30m", "99999d"])
def test_anything_else_is_no_age(text: str):
    with pytest.raises(ConfigError, match="12h, 30d or 8w"):
        read_age(text)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-11-01", datetime(2026, 11, 1)),
        ("2026-11-01T06:30", datetime(2026, 11, 1, 6, 30)),
        ("2026-11-01T06:30+02:00", datetime(2026, 11, 1, 4, 30)),
        ("7d", datetime(2026, 11, 13, 12)),
    ],
)
def test_a_moment_is_a_date_a_time_or_an_age_in_utc(text: str, moment: datetime):
    assert read_moment(text, now=NOW) == moment


@pytest.mark.parametrize("text", ["yesterday", "2026-13-01", "99999d"])
def test_anything_else_is_no_moment(text: str):
    with pytest.raises(ConfigError, match=repr(text)):
        read_moment(text, now=NOW)


def test_a_filter_says_what_is_set_and_nothing_else():
    assert RowFilter().conditions() == []
    assert RowFilter().as_json() == {}
    chosen = RowFilter(roles=("judge",), since=datetime(2026, 11, 1))
    assert len(chosen.conditions()) == 2
    assert chosen.as_json() == {"roles": ["judge"], "since": "2026-11-01T00:00:00"}
