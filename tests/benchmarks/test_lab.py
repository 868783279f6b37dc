"""The training lab on a tiny student: its data is the product's, it resumes, and what is carried is carried."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer

from benchmarks.lab import __main__ as lab
from benchmarks.lab import student
from benchmarks.lab.mixtures import Curriculum, following_shares
from benchmarks.lab.recipe import Experiment, Recipe, load_experiment, recipe_of
from benchmarks.lab.runs import Place, read_result, run
from benchmarks.lab.table import show, usd_of
from tapir_core.config.load import load_config
from tapir_core.errors import ConfigError
from tapir_core.stages import StageAt
from tasks.engines.training.data import PlannedTraining, plan_training
from tasks.engines.training.launch import TrainingJob, train_student
from tests.doubles.provider import FakeProvider
from tests.golden import fakes
from tests.golden.adapter import drive
from tests.harness.processes import REPOSITORY
from tests.students import make_checkpoint

SMOKE = REPOSITORY / "benchmarks" / "lab" / "smoke.toml"


@pytest.fixture(autouse=True)
def _at_home(monkeypatch):
    monkeypatch.chdir(REPOSITORY)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def experiment(tiny) -> Experiment:
    found = load_experiment(SMOKE)
    return found.model_copy(update={"overrides": (*found.overrides, f"student.backbone={tiny}")})


@pytest.fixture(scope="module")
def made(experiment, tmp_path_factory) -> Place:
    """Every arm with one seed."""
    folder = tmp_path_factory.mktemp("lab")
    place = Place(folder / "results", folder / "work")
    for name in experiment.ordered():
        assert run(of(experiment, name), place, say=lambda _: None)
    return place


def of(experiment: Experiment, name: str, seed: int = 1) -> Recipe:
    return recipe_of(experiment, name, seed)


def result_of(place: Place, name: str) -> dict:
    return read_result(place.results / f"smoke-{name}-s1.json")


@pytest.mark.usefixtures("prefect_server")
def test_mixtures_are_those_of_the_product_where_the_student_answers_alike(tmp_path, monkeypatch):
    with FakeProvider(fakes.reply) as provider:
        settings = [
            f"run.root={tmp_path / 'runs'}",
            f"student.backbone={make_checkpoint(tmp_path / 'backbone')}",
            f'student.engine={{ type = "endpoint", base_url = "{provider.base_url}" }}',
            'curriculum.target_shares="equal"',
            "data.pool.rows=120",
            "data.pool.max_level=3",
            "rounds.default.examples=60",
        ]
        config = load_config("configs/test.toml", settings)
        product = drive(config, monkeypatch)
    mine = Curriculum(product.config)
    assert mine.basic().rows.equals(product.rows(StageAt("mix", 0)))
    for number in (1, 2):
        answers = product.rows(StageAt("answer", number))
        mine.measure(number, dict(answers.select("instruction_id", "response").iter_rows()))
        made = mine.make_round(number, product.config.round(number))
        mine.keep(made)
        assert made.expansion.equals(product.rows(StageAt("expand", number))), "new instructions"
        assert made.mixture.rows.equals(product.rows(StageAt("mix", number)))
        assert {*made.mixture.rows["origin"]} == {"seed", "expansion", "easy"}


def test_a_result_has_the_marks_of_each_student_and_what_it_took(made):
    found = result_of(made, "averaged")
    assert {name: [*splits] for name, splits in found["students"].items()} == {
        "0": ["dev", "test"],
        "1": ["dev"],
        "2": ["dev", "test"],
        "average": ["dev", "test"],
    }
    assert found["exported"] == "average"
    assert {len(splits[name]) for splits in found["students"].values() for name in splits} == {12}
    assert found["trainings"]["1"]["loss_tokens"] > 0
    assert found["distinct_instructions"] > 16
    assert [sum(each.values()) for each in found["origins"]] == [32, 32]
    assert {*found["calls"]} == {"label", "teach", "judge", "expand", "refine"}
    assert found["calls"]["teach"]["calls"] >= 60, "the pool, and new instructions"


def test_random_data_needs_no_label_and_only_the_answers_that_it_trains_on(made):
    found = result_of(made, "random")
    trained = found["trainings"]["0"]["examples"] + found["distinct_instructions"]
    assert {*found["calls"]} == {"teach"}
    assert found["distinct_instructions"] <= found["calls"]["teach"]["calls"] <= trained
    dear = result_of(made, "averaged")
    assert usd_of(dear, "mini") > 3 * usd_of(found, "mini")
    assert usd_of(found, "large") == pytest.approx(usd_of(found, "mini") * 8 / 0.6)


def test_random_is_sized_to_the_arm_that_it_is_matched_to(made):
    own, other = (result_of(made, name)["trainings"] for name in ("random", "restarted"))
    for number in ("1", "2"):
        assert own[number]["tokens"] == pytest.approx(other[number]["tokens"], rel=0.02)
        assert abs(own[number]["steps"] - other[number]["steps"]) <= 1


def test_consolidation_trains_on_every_example_of_the_rounds(made):
    found = result_of(made, "consolidated")["trainings"]
    assert found["consolidated"]["examples"] <= found["1"]["examples"] + found["2"]["examples"]
    assert found["consolidated"]["examples"] > found["1"]["examples"]


def test_seeds_of_the_frontier_are_what_the_student_answers_now_well_now_badly():
    data = Curriculum(load_config("configs/test.toml", ["data.pool.rows=60"]))
    right = dict(data.pool(1).select("instruction_id", "response").iter_rows())
    wrong = dict.fromkeys(right, "I do not know.")
    [always, never, *others] = right
    once = {**wrong, **{each: right[each] for each in (*others, always)}}
    data.measure_frontier(1, [once, {**wrong, always: right[always]}])
    found = dict(data.difficulties[1].select("instruction_id", "mfd").iter_rows())
    assert found == {always: 0.0, never: 0.0, **dict.fromkeys(others, 0.25)}


def test_shares_follow_errors_and_gains_within_bounds():
    target = {"Math": 0.5, "Music": 0.25, "Law": 0.25}
    assert following_shares(target, dict.fromkeys(target, 0.5)) == pytest.approx(target)
    shares = following_shares(target, {"Math": 1.0, "Music": 0.0, "Law": 0.5})
    assert shares["Math"] == pytest.approx(0.125), "a quarter at least"
    assert shares["Music"] == pytest.approx(2 * shares["Law"])
    moved = following_shares(target, dict.fromkeys(target, 0.5), {"Math": 0.0, "Music": 0.02, "Law": 0.01})
    assert moved["Music"] == pytest.approx(2 * moved["Law"])
    assert moved["Math"] < target["Math"]
    assert following_shares(target, dict.fromkeys(target, 0.5), dict.fromkeys(target, -0.1)) == pytest.approx(target)


def test_answers_that_are_drawn_differ_by_sample_and_come_again(tiny):
    tokenizer = AutoTokenizer.from_pretrained(tiny)

    def drawn(sample: int) -> list[str]:
        return student.answer(
            tiny,
            tokenizer,
            ["Add 1 and 2.", "Name a planet."],
            most_tokens=8,
            device="cpu",
            in_bf16=False,
            say=lambda _: None,
            sample=sample,
        )

    assert drawn(1) == drawn(1) != drawn(2)


def test_what_is_there_is_not_made_again_and_another_recipe_is_refused(made, experiment, monkeypatch):
    monkeypatch.setattr(student, "train", None)
    assert not run(of(experiment, "restarted"), made, say=lambda _: None)
    changed = experiment.model_copy(update={"overrides": (*experiment.overrides, "rounds.default.learning_rate=5e-4")})
    with pytest.raises(ConfigError, match="another recipe"):
        run(of(changed, "restarted"), made, say=lambda _: None)


def test_a_killed_arm_goes_on_after_its_last_student_and_comes_to_the_same(made, experiment, tmp_path, monkeypatch):
    place, trained, train = Place(tmp_path / "results", tmp_path / "work"), [], student.train

    def train_some(base, target, planned, rate, **options):
        if len(trained) == 2:
            raise KeyboardInterrupt
        trained.append(target)
        train(base, target, planned, rate, **options)

    monkeypatch.setattr(student, "train", train_some)
    with pytest.raises(KeyboardInterrupt):
        run(of(experiment, "carried"), place, say=lambda _: None)
    assert not place.results.exists()
    monkeypatch.setattr(
        student,
        "train",
        lambda base, target, *rest, **options: (trained.append(target), train(base, target, *rest, **options)),
    )
    assert run(of(experiment, "carried"), place, say=lambda _: None)
    assert len(trained) == len(set(trained)) == 3, "S_0 and two rounds, each once"
    assert without_clocks(read_result(place.results / "smoke-carried-s1.json")) == without_clocks(
        result_of(made, "carried")
    )
    assert [each.name for each in place.work.iterdir()] == ["basic"], "only S_0 is left"


def without_clocks(result: dict) -> dict:
    return {name: value for name, value in result.items() if "seconds" not in name}


def test_arms_are_shown_beside_each_other(made, capsys):
    assert lab.main(["show", str(made.results)]) == 0
    lines = capsys.readouterr().out.splitlines()
    names = [line.split("  ")[0] for line in lines[1:7]]
    assert names[:3] == ["S_0", "restarted", "restarted, averaged"]
    assert "not shown" in "\n".join(lines)
    assert show([made.results], "dev") != show([made.results], "test")


def plan_of(tiny: Path, folder: Path) -> PlannedTraining:
    data = Curriculum(load_config("configs/test.toml", ["data.pool.rows=60"]))
    data.basic().rows.write_parquet(folder / "mixture.parquet")
    job = TrainingJob(
        base=tiny,
        mixture=(folder / "mixture.parquet",),
        output=folder / "attempt",
        training=data.config.training,
        epochs=1.0,
        learning_rate=1e-3,
        seed=3,
        log_path=folder / "training.log",
    )
    return plan_training(job, 1)


def train(planned: PlannedTraining, base: Path, target: Path, **options) -> dict[str, torch.Tensor]:
    rate = student.Rate(1e-3, "cosine", 0.03, planned.plan.steps)
    student.train(base, target, planned, rate, device="cpu", say=lambda _: None, **options)
    return load_file(target / "model.safetensors")


def test_adam_that_is_carried_goes_on_with_its_moments_and_its_steps(tiny, tmp_path):
    planned = plan_of(tiny, tmp_path)
    train(planned, tiny, tmp_path / "first", keep_optimizer=True)
    new = train(planned, tmp_path / "first", tmp_path / "new", keep_optimizer=True)
    carried = train(planned, tmp_path / "first", tmp_path / "carried", carried=tmp_path / "first", keep_optimizer=True)
    assert any(not torch.equal(new[name], carried[name]) for name in new)
    steps = [
        {int(each["step"]) for each in torch.load(tmp_path / name / "optimizer.pt")["state"].values()}
        for name in ("new", "carried")
    ]
    assert steps == [{planned.plan.steps}, {2 * planned.plan.steps}]


def test_the_average_of_students_is_that_of_their_weights(tiny, tmp_path):
    planned = plan_of(tiny, tmp_path)
    first, second = train(planned, tiny, tmp_path / "a"), train(planned, tmp_path / "a", tmp_path / "b")
    student.average([tmp_path / "a", tmp_path / "b"], tmp_path / "mean")
    mean = load_file(tmp_path / "mean" / "model.safetensors")
    assert mean.keys() == first.keys()
    for name in mean:
        torch.testing.assert_close(mean[name], (first[name] + second[name]) / 2)
    student.load_student(tmp_path / "mean", "cpu")


def test_one_schedule_over_all_rounds_goes_on_where_the_last_one_ended():
    whole = student.Rate(1.0, "cosine", 0.25, 8).at_each_step()
    second = student.Rate(1.0, "cosine", 0.25, 8, done=4).at_each_step()
    assert [second(step) for step in range(4)] == [whole(step) for step in range(4, 8)]
    assert [whole(0), whole(1), whole(2)] == [0.0, 0.5, 1.0]


@pytest.mark.slow
def test_a_training_comes_to_the_weights_of_the_products_trainer(tiny, tmp_path):
    planned = plan_of(tiny, tmp_path)
    mine = train(planned, tiny, tmp_path / "mine")
    train_student(planned.job)
    product = load_file(tmp_path / "attempt" / "checkpoint" / "model.safetensors")
    assert mine.keys() == product.keys()
    moved = max(
        float((product[name] - weight.float()).abs().max())
        for name, weight in load_file(tiny / "model.safetensors").items()
    )
    for name in mine:
        torch.testing.assert_close(mine[name], product[name], rtol=0, atol=0.02 * moved)


@pytest.mark.parametrize("name", ["e1", "e2", "e3", "e4_dev"])
def test_the_shipped_experiments_are_whole(name):
    found = load_experiment(REPOSITORY / "benchmarks" / "lab" / f"{name}.toml")
    assert len(found.seeds) >= 4
    assert found.reference in found.arms


def test_the_command_runs_on_its_own(made, experiment, tiny, tmp_path):
    text = SMOKE.read_text().replace("overrides = [", f'overrides = [\n    "student.backbone={tiny}",', 1)
    (tmp_path / "smoke.toml").write_text(text)
    command = [sys.executable, "-m", "benchmarks.lab", "run", str(tmp_path / "smoke.toml")]
    options = ["--arm", "restarted", "--seed", "2", "--to", str(tmp_path / "to"), "--work-folder", str(tmp_path / "w")]
    done = subprocess.run([*command, *options], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "to" / "smoke-restarted-s2.json").read_text())["seed"] == 2


@pytest.mark.parametrize(
    ("precision", "device", "narrow"),
    [
        ("bf16", "cpu", True),
        ("auto", "cpu", False),
        ("fp32", "cpu", False),
        ("auto", "cuda", True),
        ("fp32", "cuda", False),
    ],
)
def test_a_cpu_computes_in_bfloat16_only_where_it_is_asked_to(precision: str, device: str, narrow: bool):
    assert student.computes_in_bf16(precision, device) is narrow
