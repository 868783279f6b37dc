"""What a valid configuration may still get wrong on this machine, each with its own test."""

import json
from pathlib import Path
from typing import Any

import pytest

from tapir_core.config import RunConfig
from tapir_core.config.checks import check_config, missing_for_calls, missing_prerequisites
from tapir_core.config.load import load_resolved, resolved_json

OPENAI = {"type": "openai", "model": "m", "identity": "i", "api_key_env": "MY_KEY"}


def make_config(**sections: Any) -> RunConfig:
    endpoint = {"endpoint": {"type": "standin"}}
    data = {"pool": {"type": "standin"}}
    return RunConfig.model_validate(
        {"run": {"name": "a"}, "data": data, "teacher": endpoint, "judge": endpoint, **sections}
    )


def the_problem(**sections: Any) -> str:
    found = check_config(make_config(**sections))
    assert len(found) == 1, found
    return found[0]


def make_backbone(folder: Path, **tokenizer: Any) -> str:
    (folder / "config.json").write_text("{}")
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    return str(folder)


def test_a_sound_configuration_has_no_problem() -> None:
    assert check_config(make_config()) == []


def test_all_problems_are_found_at_once() -> None:
    found = check_config(
        make_config(
            data={"pool": {"type": "file", "path": "no.json"}, "heldout": {"type": "file", "path": "no.csv"}},
            student={"backbone": "./nowhere", "chat_template": "no.jinja"},
            training={"batch_size": 10, "micro_batch_size": 4},
            evaluation={"benchmarks": {"mt_bench": {"questions": "no.jsonl"}}},
        )
    )
    assert [problem.split(":")[0] for problem in found] == [
        "data.pool.path",
        "data.heldout.path",
        "evaluation.benchmarks.mt_bench.questions",
        "student.backbone",
        "student.chat_template",
        "training.batch_size",
    ]


def test_a_home_of_nobody_holds_no_model() -> None:
    assert "there is no model" in the_problem(student={"backbone": "~nobody-here/model"})


@pytest.mark.parametrize("root", ["", "~/runs"])
def test_a_root_that_is_no_path_is_refused(root: str) -> None:
    assert the_problem(run={"name": "a", "root": root}).startswith(f'run.root: value "{root}": is no folder here')


@pytest.mark.parametrize("part", ["pool", "heldout"])
def test_an_address_with_a_password_is_refused_and_not_shown(part: str) -> None:
    secret = {"type": "file", "path": "https://me:s3cretpw@host/x.jsonl"}
    found = the_problem(data={"pool": {"type": "standin"}, part: secret})
    assert found.startswith(f"data.{part}.path: an address with a user or password")
    assert "s3cretpw" not in found


def test_a_missing_pool_says_how_to_name_another() -> None:
    problem = the_problem(data={"pool": {"type": "file", "path": "no.json"}})
    assert problem.startswith('data.pool.path: value "no.json": there is no such file')
    assert "--set data.pool.path=FILE" in problem


def test_a_file_in_the_place_of_the_root_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "is a file; name a folder" in the_problem(run={"name": "a", "root": str(tmp_path / "file" / "runs")})


def test_a_remote_root_and_a_remote_pool_are_not_looked_for_here() -> None:
    remote = {"pool": {"type": "file", "path": "s3://bucket/pool.json"}}
    run, calls = {"name": "a", "root": "s3://bucket/runs"}, {"store_url": "postgresql://host/answers"}
    assert check_config(make_config(run=run, calls=calls, data=remote)) == []


def test_a_remote_root_needs_a_store_elsewhere() -> None:
    problem = the_problem(run={"name": "a", "root": "s3://bucket/runs"})
    assert problem.startswith("run.root: ")
    assert "set calls.store_url" in problem


def test_a_missing_prompts_folder_is_named() -> None:
    assert "there is no such folder" in the_problem(run={"name": "a", "prompts": "no_prompts"})


