"""What the trainer does with its inputs before a step, without a training: seconds go into its import."""

from collections.abc import Sequence
from importlib import import_module
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from tapir_core.config import OnPolicy
from tapir_core.errors import EngineError


@pytest.fixture(scope="module")
def planned() -> ModuleType:
    return import_module("tasks.engines.training.planned")


def test_scores_are_not_narrowed_to_the_precision_of_the_weights(planned: ModuleType) -> None:
    trainer = planned.PlannedTrainer.__new__(planned.PlannedTrainer)
    in_bf16 = SimpleNamespace(hf_ds_config=SimpleNamespace(dtype=lambda: torch.bfloat16))
    trainer.args, trainer.is_deepspeed_enabled = SimpleNamespace(device=torch.device("cpu")), True
    trainer.accelerator = SimpleNamespace(state=SimpleNamespace(deepspeed_plugin=in_bf16))
    given = {"teacher": torch.tensor([-3.1235]), "input_ids": torch.tensor([[1, 2]])}
    moved = trainer._prepare_input(given)
    assert moved["teacher"].dtype == torch.float32
    assert torch.equal(moved["teacher"], given["teacher"])
    assert torch.equal(moved["input_ids"], given["input_ids"])


def learn(planned: ModuleType, *apart: Sequence[float]) -> int:
    """Micro-batches of the first step that are learnt from; ``apart`` is the trainer from the server, by token."""
    trainer = planned.PlannedTrainer.__new__(planned.PlannedTrainer)
    plan = SimpleNamespace(accumulation=len(apart), groups=[None] * (len(apart) + 3))
    trainer._planned = SimpleNamespace(corpus=SimpleNamespace(rollouts=99), plan=plan)
    trainer._apart, trainer._tell, trainer.state = [], lambda *_, **__: None, SimpleNamespace(global_step=0)
    trainer._rolled_of_step = trainer._tokens_of_step = [sum(map(len, apart))]
    for number, each in enumerate(apart):
        now, of = torch.full((len(each),), -1.0), torch.zeros(len(each), dtype=torch.long)
        trainer._log_probs = lambda *_, now=now, of=of: (now, of)
        told: dict[str, Any] = {"sampled": now - torch.tensor([*each]), "teacher": now}
        try:
            trainer._learn_on_policy(None, told, torch.tensor([0]), OnPolicy(loss="policy"))
        except EngineError:
            return number
    return len(apart)


def test_the_server_and_the_trainer_are_compared_over_the_whole_first_step(planned: ModuleType) -> None:
    quiet, one_off = [0.001] * 30, [*[0.001] * 29, 0.9]
    assert learn(planned, one_off, quiet, quiet, quiet) == 4, "one token in a hundred may be apart"
    assert learn(planned, one_off, one_off, quiet, quiet) == 3, "two may not: found before the step is taken"
    assert learn(planned, *[[0.1] * 5] * 4) == 3, "half of them"
