from pathlib import Path

import pytest

from tapir_core.errors import ConfigError
from tapir_core.paths import BACKBONE
from tapir_core.run_state import find_students, unscored_students
from tapir_core.stages import StageAt
from tapir_core.summary import summarise
from tests.run_builder import build_run, make_config


def test_students_are_named_by_their_round_and_by_what_they_are(tmp_path: Path) -> None:
    run = build_run(tmp_path)
    assert find_students(run, "all") == [BACKBONE, 0, 1, 2]
    assert find_students(run, "backbone") == [BACKBONE]
    assert find_students(run, "1") == [1]
    assert find_students(run, "best") == [summarise(run).best]
    assert unscored_students(run, [BACKBONE, 0, 1, 2]) == []


def test_of_an_unfinished_run_there_are_the_trained_ones(tmp_path: Path) -> None:
    run = build_run(tmp_path, until=StageAt("train", 1))
    assert find_students(run, "all") == [BACKBONE, 0, 1]
    assert unscored_students(run, [BACKBONE, 0, 1]) == [1]
    with pytest.raises(ConfigError, match=r"--round 2: .*it has backbone, 0, 1;"):
        find_students(run, "2")


@pytest.mark.parametrize("which", ["", "-1", "S_1", "last"])
def test_another_word_is_refused_with_those_there_are(tmp_path: Path, which: str) -> None:
    run = build_run(tmp_path, until=StageAt("train", 0))
    with pytest.raises(ConfigError, match="it has backbone, 0;"):
        find_students(run, which)


def test_before_a_score_none_is_best(tmp_path: Path) -> None:
    run = build_run(tmp_path, until=StageAt("mix", 0))
    with pytest.raises(ConfigError, match=r"--round best: .* no such student yet"):
        find_students(run, "best")


def test_without_a_heldout_set_there_is_nothing_to_score_on(tmp_path: Path) -> None:
    config = make_config(tmp_path, data={"pool": {"type": "standin", "rows": 60}})
    with pytest.raises(ConfigError, match=r"has no held-out set; set data\.heldout"):
        find_students(build_run(tmp_path, config=config), "all")
