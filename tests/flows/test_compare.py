"""A comparison runs what is not finished, each arm matched to the reference, and goes on where it was stopped."""

from dataclasses import replace
from pathlib import Path

import pytest

from flows.series import find_finished, read_comparison, run_comparison
from tapir_core.comparison.matching import TOLERANCE, MatchedRun
from tapir_core.comparison.outcome import Training, read_training
from tapir_core.comparison.plan import open_comparison
from tapir_core.config import RunConfig
from tapir_core.errors import RunChanged
from tapir_core.run_folder import RunFolder
from tapir_core.stages import StageAt
from tasks.input_files import Say, gather_ingredients
from tests.flows.built_comparison import BuiltRuns, folder, lay_spec, run_all, trained

pytestmark = pytest.mark.slow


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    return lay_spec(tmp_path)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A comparison of which every run is finished."""
    spec = lay_spec(tmp_path_factory.mktemp("finished"))
    assert run_all(spec, BuiltRuns()) == {}
    return spec


def test_every_arm_is_run_and_matched_and_the_same_command_again_does_nothing(finished: Path) -> None:
    plan = open_comparison(finished)
    assert find_finished(plan) == list(plan.runs)
    for seed in (1, 2):
        reference = folder(plan, "multi_round", seed)
        random, hard = folder(plan, "random", seed), folder(plan, "hard_only", seed)
        for number in (1, 2):
            one, other = read_training(random, number), read_training(reference, number)
            assert abs(one.tokens - other.tokens) <= TOLERANCE * other.tokens
            assert abs(one.steps - other.steps) <= 1
        whole = trained(reference)
        assert hard.config.run.rounds == 1
        assert abs(trained(hard).tokens - whole.tokens) <= TOLERANCE * whole.tokens
        assert abs(trained(hard).steps - whole.steps) <= 1
    again = BuiltRuns()
    assert run_all(finished, again) == {}
    assert again.driven == []


def test_an_arm_that_is_added_is_all_that_is_run(spec: Path) -> None:
    """It is one round that is matched to all rounds of the reference, also where it goes through its examples twice."""
    assert run_all(spec, BuiltRuns(), only=["random"], seeds=[1]) == {}
    before = spec.read_text()
    spec.write_text(before.replace('["equal_usd", "no_refinement"]', '["random_once", "equal_usd", "twice"]'))
    with spec.open("a") as file:
        file.write('arms.twice = { like = "random_once", overrides = ["rounds.1.epochs=2.0"] }\n')
    added, engines = ["random_once", "twice"], BuiltRuns()
    assert run_all(spec, engines, only=added, seeds=[1]) == {}
    assert {name for name, _ in engines.driven} == {"c-random_once-s1", "c-twice-s1"}
    plan = open_comparison(spec)
    whole = trained(folder(plan, "multi_round"))
    for name in added:
        made = trained(folder(plan, name))
        assert folder(plan, name).config.run.rounds == 1
        assert abs(made.tokens - whole.tokens) <= TOLERANCE * whole.tokens
        assert abs(made.steps - whole.steps) <= 1
    once, twice = (trained(folder(plan, name)).examples for name in added)
    assert twice == pytest.approx(once / 2, rel=0.05)
    assert {row.name for row in read_comparison(plan).rows} >= {"multi_round", "random", *added}


def test_what_arms_of_a_run_seed_share_is_made_once(finished: Path) -> None:
    plan = open_comparison(finished)
    for at in (StageAt("teach"), StageAt("train", 0), StageAt("evaluate", 0)):
        digests = {folder(plan, arm).holds(at).digest for arm in ("multi_round", "random", "no_refinement")}  # type: ignore[union-attr]  # a stage that does not hold fails the test too
        assert len(digests) == 1


def test_random_at_equal_usd_trains_on_as_many_more_instructions_as_the_difference_buys(finished: Path) -> None:
    plan = open_comparison(finished)
    pools = {name: folder(plan, name).rows(StageAt("pool")).height for name in ("random", "equal_usd")}
    more = pools["equal_usd"] - pools["random"]
    assert more > 0
    grown = trained(folder(plan, "equal_usd")).examples - trained(folder(plan, "random")).examples
    assert abs(grown - more) <= 0.1 * more
    usd = {row.name: row.costs["usd"] for row in read_comparison(plan).rows if row.costs}
    assert usd["equal_usd"] == pytest.approx(usd["multi_round"], rel=0.05)


def test_random_at_equal_usd_trains_on_no_more_than_is_enough_and_is_not_called_equal(spec: Path) -> None:
    spec.write_text("equal_usd_at_most = 1.5\n" + spec.read_text())
    told: list[str] = []
    assert run_all(spec, BuiltRuns(), only=["equal_usd"], say=told.append) == {}
    plan = open_comparison(spec)
    random, more = (trained(folder(plan, name)) for name in ("random", "equal_usd"))
    assert more.examples == pytest.approx(1.5 * random.examples, rel=0.1)
    # Smaller batches would be more steps an example, and a second difference to random.
    assert more.steps / more.examples == pytest.approx(random.steps / random.examples, rel=0.1)
    [row] = [each for each in read_comparison(plan).rows if each.name == "equal_usd"]
    assert row.label == "Random, 1.5 × its examples, for at most equal USD"
    assert any("more instructions of the" in each and "that equal USD buys" in each for each in told)


class ShortRuns(BuiltRuns):
    """Of each mixture the longest example does not fit the training."""

    def count(self, run: RunFolder, number: int) -> Training:
        whole = super().count(run, number)
        longest = max(sum(len(each["content"]) for each in row) for row in run.rows(StageAt("mix", number))["messages"])
        return replace(whole, examples=whole.examples - 1, tokens=whole.tokens - longest)


def test_an_arm_that_differs_from_a_later_round_on_shares_the_rounds_before_also_where_examples_do_not_fit(
    spec: Path,
) -> None:
    """Or what is left out of an ablation would not be all that it differs in."""
    spec.write_text(spec.read_text().replace('"no_refinement"]', '"no_rejudging"]'))
    assert run_all(spec, ShortRuns(), only=["no_rejudging"]) == {}
    plan, at = open_comparison(spec), StageAt("mix", 1)
    reference, other = folder(plan, "multi_round"), folder(plan, "no_rejudging")
    assert other.config.round(1).examples == reference.config.round(1).examples
    assert other.config.batch_size(1) == reference.config.batch_size(1)
    assert other.holds(at) == reference.holds(at)


@pytest.mark.parametrize("stopping_at", ["mix@2", "end"])
def test_a_comparison_that_was_stopped_goes_on_and_ends_as_an_undisturbed_one(
    spec: Path, tmp_path: Path, stopping_at: str
) -> None:
    with pytest.raises(KeyboardInterrupt):
        run_all(spec, BuiltRuns(stopping_at=stopping_at), only=["random"], seeds=[1])
    run_all(spec, going_on := BuiltRuns(), only=["random"], seeds=[1])
    assert {name for name, _ in going_on.driven} == {"c-random-s1"}
    stopped = folder(open_comparison(spec), "random").config.rounds
    elsewhere = spec.read_text().replace(str(tmp_path / "q.toml"), str(tmp_path / "q2.toml"))
    (tmp_path / "q2.toml").write_text((tmp_path / "q.toml").read_text().replace("/runs", "/others"))
    spec.write_text(elsewhere)
    run_all(spec, BuiltRuns(), only=["random"], seeds=[1])
    assert folder(open_comparison(spec), "random").config.rounds == stopped


def test_what_is_edited_while_an_arm_is_sized_is_refused_and_not_amended(
    spec: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or labels, and all that reads them, would be paid for again without a word."""
    run_all(spec, BuiltRuns(), only=["multi_round"], seeds=[1])
    engines = BuiltRuns()

    def gather(config: RunConfig, *, say: Say) -> dict[str, str]:
        return gather_ingredients(config, say=say) | ({"prompt:label": "edited"} if engines.driven else {})

    monkeypatch.setattr("tasks.input_files.gather_ingredients", gather)
    [failed] = run_all(spec, engines, only=["random"], seeds=[1]).values()
    assert type(failed) is RunChanged
    assert "Other than before: prompt:label" in str(failed)
    assert engines.driven == [("c-random-s1", "mix@1")]
    run = folder(open_comparison(spec), "random")
    assert run.record.ingredients["prompt:label"] != "edited"


