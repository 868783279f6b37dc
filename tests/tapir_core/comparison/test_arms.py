"""What is compared is read whole and refused with its remedy; a ready arm changes what its name says, nothing else."""

import json
import re
from pathlib import Path

import pytest

from tapir_core.comparison.plan import READY, arm_config, arms_of, open_comparison
from tapir_core.config import RandomShare, RunConfig
from tapir_core.config.checks import check_config
from tapir_core.config.presets import load_comparison
from tapir_core.errors import ConfigError

CONFIG = """
run = { name = "q", root = "runs", rounds = 3 }
data.pool = { type = "standin", rows = 200 }
data.heldout = { type = "standin", dev = 20, test = 40 }
teacher.endpoint.type = "standin"
judge.endpoint.type = "standin"
curriculum = { target_shares = "recipe", alpha_start = 0.5, alpha_step = 0.2, refine = true }
basic_tuning.examples = 32
rounds.default = { examples = 64, selection = { type = "hard_share", share = 0.3 } }
rounds.1.learning_rate = 1e-4
rounds.2.learning_rate = 5e-5
"""


def lay(folder: Path, text: str, config: str = CONFIG) -> Path:
    (folder / "q.toml").write_text(config)
    (folder / "c.toml").write_text(f"config = {json.dumps(str(folder / 'q.toml'))}\n{text}")
    return folder / "c.toml"


def spec(**fields: object) -> str:
    base = {"name": "c", "run_seeds": [1, 2], "primary": ["multi_round", "random"], **fields}
    return "\n".join(f"{name} = {json.dumps(value)}" for name, value in base.items())


def configs(path: Path) -> dict[str, RunConfig]:
    comparison = load_comparison(path)
    return {arm.name: arm_config(comparison, arm, 2) for arm in arms_of(comparison)}


def changed(one: RunConfig, other: RunConfig) -> set[str]:
    """Fields in which two configurations differ, names of rounds left out."""

    def walk(a: object, b: object, place: str) -> set[str]:
        if isinstance(a, dict) and isinstance(b, dict) and not place.endswith(("selection", "target_shares")):
            return {found for name in {*a, *b} for found in walk(a.get(name), b.get(name), f"{place}.{name}")}
        return set() if a == b else {place.lstrip(".")}

    found = walk(one.model_dump(mode="json"), other.model_dump(mode="json"), "")
    return {".".join(step for step in place.split(".") if not step.isdecimal()) for place in found}


def test_a_ready_arm_changes_what_its_name_says_and_nothing_else(tmp_path: Path) -> None:
    found = configs(lay(tmp_path, spec(exploratory=[name for name in READY if name not in ("multi_round", "random")])))
    reference = found.pop("multi_round")
    assert {name: changed(reference, config) - {"run.name"} for name, config in found.items()} == {
        "random": {"rounds.selection", "rounds.alpha", "curriculum.target_shares"},
        "random_balanced": {"rounds.selection", "rounds.alpha"},
        "hard_only": {"run.rounds", "rounds.alpha"},
        "random_once": {"run.rounds", "rounds.selection", "rounds.alpha", "curriculum.target_shares"},
        "equal_usd": {"rounds.selection", "rounds.alpha", "curriculum.target_shares"},
        "no_mfd": {"rounds.selection"},
        "no_balance": {"curriculum.target_shares"},
        "no_expansion": {"curriculum.expansion.max_waves"},
        "no_refinement": {"curriculum.refine"},
        "constant_alpha": {"rounds.alpha"},
        "no_rejudging": {"curriculum.rejudge"},
    }


def test_plain_fine_tuning_imitates_whatever_the_curriculum_learns(tmp_path: Path) -> None:
    prefers = f"{CONFIG}rounds.2.objective = 'prefer'\n"
    found = configs(lay(tmp_path, spec(exploratory=["random_once"]), prefers))
    assert [found["multi_round"].objective(number).type for number in (1, 2, 3)] == ["imitate", "prefer", "prefer"]
    for arm in ("random", "random_once"):
        config = found[arm]
        assert {config.objective(number).type for number in config.round_numbers} == {"imitate"}
        assert config.learning_rate(1) == 1e-4
    assert found["random"].learning_rate(2) == 1e-4, "as the round that imitates anyway"
    assert found["multi_round"].learning_rate(2) == 5e-5, "its own"
    assert check_config(found["random"]) == []


