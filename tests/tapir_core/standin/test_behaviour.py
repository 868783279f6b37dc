import math

import pytest

from tapir_core.errors import ConfigError
from tapir_core.standin.behaviour import BatchRules


def test_all_batch_rules_out_of_range_are_named() -> None:
    with pytest.raises(ConfigError) as caught:
        BatchRules(seconds=math.nan, expire_share=-0.1, fail_share=2, max_rows=0, max_bytes=0)
    assert [problem.split(" is ")[0].split(" are ")[0] for problem in caught.value.problems] == [
        "the batches' seconds",
        "the batches' expire_share",
        "the batches' fail_share",
        "the batches' max_rows",
        "the batches' max_bytes",
    ]


def test_more_rows_cannot_expire_and_fail_than_there_are() -> None:
    with pytest.raises(ConfigError, match=r"is 1\.2: give 1 at most"):
        BatchRules(expire_share=0.6, fail_share=0.6)
