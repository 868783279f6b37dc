"""Seconds go into importing transformers, which processes that only collect these tests need not spend."""

from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from tapir_core.config import LoraConfig, TrainingConfig
from tasks.engines.training.data import plan_batches
from tasks.engines.training.launch import TrainingJob


@pytest.fixture(scope="module")
def trainer() -> ModuleType:
    return import_module("tasks.engines.training.trainer")


def make_job(**training: Any) -> TrainingJob:
    return TrainingJob(
        base=Path("base"),
        mixture=(Path("part.parquet"),),
        output=Path("attempt"),
        training=TrainingConfig(**training),
        epochs=1,
        learning_rate=1e-4,
        seed=1,
        log_path=Path("train.log"),
    )


def settings_of(
    trainer: ModuleType, job: TrainingJob, examples: int = 100, world_size: int = 1
) -> tuple[dict[str, Any], dict[str, Any]]:
    plan = plan_batches(
        np.full(examples, 10),
        epochs=job.epochs,
        batch_size=job.training.batch_size,
        micro_batch_size=job.training.micro_batch_size,
        world_size=world_size,
        seed=1,
    )
    return trainer.deepspeed_config(job, plan), trainer.sft_settings(job, plan, on_cpu=True)


@pytest.mark.parametrize(
    ("batch_size", "micro", "world_size", "accumulated", "held"),
    [(128, 8, 1, 16, 8), (128, 8, 8, 2, 8), (16, 16, 1, 1, 16), (16, 8, 3, 1, 6), (16, 3, 1, 6, 3), (2, 8, 4, 1, 1)],
)
def test_the_batch_is_spread_over_steps_and_ranks(
    trainer: ModuleType, batch_size: int, micro: int, world_size: int, accumulated: int, held: int
) -> None:
    config, settings = settings_of(trainer, make_job(batch_size=batch_size, micro_batch_size=micro), 256, world_size)
    assert config["gradient_accumulation_steps"] == settings["gradient_accumulation_steps"] == accumulated
    assert config["train_micro_batch_size_per_gpu"] == settings["per_device_train_batch_size"] == held


def test_bf16_and_stage_go_to_deepspeed_by_name(trainer: ModuleType) -> None:
    config, settings = settings_of(trainer, make_job(zero_stage=3, precision="bf16"))
    assert config["bf16"]["enabled"] is settings["bf16"] is True
    assert config["zero_optimization"]["stage"] == 3
    config, settings = settings_of(trainer, make_job(zero_stage=0, precision="fp32"))
    assert config["bf16"]["enabled"] is settings["bf16"] is False
    assert config["zero_optimization"]["stage"] == 0


@pytest.mark.parametrize(
    ("name", "value", "field", "becomes"),
    [
        ("ACCELERATE_MIXED_PRECISION", "fp16", "mixed_precision", "fp16"),
        ("KUBEFLOW_TRAINER_SERVER_URL", "http://127.0.0.1:9", "report_to", ["kubeflow"]),
    ],
)
def test_a_variable_that_is_kept_from_ranks_would_take_over_a_setting(
    trainer: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    name: str,
    value: str,
    field: str,
    becomes: Any,
) -> None:
    def made() -> Any:
        return getattr(
            import_module("transformers").TrainingArguments(str(tmp_path), use_cpu=True, report_to=[]), field
        )

    assert made() != becomes
    monkeypatch.setenv(name, value)
    assert made() == becomes


def test_stage_0_in_bf16_runs_as_stage_1(trainer: ModuleType) -> None:
    config, _ = settings_of(trainer, make_job(zero_stage=0, precision="bf16"))
    assert config["zero_optimization"]["stage"] == 1


def test_what_is_offloaded_goes_to_deepspeed_and_its_optimizer_stays_torchs(trainer: ModuleType) -> None:
    def sections(**training: Any) -> dict[str, Any]:
        config, _ = settings_of(trainer, make_job(**training))
        assert config["zero_force_ds_cpu_optimizer"] is False
        return {name: each for name, each in config["zero_optimization"].items() if name.startswith("offload")}

    to_cpu = {"device": "cpu"}
    assert sections() == {}
    assert sections(offload="optimizer") == {"offload_optimizer": to_cpu}
    assert sections(offload="all", zero_stage=3) == {"offload_optimizer": to_cpu, "offload_param": to_cpu}


def test_warm_up_is_a_share_of_the_steps_and_constant_warms_up_too(trainer: ModuleType) -> None:
    _, settings = settings_of(trainer, make_job(batch_size=1, warmup_ratio=0.1, scheduler="constant"), 100)
    assert (settings["warmup_steps"], settings["lr_scheduler_type"]) == (10, "constant_with_warmup")


ROOT, TRAINING = Path(__file__).parents[4], "tasks/engines/training"
ELSEWHERE = {
    "max_length": f"{TRAINING}/data.py",
    "thoughts": f"{TRAINING}/data.py",
    "runs_on": "tasks/train.py",
    "nodes": "tasks/train.py",
    "processes": f"{TRAINING}/launch.py",
    "save_minutes": f"{TRAINING}/planned.py",
    "grace_seconds": f"{TRAINING}/launch.py",
}
"""Fields that no library is given → the file that reads them."""

BASE = {
    "precision": "bf16",
    "attention": "flash_attention_2",
    "batch_size": 12,
    "micro_batch_size": 3,
    "report_to": ("tensorboard",),
    "lora": LoraConfig(),
}
"""From here another value of each field makes a difference."""


def given(trainer: ModuleType, training: TrainingConfig) -> str:
    """What TRL, DeepSpeed, PEFT and transformers are given for this configuration."""
    job = make_job(**dict(training))
    adapters = trainer._lora_config(job)
    return str([*settings_of(trainer, job, 2000), adapters and adapters.to_dict(), trainer._load_base(job)])


def test_every_training_field_reaches_what_trains(trainer: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.golden.test_fields import changed, load, places_in

    monkeypatch.setattr(trainer.kernels, "is_flash_attn_2_available", lambda: False)
    monkeypatch.setattr(trainer, "BitsAndBytesConfig", dict)
    monkeypatch.setattr(trainer.AutoModelForCausalLM, "from_pretrained", lambda _, **loaded: sorted(loaded.items()))
    run = load("files and providers")
    config = run.model_copy(update={"training": run.training.model_copy(update=BASE)})
    before, seen, lost = given(trainer, config.training), {"lora"}, []
    for place in places_in(config.training, ("training",)):
        other = changed(config, place)
        seen.add(place.name)
        if place.name in ELSEWHERE:
            is_read = f"training.{place.name}" in (ROOT / ELSEWHERE[place.name]).read_text()
        else:
            is_read = other is not None and given(trainer, other.training) != before
        if not is_read:
            lost.append(".".join(place.path))
    told = f"{', '.join(lost)}: another value changes nothing that is trained with. Pass it on in `sft_settings` or "
    told += f"`deepspeed_config` ({TRAINING}/trainer.py); or name in ELSEWHERE above the file that reads it"
    assert not lost, told
    unseen = {*TrainingConfig.model_fields, *LoraConfig.model_fields} - seen - ELSEWHERE.keys()
    assert not unseen, f"{', '.join(sorted(unseen))}: give it a value in BASE above, so that another one can be tried"
