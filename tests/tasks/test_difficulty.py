import polars as pl
import pytest

from tapir_core.errors import ConfigError
from tapir_core.stages import StageAt
from tasks.judge import check_scored

AT = StageAt("difficulty", 2)
VERDICTS = pl.DataFrame({"reason": ["failed: bad_request", None, "failed: bad_request", "no verdict in the reply"]})


def scored(count: int) -> pl.DataFrame:
    return pl.DataFrame({"mfd": [1.0] * count}, schema={"mfd": pl.Float64})


@pytest.mark.parametrize(("rows", "asked"), [(0, 2), (0, 100), (49, 100)])
def test_a_round_in_which_little_is_scored_is_refused_with_the_reasons_and_the_remedies(rows: int, asked: int):
    told = rf"{rows} of {asked} .*round 2.*2 x failed: bad_request, 1 x no verdict.*round_02/verdicts.*amend.*terminal"
    with pytest.raises(ConfigError, match=told):
        check_scored(AT, scored(rows), VERDICTS, asked, 0.5)


@pytest.mark.parametrize(("rows", "asked"), [(1, 19), (50, 100)])
def test_half_of_many_and_one_of_a_few_are_enough(rows: int, asked: int):
    check_scored(AT, scored(rows), VERDICTS, asked, 0.5)
