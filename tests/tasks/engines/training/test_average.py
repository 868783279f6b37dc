"""The mean of the rounds' weights."""

from importlib import import_module
from types import ModuleType
from typing import Any

import pytest
import torch

from tapir_core.errors import EngineError


@pytest.fixture(scope="module")
def rank() -> ModuleType:
    return import_module("tasks.engines.training.rank")


def model(**weights: torch.Tensor) -> Any:
    made = torch.nn.Module()
    for name, weight in weights.items():
        made.register_parameter(name, torch.nn.Parameter(weight))
    return made


def test_each_round_counts_alike(rank: ModuleType) -> None:
    mean = {"w": torch.tensor([1.0])}
    for number, trained in enumerate([4.0, 7.0, 0.0], start=2):
        mean = rank.average_with_base({"w": torch.tensor([trained])}, model(**mean), number)
    torch.testing.assert_close(mean["w"], torch.tensor([3.0]))


def test_what_a_bf16_round_adds_is_kept_though_bf16_could_not_hold_it(rank: ModuleType) -> None:
    start, step = 1.0, 2.0**-7  # the resolution of bf16 at 1
    mean = {"w": torch.tensor([start])}
    for number in (2, 3, 4):
        trained = {"w": torch.tensor([start + step], dtype=torch.bfloat16)}
        mean = rank.average_with_base(trained, model(**mean), number)
    assert mean["w"].dtype == torch.float32
    torch.testing.assert_close(mean["w"], torch.tensor([start + step * 3 / 4]))


def test_weights_that_are_tied_count_once(rank: ModuleType) -> None:
    embed = torch.tensor([2.0])
    mean = rank.average_with_base({"embed": embed, "lm_head": embed}, model(embed=torch.tensor([0.0])), 2)
    assert {name: weight.tolist() for name, weight in mean.items()} == {"embed": [1.0]}


def test_a_training_without_some_of_the_weights_makes_no_mean(rank: ModuleType) -> None:
    with pytest.raises(EngineError, match="left no head"):
        rank.average_with_base({"embed": torch.ones(1)}, model(embed=torch.ones(1), head=torch.ones(1)), 2)
