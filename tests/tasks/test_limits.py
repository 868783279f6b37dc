import pickle
import re

import pytest

from tapir_core.config import RunConfig
from tapir_core.data.dataset import Part
from tapir_core.errors import ConfigError, TooMuchMissing
from tapir_core.stages import StageAt
from tasks.outcomes import (
    Sample,
    ShardIncomplete,
    ShardOutcome,
    StageOutcome,
    check_failed,
    check_missing,
    made_of,
    why_lost,
)
from tests.run_config import make_config

TEACH = StageAt("teach")


def shard(asked: int, **failed: int) -> ShardOutcome:
    samples = tuple(Sample(f"id-of-{kind}", kind, 1, f"{kind} was said", "Say something.") for kind in failed)
    return ShardOutcome(Part("part", asked, "0"), failed=failed, asked=asked, samples=samples)


def total(shards: list[ShardOutcome]) -> StageOutcome:
    return made_of([each.rows for each in shards], shards)


@pytest.fixture
def config(tmp_path) -> RunConfig:
    return make_config(tmp_path)


def lacking(rows: int, **missing: int) -> ShardOutcome:
    samples = tuple(Sample(f"id-of-{kind}", kind, 1, f"{kind} was said", "Say something.") for kind in missing)
    return ShardOutcome(Part("part", rows, "0"), missing=missing, asked=rows + sum(missing.values()), samples=samples)


def test_a_stage_goes_on_within_its_accepted_share():
    check_missing(StageAt("judge", 1), total([lacking(98, timeout=2)]), 0.02)
    check_missing(StageAt("judge", 1), total([]), 0.0)


def test_more_is_refused_with_counts_by_kind_and_the_ways_on():
    with pytest.raises(
        TooMuchMissing,
        match=r"judge \(round 1\): 3 of 100 rows.*2 timeout, 1 server.*id-of-timeout came 'timeout was said'.*same",
    ) as error:
        check_missing(StageAt("judge", 1), total([lacking(60, timeout=1), lacking(37, timeout=1, server=1)]), 0.02)
    assert error.value.exit_code == 4


def test_a_row_that_is_there_without_its_answer_counts_once():
    half = ShardOutcome(Part("part", 27, "0"), missing={"timeout": 27}, asked=27)
    with pytest.raises(TooMuchMissing, match="27 of 27 rows are missing"):
        check_missing(StageAt("wave_examined", 1, 1), total([half]), 0.02)


def test_rows_that_nobody_had_to_be_asked_for_are_there():
    check_missing(StageAt("teach"), total([ShardOutcome(Part("part", 99, "0"), missing={"timeout": 1}, asked=2)]), 0.02)


def test_an_incomplete_shard_travels_with_what_it_wrote():
    row = Sample("a", "timeout", 3, "no reply", "Say something.")
    sent = ShardIncomplete(
        StageAt("judge", 1), 3, ShardOutcome(Part("part", 7, "0"), missing={"timeout": 2}, samples=(row,))
    )
    received = pickle.loads(pickle.dumps(sent))
    assert str(received) == str(sent)
    assert received.outcome == sent.outcome


@pytest.mark.parametrize(
    "outcomes",
    [
        [shard(200, refused=40)],
        [shard(10, refused=8), shard(30, bad_request=0, bad_reply=12)],
        [shard(19, bad_request=19)],
        [],
    ],
    ids=["much is refused", "half of all", "too few to say", "nothing asked"],
)
def test_a_stage_goes_on_with_what_failed_for_good_within_the_accepted_share(outcomes, config):
    check_failed(TEACH, total(outcomes), config)


def test_a_stage_that_failed_for_good_says_kinds_a_sample_and_the_ways_on(config):
    with pytest.raises(
        ConfigError,
        match=r"teach: 21 of 40 requests failed for good \(52\.5%; 19 bad_request, 2 refused\), more than "
        r"calls\.max_unanswered_share = 0\.2.*id-of-bad_request came 'bad_request was said'.*\[teacher\].*--amend"
        rf".*`tapir store prune --root {config.run.root} --role teach --status bad_request --status refused --yes`",
    ):
        check_failed(TEACH, total([shard(20, refused=2), shard(20, bad_request=19)]), config)


