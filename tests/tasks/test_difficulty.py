import polars as pl
import pytest

from tapir_core.errors import ConfigError
from tapir_core.stages import StageAt
from tasks.difficulty import check_scored

AT = StageAt("difficulty", 2)
VERDICTS = pl.DataFrame({"reason": ["failed: bad_request", None, "failed: bad_request", "no verdict in the reply"]})


def test_a_round_without_any_score_is_refused_with_the_reasons_and_the_remedy():
    with pytest.raises(
        ConfigError, match=r"round 2.*2 x failed: bad_request, 1 x no verdict.*round_02/verdicts.*amend"
    ):
        check_scored(AT, pl.DataFrame({"mfd": []}), VERDICTS)


def test_one_score_is_enough():
    check_scored(AT, pl.DataFrame({"mfd": [1.0]}), VERDICTS)
