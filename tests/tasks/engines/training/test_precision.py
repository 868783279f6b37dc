from pathlib import Path

import pytest
import torch

from tapir_core.config import TrainingConfig
from tasks.engines.processor import WITHOUT_AMX
from tasks.engines.training.job import TrainingJob
from tasks.engines.training.student import settle_precision


def make_job(precision: str) -> TrainingJob:
    training = TrainingConfig.model_validate({"precision": precision})
    return TrainingJob(Path("base"), (), Path("attempt"), training, 1, 1e-4, 1, Path("train.log"))


@pytest.mark.parametrize(
    ("capabilities", "precision"),
    [
        ({"avx2": True, "avx512_f": True}, "fp32"),
        ({"avx512_bf16": True}, "bf16"),
        ({"amx_bf16": True}, "bf16"),
        ({"neon": True, "bf16": True}, "bf16"),
    ],
)
def test_auto_is_bf16_only_where_the_cpu_computes_in_it(
    monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, bool], precision: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert settle_precision(make_job("auto")).training.precision == precision


def test_auto_is_fp32_where_the_processors_amx_does_not_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True, "amx_bf16": True})
    for name, value in WITHOUT_AMX.items():
        monkeypatch.setenv(name, value)
    assert settle_precision(make_job("auto")).training.precision == "fp32"


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_a_precision_that_was_asked_for_stays(precision: str) -> None:
    job = make_job(precision)
    assert settle_precision(job) is job
