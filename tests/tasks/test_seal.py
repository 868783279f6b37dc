import pickle
from collections import Counter

import pytest

from tapir_core.data.dataset import Part
from tapir_core.errors import TooMuchMissing
from tapir_core.stages import StageAt
from tasks._task import ShardIncomplete, ShardOutcome
from tasks.seal import check_missing


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
    sent = ShardIncomplete(StageAt("judge", 1), ShardOutcome(3, Part("part", 7, "0"), missing={"timeout": 2}))
    received = pickle.loads(pickle.dumps(sent))
    assert str(received) == str(sent)
    assert received.outcome == sent.outcome
