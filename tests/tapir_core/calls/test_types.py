import pytest

from tapir_core.calls import Endpoint


@pytest.mark.parametrize(
    ("fields", "place"),
    [
        ({"api_key_env": "TEACHER_KEY"}, "the environment variable TEACHER_KEY"),
        ({"api_key_file": "/run/secrets/teacher"}, "the file /run/secrets/teacher"),
        ({"api_key_env": "TEACHER_KEY", "api_key_file": "/run/secrets/teacher"}, "the file /run/secrets/teacher"),
    ],
)
def test_a_refused_key_is_mended_where_it_came_from(fields: dict[str, str], place: str):
    assert Endpoint("http://127.0.0.1/v1", 1, **fields).key_remedy == f"Put a key that is valid there into {place}"


def test_without_a_key_the_remedy_names_both_settings():
    remedy = Endpoint("http://127.0.0.1/v1", 1).key_remedy
    assert "api_key_env" in remedy
    assert "api_key_file" in remedy
