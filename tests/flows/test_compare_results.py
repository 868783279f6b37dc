"""Results of finished runs as files: a comparison is made on several machines and told as one."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from flows.series import find_finished, read_comparison, run_comparison
from tapir_core.comparison.outcome import ResultsFolder
from tapir_core.comparison.plan import open_comparison
from tapir_core.errors import ConfigError
from tapir_core.run_folder import RunFolder
from tapir_core.stages import STAGES
from tapir_core.stages import plan as plan_of
from tasks.input_files import gather_files
from tests.conftest import StandingServer
from tests.flows.built_comparison import BuiltRuns, lay_spec
from tests.flows.test_compare_command import command

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def laid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A comparison of two run seeds, the first of them made here and put into the folder `results`."""
    spec = lay_spec(tmp_path_factory.mktemp("one-machine"))
    spec.write_text(spec.read_text().replace("exploratory = [", "exploratory = [] # ["))
    plan = open_comparison(spec)
    results = ResultsFolder(spec.parent / "results", plan, gather_files)
    assert run_comparison(plan, plan.choose([], [1]), BuiltRuns().drive(), say=lambda _: None, results=results) == {}
    return spec


@pytest.fixture
def elsewhere(laid: Path, tmp_path: Path) -> Path:
    """The same comparison on another machine, which has the results and no run."""
    shutil.copytree(laid.parent, tmp_path / "copy", ignore=shutil.ignore_patterns("runs"))
    spec = tmp_path / "copy" / laid.name
    for file in (spec, spec.with_name("q.toml")):
        file.write_text(file.read_text().replace(str(laid.parent / "runs"), str(tmp_path / "runs")))
    spec.write_text(spec.read_text().replace(str(laid.parent / "q.toml"), str(spec.with_name("q.toml"))))
    return spec


def test_what_another_machine_made_is_told_as_if_it_was_made_here(laid: Path, elsewhere: Path) -> None:
    here, there = open_comparison(laid), open_comparison(elsewhere)
    results = ResultsFolder(elsewhere.parent / "results", there, gather_files)
    told = read_comparison(there, results)
    made = read_comparison(here)
    assert find_finished(there) == []
    assert told == replace(made, unfinished=told.unfinished)
    assert {name.rpartition("-")[2] for name in told.unfinished} == {"s2"}
    assert not told.concludes


def test_an_arm_that_is_added_leaves_the_results_of_the_others_as_they_are(elsewhere: Path) -> None:
    elsewhere.write_text(elsewhere.read_text().replace("exploratory = [] # [", 'exploratory = ["random_once"] # ['))
    plan = open_comparison(elsewhere)
    results = ResultsFolder(elsewhere.parent / "results", plan, gather_files)
    assert {each.run for each in results.read()} == {"c-multi_round-s1", "c-random-s1", "c-hard_only-s1"}
    assert "c-random_once-s1" in read_comparison(plan, results).unfinished


def test_only_what_no_machine_made_is_run_and_then_there_is_a_verdict(elsewhere: Path) -> None:
    plan, engines = open_comparison(elsewhere), BuiltRuns()
    results = ResultsFolder(elsewhere.parent / "results", plan, gather_files)
    assert run_comparison(plan, plan.runs, engines.drive(), say=lambda _: None, results=results) == {}
    assert {name for name, _ in engines.driven} == {"c-multi_round-s2", "c-random-s2", "c-hard_only-s2"}
    assert read_comparison(plan, results).concludes
    assert len(list((elsewhere.parent / "results").glob("*.json"))) == 6


def test_a_result_of_other_settings_is_refused(elsewhere: Path) -> None:
    elsewhere.write_text(elsewhere.read_text() + 'overrides = ["basic_tuning.examples=32"]\n')
    plan = open_comparison(elsewhere)
    results = ResultsFolder(elsewhere.parent / "results", plan, gather_files)
    with pytest.raises(ConfigError, match=r"c-multi_round-s1 with another config\.basic_tuning\.examples; give"):
        results.read()


def test_a_result_that_is_older_than_a_setting_counts_with_its_default(elsewhere: Path) -> None:
    plan = open_comparison(elsewhere)
    results = ResultsFolder(elsewhere.parent / "results", plan, gather_files)
    file = results.path / "c-multi_round-s1.json"
    told = json.loads(file.read_text())
    del told["of"]["config"]["curriculum"]["rejudge"]
    file.write_text(json.dumps(told))
    assert "c-multi_round-s1" in [each.run for each in results.read()]
    told["of"]["config"]["curriculum"]["rejudge"] = False
    file.write_text(json.dumps(told))
    with pytest.raises(ConfigError, match=r"c-multi_round-s1 with another config\.curriculum\.rejudge; give"):
        results.read()


