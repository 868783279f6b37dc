"""What `make gpu-check` leaves out, and when memory counts as handed back; no GPU is needed for that."""

import json
from pathlib import Path

import pytest

from benchmarks import gpu_check
from tasks.engines import machine
from tasks.engines.tiny_student import tiny_student
from tasks.engines.training.prerequisites import ModelSize
from tasks.engines.vllm import VllmEnvironment

GIB = 2**30


def test_memory_that_a_stage_keeps_is_told():
    assert gpu_check.check_memory([GIB, GIB + 2**20, GIB]) == {"held_bytes": [GIB, GIB + 2**20, GIB]}
    with pytest.raises(RuntimeError, match="memory was not handed back"):
        gpu_check.check_memory([GIB, 3 * GIB, GIB])


def test_where_no_card_tells_its_memory_nothing_is_compared():
    assert gpu_check.check_memory([]) == {"held_bytes": []}


def test_a_model_too_large_for_the_card_is_left_out_before_anything_is_trained(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "gpu_memory", lambda: [GIB // 8])
    found = gpu_check.check_training(tiny_student(tmp_path / "tiny"), tmp_path, 1e12, 40, small=True)
    assert "does not fit on this card" in found["left_out"]
    assert [path.name for path in Path(tmp_path).iterdir()] == ["tiny"]


def test_a_shape_too_large_for_the_card_is_not_even_written(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "gpu_memory", lambda: [80 * GIB])
    found = gpu_check.check_shape("7B", tmp_path, 1e12, 40, small=False)
    assert found["left_out"].startswith("by its estimate a training of 6738415616 weights")
    assert [*tmp_path.iterdir()] == []


def test_a_gpu_is_not_checked_with_a_server_for_processors(monkeypatch):
    monkeypatch.setattr("sys.argv", ["gpu_check"])
    monkeypatch.setattr(machine, "visible_gpus", lambda: ["0"])
    monkeypatch.setattr(machine, "check_gpu_training", lambda: None)
    monkeypatch.setattr(gpu_check, "find_environment", lambda _: VllmEnvironment("cpu", None))
    with pytest.raises(SystemExit, match="STUDENT=vllm-cuda"):
        gpu_check.main()


def test_weights_that_are_only_looked_up_need_no_operations(tmp_path):
    size = ModelSize(weights=1000, adapted=0, under_adapters=0, layers=1, hidden=4, intermediate=8, vocabulary=50)
    for tied, flops in ((True, 6000), (False, 4800)):
        (tmp_path / "config.json").write_text(json.dumps({"tie_word_embeddings": tied}))
        assert gpu_check.flops_of(tmp_path, size) == flops


def test_a_machine_without_a_gpu_is_sent_to_the_rehearsal(monkeypatch):
    monkeypatch.setattr("sys.argv", ["gpu_check"])
    monkeypatch.setattr(machine, "visible_gpus", list)
    with pytest.raises(SystemExit, match="--rehearse"):
        gpu_check.main()
