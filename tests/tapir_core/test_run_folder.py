"""Which stages of a run hold, and what a change would redo."""

import json
from dataclasses import replace

import polars as pl
import pytest

from tapir_core.config import RunConfig
from tapir_core.data.dataset import write_part
from tapir_core.errors import ConfigError, MissingPrerequisite, RunChanged
from tapir_core.paths import BACKBONE
from tapir_core.run_folder import RunFolder, open_run, stages_to_redo
from tapir_core.stages import STAGES, StageAt, asked_apart, plan

AT_RANDOM = {"selection": {"type": "random", "share": 0.3}}
INGREDIENTS = {"backbone": "b", **{f"prompt:{name}": "p" for name in ("judge", "label", "expand", "refine_steps")}}


def make_config(root, **changes) -> RunConfig:
    table = {
        "run": {"name": "r", "root": str(root), "rounds": 2},
        "data": {"pool": {"type": "standin"}, "heldout": {"type": "standin"}},
        "teacher": {"endpoint": {"type": "openai", "model": "t", "identity": "t-1"}},
        "judge": {"endpoint": {"type": "openai", "model": "j", "identity": "j-1"}},
        "curriculum": {"target_shares": "recipe", "alpha_start": 0.3, "refine": True},
        "basic_tuning": {"examples": 100},
        "rounds": {"default": {"examples": 100, "selection": {"type": "threshold"}}, **changes.pop("rounds", {})},
    }
    for path, value in changes.items():
        *sections, field = path.split("__")
        place = table
        for section in sections:
            place = place.setdefault(section, {})
        place[field] = value
    return RunConfig.model_validate(table)


def finish(run):
    """Write one row for every stage, in the order of a run."""
    for at in plan(run.config):
        row = pl.DataFrame({name: [f"{at}"] for name in STAGES[at.name].columns} or {"weights": [f"{at}"]})
        run.seal(at, [write_part(run.storage, at.folder, row)])


@pytest.fixture
def finished(tmp_path):
    run = open_run(make_config(tmp_path), INGREDIENTS)
    finish(run)
    return run


def names(redo):
    return {(each.at.name, each.at.round) for each in redo}


def test_every_stage_of_a_finished_run_holds(finished):
    assert all(finished.holds(at) for at in plan(finished.config))


@pytest.mark.parametrize(
    ("at", "maker", "command"),
    [
        (StageAt("judge", 2), "judge", "`tapir run`"),
        (StageAt("wave_gated", 1, 3), "expand", "`tapir run`"),
        (StageAt("evaluate", 0), "evaluate", "`tapir evaluate r --root {root}`"),
        (StageAt("benchmark_scores", 1, benchmark="ifeval"), "benchmark_scores", "--root {root} --benchmark ifeval`"),
    ],
    ids=str,
)
def test_rows_of_a_stage_that_is_not_done_name_stage_run_maker_and_command(tmp_path, at, maker, command):
    run = open_run(make_config(tmp_path), INGREDIENTS)
    with pytest.raises(MissingPrerequisite) as raised:
        run.rows(at)
    said = str(raised.value)
    assert said.startswith(f"{at} of run 'r' in '{tmp_path}' is not done.")
    assert f"stage {maker!r} makes it" in said
    assert command.format(root=tmp_path) in said
    assert f"`tapir status r --root {tmp_path}`" in said
    assert at.folder in said


def test_nothing_holds_before_its_inputs(tmp_path):
    run = open_run(make_config(tmp_path), INGREDIENTS)
    assert run.key(StageAt("label")) is None
    assert run.key(StageAt("heldout")) is not None


def test_the_same_configuration_opens_the_same_run(finished, tmp_path):
    assert open_run(make_config(tmp_path), INGREDIENTS).record == finished.record


def test_a_deleted_folder_takes_only_what_reads_it(finished):
    finished.storage.remove(StageAt("difficulty", 1).folder)
    held = {at for at in plan(finished.config) if finished.holds(at)}
    assert StageAt("judge", 1) in held
    assert StageAt("difficulty", 1) not in held
    assert StageAt("select", 1) not in held
    assert StageAt("train", 0) in held


