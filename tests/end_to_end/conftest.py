import hashlib

import pytest

from tapir_core.standin.rules import Behaviour, judge, read_ask
from tapir_core.standin.server import parse_chat
from tasks.engines.tiny_student import CHAT_TEMPLATE
from tests.doubles.provider import FakeProvider, Text
from tests.end_to_end.project import Project
from tests.harness.stand_ins import endpoint
from tests.students import make_tiny_students, needs_student_env


def pytest_collection_modifyitems(items):
    """Everything here starts real engines: slow, and skipped where the student's environment is not built."""
    for item in items:
        if "end_to_end" in item.nodeid:
            item.add_marker(pytest.mark.slow)
            item.add_marker(needs_student_env)


@pytest.fixture(scope="session")
def tiny_students(tmp_path_factory):
    """Two backbones of different weights."""
    return make_tiny_students(tmp_path_factory.mktemp("students"), 2)


def judge_now_and_then(call):
    """The stand-in's verdict, but no verdict at all on about one prompt in sixteen, and always the same ones."""
    if hashlib.sha256(call.prompt.encode()).digest()[0] < 16:
        return Text("Both answers have their merits.")
    chat = parse_chat(call.body)
    ask = read_ask(chat.messages, chat.seed)
    return Text(judge(ask, Behaviour()))


@pytest.fixture(scope="session")
def unsteady_judge():
    """A judge that leaves some rows unscored."""
    with FakeProvider(judge_now_and_then) as provider:
        yield provider


@pytest.fixture(scope="session")
def own_template(tmp_path_factory):
    """A chat template that says more than the backbones' does."""
    file = tmp_path_factory.mktemp("template") / "brief.jinja"
    file.write_text("<|start|>system\nBe brief.<|end|>\n" + CHAT_TEMPLATE)
    return file


@pytest.fixture(scope="session")
def project(tmp_path_factory, tiny_students, own_template, unsteady_judge, standing_prefect):
    """A run root on which one undisturbed run is done, with some verdicts that could not be read.

    Its students have a chat template of their own, in place of their backbones'. It brought its own Prefect server; the
    commands that tests add to it share one.
    """
    judge = endpoint(unsteady_judge.base_url, "standin-judge")
    settings = {"judge.endpoint": judge, "judge.reasks": "0", "student.chat_template": str(own_template)}
    project = Project(tmp_path_factory.mktemp("runs"), tiny_students[0], settings)
    project.output = project.run("first").stdout
    project.prefect_api = standing_prefect.api
    return project