def test_a_result_of_before_instructions_were_counted_leaves_the_cell_empty(elsewhere: Path) -> None:
    plan = open_comparison(elsewhere)
    results = ResultsFolder(elsewhere.parent / "results", plan, gather_files)
    file = results.path / "c-random-s1.json"
    told = json.loads(file.read_text())
    assert told.pop("distinct") > 0
    file.write_text(json.dumps(told))
    costs = {row.name: row.costs for row in read_comparison(plan, results).rows}
    assert costs["random"] is not None
    assert costs["multi_round"] is not None
    assert costs["random"]["distinct"] is None
    assert costs["multi_round"]["distinct"]


def test_a_result_holds_on_a_machine_with_other_addresses_and_limits(elsewhere: Path) -> None:
    others = ["calls.concurrency=7", "student.engine.base_url=http://127.0.0.1:8/v1", "training.micro_batch_size=2"]
    elsewhere.write_text(elsewhere.read_text() + f"overrides = {json.dumps(others)}\n")
    plan = open_comparison(elsewhere)
    assert len(ResultsFolder(elsewhere.parent / "results", plan, gather_files).read()) == 3


@pytest.mark.parametrize("setting", ["curriculum.stop.patience=1", "run.rounds=3", "curriculum.rejudge=false"])
def test_what_decides_which_stages_there_are_is_part_of_a_result(elsewhere: Path, setting: str) -> None:
    elsewhere.write_text(elsewhere.read_text() + f'overrides = ["{setting}"]\n')
    plan = open_comparison(elsewhere)
    with pytest.raises(ConfigError, match=r"with another config\." + setting.split("=")[0].replace(".", r"\.")):
        ResultsFolder(elsewhere.parent / "results", plan, gather_files).read()


def made_with_prompt(file: Path, name: str, version: str) -> None:
    """As by a tapir that shipped another prompt, where the run had this one."""
    told = json.loads(file.read_text())
    told["of"]["files"] |= {f"prompt:{name}": version} if f"prompt:{name}" in told["of"]["files"] else {}
    file.write_text(json.dumps(told))


def test_a_result_holds_the_prompts_that_its_stages_take_and_no_other(elsewhere: Path) -> None:
    plan = open_comparison(elsewhere)
    shipped = {
        each.arm.name: each.shipped for each in ResultsFolder(elsewhere.parent / "results", plan, gather_files).read()
    }
    assert "prompt:judge" in shipped["multi_round"]
    assert "prompt:judge" not in shipped["random"], "nothing is judged in random"
    assert not any("mt_bench" in name for each in shipped.values() for name in each)


def test_figures_of_another_shipped_prompt_are_shown_as_its_own_and_no_run_is_added_to_them(elsewhere: Path) -> None:
    plan, engines = open_comparison(elsewhere), BuiltRuns()
    results = ResultsFolder(elsewhere.parent / "results", plan, gather_files)
    before = read_comparison(plan, results)
    for file in results.path.iterdir():
        made_with_prompt(file, "judge", "0123456789ab")
    after = read_comparison(plan, results)
    assert "0123456789ab" in after.conditions["Prompts"]
    assert replace(after, conditions=before.conditions) == before
    with pytest.raises(
        ConfigError, match=r"-s1\.json: prompt:judge 0123456789ab made it, and \w+ what is run now; remove"
    ):
        run_comparison(plan, plan.runs, engines.drive(), say=lambda _: None, results=results)
    assert engines.driven == []
    made_with_prompt(results.path / "c-hard_only-s1.json", "judge", "ba9876543210")
    with pytest.raises(ConfigError, match=r"prompt:judge \w{12} made it, and \w{12} .*c-.*\.json; remove it"):
        read_comparison(plan, results)


def test_a_result_that_holds_prompts_of_no_stage_of_its_run_is_read_without_them(elsewhere: Path) -> None:
    plan = open_comparison(elsewhere)
    results = ResultsFolder(elsewhere.parent / "results", plan, gather_files)
    file = results.path / "c-random-s1.json"
    told = json.loads(file.read_text())
    assert not [name for name in told["of"]["files"] if "mt_bench" in name]
    told["of"]["files"] |= {"prompt:mt_bench_single": "of another day", "prompt:gone": "since then"}
    file.write_text(json.dumps(told))
    assert "c-random-s1" in [each.run for each in results.read()]