def test_arms_without_verdicts_of_their_own_cannot_prefer(tmp_path: Path) -> None:
    prefers = f"{CONFIG}rounds.2.objective = 'prefer'\n"
    for arm in ("no_mfd", "no_rejudging"):
        with pytest.raises(ConfigError, match=f'arm {arm}: rounds.2.objective is "prefer", .* leave the arm out'):
            configs(lay(tmp_path, spec(exploratory=[arm]), prefers))
    last = f"{CONFIG}rounds.3.objective = 'prefer'\n"
    constant = configs(lay(tmp_path, spec(exploratory=["constant_alpha"]), last))["constant_alpha"]
    assert [constant.round(number).alpha for number in (1, 2, 3)] == [0.6, 0.6, 1.0]


def test_rounds_keep_what_the_configuration_gives_them(tmp_path: Path) -> None:
    found = configs(lay(tmp_path, spec(exploratory=["constant_alpha", "no_mfd"])))
    for config in found.values():
        assert [config.round(number).learning_rate for number in (1, 2, 3)] == [1e-4, 5e-5, 5e-5]
    assert [found["multi_round"].round(number).alpha for number in (1, 2, 3)] == [0.5, 0.7, 0.9]
    assert {found["constant_alpha"].round(number).alpha for number in (1, 2, 3)} == {0.7}
    assert found["no_mfd"].round(2).selection == RandomShare(share=0.3)
    assert {(config.run.seed, config.run.name) for config in found.values()} >= {(2, "c-no_mfd-s2")}


def test_an_arm_of_ones_own_begins_with_the_curriculum_or_a_ready_one(tmp_path: Path) -> None:
    text = spec(exploratory=["slow", "half"], overrides=["curriculum.alpha_start=0.6"]) + (
        '\narms.slow = { label = "Slow", overrides = ["rounds.default.epochs=1.0"] }'
        '\narms.half = { like = "random", overrides = ["data.pool.rows=100"] }'
    )
    found = configs(lay(tmp_path, text))
    assert changed(found["multi_round"], found["slow"]) == {"run.name", "rounds.epochs"}
    assert changed(found["random"], found["half"]) == {"run.name", "data.pool.rows"}
    assert found["slow"].round(1).alpha == 0.6
    assert [arm.label for arm in arms_of(load_comparison(tmp_path / "c.toml"))][2:] == ["Slow", "half"]


def test_runs_go_by_run_seed_the_reference_and_random_first_and_exploratory_ones_come_last(
    tmp_path: Path,
) -> None:
    text = spec(primary=["hard_only", "random", "multi_round"], exploratory=["no_mfd"])
    plan = open_comparison(lay(tmp_path, text))
    assert [each.ref.name for each in plan.runs] == [
        *("c-multi_round-s1", "c-random-s1", "c-hard_only-s1"),
        *("c-multi_round-s2", "c-random-s2", "c-hard_only-s2"),
        "c-no_mfd-s1",
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (spec(primary=["multi_round"]), "primary: 'random' is missing"),
        (spec(run_seeds=[]), "so that the intervals cover them"),
        (spec(run_seeds=[1]), "a verdict takes two or more; name more, or set verdict = false"),
        (spec(run_seeds=[1, 1]), "names 1 twice"),
        (spec(exploratory=["random"]), "random stand in primary too"),
        (spec(exploratory=["no_mdf"]), r"'no_mdf' is none of the ready ones .*say in \[arms.no_mdf\]"),
        (spec() + '\narms.slow.overrides = ["rounds.default.epochs=1.0"]', "arms.slow: is in neither"),
        (spec(exploratory=["x"]) + '\narms.x.like = "rndom"', "arms.x.like: 'rndom' is no ready arm"),
        (spec(reference="random", primary=["random"]), "is no curriculum of several rounds"),
        (spec(nonsense=1), "nonsense: unknown field"),
        (spec(name="a b"), "name: "),
        (spec(exploratory=["x"]) + '\narms.x.overrides = ["rounds.default.epocs=1.0"]', "epocs: unknown field"),
    ],
)
def test_what_is_wrong_with_a_comparison_is_told_with_the_remedy(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        open_comparison(lay(tmp_path, text))


@pytest.mark.parametrize(
    ("arm", "config", "words"),
    [
        ("no_mfd", CONFIG.replace('type = "hard_share", share = 0.3', 'type = "threshold"'), "use selection ="),
        ("constant_alpha", CONFIG.replace("alpha_step = 0.2", "alpha_step = 0.0"), "is this already"),
        ("no_refinement", CONFIG.replace("refine = true", "refine = false"), "is this already"),
        ("no_mfd", CONFIG.replace("data.heldout", "# data.heldout"), 'missing; .*: data.heldout = { type = "file", '),
        ("no_mfd", re.sub("data.heldout.*", 'data.heldout.type = "judged"', CONFIG), "set data.heldout.references = "),
    ],
)
def test_an_arm_that_the_curriculum_cannot_have_is_refused(tmp_path: Path, arm: str, config: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        open_comparison(lay(tmp_path, spec(exploratory=[arm]), config))