def test_a_run_that_fails_is_told_and_those_that_need_it_wait(spec: Path) -> None:
    failed = run_all(spec, BuiltRuns(failing=["c-multi_round-s2", "c-random-s1"]))
    assert [*failed] == [
        "c-random-s1",
        "c-multi_round-s2",
        "c-random-s2",
        "c-hard_only-s2",
        "c-equal_usd-s1",
    ]
    assert "the trainer ended" in str(next(iter(failed.values())))
    assert "c-random-s1, which is not finished" in str([*failed.values()][-1])
    compared = read_comparison(open_comparison(spec))
    assert not compared.concludes
    assert [row.name for row in compared.rows] == ["backbone", "S_0", "multi_round", "hard_only", "no_refinement"]


def test_an_arm_waits_for_a_reference_that_was_taken_up_again_while_the_comparison_ran(spec: Path) -> None:
    """Or it would be trained unmatched, to what is left of the reference's rounds."""
    run_all(spec, BuiltRuns(), only=["multi_round"], seeds=[1])
    plan = open_comparison(spec)
    again = BuiltRuns()

    def drive(matched: MatchedRun) -> None:
        folder(plan, "multi_round").storage.remove(StageAt("judge", 1).folder)
        again.drive()(matched)

    asked = plan.choose(["random", "hard_only"], [1])
    failed = run_comparison(plan, asked, drive, say=lambda _: None)
    assert [*failed][-1] == "c-hard_only-s1"
    assert "c-multi_round-s1, which is not finished" in str([*failed.values()][-1])
    assert "c-hard_only-s1" not in {name for name, _ in again.driven}


def test_more_rounds_go_on_in_every_arm_and_fewer_end_every_arm_sooner(spec: Path, tmp_path: Path) -> None:
    config = tmp_path / "q.toml"
    two = config.read_text()
    for rounds in (2, 3, 1):
        config.write_text(two.replace("rounds = 2", f"rounds = {rounds}"))
        assert run_all(spec, BuiltRuns(), only=["random"], seeds=[1]) == {}
        plan = open_comparison(spec)
        assert [each.ref.name for each in find_finished(plan)] == ["c-multi_round-s1", "c-random-s1"]
        assert {folder(plan, arm).config.run.rounds for arm in ("multi_round", "random")} == {rounds}
        assert [row.name for row in read_comparison(plan).rows][2:] == ["multi_round", "random"]