def test_a_result_that_was_matched_to_another_run_of_the_reference_is_refused(elsewhere: Path) -> None:
    plan = open_comparison(elsewhere)
    results = ResultsFolder(elsewhere.parent / "results", plan, gather_files)
    file = results.path / "c-multi_round-s1.json"
    told = json.loads(file.read_text())
    told["trainings"]["2"]["tokens"] *= 2
    file.write_text(json.dumps(told))
    with pytest.raises(ConfigError, match=r"c-random-s1\.json: its tokens or steps are not those of multi_round with"):
        read_comparison(plan, results)


def test_a_run_that_was_matched_to_a_reference_made_anew_is_not_put_beside_the_recorded_one(elsewhere: Path) -> None:
    plan, engines = open_comparison(elsewhere), BuiltRuns()
    results = ResultsFolder(elsewhere.parent / "results", plan, gather_files)
    (results.path / "c-random-s1.json").unlink()
    for file in results.path.iterdir():
        told = json.loads(file.read_text())
        for training in told["trainings"].values():
            training["tokens"] *= 3
        file.write_text(json.dumps(told))
    before = {file.name: file.read_bytes() for file in results.path.iterdir()}
    chosen = plan.choose(["random"], [1])
    assert run_comparison(plan, chosen, engines.drive(), say=lambda _: None, results=results) == {}
    assert {name for name, _ in engines.driven} == {"c-multi_round-s1", "c-random-s1"}
    with pytest.raises(
        ConfigError, match=r"c-hard_only-s1\.json: its tokens or steps are not those of multi_round with"
    ):
        read_comparison(plan, results, keep=True)
    assert {file.name: file.read_bytes() for file in results.path.iterdir()} == before


def made_by_version(file: Path, stage: str, version: int) -> None:
    told = json.loads(file.read_text())
    told["stages"][stage] = version
    file.write_text(json.dumps(told))


def test_runs_that_another_code_made_are_not_set_against_each_other(elsewhere: Path) -> None:
    plan = open_comparison(elsewhere)
    results = ResultsFolder(elsewhere.parent / "results", plan, gather_files)
    made_by_version(results.path / "c-random-s1.json", "mix", 1)
    with pytest.raises(ConfigError, match=r"c-random-s1\.json: version 1 of stage mix made it, and a later one .*c-"):
        read_comparison(plan, results)


def test_no_run_is_added_to_those_that_another_code_made(elsewhere: Path) -> None:
    plan, engines = open_comparison(elsewhere), BuiltRuns()
    results = ResultsFolder(elsewhere.parent / "results", plan, gather_files)
    for file in results.path.iterdir():
        made_by_version(file, "mix", 1)
    with pytest.raises(
        ConfigError, match=r"c-multi_round-s1\.json: version 1 of stage mix made it, and what is run now"
    ):
        run_comparison(plan, plan.runs, engines.drive(), say=lambda _: None, results=results)
    assert engines.driven == []
    assert run_comparison(plan, (), engines.drive(), say=lambda _: None, results=results) == {}, "shown they can be"


def test_what_does_not_fit_the_runs_made_here_leaves_the_folder_as_it_was(laid: Path, tmp_path: Path) -> None:
    plan = open_comparison(laid)
    shutil.copytree(laid.parent / "results", tmp_path / "results")
    results = ResultsFolder(tmp_path / "results", plan, gather_files)
    for file in results.path.iterdir():
        made_by_version(file, "mix", 1)
    (results.path / "c-random-s1.json").rename(results.path / "c-random-s2.json")
    told = json.loads((results.path / "c-random-s2.json").read_text()) | {"run": "c-random-s2", "run_seed": 2}
    told["of"]["config"]["run"] |= {"name": "c-random-s2", "seed": 2}
    (results.path / "c-random-s2.json").write_text(json.dumps(told))
    before = {file.name: file.read_bytes() for file in results.path.iterdir()}
    with pytest.raises(ConfigError, match=r"c-random-s2\.json: version 1 of stage mix made it, and a later one .*c-"):
        read_comparison(plan, results, keep=True)
    assert {file.name: file.read_bytes() for file in results.path.iterdir()} == before


