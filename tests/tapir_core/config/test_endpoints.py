"""One address or several: what is taken, what is refused, and that no address with a key in it is ever shown."""

import json
from pathlib import Path

import pytest

from tapir_core.config import OpenAIEndpoint, RunConfig, environment_name
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


KEYS = [
    ("extra_body", "api_key", "sk-proj-0123456789abcdef"),
    ("extra_body", "provider.token", "0123456789-secret"),
    ("extra_body", "metadata.note", "hf_ABCDEFGHIJKLMNOPQRST"),
    ("extra_body", "anything", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln"),
    ("extra_body", "anything", "aB3dE5gH7jK9mN1pQ3sT5vX7zA9cE1gI"),
    ("query", "sig", "abc%2Fdef%3D0123456"),
    ("extra_body", "aws", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLE7KEY1"),
    ("query", "key", "AIzaSyA0123456789abcdefghij"),
    ("query", "sig", "c2lnbmF0dXJl0123"),
    ("query", "code", "0123456789abcdef0123456789abcdef"),
    ("headers", "X-Team-Token", "team-0123456789"),
    ("headers", "X-Any", "Bearer 0123456789"),
    ("headers", "Authorization", "Bearer x"),
]


@pytest.mark.parametrize(("field", "name", "key"), KEYS)
def test_a_text_that_looks_like_a_key_is_refused_and_not_shown(field: str, name: str, key: str, tmp_path: Path):
    with pytest.raises(ConfigError) as refused:
        load(tmp_path, f"teacher.endpoint.{field}.{name}={key}")
    assert key not in str(refused.value)
    assert name.rpartition(".")[2] in str(refused.value)
    assert "env" in str(refused.value)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("query", '{ api-version = "2024-10-21" }'),
        ("headers", '{ X-Title = "a study of teachers" }'),
        ("extra_body", "{ chat_template_kwargs = { enable_thinking = false } }"),
        ("extra_body", f'{{ user = "{"0123456789abcdef" * 4}", routing_key = "eu-west-1-frankfurt" }}'),
        ("extra_body", '{ system = "basic instructions", adapter = "MySupportMailAdapterVersion2024Final" }'),
        ("extra_body", '{ prompt_cache_key = "experiment-2026-11", eos_token = "<|im_end|>", max_tokens = 9 }'),
        ("extra_body", '{ provider = { order = ["meta-llama/Llama-3.3-70B-Instruct-Turbo"] }, stop = ["\\n\\n"] }'),
    ],
)
def test_what_only_sounds_like_a_key_is_taken(field: str, value: str, tmp_path: Path):
    assert load(tmp_path, f"teacher.endpoint.{field}={value}")


def test_of_a_variable_the_name_alone_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TEAM_KEY", "hush-hush-hush")
    config = load(tmp_path, 'teacher.endpoint.extra_body={ who = [{ env = "TEAM_KEY" }], key = { env = "TEAM_KEY" } }')
    assert '"env":"TEAM_KEY"' in resolved_json(config).replace(" ", "")
    assert "TEAM_KEY" in teacher(config).identity_for("teacher")
    assert "hush" not in resolved_json(config) + teacher(config).identity_for("teacher")
    assert load_resolved(resolved_json(config)) == config


@pytest.mark.parametrize("wrong", ["sk-0123456789abcdef", "no name", ""])
def test_what_stands_for_a_variable_has_to_be_its_name(wrong: str, tmp_path: Path):
    with pytest.raises(ConfigError, match="env") as refused:
        load(tmp_path, f'teacher.endpoint.query={{ key = {{ env = "{wrong}" }} }}')
    assert not wrong or wrong not in str(refused.value)


def test_a_field_that_is_called_env_stays_a_field(tmp_path: Path):
    config = load(tmp_path, 'teacher.endpoint.extra_body={ metadata = { env = "production" } }')
    assert environment_name(teacher(config).extra_body["metadata"]) is None