def test_a_missing_part_is_noticed(finished):
    folder = StageAt("select", 1).folder
    part = next(name for name in finished.storage.names(folder) if name.startswith("part-"))
    finished.storage.remove(f"{folder}/{part}")
    assert finished.holds(StageAt("select", 1)) is None


def test_an_edited_judge_prompt_redoes_judge_and_what_follows_and_nothing_before(finished, tmp_path):
    redo = names(stages_to_redo(finished, make_config(tmp_path), {**INGREDIENTS, "prompt:judge": "edited"}))
    assert {("judge", 1), ("difficulty", 1), ("select", 1), ("train", 1), ("answer", 2), ("evaluate", 2)} <= redo
    assert not redo & {("answer", 1), ("label", None), ("teach", None), ("train", 0), ("answer_heldout", 0)}


def test_a_changed_run_is_refused_with_stages_and_calls(finished, tmp_path):
    with pytest.raises(RunChanged, match=r"judge \(round 1\): 1 rows, up to 1 calls(.|\n)*--amend"):
        open_run(make_config(tmp_path), {**INGREDIENTS, "prompt:judge": "edited"})


def test_a_changed_setting_is_refused_by_its_name_with_both_values(finished, tmp_path):
    edited = make_config(tmp_path)
    edited = RunConfig.model_validate(edited.model_dump() | {"judge": edited.judge.model_dump() | {"reasks": 5}})
    before = finished.config.judge.reasks
    with pytest.raises(RunChanged, match=rf"Other than before: judge\.reasks: {before} → 5\n"):
        open_run(edited, INGREDIENTS)


def test_amending_keeps_what_holds_and_undoing_finds_it_again(finished, tmp_path):
    edited = open_run(make_config(tmp_path), {**INGREDIENTS, "prompt:judge": "edited"}, amend=True)
    assert edited.holds(StageAt("answer", 1)) is not None
    assert edited.holds(StageAt("judge", 1)) is None
    undone = open_run(make_config(tmp_path), INGREDIENTS, amend=True)
    assert undone.holds(StageAt("judge", 1)) is not None


def test_a_benchmark_that_was_asked_apart_is_not_forgotten_without_a_word(tmp_path):
    """Its judgments are paid for: another judge under the same name must be refused like in a round."""

    def with_judge(identity):
        judge = {"type": "openai", "model": "j", "identity": identity}
        mine = {"type": "vicuna", "questions": "q.jsonl", "baseline": "b.jsonl", "judge": judge}
        return make_config(tmp_path, evaluation__benchmarks={"mine": mine})

    finish(run := open_run(with_judge("j-1"), INGREDIENTS))
    for at in asked_apart(run.config):
        if at.round in (None, BACKBONE, 0):
            row = pl.DataFrame({name: [f"{at}"] for name in STAGES[at.name].columns})
            run.seal(at, [write_part(run.storage, at.folder, row)])
    redo = stages_to_redo(run, with_judge("j-2"), INGREDIENTS)
    assert [(each.at.name, each.at.number, each.calls) for each in redo] == [
        ("benchmark_replies", BACKBONE, 1),
        ("benchmark_scores", BACKBONE, 0),
        ("benchmark_replies", 0, 1),
        ("benchmark_scores", 0, 0),
    ]
    with pytest.raises(RunChanged, match="benchmark_replies"):
        open_run(with_judge("j-2"), INGREDIENTS)
    edited = stages_to_redo(run, run.config, {**INGREDIENTS, "file:baseline:mine": "edited"})
    assert edited[0].at == StageAt("benchmark_items", benchmark="mine")


def test_a_heldout_set_that_is_added_or_taken_away_changes_the_pool(finished, tmp_path):
    without = make_config(tmp_path)
    without = without.model_copy(update={"data": without.data.model_copy(update={"heldout": None})})
    assert stages_to_redo(finished, without, INGREDIENTS)[0].at == StageAt("pool")


def test_parts_of_an_earlier_making_leave_the_folder(finished):
    at = StageAt("mix", 1)
    row = pl.DataFrame({name: ["new"] for name in STAGES["mix"].columns})
    finished.seal(at, [write_part(finished.storage, at.folder, row)])
    parts = [name for name in finished.storage.names(at.folder) if name.startswith("part-")]
    assert parts == [part.name for part in finished.manifest(at).parts]


