import time
from collections.abc import Iterator

import pytest

from tapir_core.calls import store_url
from tapir_core.errors import ConfigError
from tapir_core.prompts import PROMPT_NAMES, load_prompt
from tapir_core.run_folder import RunFolder, open_run
from tapir_core.stages import StageAt
from tapir_core.store_admin import open_existing, prune_answers, rows_where
from tasks._task import seal
from tasks.outcomes import Piece
from tasks.pool import label_shard, pool
from tasks.runtime import close_all
from tasks.teach import teach_shard
from tests.doubles.provider import FakeProvider, FakeReply, RecordedCall, Status, Text
from tests.run_config import make_config

LABEL, TEACH = StageAt("label"), StageAt("teach")
INGREDIENTS = {f"prompt:{name}": load_prompt(name).version for name in PROMPT_NAMES}


class Teacher:
    """Calls most requests wrong until it is fixed; it never names a task type."""

    def __init__(self) -> None:
        self.fixed = False
        self.says = Text("an answer")
        self.pause = 0.0

    def __call__(self, call: RecordedCall) -> FakeReply:
        time.sleep(self.pause)
        wrong = not self.fixed and sum(call.prompt.encode()) % 4
        return Status(400, {"error": {"message": "no such template"}}) if wrong else self.says


@pytest.fixture
def teacher() -> Teacher:
    return Teacher()


@pytest.fixture
def provider(teacher: Teacher) -> Iterator[FakeProvider]:
    with FakeProvider(teacher) as provider:
        yield provider


@pytest.fixture
def run(tmp_path, provider: FakeProvider) -> Iterator[RunFolder]:
    endpoint = {"type": "openai", "base_url": provider.base_url, "model": "m", "identity": "i", "api_key_env": ""}
    config = make_config(
        tmp_path,
        data={"pool": {"type": "standin", "rows": 80}},
        teacher={"endpoint": endpoint, "reasks": 0},
        calls={"concurrency": 4, "max_unanswered_share": 0.5},
    )
    run = open_run(config, INGREDIENTS)
    pool.fn(run.ref, StageAt("pool"))
    yield run
    close_all()


def test_a_pool_that_is_called_wrong_is_not_sealed_and_its_failures_can_be_forgotten(
    run: RunFolder, teacher: Teacher, provider: FakeProvider
) -> None:
    def teach() -> None:
        seal.fn(run.ref, TEACH, [teach_shard.fn(run.ref, TEACH, Piece(0, 1, 0, 40))], 0.0)

    with pytest.raises(ConfigError, match=r"teach: \d+ of 40 requests.* bad_request.*HTTP 400: no such template"):
        teach()
    assert run.holds(TEACH) is None
    teacher.fixed = True
    with pytest.raises(ConfigError):
        teach()
    assert len(provider.calls) == 40, "terminal failures are stored answers"

    forgotten = prune_answers(open_existing(store_url(run.config)), rows_where(role=["teach"], status=["bad_request"]))
    assert forgotten > 20
    teach()
    assert run.holds(TEACH) is not None
    assert len(provider.calls) == 40 + forgotten


def test_a_teacher_that_names_no_task_types_stops_the_run_at_its_labels(run: RunFolder, teacher: Teacher) -> None:
    teacher.fixed = True
    with pytest.raises(ConfigError, match=r"label: \d+ of \d+ requests.*no more is asked.*'no task type: an answer'"):
        label_shard.fn(run.ref, LABEL, Piece(0, 1, 0, 80))


def test_a_teacher_whose_answers_are_cut_off_is_not_asked_to_the_end_of_the_pool(
    run: RunFolder, teacher: Teacher, provider: FakeProvider
) -> None:
    teacher.fixed, teacher.says, teacher.pause = True, Text("I weigh …", finish_reason="length"), 0.02
    with pytest.raises(ConfigError, match=r"teach: \d+ of \d+ .* bad_reply.*no more is asked.*'cut_off: I weigh …'"):
        teach_shard.fn(run.ref, TEACH, Piece(0, 1, 0, 80))
    paid = len(provider.calls)
    assert 20 <= paid < 80
    close_all()
    with pytest.raises(ConfigError, match="no more is asked"):
        teach_shard.fn(run.ref, TEACH, Piece(0, 1, 0, 80))
    assert len(provider.calls) == paid, "what was in flight came in and is stored"


def test_a_teacher_that_is_given_up_in_one_stage_is_not_asked_in_another(
    run: RunFolder, teacher: Teacher, provider: FakeProvider
) -> None:
    teacher.fixed, teacher.says = True, Text("I weigh …", finish_reason="length")
    with pytest.raises(ConfigError, match="teach: "):
        teach_shard.fn(run.ref, TEACH, Piece(0, 1, 0, 80))
    paid = len(provider.calls)
    with pytest.raises(ConfigError, match="teach: "):
        label_shard.fn(run.ref, LABEL, Piece(0, 1, 0, 80))
    assert len(provider.calls) == paid


def test_a_pool_of_which_most_answers_cannot_be_learnt_from_is_not_sealed(run: RunFolder, teacher: Teacher) -> None:
    teacher.fixed = True
    half = [teach_shard.fn(run.ref, TEACH, Piece(0, 2, 0, 15))]
    teacher.says = Text("I weigh …", finish_reason="length")
    half.append(teach_shard.fn(run.ref, TEACH, Piece(1, 2, 15, 40)))
    assert half[1].failed == {"bad_reply": 25}
    with pytest.raises(ConfigError, match=r"teach: 25 of 40 requests failed for good.*'cut_off: I weigh …'"):
        seal.fn(run.ref, TEACH, half, 0.0)
    assert run.holds(TEACH) is None
