import pickle
from collections import Counter
from collections.abc import Iterator

import pytest

from tapir_core.calls.fakes import FakeProvider, FakeReply, RecordedCall, Status, Text
from tapir_core.calls.store.address import store_url
from tapir_core.calls.upkeep import RowFilter, open_existing, prune_answers
from tapir_core.config import RunConfig
from tapir_core.data.dataset import Part
from tapir_core.errors import ConfigError, TooMuchMissing
from tapir_core.prompts import PROMPT_NAMES, load_prompt
from tapir_core.run_folder import RunFolder, open_run
from tapir_core.stages import StageAt
from tasks.label import label_shard
from tasks.outcomes import Piece, Sample, ShardIncomplete, ShardOutcome
from tasks.pool import pool
from tasks.runtime import close_all
from tasks.seal import check_failed, check_missing, seal
from tasks.teach import teach_shard
from tests.run_config import make_config

LABEL, TEACH = StageAt("label"), StageAt("teach")
INGREDIENTS = {f"prompt:{name}": load_prompt(name).version for name in PROMPT_NAMES}


def shard(asked: int, **failed: int) -> ShardOutcome:
    samples = tuple(Sample(f"id-of-{kind}", kind, 1, f"{kind} was said", "Say something.") for kind in failed)
    return ShardOutcome(0, Part("part", asked, "0"), failed=failed, asked=asked, samples=samples)


@pytest.fixture
def config(tmp_path) -> RunConfig:
    return make_config(tmp_path)


def test_a_stage_goes_on_within_its_accepted_share():
    check_missing(StageAt("judge", 1), Counter({"timeout": 2}), rows=98, accepted_share=0.02)
    check_missing(StageAt("judge", 1), Counter(), rows=0, accepted_share=0.0)


def test_more_is_refused_with_counts_by_kind_and_the_ways_on():
    with pytest.raises(
        TooMuchMissing, match=r"judge \(round 1\): 3 of 100 rows.*2 timeout, 1 server.*same command"
    ) as error:
        check_missing(StageAt("judge", 1), Counter({"timeout": 2, "server": 1}), rows=97, accepted_share=0.02)
    assert error.value.exit_code == 4


def test_an_incomplete_shard_travels_with_what_it_wrote():
    row = Sample("a", "timeout", 3, "no reply", "Say something.")
    sent = ShardIncomplete(
        StageAt("judge", 1), ShardOutcome(3, Part("part", 7, "0"), missing={"timeout": 2}, samples=(row,))
    )
    received = pickle.loads(pickle.dumps(sent))
    assert str(received) == str(sent)
    assert received.outcome == sent.outcome


@pytest.mark.parametrize(
    "outcomes",
    [
        [shard(200, refused=70)],
        [shard(10, refused=10), shard(30, bad_request=10)],
        [shard(19, bad_request=19)],
        [],
    ],
    ids=["much is refused", "half of all", "too few to say", "nothing asked"],
)
def test_a_stage_goes_on_with_what_failed_for_good_within_the_accepted_share(outcomes, config):
    check_failed(TEACH, outcomes, config)


def test_a_stage_that_failed_for_good_says_kinds_a_sample_and_the_ways_on(config):
    with pytest.raises(
        ConfigError,
        match=r"teach: 21 of 40 requests failed for good \(52\.5%; 19 bad_request, 2 refused\), more than "
        r"calls\.max_failed_share = 0\.5.*id-of-bad_request came 'bad_request was said'.*\[teacher\].*--amend"
        rf".*`tapir store prune --root {config.run.root} --role teach --status bad_request --status refused --yes`",
    ):
        check_failed(TEACH, [shard(20, refused=2), shard(20, bad_request=19)], config)


def test_a_wave_goes_on_when_the_teacher_declines_the_scarce_types_but_not_when_it_fails(config):
    wave = StageAt("wave_candidates", 1, 2)
    check_failed(wave, [shard(40, refused=40)], config)
    with pytest.raises(ConfigError, match="30 of 40 requests"):
        check_failed(wave, [shard(40, refused=10, bad_request=30)], config)


def test_replies_that_cannot_be_parsed_are_not_asked_again_in_the_same_way(config):
    with pytest.raises(ConfigError, match=r"label: 30 of 40 requests.*30 bad_reply.*--amend") as error:
        check_failed(StageAt("label"), [shard(40, bad_reply=30)], config)
    assert "prune" not in str(error.value)


@pytest.mark.parametrize(
    ("stage", "words"),
    [
        (StageAt("wave_candidates", 1, 1), "[teacher] --role expand"),
        (StageAt("answer", 1), "[student] --role answer"),
        (StageAt("judge", 1), "[judge] --role judge"),
    ],
)
def test_a_stage_names_the_section_and_the_role_of_its_calls(stage, words, config):
    with pytest.raises(ConfigError) as error:
        check_failed(stage, [shard(40, too_long=40)], config)
    assert all(word in str(error.value) for word in words.split())


class Teacher:
    """Calls most requests wrong until it is mended; it never names a task type."""

    def __init__(self) -> None:
        self.mended = False

    def __call__(self, call: RecordedCall) -> FakeReply:
        wrong = not self.mended and sum(call.prompt.encode()) % 4
        return Status(400, {"error": {"message": "no such template"}}) if wrong else Text("an answer")


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
        tmp_path, data={"pool": {"type": "standin", "rows": 40}}, teacher={"endpoint": endpoint, "reasks": 0}
    )
    run = open_run(config, INGREDIENTS)
    pool.fn(run.ref)
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
    teacher.mended = True
    with pytest.raises(ConfigError):
        teach()
    assert len(provider.calls) == 40, "terminal failures are stored answers"

    forgotten = prune_answers(open_existing(store_url(run.config)), RowFilter(("teach",), statuses=("bad_request",)))
    assert forgotten > 20
    teach()
    assert run.holds(TEACH) is not None
    assert len(provider.calls) == 40 + forgotten


def test_a_teacher_that_names_no_task_types_stops_the_run_at_its_labels(run: RunFolder, teacher: Teacher) -> None:
    teacher.mended = True
    outcome = label_shard.fn(run.ref, LABEL, Piece(0, 1, 0, 40))
    assert outcome.failed == {"bad_reply": 40}
    with pytest.raises(ConfigError, match=r"label: 40 of 40 requests.*'no task type: an answer'"):
        seal.fn(run.ref, LABEL, [outcome], 0.0)