@pytest.mark.parametrize(
    "changes",
    [
        {"calls__concurrency": 7},
        {"calls__max_attempts": 9},
        {"calls__rows_per_shard": 3},
        {"calls__store_url": "sqlite:///elsewhere.sqlite"},
        {"calls__max_missing_share": 0.5},
        {"teacher__endpoint__base_url": "http://127.0.0.1:1/v1"},
        {"teacher__endpoint__api_key_env": "OTHER_KEY"},
        {"teacher__endpoint__api_key_file": "/somewhere/key"},
        {"student__engine": {"type": "vllm", "concurrency": 3, "enforce_eager": True}},
        {"student__engine": {"type": "replicas", "replicas": 2}},
        {"training__micro_batch_size": 1},
        {"training__zero_stage": 3},
        {"teacher__terms": "CC BY 4.0"},
        {"training__save_minutes": 1.0},
        {"training__runs_on": "worker"},
        {"rounds__2": {"batch_size": 128}},
    ],
    ids=str,
)
def test_what_cannot_change_a_row_changes_no_key(finished, tmp_path, changes):
    assert stages_to_redo(finished, make_config(tmp_path, **changes), INGREDIENTS) == []


@pytest.mark.parametrize(
    ("changes", "first"),
    [
        ({"run__seed": 2}, ("heldout", None)),
        ({"data__pool": {"type": "standin", "rows": 7}}, ("contaminated", None)),
        ({"evaluation__decontamination": {"overlap_words": 8}}, ("contaminated", None)),
        ({"teacher__endpoint__identity": "t-2"}, ("label", None)),
        ({"teacher__labelling": {"max_tokens": 9}}, ("label", None)),
        ({"teacher__answering": {"max_tokens": 9}}, ("teach", None)),
        ({"student__sampling": {"max_tokens": 9}}, ("answer_heldout", -1)),
        ({"basic_tuning__examples": 5}, ("mix", 0)),
        ({"basic_tuning__epochs": 5.0}, ("train", 0)),
        ({"training__batch_size": 8}, ("train", 0)),
        ({"judge__mode": "pointwise"}, ("judge", 1)),
        ({"judge__orders": ["teacher_first"]}, ("judge", 1)),
        ({"judge__endpoint__model": "j2"}, ("judge", 1)),
        ({"judge__panel": [{"type": "standin"}]}, ("judge", 1)),
        ({"judge__panel_rule": "majority"}, ("difficulty", 1)),
        ({"rounds__1": {"selection": {"type": "hard_share"}}}, ("select", 1)),
        ({"rounds__1": {"selection": {"type": "random", "share": 0.3}}}, ("select", 1)),
        ({"curriculum__expansion": {"max_waves": 1}}, ("expand", 1)),
        ({"curriculum__rejudge": False}, ("select", 2)),
        ({"curriculum__refine": False}, ("refine", 1)),
        ({"curriculum__target_shares": "natural"}, ("expand", 1)),
        ({"rounds__2": {"learning_rate": 1e-4}}, ("train", 2)),
        ({"rounds__2": {"batch_size": 37}}, ("train", 2)),
    ],
    ids=str,
)
def test_what_can_change_a_row_changes_its_stage_first(finished, tmp_path, changes, first):
    redo = stages_to_redo(finished, make_config(tmp_path, **changes), INGREDIENTS)
    assert (redo[0].at.name, redo[0].at.round) == first


@pytest.mark.parametrize("number", [BACKBONE, 0])
def test_before_the_first_round_nothing_is_judged_whatever_the_schedule_of_alpha(finished, number):
    assert finished.config.round(1).alpha == 0.3
    assert finished.config.curriculum.alpha_step == 0.2
    assert finished.holds(StageAt("judge", number)) is None
    assert not finished.config.judges(number)


