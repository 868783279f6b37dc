import dataclasses
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean
from typing import Any

import polars as pl
import psutil
import pytest
from safetensors import safe_open

from tapir_core.config import LoraConfig, TrainingConfig
from tapir_core.errors import ConfigError, EngineError, MissingPrerequisite, NodeLost, TapirError
from tasks.engines.exchange import LOG_PROBS
from tasks.engines.tiny_student import tiny_student
from tasks.engines.training.launch import (
    Node,
    TrainingCount,
    TrainingJob,
    TrainingProgress,
    TrainingSummary,
    alone,
    count_ranks,
    count_training,
    explain,
    progress_reader,
    rank_environments,
    train_student,
)
from tests.harness.watches import ListenWatch
from tests.tasks.engines.test_exchange import read_by_transformers

EXAMPLES = 60


def make_job(folder: Path, **changes: Any) -> TrainingJob:
    fields: dict[str, Any] = {
        "base": folder / "base",
        "mixture": (folder / "part.parquet",),
        "output": folder / "attempt",
        "training": TrainingConfig(precision="fp32", batch_size=4, micro_batch_size=2),
        "epochs": 1.0,
        "learning_rate": 1e-3,
        "seed": 7,
        "log_path": folder / "train.log",
    }
    return TrainingJob(**{**fields, **changes})


def write_mixture(path: Path) -> None:
    talks = [
        [
            {"role": "user", "content": f"What is {number} plus {number % 7}?"},
            {"role": "assistant", "content": f"It is {number + number % 7}." + " Certainly." * (number % 5)},
        ]
        for number in range(EXAMPLES)
    ]
    pl.DataFrame({"messages": talks}).write_parquet(path)


def test_the_driver_side_imports_no_torch() -> None:
    heavy = "{'torch', 'trl', 'deepspeed', 'transformers', 'prefect'}"
    imports = "sys, tasks.engines.training.launch, tasks.engines.training.data"
    code = f"import {imports}; print(sorted({heavy} & set(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def here(ranks: int) -> Node:
    return Node(("127.0.0.1", 4321), "lo", 0, ranks)


def test_one_rank_starts_for_each_accelerator_or_as_many_as_are_asked_for(tmp_path: Path) -> None:
    def ranks(processes: int | None, *accelerators: str) -> list[tuple[str, ...]]:
        job = make_job(tmp_path, training=TrainingConfig(processes=processes))
        node = here(count_ranks(job, accelerators))
        names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "CUDA_VISIBLE_DEVICES")
        return [tuple(each.get(name, "") for name in names) for each in rank_environments(job, {}, accelerators, node)]

    assert ranks(None, "2", "5") == [("0", "0", "2", "2,5"), ("1", "1", "2", "2,5")]
    assert ranks(1, "2", "5") == [("0", "0", "1", "2")]
    assert ranks(None) == [("0", "0", "1", "")]
    assert [rank for rank, *_ in ranks(3)] == ["0", "1", "2"]


def test_the_ranks_meet_at_one_address_that_only_this_machine_reaches(tmp_path: Path) -> None:
    job = make_job(tmp_path, training=TrainingConfig(processes=2))
    with alone(2) as node:
        one, other = rank_environments(job, {}, [], node)
    assert one["MASTER_ADDR"] == "127.0.0.1"
    assert one["GLOO_SOCKET_IFNAME"] == "lo"
    assert one["MASTER_PORT"] == other["MASTER_PORT"]
    assert [each["WORLD_SIZE"] for each in (one, other)] == ["2", "2"]


