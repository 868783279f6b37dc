"""Keys stay in the environment: a provider repeats them wherever it can, and nothing left behind shows one.

Searched are the run root with the stores and Prefect's database, home and scratch folders, all output, and the
arguments of every process. The student's engine and training do not run here; they are given no key.
"""

import json
from collections import Counter

import pytest

from tapir_core.standin.rules import Behaviour
from tapir_core.standin.server import reply_to_json
from tests.acceptance.command_line import Project
from tests.acceptance.leaks import arguments_with, find_leaks, spellings
from tests.acceptance.processes import DEADLINE_SECONDS
from tests.doubles.provider import FakeProvider, Status
from tests.harness.watches import ArgumentWatch

pytestmark = pytest.mark.slow

TEACHER_KEY = "sk-acceptance/teacher+0123456789abcdefghijkl=="
JUDGE_KEY = "sk-acceptance-judge-ABCDEFGHIJKLMNOPQRSTUVWXYZ"
KEYS = (TEACHER_KEY, JUDGE_KEY)


class Blabber:
    """The stand-in's replies, with the caller's key in their text, in other fields, in headers and in errors."""

    def __init__(self):
        self.asked = Counter()
        self.keys = set()

    def __call__(self, call):
        key = call.headers["Authorization"].removeprefix("Bearer ")
        self.keys.add(key)
        self.asked[call.prompt] += 1
        headers = {"x-request-id": key, "x-ratelimit-limit-requests": key, "Set-Cookie": f"key={key}"}
        # Each prompt in four has trouble first.
        trouble = len(call.prompt) % 4 if self.asked[call.prompt] == 1 else 0
        if trouble == 1:
            return Status(500, {"error": {"message": f"no luck with Bearer {key}", "param": key}}, headers)
        if trouble == 2:
            return Status(429, f"slow down, {key}", {**headers, "Retry-After": "0.1"})
        if trouble == 3:
            return Status(200, f'{{"choices": "{key}', headers)
        body = reply_to_json(call.body, Behaviour()).body
        message = body["choices"][0]["message"]
        if message["content"]:
            message["content"] = f"(asked with {key})\n{message['content']}"
        body |= {"echo": {key: [key]}, "id": key}
        return Status(200, spell(body, how=len(call.prompt) % 3), headers)


def spell(body, *, how):
    """JSON as different providers write it: plain, with escaped slashes, with every character of keys escaped."""
    text = json.dumps(body)
    if how == 1:
        return text.replace("/", "\\/")
    if how == 2:
        for key in KEYS:
            text = text.replace(key, "".join(f"\\u{ord(each):04X}" for each in key))
    return text


@pytest.fixture
def open_project(tmp_path, tmp_path_factory):
    """A project with one key in the environment and one in a file; its home and scratch folders are searched too."""
    key_file = tmp_path_factory.mktemp("keys") / "judge"
    key_file.write_text(f"{JUDGE_KEY}\n")

    def open_at(base_url, *, prefect_api="", **more):
        for name in ("home", "scratch"):
            (tmp_path / name).mkdir()
        environment = {"ACCEPTANCE_TEACHER": TEACHER_KEY}
        folders = {"HOME": str(tmp_path / "home"), "TMPDIR": str(tmp_path / "scratch")}
        loud = {"PREFECT_LOGGING_LEVEL": "DEBUG", "PREFECT_LOGGING_ROOT_LEVEL": "DEBUG"}
        settings = {"calls.backoff_seconds": "0.05"}
        places = {"teacher": 'api_key_env = "ACCEPTANCE_TEACHER"', "judge": f'api_key_file = "{key_file}"'}
        for role, place in places.items():
            settings[f"{role}.endpoint"] = (
                f'{{ type = "openai", base_url = "{base_url}", model = "standin-{role}", '
                f'identity = "blabber", {place} }}'
            )
        environment |= {**folders, **loud, "PREFECT_API_URL": prefect_api}
        return Project(tmp_path, {**settings, **more}, environment)

    return open_at


def finish(process, *, code, log):
    """Wait for a command; its output goes where everything is searched."""
    out, err = process.communicate(timeout=DEADLINE_SECONDS)
    assert process.returncode == code, f"{out[-3000:]}\n{err[-3000:]}"
    with log.open("a") as file:
        file.write(out + err)


def test_a_search_finds_what_it_should(tmp_path):
    for number, spelling in enumerate(spellings(TEACHER_KEY)):
        (tmp_path / f"{number}.bin").write_bytes(b"before" + spelling + b"after")
    assert len(find_leaks(tmp_path, [TEACHER_KEY])) >= len(spellings(TEACHER_KEY))
    assert find_leaks(tmp_path, [JUDGE_KEY]) == []


def test_a_run_whose_provider_repeats_the_keys_leaves_none_behind(tmp_path, open_project, lay_prefect_database):
    blabber, log = Blabber(), tmp_path / "output.txt"
    with FakeProvider(blabber) as provider, ArgumentWatch() as watch:
        project = open_project(provider.base_url)
        lay_prefect_database(project.root)
        finish(project.start_run(), code=0, log=log)
        check = project.start("judge-check", *project.configured(), "--pairs", "2", "--json")
        finish(check, code=0, log=log)
        root = ("--root", str(project.root))
        for words in (("report", "test", *root), ("status", "test", *root), ("store", "stats", *root)):
            finish(project.start(*words), code=0, log=log)
        copied = (str(project.root / ".tapir/store.sqlite"), str(tmp_path / "copy.sqlite"))
        finish(project.start("store", "copy", *copied), code=0, log=log)
    assert blabber.keys == set(KEYS)
    assert max(blabber.asked.values()) > 1
    assert find_leaks(project.root, ["[key]"]), "what is searched holds the replies"
    assert find_leaks(tmp_path, KEYS) == []
    assert len(watch.seen) > 4
    assert arguments_with(watch.seen, KEYS) == []


@pytest.mark.parametrize("status", [400, 401, 404, 500])
def test_a_run_that_meets_nothing_but_errors_with_the_key_shows_it_to_nobody(
    tmp_path, open_project, standing_prefect, status
):
    def refuse(call):
        key = call.headers["Authorization"].removeprefix("Bearer ")
        return Status(status, {"error": {"message": f"This cannot be done with {key}.", "code": key}}, {"x-key": key})

    with FakeProvider(refuse) as provider, ArgumentWatch() as watch:
        settings = {"calls.max_attempts": "1", "calls.shard_retries": "0"}
        project = open_project(provider.base_url, prefect_api=standing_prefect.api, **settings)
        driver = project.start_run()
        out, err = driver.communicate(timeout=DEADLINE_SECONDS)
        (tmp_path / "output.txt").write_text(out + err)
    assert driver.returncode != 0
    assert ("max_unanswered_share" in err) == (status == 400), "a wrong request is its row's own failure, and all fail"
    assert find_leaks(tmp_path, KEYS) == []
    assert find_leaks(standing_prefect.root, [str(project.root)]), "what is searched holds the run"
    assert find_leaks(standing_prefect.root, KEYS) == []
    assert arguments_with(watch.seen, KEYS) == []
