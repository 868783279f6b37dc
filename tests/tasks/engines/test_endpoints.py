"""What the endpoints of a run have in common."""

import socket
from pathlib import Path

import pytest

from tapir_core.calls import Answer, AnswerStore, CallEngine, Endpoint, EndpointSource
from tapir_core.calls.client import timeout_of
from tapir_core.config import CallsConfig, OpenAIEndpoint, StudentConfig, VllmEndpoint
from tapir_core.errors import ConfigError, MissingPrerequisite
from tasks.engines import machine
from tasks.engines.endpoints import Endpoints, endpoint_source
from tasks.engines.student_server import Student, Students
from tests.doubles.provider import FakeProvider, RecordedCall, Text, make_request


def test_a_model_that_cannot_be_served_is_named_by_the_field_of_its_endpoint(tmp_path: Path) -> None:
    said: list[str] = []
    endpoints = Endpoints(8, lambda name: tmp_path / name, str(tmp_path), report=said.append)
    (tmp_path / "empty").mkdir()
    source = endpoint_source(VllmEndpoint(model=str(tmp_path / "empty")), endpoints, "judge.endpoint")
    with pytest.raises(ConfigError, match=r"judge\.endpoint\.model = '.*empty'.*has no config\.json") as raised:
        source()
    assert "set judge.endpoint.chat_template" in str(raised.value)
    assert said == [f"preparing {tmp_path / 'empty'}"]
    endpoints.close()


def openai_source(base_url: str, tmp_path: Path) -> EndpointSource:
    endpoint = OpenAIEndpoint(
        base_url=base_url,
        model="m",
        api_key_env=None,
        query={"sig": {"env": "A_SIGNATURE"}, "api-version": "1"},
        headers={"X-Team": {"env": "A_TEAM"}},
        extra_body={"user": {"id": [{"env": "A_USER"}], "plain": True}},
    )
    return endpoint_source(endpoint, Endpoints(8, lambda name: tmp_path / name, str(tmp_path)), "teacher.endpoint")


@pytest.mark.parametrize(
    ("address", "seed", "sent"),
    [
        ("127.0.0.1", None, False),
        ("127.0.0.1", True, True),
        ("a.provider.com", None, True),
        ("a.provider.com", False, False),
    ],
)
def test_what_may_be_one_processor_is_sent_no_seed_unless_told_and_little_at_first(
    tmp_path: Path, address: str, seed: bool | None, sent: bool
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as there:
        here = f"http://127.0.0.1:{there.getsockname()[1]}"
        endpoint = OpenAIEndpoint(
            base_url=f"{here}/v1" if address == "127.0.0.1" else f"https://{address}/v1",
            proxy=None if address == "127.0.0.1" else here,
            model="m",
            api_key_env=None,
            seed=seed,
        )
        endpoints = Endpoints(64, lambda name: tmp_path / name, str(tmp_path))
        given = endpoint_source(endpoint, endpoints, "teacher.endpoint")()
    assert (given.seed, given.is_slow) == (sent, address == "127.0.0.1")
    assert timeout_of(given, CallsConfig()) == (900 if given.is_slow else 120)
    assert timeout_of(given, CallsConfig(timeout_seconds=7)) == 7


def test_what_variables_hold_goes_out_with_each_request_and_into_nothing_that_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = {"A_SIGNATURE": "signed/0123+456", "A_TEAM": "team-secret-9", "A_USER": "user-secret-7"}
    for name, value in held.items():
        monkeypatch.setenv(name, value)

    def blab(call: RecordedCall) -> Text:
        return Text(f"{call.body['user']} of {call.headers['X-Team']} has {held['A_SIGNATURE']}")

    query = {"sig": held["A_SIGNATURE"], "api-version": "1"}
    with FakeProvider(blab, query=query) as provider:
        source = openai_source(provider.base_url, tmp_path)
        url = f"sqlite:///{tmp_path}/store.sqlite"
        with CallEngine(AnswerStore(url), CallsConfig(), run="a-run") as engine:
            [outcome] = engine.ask([make_request()], source)
        assert provider.calls[0].body["user"] == {"id": ["user-secret-7"], "plain": True}
    assert isinstance(outcome, Answer)
    assert outcome.text == "{'id': ['[key]'], 'plain': True} of [key] has [key]"
    kept = b"".join(each.read_bytes() for each in tmp_path.iterdir() if each.is_file())
    assert not [value for value in held.values() if value.encode() in kept]
    assert not [value for value in held.values() if value in repr(source())]


def test_a_variable_that_is_not_set_is_named_with_its_field(tmp_path: Path) -> None:
    with pytest.raises(MissingPrerequisite, match=r"teacher\.endpoint\.headers\.X-Team names .*'A_TEAM', which is not"):
        openai_source("http://127.0.0.1:9/v1", tmp_path)


STUDENT = Student(0, Path(), "")


class Served(Students):
    def __init__(self, name: str, events: list[str], needed: int = 0) -> None:
        super().__init__(StudentConfig(), Path(), lambda _: None)
        self._name, self._events, self._needed = name, events, needed

    def endpoint(self, _student: Student) -> Endpoint:
        self._events.append(f"{self._name} is asked")
        return Endpoint(f"http://{self._name}", 1)

    def needs(self, _student: Student) -> int:
        return self._needed

    def rest(self) -> None:
        self._events.append(f"{self._name} rests")

    def stop(self) -> None:
        self._events.append(f"{self._name} ends")


@pytest.fixture
def events() -> list[str]:
    return []


@pytest.fixture
def endpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Endpoints:
    monkeypatch.setattr(machine, "free_memory", lambda: 10)
    return Endpoints(8, lambda name: tmp_path / name, str(tmp_path))


def test_another_model_answers_when_the_last_rests_and_the_same_one_goes_on(
    endpoints: Endpoints, events: list[str]
) -> None:
    teacher, student = Served("teacher", events, 10), Served("student", events, 10)
    for served in (teacher, teacher, student):
        endpoints.in_turn(served, STUDENT)
    endpoints.end_turn()
    endpoints.end_turn()
    endpoints.in_turn(student, STUDENT)
    assert events == [
        *("teacher is asked", "teacher is asked", "teacher rests"),
        *("student is asked", "student rests", "student is asked"),
    ]


def test_a_server_that_rests_is_ended_where_the_next_one_does_not_fit_beside_it(
    endpoints: Endpoints, events: list[str]
) -> None:
    teacher, student = Served("teacher", events, 11), Served("student", events, 11)
    for served in (teacher, student, teacher):
        endpoints.in_turn(served, STUDENT)
    assert events == [
        *("teacher is asked", "teacher rests", "teacher ends"),
        *("student is asked", "student rests", "student ends", "teacher is asked"),
    ]


@pytest.mark.parametrize(("needed", "ends"), [(10, False), (11, True), (None, True)])
def test_what_rests_is_ended_where_it_leaves_a_training_too_little(
    endpoints: Endpoints, events: list[str], needed: int | None, ends: bool
) -> None:
    teacher, student = Served("teacher", events), Served("student", events)
    for served in (teacher, student):
        endpoints.in_turn(served, STUDENT)
    endpoints.free(needed)
    assert events[4:] == (["teacher ends", "student ends"] if ends else [])
    endpoints.free(None)
    assert sorted(events[4:]) == ["student ends", "teacher ends"], "once"