def test_the_ranks_of_a_later_node_are_counted_on_and_talk_through_its_own_interface(tmp_path: Path) -> None:
    job = make_job(tmp_path, training=TrainingConfig(processes=2))
    environments = rank_environments(job, {}, [], Node(("10.0.0.7", 29500), "eth1", first_rank=8, world_size=10))
    assert [(each["RANK"], each["LOCAL_RANK"]) for each in environments] == [("8", "0"), ("9", "1")]
    names = ("MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE", "LOCAL_SIZE", "GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
    expected = ["10.0.0.7", "29500", "10", "2", "eth1", "=eth1"]
    assert all([each[name] for name in names] == expected for each in environments)


def test_the_ranks_stay_off_the_network_and_keep_what_the_user_set(tmp_path: Path) -> None:
    job = make_job(tmp_path)
    [values] = rank_environments(job, {"PYTHONPATH": "mine", "OMP_WAIT_POLICY": "active"}, [], here(1))
    assert values["HF_HUB_OFFLINE"] == "1"
    assert values["PYTHONPATH"].endswith("mine")
    assert "GOMP_SPINCOUNT" not in values
    assert "DS_ACCELERATOR" not in rank_environments(job, {}, ["0"], here(1))[0]


OF_ANOTHER_JOB = """RANK WORLD_SIZE LOCAL_RANK LOCAL_WORLD_SIZE GROUP_RANK ROLE_WORLD_SIZE NODE_RANK MASTER_ADDR
    MASTER_PORT SLURM_PROCID SLURM_NTASKS SLURM_JOB_ID OMPI_COMM_WORLD_RANK PMI_RANK PMIX_RANK MV2_COMM_WORLD_SIZE
    ACCELERATE_MIXED_PRECISION ACCELERATE_USE_FSDP ACCELERATE_GRADIENT_ACCUMULATION_STEPS ACCELERATE_DYNAMO_BACKEND
    TORCHELASTIC_RUN_ID TORCHELASTIC_RESTART_COUNT DS_ACCELERATOR KUBEFLOW_TRAINER_SERVER_URL"""
OF_THE_MACHINE = """NCCL_DEBUG NCCL_IB_DISABLE NCCL_P2P_DISABLE CUDA_HOME PYTORCH_CUDA_ALLOC_CONF DS_SKIP_CUDA_CHECK
    DEEPSPEED_TIMEOUT TORCH_NCCL_TRACE_BUFFER_SIZE TRITON_CACHE_DIR LD_LIBRARY_PATH WANDB_MODE WANDB_PROJECT HF_HOME
    MY_RANK LINEAR_RANKING"""


@pytest.mark.parametrize("accelerators", [[], ["0"]])
def test_a_rank_knows_nothing_of_the_job_that_the_driver_is_part_of(tmp_path: Path, accelerators: list[str]) -> None:
    theirs = dict.fromkeys(OF_ANOTHER_JOB.split(), "of-another")
    machines = dict.fromkeys(OF_THE_MACHINE.split(), "kept")
    [values] = rank_environments(make_job(tmp_path), theirs | machines, accelerators, here(1))
    assert "of-another" not in values.values()
    assert {name for name, value in values.items() if value == "kept"} == machines.keys()


def test_progress_is_read_by_whole_lines(tmp_path: Path) -> None:
    row = TrainingProgress(1, 4, 2.5, 100, 50.0, 6.0)
    line = json.dumps(dataclasses.asdict(row)) + "\n"
    path = tmp_path / "progress.jsonl"
    new_steps = progress_reader(path)
    assert new_steps() == []
    path.write_text(line + line[:10])
    assert new_steps() == [row]
    path.write_text(line + line)
    assert new_steps() == [row]
    assert new_steps() == []
    path.write_text(line)
    assert new_steps() == [row], "an attempt that began anew"
    assert progress_reader(path)() == [], "what an earlier start wrote"


@pytest.mark.parametrize(
    ("log", "kind", "words"),
    [
        ("noise\ntapir error ConfigError: no chat template\n", ConfigError, "no chat template"),
        ("tapir error MissingPrerequisite: needs FlashAttention\n", MissingPrerequisite, "FlashAttention"),
        ("torch.OutOfMemoryError: CUDA out of memory.", EngineError, r"training\.micro_batch_size \(now 2\)"),
        ("RuntimeError: DefaultCPUAllocator: can't allocate memory", EngineError, "ran out of memory"),
        ("stopped by SIGTERM after step 3; the same command goes on", EngineError, "SIGTERM after step 3"),
        ("[INFO] [x] hello\nValueError: bad\n", EngineError, "ValueError: bad"),
        ("", EngineError, "exit code 1"),
    ],
)
def test_a_failure_is_explained_from_the_log(tmp_path: Path, log: str, kind: type[TapirError], words: str) -> None:
    error = explain(make_job(tmp_path), 1, log)
    assert type(error) is kind
    with pytest.raises(kind, match=words):
        raise error
    assert "train.log" in str(error)


def test_a_killed_rank_is_most_often_one_without_memory(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"was killed, .* training\.micro_batch_size \(now 2\).*train\.log"):
        raise explain(make_job(tmp_path), -9, "")


def test_more_processes_than_accelerators_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    with pytest.raises(ConfigError, match=r"training\.processes = 2, and this machine has 1"):
        train_student(make_job(tmp_path, training=TrainingConfig(processes=2)))


def ranks() -> list[psutil.Process]:
    found = psutil.Process().children(recursive=True)
    return [child for child in found if "tasks.engines.training.trainer" in child.cmdline()[:4]]


def test_ranks_that_would_wait_for_those_of_a_lost_machine_are_ended(tmp_path: Path) -> None:
    def miss() -> None:
        if len(ranks()) == 2:
            raise NodeLost("another machine is gone")

    @contextmanager
    def meet(count: int) -> Iterator[Node]:
        with alone(count) as node:
            yield dataclasses.replace(node, check=miss)

    training = TrainingConfig(processes=2, grace_seconds=0.1)
    with pytest.raises(NodeLost, match="another machine is gone"):
        train_student(make_job(tmp_path, training=training), meet=meet)
    assert ranks() == []


def at_step(step: int, act: Callable[[], None]) -> Callable[[TrainingProgress], None]:
    done: list[int] = []

    def watch(progress: TrainingProgress) -> None:
        if progress.step >= step and not done:
            done.append(progress.step)
            act()

    return watch


def kill_ranks() -> None:
    for rank in ranks():
        rank.kill()


def interrupt() -> None:
    raise KeyboardInterrupt


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("training")
    tiny_student(folder / "base")
    write_mixture(folder / "part.parquet")
    return folder


def apart(checkpoint: Path) -> float:
    """Mean nats a token between what the trainer read fixed texts with and what transformers makes of its student."""
    ours, theirs = json.loads((checkpoint / LOG_PROBS).read_text()), read_by_transformers(checkpoint)
    assert ours["ids"] == theirs["ids"]
    texts = zip(ours["log_probs"], theirs["log_probs"], strict=True)
    return fmean(abs(a - b) for one, other in texts for a, b in zip(one, other, strict=True))


@pytest.mark.slow
def test_a_killed_training_goes_on_and_ends_as_an_undisturbed_one(
    ground: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # a fresh machine has no compiler
    often = TrainingConfig(precision="fp32", batch_size=4, micro_batch_size=2, save_minutes=1e-6, grace_seconds=20)
    job = make_job(ground, training=often, epochs=6.0, output=tmp_path / "disturbed", log_path=tmp_path / "a.log")
    with pytest.raises(EngineError, match="was killed"):
        train_student(job, on_progress=at_step(10, kill_ranks))
    assert ranks() == []
    with pytest.raises(KeyboardInterrupt):
        train_student(job, on_progress=at_step(20, interrupt))
    assert ranks() == []
    disturbed = train_student(job)

    calm = TrainingConfig(precision="fp32", batch_size=4, micro_batch_size=2)
    whole = train_student(
        make_job(ground, training=calm, epochs=6.0, output=tmp_path / "calm", log_path=tmp_path / "b.log")
    )
    assert disturbed.steps == whole.steps == EXAMPLES * 6 // 4
    assert len(disturbed.resumed_from_steps) == 2
    assert disturbed.resumed_from_steps[1] >= 20, "the stop did not save"
    assert [entry["step"] for entry in disturbed.loss_curve] == list(range(1, whole.steps + 1))
    ours, theirs = ([entry["loss"] for entry in each.loss_curve] for each in (disturbed, whole))
    assert ours == pytest.approx(theirs, rel=1e-3)
    assert not (job.output / "saves").exists()
    assert {"config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja", "generation_config.json"} <= {
        file.name for file in (job.output / "checkpoint").iterdir()
    }
    assert train_student(job) == disturbed, "a finished training was started again"
    base, made = (
        json.loads((each / "config.json").read_text()) for each in (ground / "base", job.output / "checkpoint")
    )
    assert made["use_cache"] == base["use_cache"], "for this alone a server would compile anew"
    assert apart(job.output / "checkpoint") < 1e-4
    log = (tmp_path / "b.log").read_text()
    assert not re.search("Traceback|destroy_process_group|FutureWarning|mismatch", log), log


@pytest.mark.slow
def test_two_ranks_with_zero_3_and_lora_leave_a_whole_merged_student(ground: Path, tmp_path: Path) -> None:
    training = TrainingConfig(
        zero_stage=3, precision="bf16", batch_size=8, micro_batch_size=2, processes=2, lora=LoraConfig(rank=4)
    )
    job = make_job(ground, training=training, output=tmp_path / "attempt", log_path=tmp_path / "train.log")
    with ListenWatch() as watch:
        summary = train_student(job)
    assert summary.world_size == 2
    assert {place[1] for place in watch.seen} == {"127.0.0.1"}
    names = {file.name for file in (job.output / "checkpoint").iterdir()}
    assert "model.safetensors" in names
    assert not any("adapter" in name for name in names)
    assert apart(job.output / "checkpoint") < 0.05, "adapters were merged in bf16"
    log = job.log_path.read_text()
    assert "⟦It is" in log
    assert "world size    2 (cpu), ZeRO stage 3, bf16, LoRA rank 4" in log


@pytest.mark.operations
def test_adapters_on_four_bits_learn_as_on_whole_weights(ground: Path, tmp_path: Path) -> None:
    def trained(name: str, **lora: Any) -> TrainingSummary:
        training = TrainingConfig(
            precision="bf16", batch_size=8, micro_batch_size=4, processes=2, lora=LoraConfig(rank=4, **lora)
        )
        places = {"output": tmp_path / name, "log_path": tmp_path / f"{name}.log"}
        return train_student(make_job(ground, training=training, learning_rate=2e-3, **places))

    whole, four_bits = trained("whole"), trained("four-bits", quantization="nf4")
    expected, found = ([each["loss"] for each in summary.loss_curve] for summary in (whole, four_bits))
    assert found == pytest.approx(expected, abs=0.05)
    assert found[-1] < found[0] - 0.5
    with safe_open(tmp_path / "four-bits" / "checkpoint" / "model.safetensors", "numpy") as student:
        assert not [name for name in sorted(student.keys()) if "quant" in name or "absmax" in name]
    assert "LoRA rank 4 on 4 bits a weight" in (tmp_path / "four-bits.log").read_text()


@pytest.mark.operations
def test_every_stage_in_bf16_learns_as_fp32_does(ground: Path, tmp_path: Path) -> None:
    def losses(name: str, **settings: Any) -> list[float]:
        training = TrainingConfig(batch_size=8, micro_batch_size=2, **settings)
        places = {"output": tmp_path / name, "log_path": tmp_path / f"{name}.log"}
        return [each["loss"] for each in train_student(make_job(ground, training=training, **places)).loss_curve]

    expected = losses("fp32", precision="fp32")
    for stage, processes in ((0, 1), (1, 1), (2, 1), (3, 2)):
        found = losses(f"stage-{stage}", precision="bf16", zero_stage=stage, processes=processes)
        assert found == pytest.approx(expected, abs=0.05)


@pytest.mark.operations
def test_what_is_offloaded_learns_as_what_is_not(ground: Path, tmp_path: Path) -> None:
    def losses(name: str, **settings: Any) -> list[float]:
        training = TrainingConfig(precision="bf16", batch_size=12, micro_batch_size=6, **settings)
        places = {"output": tmp_path / name, "log_path": tmp_path / f"{name}.log"}
        return [each["loss"] for each in train_student(make_job(ground, training=training, **places)).loss_curve]

    expected = losses("none")
    assert losses("optimizer", offload="optimizer") == pytest.approx(expected, abs=0.02)
    assert losses("all", offload="all", zero_stage=3) == pytest.approx(expected, abs=0.02)


@pytest.mark.slow
def test_what_a_rank_finds_wrong_is_raised_as_it_said_it(ground: Path, tmp_path: Path) -> None:
    short = TrainingConfig(max_length=3)
    with pytest.raises(ConfigError, match=r"none of the 60 examples fits training\.max_length = 3; .*\(log: "):
        train_student(make_job(ground, training=short, output=tmp_path / "attempt", log_path=tmp_path / "train.log"))


@pytest.mark.slow
def test_what_a_training_says_of_tokens_and_steps_was_known_before_it(ground: Path, tmp_path: Path) -> None:
    training = TrainingConfig(precision="fp32", batch_size=7, micro_batch_size=4, max_length=50)
    places = {"output": tmp_path / "attempt", "log_path": tmp_path / "train.log"}
    job = make_job(ground, training=training, epochs=1.5, **places)
    count = count_training(job)
    summary = train_student(job)
    assert (
        TrainingCount(**{each.name: getattr(summary, each.name) for each in dataclasses.fields(TrainingCount)}) == count
    )
    assert (count.batch_size, count.epochs) == (7, 1.5)
    assert count.examples + count.left_out == EXAMPLES
    assert count.left_out > 0
    assert count.steps == len(summary.loss_curve) == -(-round(1.5 * count.examples) // 7)
    assert 0 < count.trained_tokens < count.total_tokens
    written = json.loads((job.output / "checkpoint" / "training.json").read_text())
    assert written["total_tokens"] == count.total_tokens


@pytest.mark.slow
def test_a_batch_is_the_same_step_however_its_micro_batches_divide_it(ground: Path, tmp_path: Path) -> None:
    def losses(name: str, micro_batch_size: int) -> list[float]:
        training = TrainingConfig(precision="fp32", batch_size=7, micro_batch_size=micro_batch_size)
        places = {"output": tmp_path / name, "log_path": tmp_path / f"{name}.log"}
        return [step["loss"] for step in train_student(make_job(ground, training=training, **places)).loss_curve]

    assert losses("four-and-three", 4) == pytest.approx(losses("seven", 7), rel=1e-4)


@pytest.mark.slow
def test_more_examples_are_more_tokens(ground: Path, tmp_path: Path) -> None:
    half = tmp_path / "half.parquet"
    pl.read_parquet(ground / "part.parquet").head(EXAMPLES // 2).write_parquet(half)
    jobs = make_job(ground, mixture=(half,)), make_job(ground), make_job(ground, mixture=(half,), epochs=2.0)
    one, two, twice = map(count_training, jobs)
    assert (one.examples, two.examples) == (EXAMPLES // 2, EXAMPLES)
    assert one.total_tokens < two.total_tokens
    assert (twice.total_tokens, twice.trained_tokens) == (2 * one.total_tokens, 2 * one.trained_tokens)
    assert twice.steps == two.steps == EXAMPLES // 4


@pytest.mark.slow
def test_what_cannot_be_counted_is_raised_as_a_training_would_say_it(ground: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none of the 60 examples fits training\.max_length = 3"):
        count_training(make_job(ground, training=TrainingConfig(max_length=3)))
    with pytest.raises(ConfigError, match=r"holds no config\.json"):
        count_training(make_job(ground, base=tmp_path))
    with pytest.raises(EngineError, match=r"could not be counted:(.|\n)*gone\.parquet"):
        count_training(make_job(ground, mixture=(tmp_path / "gone.parquet",)))
