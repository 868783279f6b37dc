from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tapir_core.config import TrainingConfig
from tasks.engines import machine
from tasks.engines.machine import WITHOUT_AMX, computes_in_bf16
from tasks.engines.training.launch import TrainingJob


def make_job(precision: str) -> TrainingJob:
    training = TrainingConfig.model_validate({"precision": precision})
    return TrainingJob(Path("base"), (), Path("attempt"), training, 1, 1e-4, 1, Path("train.log"))


@pytest.fixture
def auto_precision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """The precision that `auto` is on a machine without GPU whose processor has these flags."""
    # Seconds, which processes that only collect this test need not spend.
    import torch

    from tasks.engines.training import trainer

    def settle(flags: str) -> str:
        cpuinfo = tmp_path / "cpuinfo"
        cpuinfo.write_text(f"flags : {flags}")
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        monkeypatch.setattr(machine, "computes_in_bf16", partial(computes_in_bf16, cpuinfo=cpuinfo))
        return trainer.settle_precision(make_job("auto")).training.precision

    return settle


@pytest.mark.parametrize(("flags", "precision"), [("avx2 avx512f", "fp32"), ("avx2 avx512_bf16", "bf16")])
def test_auto_is_bf16_only_where_the_cpu_computes_in_it(
    auto_precision: Callable[[str], str], flags: str, precision: str
) -> None:
    assert auto_precision(flags) == precision


def test_auto_is_fp32_where_the_processors_amx_does_not_work(
    auto_precision: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in WITHOUT_AMX.items():
        monkeypatch.setenv(name, value)
    assert auto_precision("avx512_bf16 amx_bf16") == "fp32"


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_a_precision_that_was_asked_for_stays(precision: str) -> None:
    from tasks.engines.training.trainer import settle_precision

    job = make_job(precision)
    assert settle_precision(job) is job
