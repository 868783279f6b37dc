"""Every stage is declared whole, stands in the one order, and has exactly one piece of work."""

from pathlib import Path

import polars as pl
import pytest

from tapir_core.config import RunConfig
from tapir_core.config.load import load_config
from tapir_core.stages import (
    AVERAGE,
    BENCHMARK,
    EVALUATION,
    ONCE,
    ROUND,
    STAGES,
    TRAIN,
    Stage,
    StageAt,
    asked_apart,
    declare,
    plan,
    with_steps,
)
from tasks._task import work_of
from tests.golden.variants import VARIANTS, overrides

ROOT = Path(__file__).parents[3]
ORDER = [*ONCE, *ROUND, AVERAGE, *EVALUATION, *BENCHMARK]
ONE_COLUMN = pl.Schema({"instruction_id": pl.String()})
WHOLE = {"name": "trim", "folder": "trimmed", "columns": ONE_COLUMN, "row": "an instruction"}


def places_of(config: RunConfig) -> list[StageAt]:
    """Every stage that a run may do, with its steps and what is made for those that read it."""
    planned = [*(each for at in plan(config) for each in with_steps(config, at, [1])), *asked_apart(config)]
    return [*planned, *(each for at in planned for each in at.stage.reads_beside(config, at))]


def test_every_stage_stands_in_the_order_of_a_run() -> None:
    lacking = [name for name, stage in STAGES.items() if not stage.step_of and stage not in ORDER]
    assert lacking == [], "put them into ONCE, ROUND or EVALUATION of tapir_core/stages, or give them step_of="


def test_stages_that_read_each_other_stand_in_that_order() -> None:
    """A round's stages read those before them; the student that a round begins with is an earlier round's."""
    config, places = load_config("tests/golden/keys.toml", []), [stage.name for stage in ROUND]
    for stage in ROUND:
        of_round = {each.name for each in stage.reads(config, stage.at(2)) if each.round == 2}
        late = [name for name in of_round & {*places} if places.index(name) >= places.index(stage.name)]
        assert late == [], f"{stage.name} stands before what it reads: move it in ROUND"


def test_every_stage_has_exactly_one_piece_of_work_wherever_it_is_planned() -> None:
    configs = [load_config("tests/golden/keys.toml", overrides(variant)) for variant in VARIANTS]
    done = {at.name for config in configs for at in places_of(config) if work_of(config, at)}
    lacking = sorted(STAGES.keys() - done)
    assert lacking == [], "no variant of tests/golden/variants.py has them: add one that does (docs/extending.md)"


def test_settings_are_taken_by_what_shapes_rows() -> None:
    """Or a field that is free, or that came later, would change the keys of runs that exist."""
    files = sorted((ROOT / "tapir_core/stages").glob("*.py"))
    assert [file.name for file in files if "model_dump" in file.read_text()] == [], "write .shaping() there"


def test_a_stage_without_work_is_told_what_to_write() -> None:
    stage = declare(Stage(**WHOLE))
    try:
        with pytest.raises(TypeError, match=r"'trim' has no pieces of work .* under @stage_task\(TRIM\)"):
            work_of(load_config("tests/golden/keys.toml", []), stage.at(1))
    finally:
        del STAGES["trim"]


@pytest.mark.parametrize(
    ("fields_of", "said"),
    [
        (WHOLE | {"columns": pl.Schema()}, r'lacks columns= .* or folder="checkpoint"'),
        (WHOLE | {"row": ""}, r"lacks row= \(what one row is, for docs/run-folder\.md\)"),
        (WHOLE | {"asks": "teacher"}, "lacks roles="),
        (WHOLE | {"asks": "teacher", "roles": ("review",)}, "a known role: review is none"),
        (WHOLE | {"shards_of": "answr"}, r"in shards_of= \('answr' is none\)"),
        (WHOLE | {"replaces": "drwa"}, r"in replaces= \('drwa' is none\)"),
        (WHOLE | {"name": TRAIN.name}, "a name of its own"),
    ],
    ids=["columns", "row", "roles", "known role", "shards_of", "replaces", "name"],
)
def test_what_a_declaration_leaves_out_is_named_at_import(fields_of: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        declare(Stage(**fields_of))
    assert "trim" not in STAGES