def test_a_prompt_file_that_replaces_nothing_is_named(tmp_path: Path) -> None:
    (tmp_path / "judge.jinja2").touch()
    (tmp_path / "README.md").touch()
    assert check_config(make_config(run={"name": "a", "prompts": str(tmp_path)})) == []
    (tmp_path / "juge.jinja2").touch()
    assert "juge.jinja2 replaces no prompt" in the_problem(run={"name": "a", "prompts": str(tmp_path)})


@pytest.mark.parametrize("backbone", ["./nowhere", "/nowhere/model", "~/nowhere", "a/b/c"])
def test_a_backbone_that_looks_like_a_path_must_be_there(backbone: str) -> None:
    assert "no config.json in that folder" in the_problem(student={"backbone": backbone})


@pytest.mark.parametrize("backbone", ["gpt2", "embeded", "qwen9"])
def test_a_word_that_is_no_folder_is_no_hub_id_but_a_slip(backbone: str) -> None:
    said = the_problem(student={"backbone": backbone})
    assert said.startswith(f'student.backbone: value "{backbone}": there is no model')
    assert 'a hub id such as "org/name", or "embedded:' in said


@pytest.mark.parametrize("backbone", ["org/model", "embedded:smollm2-135m-instruct"])
def test_a_hub_id_and_the_embedded_student_are_not_looked_for_here(backbone: str) -> None:
    assert check_config(make_config(student={"backbone": backbone})) == []


def test_an_unknown_embedded_student_is_named() -> None:
    assert "the embedded student is" in the_problem(student={"backbone": "embedded:other"})


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    assert "no config.json" in the_problem(student={"backbone": str(tmp_path)})


def test_a_local_backbone_needs_a_chat_template(tmp_path: Path) -> None:
    backbone = make_backbone(tmp_path)
    assert "has no chat template" in the_problem(student={"backbone": backbone})


def test_a_chat_template_may_come_from_the_backbone_or_from_a_file(tmp_path: Path) -> None:
    template = tmp_path / "chat_template.jinja"
    backbone = make_backbone(tmp_path, chat_template="{{ messages }}")
    assert check_config(make_config(student={"backbone": backbone})) == []
    make_backbone(tmp_path)
    template.touch()
    assert check_config(make_config(student={"backbone": backbone})) == []
    template = template.rename(tmp_path / "mine.jinja")
    assert check_config(make_config(student={"backbone": backbone, "chat_template": str(template)})) == []


def test_an_answer_as_long_as_the_context_leaves_no_room_for_the_prompt() -> None:
    problem = the_problem(student={"sampling": {"max_tokens": 512}, "engine": {"max_model_length": 512}})
    assert problem.startswith("student.sampling.max_tokens: value 512")


def test_orders_have_no_effect_on_pointwise_verdicts() -> None:
    judge = {"endpoint": {"type": "standin"}, "mode": "pointwise"}
    assert check_config(make_config(judge=judge)) == []
    assert "has no effect" in the_problem(judge={**judge, "orders": ["teacher_first"]})


def test_an_expansion_that_nothing_passes_is_named() -> None:
    assert "no instruction passes" in the_problem(curriculum={"expansion": {"min_chars": 9, "max_chars": 8}})


def test_the_stop_rule_on_gains_needs_a_dev_split() -> None:
    stop = {"stop": {"patience": 1}}
    assert "there is none" in the_problem(curriculum=stop)
    pool = {"type": "standin"}
    assert the_problem(curriculum=stop, data={"pool": pool, "heldout": {"type": "standin", "dev": 0}})
    assert check_config(make_config(curriculum=stop, data={"pool": pool, "heldout": {"type": "standin"}})) == []


def test_a_hard_part_without_seeds_is_named_with_its_rounds() -> None:
    at_random, three = {"default": {"selection": {"type": "random", "share": 0.0}}}, {"run": {"name": "r", "rounds": 3}}
    assert "without seeds (round 1, 2, 3)" in the_problem(rounds=at_random, **three)
    assert "without seeds (round 2, 3)" in the_problem(
        rounds={**at_random, "1": {"alpha": 0.0}, "2": {"alpha": 0.1}}, **three
    )
    assert check_config(make_config(rounds={"default": {**at_random["default"], "alpha": 0.0}})) == []


