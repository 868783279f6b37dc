import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from tapir_core.config import TrainingConfig
from tapir_core.errors import MissingPrerequisite
from tasks.engines import machine
from tasks.engines.training import prerequisites
from tests.run_config import make_config
from tests.students import make_checkpoint

_7B = prerequisites.ModelSize(
    weights=6_738_415_616,
    adapted=2_498_560,
    under_adapters=6_476_005_376,
    layers=32,
    hidden=4096,
    intermediate=11008,
    vocabulary=32000,
)
_GIB = 2**30


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    weights = {
        "model.embed_tokens.weight": np.zeros((100, 8), np.float32),
        "model.layers.0.mlp.up_proj.weight": np.zeros((16, 8), np.float32),
        "model.norm.weight": np.zeros(8, np.float32),
    }
    save_file(weights, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"num_hidden_layers": 1, "hidden_size": 8, "vocab_size": 100}))
    return tmp_path


def needed(processes: int = 1, **training: Any) -> dict[str, int]:
    return prerequisites.estimate_memory(
        TrainingConfig(**training), _7B, in_bf16=True, longest=2048, processes=processes
    )


def test_a_models_size_is_read_without_its_weights(checkpoint: Path) -> None:
    assert prerequisites.size_of(checkpoint) == prerequisites.ModelSize(800 + 128 + 8, 16 + 8, 128, 1, 8, 32, 100)


def test_the_parts_of_a_model_count_together_and_a_vision_models_text_part_says_its_shape(checkpoint: Path) -> None:
    save_file({"lm_head.weight": np.zeros((100, 8), np.float32)}, checkpoint / "model-2.safetensors")
    (checkpoint / "consolidated.safetensors").write_bytes(b"the same once more, in a layout that nobody loads")
    named = {"model.norm.weight": "model.safetensors", "lm_head.weight": "model-2.safetensors"}
    (checkpoint / "model.safetensors.index.json").write_text(json.dumps({"weight_map": named}))
    config = {"text_config": {"num_hidden_layers": 1, "hidden_size": 8, "intermediate_size": 16, "vocab_size": 100}}
    (checkpoint / "config.json").write_text(json.dumps(config))
    assert prerequisites.size_of(checkpoint) == prerequisites.ModelSize(800 + 128 + 8 + 800, 16 + 8, 128, 1, 8, 16, 100)


def test_what_says_nothing_of_its_size_is_not_looked_at(tmp_path: Path) -> None:
    assert prerequisites.size_of(make_checkpoint(tmp_path / "fake")) is None
    assert prerequisites.look_ahead(make_config(tmp_path), tmp_path / "fake") == []


def test_seven_billion_weights_take_over_a_hundred_gib_and_an_adapter_a_tenth() -> None:
    whole, adapter = needed(), needed(lora={"rank": 16})
    states = sum(whole.values()) - whole["activations"]
    assert states == 6_738_415_616 * 18
    assert sum(adapter.values()) - adapter["activations"] < 14 * _GIB


def test_an_adapter_of_seven_billion_weights_on_four_bits_takes_half_of_one_on_whole_weights() -> None:
    training = {"lora": {"rank": 16, "quantization": "nf4"}, "gradient_checkpointing": True, "micro_batch_size": 2}
    parts = needed(**training)
    assert parts["weights"] == pytest.approx(6_476_005_376 * 0.516 + 262_410_240 * 2)
    assert sum(parts.values()) + 8 * _GIB < sum(needed(**{**training, "lora": {"rank": 16}}).values())


@pytest.mark.parametrize(
    ("size", "row", "peak"),
    [
        (prerequisites.ModelSize(1_836_828_672, 0, 0, 24, 2048, 5504, 151_936), 26_032, 87.7),
        (_7B, 1960, 121.6),
        (_7B, 4007, 129.4),
    ],
)
def test_the_estimate_of_a_gpu_is_at_most_a_tenth_above_what_an_h200_took(
    size: prerequisites.ModelSize, row: int, peak: float
) -> None:
    """GiB, of 1.8B with its own layers and of 7B with Liger's (docs/LOG.md); ``row``: tokens of the fullest."""
    training = TrainingConfig(micro_batch_size=1, precision="bf16")
    parts = prerequisites.estimate_memory(training, size, in_bf16=True, longest=row, processes=1, on_gpu=True)
    assert peak < sum(parts.values()) / _GIB < 1.1 * peak


def test_logits_that_a_loss_holds_count_on_a_gpu() -> None:
    training, size = TrainingConfig(micro_batch_size=4), replace(_7B, vocabulary=152_064)
    tiled, held = (
        prerequisites.estimate_memory(
            training, size, in_bf16=True, longest=2048, processes=1, on_gpu=True, holds_logits=holds
        )
        for holds in (False, True)
    )
    assert (sum(held.values()) - sum(tiled.values())) / _GIB == pytest.approx(4 * 2048 * 152_064 * 16 / _GIB, rel=0.02)


