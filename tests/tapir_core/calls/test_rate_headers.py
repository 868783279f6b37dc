"""Headers about limits per minute and pauses: two families, three ways to write a reset, and unreadable ones."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from tapir_core.calls.limits import RateLimit, read_rate_limits, read_retry_after

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
SENT = {"date": format_datetime(NOW, usegmt=True)}

OPENAI = {
    "x-ratelimit-limit-requests": "60",
    "x-ratelimit-limit-tokens": "150000",
    "x-ratelimit-remaining-requests": "59",
    "x-ratelimit-remaining-tokens": "149984",
    "x-ratelimit-reset-requests": "1s",
    "x-ratelimit-reset-tokens": "6m0s",
}
ANTHROPIC = {
    "anthropic-ratelimit-requests-limit": "4000",
    "anthropic-ratelimit-requests-remaining": "0",
    "anthropic-ratelimit-requests-reset": "2026-11-20T12:00:30Z",
    "anthropic-ratelimit-tokens-limit": "400000",
    "anthropic-ratelimit-tokens-remaining": "312000",
    "anthropic-ratelimit-tokens-reset": "2026-11-20T11:59:00Z",
}


def test_openais_headers_are_read():
    found = read_rate_limits(OPENAI)
    assert found == (RateLimit("requests", 59, 60, 1), RateLimit("tokens", 149984, 150000, 360))
    assert found[0].per_second == 1


def test_anthropics_headers_are_read_and_a_reset_in_the_past_is_now():
    found = read_rate_limits(ANTHROPIC | SENT)
    assert found == (RateLimit("requests", 0, 4000, 30), RateLimit("tokens", 312000, 400000, 0))
    assert found[1].per_second == 0


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("120ms", 0.12),
        ("6m0s", 360),
        ("1h2m3.5s", 3723.5),
        ("1d", 86400),
        ("250us", 0.00025),
        ("17", 17),
        ("0.5", 0.5),
        (" 2s ", 2),
        ("2026-11-20T12:01:00+00:00", 60),
        ("2026-11-20T12:01:00", 60),
        ("soon", 0),
        ("6m0", 0),
        ("-3", 0),
        ("", 0),
    ],
)
def test_a_reset_is_a_duration_a_number_or_a_date(text: str, seconds: float):
    headers = {"x-ratelimit-remaining-requests": "1", "x-ratelimit-reset-requests": text}
    (found,) = read_rate_limits(headers | SENT)
    assert found.reset_seconds == pytest.approx(seconds)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"x-ratelimit-remaining-requests": "many", "x-ratelimit-limit-requests": "60"},
        {"x-ratelimit-limit-requests": "60", "x-ratelimit-reset-requests": "1s"},
        {"x-ratelimit-remaining-tokens": "nan"},
    ],
)
def test_without_what_is_left_nothing_is_learned(headers: dict[str, str]):
    assert read_rate_limits(headers | SENT) == ()


@pytest.mark.parametrize(
    ("limit", "per_second"),
    [
        (RateLimit("requests", 30, 60, 15), 2),
        (RateLimit("requests", 60, 60, 15), 0),
        (RateLimit("requests", 30, 0, 15), 0),
        (RateLimit("requests", 30, 60), 0),
        (RateLimit("requests", 0, 0, 15), 0),
    ],
)
def test_how_fast_a_limit_fills_is_known_only_where_all_of_it_is_shown(limit: RateLimit, per_second: float):
    assert limit.per_second == per_second


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "6m0s"}, 360.0),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "0"}, 0.0),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after-ms": "250", "retry-after": "7"}, 0.25),
        ({"retry-after": format_datetime(NOW + timedelta(seconds=30), usegmt=True)}, 30.0),
        ({"retry-after": format_datetime(NOW - timedelta(seconds=30), usegmt=True)}, 0.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-3"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({}, None),
    ],
)
def test_retry_after_is_read_as_seconds_or_as_a_date(headers: dict[str, str], seconds: float | None):
    assert read_retry_after(headers | SENT) == seconds