def test_an_easy_part_is_refused_where_the_whole_pool_are_seeds() -> None:
    assert "have seeds" not in the_problem(rounds={"default": {"alpha": 0.9}})
    assert "all instructions are seeds (round 1)" in the_problem(rounds={"default": {"alpha": 0.9}})
    assert check_config(make_config()) == []


def test_a_batch_is_whole_micro_batches_of_all_processes() -> None:
    assert "set 12 or" in the_problem(training={"batch_size": 10, "micro_batch_size": 4})
    assert "× processes = 3" in the_problem(training={"batch_size": 16, "micro_batch_size": 4, "processes": 3})
    nodes = {"nodes": 2, "runs_on": "worker"}
    assert "× nodes = 2" in the_problem(training={"batch_size": 12, "micro_batch_size": 4, **nodes})


def test_a_driver_trains_on_its_own_machine_alone() -> None:
    assert the_problem(training={"nodes": 2}).startswith("training.nodes: value 2: a driver trains on its own machine")


def test_weights_of_four_bits_are_not_partitioned() -> None:
    four_bits = {"lora": {"quantization": "nf4"}}
    assert "set training.zero_stage = 2" in the_problem(training={**four_bits, "zero_stage": 3})
    assert check_config(make_config(training=four_bits)) == []


def test_what_zero_does_not_partition_is_not_offloaded() -> None:
    assert "set training.zero_stage = 2" in the_problem(training={"offload": "optimizer", "zero_stage": 1})
    assert "set training.zero_stage = 3" in the_problem(training={"offload": "all"})
    for stage, offload in ((2, "optimizer"), (3, "optimizer"), (3, "all")):
        assert check_config(make_config(training={"offload": offload, "zero_stage": stage})) == []


def test_flash_attention_has_no_fp32() -> None:
    assert "leave one of the two out" in the_problem(
        training={"attention": "flash_attention_2", "precision": "fp32", "packing": True}
    )
    assert check_config(make_config(training={"precision": "fp32", "packing": True})) == []


def test_a_missing_key_names_the_variable_and_everything_that_needs_it() -> None:
    config = make_config(teacher={"endpoint": OPENAI}, judge={"endpoint": OPENAI}, student={"engine": {"python": "sh"}})
    found = [line for line in missing_prerequisites(config, {"MY_KEY": ""}) if "environment variable" in line]
    assert len(found) == 1
    assert found[0].startswith(
        "the environment variable MY_KEY is not set (teacher.endpoint.api_key_env, judge.endpoint.api_key_env)"
    )


def test_a_set_key_is_not_missing_and_never_in_a_message() -> None:
    found = missing_prerequisites(make_config(teacher={"endpoint": OPENAI}), {"MY_KEY": "hush"})
    assert "MY_KEY" not in "\n".join(found)
    assert "hush" not in "\n".join(found)


def test_a_missing_engine_interpreter_is_named() -> None:
    found = missing_prerequisites(make_config(student={"engine": {"python": "nowhere/bin/python"}}), {})
    assert any("student.engine.python: nowhere/bin/python is no interpreter" in line for line in found)


def test_an_engine_that_already_runs_needs_no_interpreter() -> None:
    engine = {"type": "endpoint", "base_url": "http://127.0.0.1:1/v1"}
    assert missing_prerequisites(make_config(student={"engine": engine, "backbone": "org/model"}), {}) == []


def test_replicas_use_the_interpreters_of_their_workers() -> None:
    engine = {"type": "replicas", "python": "nowhere/bin/python"}
    assert missing_prerequisites(make_config(student={"engine": engine, "backbone": "org/model"}), {}) == []