def test_no_run_is_added_to_runs_of_an_older_version_and_finished_ones_are_shown(
    laid: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, engines = open_comparison(laid), BuiltRuns()
    before = read_comparison(plan)
    mix = STAGES["mix"]
    monkeypatch.setitem(STAGES, "mix", replace(mix, version=mix.version + 1))
    with pytest.raises(
        ConfigError, match=rf"^run c-\w+-s1: version {mix.version} of stage mix made it, and what is run"
    ):
        run_comparison(plan, plan.choose([], [2]), engines.drive(), say=lambda _: None)
    assert engines.driven == []
    assert run_comparison(plan, plan.choose([], [1]), engines.drive(), say=lambda _: None) == {}
    assert engines.driven == [], "what is finished is not made anew"
    after = read_comparison(plan)
    assert after.conditions["Settings"].endswith(f", made by other versions of stages: mix {mix.version}")
    assert replace(after, conditions=before.conditions) == before


def test_runs_of_two_versions_are_not_set_against_each_other_without_results_either(
    laid: Path, elsewhere: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(laid.parent / "runs", tmp_path / "runs")
    plan, mix = open_comparison(elsewhere), STAGES["mix"]
    monkeypatch.setitem(STAGES, "mix", replace(mix, version=mix.version + 1))
    run = RunFolder(plan.run("random", 1).ref)
    for at in plan_of(run.config):
        if at.name == "mix":
            run.write(at, run.rows(at))
    with pytest.raises(ConfigError, match=rf"version {mix.version} of stage mix made it, and a later one run c-random"):
        read_comparison(plan)


def test_figures_that_another_code_made_say_so(elsewhere: Path) -> None:
    plan = open_comparison(elsewhere)
    results = ResultsFolder(elsewhere.parent / "results", plan, gather_files)
    assert "made by" not in read_comparison(plan, results).conditions["Settings"]
    for file in results.path.iterdir():
        made_by_version(file, "mix", 1)
    assert read_comparison(plan, results).conditions["Settings"].endswith(", made by other versions of stages: mix 1")


def made_by_standin(file: Path, **versions: str) -> None:
    """As by a tapir with another stand-in."""
    told = json.loads(file.read_text())
    told["of"] |= versions
    for role in ("teacher", "judge"):
        endpoint = told["of"]["config"][role]["endpoint"]
        endpoint["version"] = versions.get("standin", endpoint["version"])
    file.write_text(json.dumps(told))


def test_figures_of_another_stand_in_are_shown_as_its_own_and_no_run_is_added_to_them(elsewhere: Path) -> None:
    plan, engines = open_comparison(elsewhere), BuiltRuns()
    results = ResultsFolder(elsewhere.parent / "results", plan, gather_files)
    before = read_comparison(plan, results)
    for file in results.path.iterdir():
        made_by_standin(file, standin="0123456789ab", standin_pool="ba9876543210")
    after = read_comparison(plan, results)
    assert "(standin-0123456789ab; rules, no LLM)" in after.conditions["Teacher"]
    assert after.conditions["Settings"] != before.conditions["Settings"]
    assert replace(after, conditions=before.conditions) == before
    with pytest.raises(
        ConfigError, match=r"-s1\.json: standin 0123456789ab made it, and \w{12} what is run now; remove"
    ):
        run_comparison(plan, plan.runs, engines.drive(), say=lambda _: None, results=results)
    assert engines.driven == []


def test_runs_of_two_stand_ins_are_not_set_against_each_other(elsewhere: Path) -> None:
    plan = open_comparison(elsewhere)
    results = ResultsFolder(elsewhere.parent / "results", plan, gather_files)
    made_by_standin(results.path / "c-random-s1.json", standin_pool="ba9876543210")
    with pytest.raises(ConfigError, match=r"standin_pool \w{12} made it, and \w{12} .*c-.*\.json; remove it"):
        read_comparison(plan, results)


@pytest.mark.parametrize("content", ["", "[]", '{"format": 99}', '{"format": 1}'])
def test_a_file_that_is_no_result_is_refused_by_name(elsewhere: Path, content: str) -> None:
    plan = open_comparison(elsewhere)
    results = ResultsFolder(elsewhere.parent / "results", plan, gather_files)
    (results.path / "c-random-s1.json").write_text(content)
    with pytest.raises(ConfigError, match=r"c-random-s1\.json: no result"):
        results.read()


def test_the_command_puts_what_is_finished_into_the_folder(
    laid: Path, tmp_path: Path, standing_prefect: StandingServer
) -> None:
    spec = tmp_path / "one.toml"
    spec.write_text(laid.read_text().replace("run_seeds = [1, 2]", "run_seeds = [1]\nverdict = false"))
    shown = command(spec, "--results", str(tmp_path / "kept"), "--show", api=standing_prefect.api)
    assert shown.returncode == 0, shown.stderr
    assert not (tmp_path / "kept").exists(), "to show is to read"
    done = command(spec, "--results", str(tmp_path / "kept"), api=standing_prefect.api)
    assert done.returncode == 0, done.stderr
    assert "3 runs, 3 finished, 0 to do now" in done.stderr
    made, kept = (
        {file.name: file.read_text() for file in place.iterdir()}
        for place in (laid.parent / "results", tmp_path / "kept")
    )
    assert kept == made