def test_a_round_draws_from_what_earlier_mixtures_leave_and_runs_again_when_they_change(finished):
    for name in ("refine", "mix"):
        assert {StageAt("mix", 0), StageAt("mix", 1)} <= set(STAGES[name].reads(finished.config, StageAt(name, 2)))
    held = [finished.rows(StageAt("mix", number)) for number in (0, 1)]
    easy = held[1].filter(origin="easy")
    unseen = finished.rows(StageAt("difficulty", 1)).join(held[0], on="instruction_id", how="anti")
    unseen = unseen.join(finished.rows(StageAt("select", 1)), on="instruction_id", how="anti")
    for task_type, supply in unseen.group_by("task_type").len().rows():
        drawn = easy.filter(task_type=task_type)
        repeats = drawn.join(held[0], on="instruction_id", how="semi")
        assert repeats.height == max(0, drawn.height - supply)


def test_a_round_that_draws_at_random_judges_nothing_and_reads_what_was_trained_on(tmp_path):
    config = make_config(tmp_path, rounds={"2": AT_RANDOM}, curriculum__expansion={"check_difficulty": True})
    first, second = ([at.name for at in plan(config) if at.round == number] for number in (1, 2))
    assert first == ["answer", "judge", "difficulty", *second]
    for name in ("select", "refine", "mix"):
        inputs = STAGES[name].reads(config, StageAt(name, 2))
        assert {StageAt("mix", 0), StageAt("mix", 1)} <= set(inputs)
        assert not {"answer", "judge", "difficulty"} & {each.name for each in inputs}
    assert StageAt("train", 0) in STAGES["expand"].reads(config, StageAt("expand", 1))
    assert StageAt("train", 1) not in STAGES["expand"].reads(config, StageAt("expand", 2))


def test_without_rejudging_later_rounds_read_the_difficulty_of_the_first_round_that_is_judged(tmp_path):
    check = {"max_waves": 1, "check_difficulty": True}
    config = make_config(tmp_path, run__rounds=3, curriculum__rejudge=False, curriculum__expansion=check)
    assert [config.verdict_round(number) for number in (1, 2, 3)] == [1, 1, 1]
    assert [at.round for at in plan(config) if at.name in ("answer", "judge", "difficulty")] == [1, 1, 1]
    assert STAGES["select"].reads(config, StageAt("select", 3)) == [StageAt("difficulty", 1)]
    assert StageAt("difficulty", 1) in STAGES["mix"].reads(config, StageAt("mix", 3))
    assert [config.checks_expansion(number) for number in (1, 2)] == [True, False]
    late = make_config(tmp_path, run__rounds=3, curriculum__rejudge=False, rounds={"1": AT_RANDOM, "2": {}})
    assert [late.verdict_round(number) for number in (1, 2, 3)] == [None, 2, 2]


def test_verdicts_of_a_round_that_draws_at_random_by_now_hold_no_more(finished, tmp_path):
    amended = make_config(tmp_path, rounds={"1": AT_RANDOM})
    run = open_run(amended, INGREDIENTS, amend=True)
    assert [run.holds(StageAt(name, 1)) for name in ("answer", "judge", "difficulty")] == [None] * 3
    assert run.holds(StageAt("train", 0)) is not None


def test_every_stage_reads_only_stages_that_come_before_it(tmp_path):
    rounds = {"default": AT_RANDOM}
    for changes in ({}, {"rounds": rounds}, {"curriculum__rejudge": False}):
        config = make_config(tmp_path, **changes)
        seen = set()
        for at in plan(config):
            assert set(STAGES[at.name].reads(config, at)) <= seen
            seen.add(at)


@pytest.fixture
def newer(monkeypatch):
    """A version of tapir whose code makes these stages otherwise."""

    def raise_versions(*stages):
        for name in stages:
            monkeypatch.setitem(STAGES, name, replace(STAGES[name], version=STAGES[name].version + 1))

    return raise_versions


def test_a_raised_stage_version_redoes_the_stage_and_what_follows_and_nothing_before(finished, newer):
    newer("select")
    redo = stages_to_redo(finished, finished.config, INGREDIENTS)
    assert names(redo) == names(stages_to_redo(finished, with_rule(finished.config), INGREDIENTS))
    assert redo[0].at == StageAt("select", 1)
    assert [each.at.number for each in redo if each.is_outdated] == [1, 2]