def test_to_ask_teacher_and_judges_alone_nothing_of_the_student_is_missing() -> None:
    engine = {"type": "endpoint", "base_url": "http://127.0.0.1:1/v1", "api_key_env": "STUDENT_KEY"}
    config = make_config(teacher={"endpoint": OPENAI}, student={"engine": engine, "backbone": "org/model"})
    own = "\n".join(missing_prerequisites(config, {"MY_KEY": "hush"}))
    assert "STUDENT_KEY is not set (student.engine.api_key_env)" in own
    assert missing_for_calls(config, {"MY_KEY": "hush"}) == []
    [line] = missing_for_calls(config, {})
    assert line.startswith("the environment variable MY_KEY is not set (teacher.endpoint.api_key_env")
    assert missing_for_calls(make_config(student={"engine": {"python": "nowhere/bin/python"}}), {}) == []


def test_two_judges_of_a_panel_with_the_same_voice_are_named() -> None:
    elsewhere = OPENAI | {"base_url": "http://127.0.0.1:9/v1"}
    problem = the_problem(judge={"endpoint": OPENAI, "panel": [{"type": "standin"}, elsewhere]})
    assert problem.startswith("judge.panel.1: model 'm' with identity 'i' is the judge of judge.endpoint already")
    other_noise = [{"type": "standin", "noise": 1.0}, {"type": "standin", "noise": 2.0}]
    assert check_config(make_config(judge={"endpoint": OPENAI, "panel": other_noise})) == []


def test_a_key_that_a_judge_of_a_panel_lacks_is_missing(tmp_path: Path) -> None:
    student = {"engine": {"type": "endpoint", "base_url": "http://127.0.0.1:9/v1", "model": "m"}, "backbone": "a/b"}
    panel = [OPENAI, OPENAI | {"api_key_file": str(tmp_path / "none")}]
    config = make_config(student=student, judge={"endpoint": {"type": "standin"}, "panel": panel})
    file, variable = missing_prerequisites(config, {})
    assert file.startswith("judge.panel.1.api_key_file: ")
    assert "MY_KEY is not set (judge.panel.0.api_key_env)" in variable


@pytest.fixture
def benchmark_file(tmp_path: Path) -> str:
    file = tmp_path / "file.jsonl"
    file.write_text("{}")
    return str(file)


def test_every_file_of_a_benchmark_must_be_there(benchmark_file: str) -> None:
    asked = {"type": "alpaca_eval", "questions": benchmark_file, "baseline": "nowhere/outputs.json"}
    problem = the_problem(evaluation={"benchmarks": {"ae": asked}})
    assert problem.startswith('evaluation.benchmarks.ae.baseline: value "nowhere/outputs.json": there is no such file')


def test_an_address_of_a_benchmark_carries_no_password_and_none_is_shown() -> None:
    asked = {"questions": "https://someone:geheim@example.org/questions.json"}
    problem = the_problem(evaluation={"benchmarks": {"ae": asked}})
    assert problem.startswith("evaluation.benchmarks.ae.questions: an address with a user or password")
    assert "geheim" not in problem


def test_a_benchmark_of_each_round_is_one_that_can_be_asked(benchmark_file: str) -> None:
    apart = {"benchmarks": {"apart": {"questions": benchmark_file}}}
    assert 'evaluation.each_round: value "apart": is no benchmark with a `type`' in the_problem(
        evaluation={**apart, "each_round": ["apart"]}
    )
    assert "there are: none" in the_problem(evaluation={**apart, "each_round": ["mine"]})
    asked = {"vi": {"type": "vicuna", "questions": benchmark_file, "baseline": benchmark_file}}
    assert check_config(make_config(evaluation={"benchmarks": asked, "each_round": ["vi"]})) == []


def test_what_a_benchmark_needs_beside_its_questions_is_named(benchmark_file: str) -> None:
    alone = {"type": "alpaca_eval", "questions": benchmark_file, "baseline": benchmark_file, "anchors": benchmark_file}
    assert "one of difficulty and anchors alone" in the_problem(evaluation={"benchmarks": {"ae": alone}})