def test_partitions_shrink_the_estimate_by_stage() -> None:
    totals = [sum(needed(4, zero_stage=stage).values()) for stage in (0, 1, 2, 3)]
    assert totals == sorted(totals, reverse=True)
    assert totals[0] == totals[1], "in bf16 stage 0 is trained as stage 1"
    assert len(set(totals)) == 3


def test_fp32_without_partitions_keeps_no_copy_of_the_weights() -> None:
    alone, partitioned = (
        prerequisites.estimate_memory(TrainingConfig(zero_stage=stage), _7B, in_bf16=False, longest=1, processes=1)
        for stage in (0, 1)
    )
    assert alone["optimizer"] == _7B.weights * 8
    assert partitioned["optimizer"] == _7B.weights * 12


def test_what_cannot_fit_is_refused_with_what_would_help_and_what_may_fit_is_warned_of() -> None:
    training, parts = TrainingConfig(micro_batch_size=4), needed(micro_batch_size=4)
    total = sum(parts.values())
    states = total - parts["activations"]
    helps = r" GiB\); set \[training\.lora\].*zero_stage \(now 2\).*smaller student"
    with pytest.raises(MissingPrerequisite, match=helps) as refused:
        prerequisites.check_memory(training, parts, free=states - 1)
    assert "micro_batch_size" not in str(refused.value), "no smaller batch makes the weights smaller"
    assert "micro_batch_size (now 4)" in prerequisites.check_memory(training, parts, free=states + 1)[1]
    assert len(prerequisites.check_memory(training, parts, free=total)) == 1


@pytest.mark.parametrize(("gib", "nodes", "refused"), [(24, 1, True), (80, 1, True), (140, 1, False), (80, 4, False)])
def test_a_gpu_that_is_too_small_is_refused_before_anything_is_paid(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, gib: int, nodes: int, refused: bool
) -> None:
    monkeypatch.setattr(machine, "visible_gpus", lambda: ["0"])
    monkeypatch.setattr(machine, "gpu_memory", lambda: [gib * _GIB])
    monkeypatch.setattr(prerequisites, "size_of", lambda _: _7B)
    try:
        prerequisites.look_ahead(make_config(tmp_path, training={"nodes": nodes}), tmp_path)
        assert not refused
    except MissingPrerequisite:
        assert refused


def test_what_a_gpu_offloads_is_compared_with_the_machines_memory() -> None:
    parts = needed(zero_stage=3, micro_batch_size=1)
    moved = parts["gradients"] + parts["optimizer"]
    training = TrainingConfig(zero_stage=3, offload="optimizer")
    on_gpu = sum(parts.values()) - moved
    here, there = prerequisites.check_memory(training, parts, free=on_gpu, beside=moved)
    assert here.startswith("weights 12.55, activations")
    assert there.startswith("offloaded to the machine: gradients 25.10, optimizer 75.31")
    with pytest.raises(MissingPrerequisite, match=r"gradients 25\.10, optimizer 75\.31 = "):
        prerequisites.check_memory(training, parts, free=on_gpu, beside=moved - 1)
    with pytest.raises(MissingPrerequisite, match=r"weights 12\.55, gradients"):
        prerequisites.check_memory(training, parts, free=on_gpu, beside=None)
    both = prerequisites.check_memory(
        TrainingConfig(zero_stage=3, offload="all"), parts, parts["activations"], sum(parts.values())
    )
    assert [line.partition(" ")[0] for line in both] == ["activations", "offloaded"]


def test_the_remedies_are_told_the_cheapest_first(monkeypatch: pytest.MonkeyPatch) -> None:
    def told(**training: Any) -> list[str]:
        return re.findall(
            r"lora\]|quantization|checkpointing|zero_stage \(|offload = \"\w+\"|backbone",
            prerequisites.memory_remedy(TrainingConfig(**training)),
        )

    assert told() == ["lora]", "checkpointing", "zero_stage ("]
    monkeypatch.setattr(machine, "visible_gpus", lambda: ["0"])
    assert told() == ["lora]", "checkpointing", "zero_stage (", 'offload = "optimizer"', 'offload = "all"']
    assert told(offload="optimizer", zero_stage=3) == ["lora]", "checkpointing", 'offload = "all"']
    assert told(offload="all", zero_stage=3, lora={}, gradient_checkpointing=True) == []
    assert told(offload="optimizer", lora={})[-2:] == ['offload = "all"', "quantization"]
    assert told(lora={"quantization": "nf4"}) == ["checkpointing", 'offload = "optimizer"']
    assert "quantization" not in told(lora={}, zero_stage=3)
