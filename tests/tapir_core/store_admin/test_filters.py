from datetime import datetime, timedelta

import pytest

from tapir_core.errors import ConfigError
from tapir_core.store_admin import read_age, rows_where


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


def test_a_filter_has_the_conditions_that_are_given_and_no_others():
    met = str(rows_where(role=["judge"], model=None, status=[], before=datetime(2026, 11, 1)))
    assert "answers.role IN" in met
    assert "answers.created <" in met
    assert "model" not in met
    assert "status" not in met