def test_answers_to_a_benchmark_must_fit_the_students_server(benchmark_file: str) -> None:
    long = {"type": "vicuna", "questions": benchmark_file, "baseline": benchmark_file, "max_tokens": 4096}
    problem = the_problem(evaluation={"benchmarks": {"vi": long}}, student={"engine": {"max_model_length": 2048}})
    assert "answers of up to 4096 tokens leave no room" in problem


def test_the_key_of_a_benchmarks_judge_is_missing_like_any_other(benchmark_file: str) -> None:
    asked = {"type": "vicuna", "questions": benchmark_file, "baseline": benchmark_file, "judge": OPENAI}
    config = make_config(evaluation={"benchmarks": {"vi": asked}})
    assert any("evaluation.benchmarks.vi.judge.api_key_env" in line for line in missing_prerequisites(config, {}))


def test_a_benchmark_of_the_harness_needs_its_folder_and_in_each_round_its_environment(benchmark_file: str) -> None:
    task = {"type": "lm_eval", "task": "mine", "questions": benchmark_file, "python": "nowhere/bin/python"}
    config = make_config(evaluation={"benchmarks": {"ex": task}, "each_round": ["ex"]})
    [lacking] = [line for line in missing_prerequisites(config, {}) if "evaluation" in line]
    assert lacking.startswith("evaluation.benchmarks.ex.python: nowhere/bin/python is no interpreter")
    assert "`make lm-eval-env` builds its environment" in lacking
    later = make_config(evaluation={"benchmarks": {"ex": task}})
    assert not any("evaluation" in line for line in missing_prerequisites(later, {}))
    folder = {**task, "include_path": "nowhere/tasks"}
    assert 'ex.include_path: value "nowhere/tasks": there is no such folder' in the_problem(
        evaluation={"benchmarks": {"ex": folder}}
    )


def test_a_baseline_needs_something_that_scores_it_and_room_for_its_name() -> None:
    wanted, scored = {"baseline": "sft"}, {"pool": {"type": "standin"}, "heldout": {"type": "standin"}}
    assert the_problem(evaluation=wanted).startswith('evaluation.baseline: value "sft": nothing would score it')
    assert check_config(make_config(evaluation=wanted, data=scored)) == []
    assert "has more than 80 characters" in the_problem(evaluation=wanted, data=scored, run={"name": "a" * 77})
    assert check_config(make_config(evaluation=wanted, data=scored, run={"name": "a" * 76})) == []
    assert check_config(make_config(evaluation={"baseline": "none"}, run={"name": "a" * 77})) == []


def test_a_round_that_learns_from_the_student_s_answers_has_verdicts_on_them() -> None:
    problem = the_problem(rounds={"default": {"objective": "prefer"}})
    assert problem.startswith('rounds.1.objective: value "prefer": learns from verdicts')
    assert 'set rounds.1.selection = { type = "hard_share" }' in problem
    rounds = {"default": {"selection": {"type": "hard_share"}}, "2": {"objective": {"type": "prefer", "margin": 2.0}}}
    run = {"name": "a", "rounds": 2}
    assert check_config(make_config(run=run, rounds=rounds)) == []
    found = check_config(make_config(run=run, rounds=rounds, curriculum={"rejudge": False}))
    assert [each.partition(":")[0] for each in found] == ["rounds.2.objective"]


def test_a_round_that_learns_from_the_student_s_answers_has_no_easy_part() -> None:
    rounds = {"default": {"selection": {"type": "hard_share"}, "objective": "prefer", "alpha": 0.5}}
    assert "has no easy part; leave alpha out of it" in the_problem(rounds=rounds)
    config = make_config(rounds={"1": {"selection": {"type": "hard_share"}, "objective": "prefer"}})
    assert config.round(1).alpha == 1.0
    assert list(config.waves(1)) == []
    assert not config.refines(1)


