"""The mean of the rounds' weights, on files as a training finds and leaves them."""

from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import save_file

from tapir_core.config import TrainingConfig
from tapir_core.errors import EngineError
from tasks.engines.training.trainer import TrainingJob


@pytest.fixture(scope="module")
def rank() -> ModuleType:
    return import_module("tasks.engines.training.rank")


def job_on(base: Path, average_over: int) -> TrainingJob:
    job = TrainingJob(base, (), Path("attempt"), TrainingConfig(), 1, 1e-4, 1, Path("train.log"))
    return replace(job, average_over=average_over)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_each_round_counts_alike(rank: ModuleType, tmp_path: Path, dtype: torch.dtype) -> None:
    rounds = [torch.full((2, 3), value, dtype=dtype) for value in (1.0, 4.0, 7.0)]
    save_file({"w": rounds[0]}, tmp_path / "model.safetensors")
    for number, trained in enumerate(rounds[1:], start=2):
        weights = {"w": trained.clone()}
        rank.average_with_base(weights, job_on(tmp_path, number))
        save_file(weights, tmp_path / "model.safetensors")
    assert weights["w"].dtype == dtype
    torch.testing.assert_close(weights["w"], torch.full((2, 3), 4.0, dtype=dtype))


def test_weights_that_are_tied_and_files_that_are_several_count_once(rank: ModuleType, tmp_path: Path) -> None:
    save_file({"embed": torch.zeros(2)}, tmp_path / "model-1.safetensors")
    save_file({"norm": torch.zeros(2)}, tmp_path / "model-2.safetensors")
    embed = torch.full((2,), 2.0)
    weights = {"embed": embed, "lm_head": embed, "norm": torch.full((2,), 4.0)}
    rank.average_with_base(weights, job_on(tmp_path, 2))
    assert {name: weight.tolist() for name, weight in weights.items()} == {
        "embed": [1.0, 1.0],
        "lm_head": [1.0, 1.0],
        "norm": [2.0, 2.0],
    }


def test_a_base_without_some_of_the_weights_is_no_student_of_before(rank: ModuleType, tmp_path: Path) -> None:
    save_file({"embed": torch.zeros(2)}, tmp_path / "model.safetensors")
    with pytest.raises(EngineError, match="lacks head"):
        rank.average_with_base({"embed": torch.ones(2), "head": torch.ones(2)}, job_on(tmp_path, 2))