def test_a_wave_goes_on_when_the_teacher_declines_the_scarce_types_but_not_when_it_fails(config):
    wave = StageAt("wave_candidates", 1, 2)
    check_failed(wave, total([shard(40, refused=40)]), config)
    with pytest.raises(ConfigError, match="30 of 40 requests"):
        check_failed(wave, total([shard(40, refused=10, bad_request=30)]), config)


def test_replies_that_cannot_be_parsed_are_not_asked_again_in_the_same_way(config):
    with pytest.raises(ConfigError, match=r"label: 30 of 40 requests.*30 bad_reply.*--amend") as error:
        check_failed(StageAt("label"), total([shard(40, bad_reply=30)]), config)
    assert "prune" not in str(error.value)


@pytest.mark.parametrize(
    ("stage", "words"),
    [
        (StageAt("wave_candidates", 1, 1), "[teacher] --role expand"),
        (StageAt("answer", 1), "[student] --role answer"),
        (StageAt("judge", 1), "[judge] `tapir retry-judge --also terminal`"),
    ],
)
def test_a_stage_names_the_section_and_the_role_of_its_calls(stage, words, config):
    with pytest.raises(ConfigError) as error:
        check_failed(stage, total([shard(40, too_long=40)]), config)
    assert all(word in str(error.value) for word in words.split())


@pytest.mark.parametrize(
    ("failed", "asked"), [(20, 20), (29, 30), (60, 80), (640, 1000)], ids=["all", "nearly all", "many", "more of many"]
)
def test_a_stage_that_is_lost_is_asked_no_more(failed: int, asked: int, config: RunConfig):
    for kind, limit in (("bad_reply", r"max_failed_share = 0\.5"), ("no_answer", r"max_unanswered_share = 0\.2")):
        told = rf"teach: {failed} of {asked} requests failed.*{limit} .*no more is asked. One came to 'no'"
        assert re.match(told, why_lost(TEACH, {kind: failed}, asked, "no", config))


@pytest.mark.parametrize(
    ("at", "kind", "failed", "asked"),
    [
        (TEACH, "bad_request", 19, 19),
        (TEACH, "bad_request", 10, 20),
        (TEACH, "bad_request", 250, 1000),
        (StageAt("wave_candidates", 1, 2), "bad_reply", 100, 100),
        (StageAt("wave_examined", 1, 2), "bad_request", 100, 100),
        (StageAt("benchmark_replies", 1, None, "alpaca_eval"), "bad_reply", 100, 100),
    ],
    ids=[
        "too few to say",
        "perhaps by chance",
        "the seal decides",
        "declined in a wave",
        "gates reject it",
        "a benchmark has its own limit",
    ],
)
def test_a_stage_that_may_yet_hold_is_asked_to_its_end(
    at: StageAt, kind: str, failed: int, asked: int, config: RunConfig
):
    assert why_lost(at, {kind: failed}, asked, "no", config) == ""


def test_batches_and_panels_are_left_to_the_seal(tmp_path):
    paid_whole = make_config(
        tmp_path,
        teacher={"endpoint": {"type": "openai", "model": "m", "identity": "i", "api_key_env": "", "mode": "batch"}},
    )
    panel = make_config(
        tmp_path, judge={"endpoint": {"type": "standin"}, "panel": [{"type": "standin", "position_bias": 0.3}]}
    )
    for config, at in ((paid_whole, TEACH), (panel, StageAt("judge", 1))):
        assert why_lost(at, {"bad_reply": 100}, 100, "no", config) == ""
        with pytest.raises(ConfigError):
            check_failed(at, total([shard(100, bad_reply=100)]), config)


def test_replies_that_were_cut_off_can_be_forgotten_in_the_store_those_of_a_judge_by_asking_it_again(config):
    cut = why_lost(TEACH, {"bad_reply": 40}, 40, "cut_off: I", config)
    assert f"`tapir store prune --root {config.run.root} --role teach --unusable --yes`" in cut
    silent = why_lost(StageAt("judge", 1), {"bad_reply": 40}, 40, "no scores", config)
    assert f"`tapir retry-judge example --root {config.run.root} --also terminal`" in silent
