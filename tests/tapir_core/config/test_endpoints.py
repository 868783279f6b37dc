"""One address or several: what is taken, what is refused, and that no address with a key in it is ever shown."""

import json
from pathlib import Path

import pytest

from tapir_core.config import OpenAIEndpoint, RunConfig
from tapir_core.config.load import load_config, load_resolved, resolved_json
from tapir_core.errors import ConfigError

FILE = """
[run]
name = "small"
[data.pool]
type = "standin"
[teacher.endpoint]
type = "openai"
model = "m"
identity = "i"
[judge.endpoint]
type = "standin"
"""


def load(folder: Path, *overrides: str) -> RunConfig:
    path = folder / "config.toml"
    path.write_text(FILE, encoding="utf-8")
    return load_config(path, overrides)


def teacher(config: RunConfig) -> OpenAIEndpoint:
    endpoint = config.teacher.endpoint
    assert isinstance(endpoint, OpenAIEndpoint)
    return endpoint


def test_one_address_is_a_text_and_several_are_a_list(tmp_path: Path):
    assert teacher(load(tmp_path)).base_urls == ("https://api.openai.com/v1",)
    one = teacher(load(tmp_path, "teacher.endpoint.base_url=http://a:1/v1/"))
    assert one.base_urls == ("http://a:1/v1",)
    several = teacher(load(tmp_path, 'teacher.endpoint.base_url=["http://a:1/v1", "http://b:1/v1/"]'))
    assert several.base_urls == ("http://a:1/v1", "http://b:1/v1")


def test_a_list_survives_the_resolved_configuration(tmp_path: Path):
    config = load(tmp_path, 'teacher.endpoint.base_url=["http://a:1/v1", "http://b:1/v1"]')
    text = resolved_json(config)
    assert json.loads(text)["teacher"]["endpoint"]["base_url"] == ["http://a:1/v1", "http://b:1/v1"]
    assert load_resolved(text) == config


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("[]", "is an empty list"),
        ('["http://a:1/v1", "http://a:1/v1"]', "names an address twice"),
        ('["http://a:1/v1", "b"]', "holds an address that is no web address"),
        ('["http://a:1/v1", "https://me:hush@h/v1"]', "holds an address that carries a user"),
        ('["hush", "https://me:hush@h/v1"]', "holds an address that is no web address"),
        ('["http://a:1/v1", 3]', "holds an address that is no text"),
        ("3", "is no text"),
        ("true", "is no text"),
        ('{a = "http://a:1/v1"}', "is no text"),
        ("https://me:hush@h/v1", "carries a user"),
        ("nonsense", "is no web address"),
    ],
)
def test_what_is_no_address_is_refused_at_its_field_and_a_secret_is_not_repeated(
    tmp_path: Path, value: str, problem: str
):
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, f"teacher.endpoint.base_url={value}")
    (found,) = caught.value.problems
    assert found.startswith("teacher.endpoint.base_url")
    assert problem in found
    assert "hush" not in found


def test_limits_per_minute_are_optional(tmp_path: Path):
    assert teacher(load(tmp_path)).requests_per_minute is None
    endpoint = teacher(load(tmp_path, "teacher.endpoint.requests_per_minute=500.0"))
    assert endpoint.requests_per_minute == 500.0
    assert teacher(load(tmp_path, "teacher.endpoint.tokens_per_minute=30000")).tokens_per_minute == 30000
    with pytest.raises(ConfigError, match="requests_per_minute"):
        load(tmp_path, "teacher.endpoint.requests_per_minute=0")


def test_live_calls_are_the_default_and_batches_stay_within_what_providers_allow(tmp_path: Path):
    assert teacher(load(tmp_path)).mode == "live"
    endpoint = teacher(load(tmp_path, "teacher.endpoint.mode=batch", "teacher.endpoint.batch.max_rows=500"))
    assert (endpoint.mode, endpoint.batch.max_rows, endpoint.batch.completion_window) == ("batch", 500, "24h")
    for wrong in ("mode=later", "batch.max_rows=50001", "batch.max_bytes=200000001", "batch.completion_window=soon"):
        with pytest.raises(ConfigError, match=wrong.partition("=")[0]):
            load(tmp_path, f"teacher.endpoint.{wrong}")