def with_rule(config):
    """Another setting of the same stage."""
    rounds = {"default": {"selection": {"type": "hard_share"}}}
    return RunConfig.model_validate({**config.model_dump(mode="json"), "rounds": rounds})


def test_what_any_version_made_holds_and_says_by_which(finished, newer):
    newer("select", "train")
    assert all(finished.holds(at) for at in plan(finished.config))
    assert finished.trained_rounds == [0, 1, 2]
    assert finished.stage_versions["select"] == STAGES["select"].version - 1
    assert stages_to_redo(finished, finished.config, INGREDIENTS, any_version=True) == []
    assert open_run(finished.config, INGREDIENTS, any_version=True).holds(StageAt("select", 1))


def test_a_run_of_an_older_version_is_refused_with_its_cost_until_it_is_amended(finished, newer):
    made_by = STAGES["refine"].version
    newer("refine")
    with pytest.raises(RunChanged) as refused:
        open_run(finished.config, INGREDIENTS)
    for words in (
        f"refine (version {made_by}, here {made_by + 1})",
        "refine (round 2): 1 rows, up to 1 calls",
        "and 2 trainings",
        "--amend",
    ):
        assert words in str(refused.value)
    assert finished.holds(StageAt("refine", 1)) is not None, "it was only refused"
    amended = open_run(finished.config, INGREDIENTS, amend=True)
    assert [amended.holds(StageAt(name, 1)) for name in ("refine", "mix", "train")] == [None] * 3
    assert amended.holds(StageAt("expand", 1)) is not None
    assert open_run(finished.config, INGREDIENTS).record == finished.record, "what is not there is no obstacle"


def test_what_is_made_after_a_version_was_raised_is_of_that_version_beside_the_rest(finished, newer):
    newer("evaluate")
    finished.write(StageAt("evaluate", 2), finished.rows(StageAt("evaluate", 2)))
    assert [finished.manifest(StageAt("evaluate", number)).version for number in (1, 2)] == [3, 4]
    assert finished.stage_versions["evaluate"] == 3, "the oldest counts"
    assert all(finished.holds(StageAt("evaluate", number)) for number in (1, 2))


def test_an_unfinished_expansion_goes_on_from_no_step_of_another_version(finished, newer):
    step = StageAt("wave_screened", 1, 1)
    for name in ("wave_requests", "wave_candidates", "wave_screened"):
        at = StageAt(name, 1, 1)
        row = pl.DataFrame({column: ["x"] for column in STAGES[name].columns})
        finished.seal(at, [write_part(finished.storage, at.folder, row)])
    newer("wave_screened")
    assert finished.holds(step) is not None, "the expansion is done, and this is how it came about"
    finished.storage.remove(StageAt("expand", 1).folder)
    assert finished.holds(step) is None
    assert finished.holds(StageAt("wave_candidates", 1, 1)) is not None


@pytest.mark.parametrize("file", ["run.json", "pool/manifest.json"])
def test_a_file_of_a_later_version_is_refused_by_its_name(finished, file):
    written = json.loads(finished.storage.read_bytes(file))
    finished.storage.write_bytes(file, json.dumps({**written, "colour": "red"}).encode())
    with pytest.raises(ConfigError, match=f"{file} cannot be read .*'colour'.* a later one; use that one"):
        RunFolder(finished.ref).holds(StageAt("pool"))


def test_a_newer_version_of_a_stage_that_stands_in_no_plan_is_seen_and_redoes_what_reads_it(
    finished: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = StageAt("draw", 1)
    finished.write(at, pl.DataFrame({name: ["x"] for name in STAGES["draw"].columns}))
    monkeypatch.setitem(STAGES, "draw", replace(STAGES["draw"], version=STAGES["draw"].version + 1))
    redo = [each.at for each in stages_to_redo(finished, finished.config, finished.record.ingredients)]
    assert redo[0] == at
    assert {StageAt("refine", 1), StageAt("mix", 1), StageAt("train", 1)} <= {*redo}
    assert StageAt("select", 1) not in redo