@pytest.mark.parametrize(
    ("objective", "adapters", "rate"),
    [("imitate", None, 2e-5), ("prefer", None, 5e-6), ("imitate", {}, 2e-4), ("prefer", {}, 5e-5)],
)
def test_the_learning_rate_of_a_round_is_that_of_its_objective(
    objective: str, adapters: dict[str, Any] | None, rate: float
) -> None:
    rounds = {"default": {"selection": {"type": "hard_share"}, "objective": objective}}
    config = make_config(rounds=rounds, training={"lora": adapters})
    assert config.learning_rate(1) == pytest.approx(rate)
    assert config.learning_rate(0) == pytest.approx(2e-4 if adapters is not None else 2e-5)


def test_what_the_default_says_of_its_objective_counts_for_no_other() -> None:
    default = {"selection": {"type": "hard_share"}, "learning_rate": 2e-4, "epochs": 3.0, "alpha": 0.5}
    run = {"name": "a", "rounds": 3}
    own = {"2": {"objective": "prefer"}, "3": {"objective": {"type": "prefer", "beta": 0.2}, "epochs": 4.0}}
    config = make_config(run=run, rounds={"default": default, **own})
    assert check_config(config) == []
    assert [config.learning_rate(number) for number in (1, 2, 3)] == [2e-4, 5e-6, 5e-6]
    assert [config.round(number).epochs for number in (1, 2, 3)] == [3.0, 2.0, 4.0]
    assert [config.round(number).alpha for number in (1, 2, 3)] == [0.5, 1.0, 1.0]
    turned = make_config(run=run, rounds={"default": {**default, "objective": "prefer"}, "1": {"objective": "imitate"}})
    assert [turned.objective(number).type for number in (1, 2)] == ["imitate", "imitate"]
    assert turned.learning_rate(1) == 2e-5


def test_a_round_that_imitates_against_the_default_is_kept_so() -> None:
    """What a run folder keeps of an entry is all that it sets, defaults too: they win over [rounds.default]."""
    rounds = {
        "default": {"objective": "prefer", "selection": {"type": "hard_share"}},
        "1": {"objective": "imitate", "epochs": 2.0},
        "2": {"epochs": 1.0},
    }
    config = make_config(run={"name": "a", "rounds": 2}, rounds=rounds)
    again = load_resolved(resolved_json(config).encode(), source="run.json")
    assert [each.objective(number).type for each in (config, again) for number in (1, 2)] == ["imitate", "prefer"] * 2
    assert again == config


def test_a_teacher_that_scores_tokens_is_served_by_the_run() -> None:
    rounds = {"2": {"objective": "on_policy"}}
    run = {"name": "a", "rounds": 2}
    problem = the_problem(run=run, rounds=rounds)
    assert problem.startswith(
        'rounds.2.objective: value "on_policy": the teacher at teacher.endpoint (type = "standin")'
    )
    assert 'teacher.endpoint = { type = "vllm"' in problem
    served = {"endpoint": {"type": "vllm", "model": "org/teacher", "max_model_length": 4096}}
    config = make_config(run=run, rounds=rounds, teacher=served, judge=served)
    assert check_config(config) == []
    assert [config.round(number).epochs for number in (1, 2)] == [2.0, 1.0]
    assert [config.learning_rate(number) for number in (1, 2)] == [2e-5, 2e-5]


def test_who_scores_tokens_is_who_answered(tmp_path: Path) -> None:
    (pool := tmp_path / "pool.json").write_text('[{"instruction": "a", "output": "b"}]')
    served = {"endpoint": {"type": "vllm", "model": "org/teacher", "max_model_length": 4096}}
    brought = {"type": "file", "path": str(pool), "answers": "use"}
    sections = {"rounds": {"1": {"objective": "on_policy"}}, "teacher": served, "judge": served}
    problem = the_problem(data={"pool": brought}, **sections)
    assert problem.startswith('data.pool.answered_by: value "the pool file": round 1 learns from scores of teacher org')
    assert 'answered_by = "org/teacher"' in problem
    assert check_config(make_config(data={"pool": {**brought, "answered_by": "org/teacher"}}, **sections)) == []
    assert check_config(make_config(data={"pool": brought}, teacher=served, judge=served)) == []
