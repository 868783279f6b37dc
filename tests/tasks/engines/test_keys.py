import pytest

from tapir_core.errors import MissingPrerequisite
from tasks.engines.endpoints import look_for
from tasks.engines.keys import api_key, hide_keys, keyless_environment
from tests.doubles.standin import StandinServer


def test_a_key_that_is_not_set_names_variable_and_remedy(monkeypatch):
    monkeypatch.delenv("SOME_KEY", raising=False)
    with pytest.raises(MissingPrerequisite, match=r"SOME_KEY.*export"):
        api_key("SOME_KEY", "teacher.endpoint")
    assert api_key(None, "field") is None
    assert api_key("", "field") is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OPENAI_API_KEY", "sesame"),
        ("HF_TOKEN", "sesame"),
        ("PGPASSWORD", "sesame"),
        ("AWS_ACCESS_KEY_ID", "sesame"),
        ("AWS_SECRET_ACCESS_KEY", "sesame"),
        ("AWS_SESSION_TOKEN", "sesame"),
        ("PREFECT_API_KEY", "sesame"),
        ("PREFECT_API_AUTH_STRING", "admin:sesame"),
        ("PREFECT_SERVER_API_AUTH_STRING", "admin:sesame"),
        ("PREFECT_SERVER_DATABASE_CONNECTION_URL", "postgresql+asyncpg://tapir:sesame@host/prefect"),
        ("PREFECT_CLIENT_CUSTOM_HEADERS", '{"Authorization": "Bearer sesame"}'),
        ("STORE_URL", "postgresql://tapir:p%40sesame@[::1]:5432/answers"),
        ("https_proxy", "http://me:sesame@proxy:3128"),
        ("oddly_named", "sesame"),
    ],
)
def test_no_child_gets_a_secret(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    if name == "oddly_named":
        api_key(name, "judge.endpoint")
    assert name not in keyless_environment()


SECRETS = """OPENAI_API_KEY_2 OPENAI_API_KEY2 openai_api_key OpenAI_ApiKey API_KEYS OPENAI_KEY_OLD DB_PASSWD DB_PASS
    DB_PWD PGPASSWORD SMTP_PASSWORD_1 SSH_PASSPHRASE GH_PAT PAT GITHUB_TOKEN github_token_ci HF_TOKEN
    HUGGING_FACE_HUB_TOKEN WANDB_API_KEY CLIENT_SECRET_ID CLIENT_SECRETS GOOGLE_APPLICATION_CREDENTIALS GCP_CREDENTIAL
    DB_CREDS BASIC_AUTH AUTH_HEADER HTTP_AUTHORIZATION SESSION_COOKIE SSH_AUTH_SOCK"""
HARMLESS = """PATH PYTHONPATH LD_LIBRARY_PATH HOME PWD OLDPWD TMPDIR LANG KEYBOARD KEYBOARD_LAYOUT XKB_KEYMAP
    TOKENIZERS_PARALLELISM HF_HOME HF_HUB_OFFLINE HF_ENDPOINT CUDA_VISIBLE_DEVICES OMP_NUM_THREADS NCCL_DEBUG
    VLLM_MAX_TOKENS_PER_EXPERT_FP4_MOE VLLM_SHARED_EXPERTS_STREAM_TOKEN_THRESHOLD
    VLLM_USE_V1 TORCH_COMPILE_DEBUG TRITON_CACHE_DIR NLTK_DATA SSL_CERT_FILE
    PATTERN COMPASS_HOME BYPASS_CACHE AUTHOR SECRETARY no_proxy"""


@pytest.mark.parametrize("name", SECRETS.split())
def test_a_name_that_holds_a_word_for_a_secret_stays_with_us(monkeypatch, name):
    monkeypatch.setenv(name, "sesame-open")
    assert name not in keyless_environment()
    assert hide_keys("it said sesame-open") == "it said [key]"


@pytest.mark.parametrize("name", HARMLESS.split())
def test_a_name_that_only_looks_like_a_secret_reaches_the_child(monkeypatch, name):
    monkeypatch.setenv(name, "some-value")
    assert keyless_environment()[name] == "some-value"
    assert hide_keys("it said some-value") == "it said some-value"


def test_a_child_gets_all_that_is_no_secret(monkeypatch):
    plain = {
        "CUDA_VISIBLE_DEVICES": "1",
        "no_proxy": "127.0.0.1",
        "http_proxy": "http://proxy:3128",
        "A_TIME": "10:5@6",
    }
    for name, value in plain.items():
        monkeypatch.setenv(name, value)
    given = keyless_environment()
    assert {name: given.get(name) for name in plain} == plain
    assert "PATH" in given


def test_an_address_where_nothing_listens_is_one_clear_error(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    with StandinServer() as server:
        assert look_for(server.base_url, "judge.endpoint") is None
    gone = look_for("http://127.0.0.1:9/v1", "judge.endpoint")
    assert "judge.endpoint.base_url" in str(gone)


@pytest.mark.parametrize(("variable", "own"), [("https_proxy", None), ("ALL_PROXY", None), ("A", "http://127.0.0.1:9")])
def test_where_a_proxy_stands_before_an_address_the_proxy_is_looked_at(monkeypatch, variable, own):
    monkeypatch.setenv(variable, "http://me:hush@127.0.0.1:9")
    gone = str(look_for("https://model.invalid/v1", "judge.endpoint", own))
    assert "through the proxy http://127.0.0.1:9" in gone
    assert (f"unset {variable}" in gone, "no_proxy" in gone) == (own is None, own is None)
    assert "hush" not in gone
    with StandinServer() as server:
        assert look_for(server.base_url, "judge.endpoint") is None
        assert look_for("https://model.invalid/v1", "judge.endpoint", server.base_url) is None


def test_a_key_in_a_file_is_read_without_its_line_break_and_comes_before_the_variable(tmp_path, monkeypatch):
    monkeypatch.setenv("SOME_KEY", "other")
    (tmp_path / "key").write_text("sk-in-a-file\n")
    assert api_key("SOME_KEY", "teacher.endpoint", file=str(tmp_path / "key")) == "sk-in-a-file"


@pytest.mark.parametrize("content", [None, "", " \n", b"\xff\xfe"])
def test_a_key_file_that_holds_no_key_is_named(tmp_path, content):
    file = tmp_path / "key"
    if content is not None:
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(MissingPrerequisite, match=r"teacher\.endpoint\.api_key_file = .*key"):
        api_key(None, "teacher.endpoint", file=str(file))
