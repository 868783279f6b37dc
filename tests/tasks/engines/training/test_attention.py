"""Examples that share a row do not see each other, whatever computes attention."""

import sys
from collections.abc import Mapping
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tapir_core.config import TrainingConfig
from tapir_core.errors import MissingPrerequisite
from tasks.engines import machine
from tasks.engines.tiny_student import tiny_student
from tasks.engines.training.prerequisites import check_packages
from tasks.engines.training.trainer import train_student
from tests.tasks.engines.training.test_trainer import EXAMPLES, make_job, write_mixture


def settings(**fields: Any) -> TrainingConfig:
    return TrainingConfig.model_validate(fields)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_packed_examples_have_the_logits_that_they_have_alone(tmp_path: Path, precision: str) -> None:
    import torch
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    job = make_job(tmp_path, base=tiny_student(tmp_path / "base"), training=settings(precision=precision, packing=True))
    model = import_module("tasks.engines.training.rank")._load_base(job).eval()
    texts = [[5, 9, 200, 17, 4], [31, 8, 8], [700, 2, 450, 1, 77, 6, 90]]
    collate = DataCollatorForLanguageModeling(pad_token_id=0, padding_free=True)
    row = collate([{"input_ids": text} for text in texts])

    def logits(inputs: Mapping[str, Any]) -> Any:
        with torch.no_grad():
            return model(**{name: each for name, each in inputs.items() if name != "labels"}, use_cache=False).logits

    packed = logits(row)
    alone = torch.cat([logits({"input_ids": torch.tensor([text])}) for text in texts], dim=1)
    near = 1e-5 if precision == "fp32" else 0.02
    torch.testing.assert_close(packed, alone, rtol=0, atol=near)
    seen = logits({"input_ids": row["input_ids"]})
    assert (seen - alone).abs().max() > 10 * near, "the model would show it if they saw each other"


@pytest.mark.parametrize("window", [None, 3])
def test_on_a_gpu_packed_examples_are_handed_to_torch_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, window: int | None
) -> None:
    import torch
    from torch.nn.attention import varlen
    from transformers import AutoModelForCausalLM
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    from tasks.engines.training import attention

    def kernel(query: Any, key: Any, value: Any, begins: Any, _: Any, longest: int, *__: Any, **told: Any) -> Any:
        """What the GPU's does: (tokens, heads, head size), each example by itself."""
        assert longest == max(begins.diff().tolist())
        back, ahead = told["window_size"]
        outputs = []
        for begin, end in pairwise(begins.tolist()):
            q, k, v = (part[begin:end].transpose(0, 1) for part in (query, key, value))
            apart = torch.arange(end - begin)[:, None] - torch.arange(end - begin)
            seen = (apart >= -ahead) & ((apart <= back) | (back == -1))
            found = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=seen, scale=told["scale"])
            outputs.append(found.transpose(0, 1))
        return torch.cat(outputs)

    monkeypatch.setattr(varlen, "varlen_attn", kernel)
    attention.prepare()
    base = tiny_student(tmp_path / "base")
    row, alone = DataCollatorForLanguageModeling(pad_token_id=0, padding_free=True), []
    texts = [[5, 9, 200, 17, 4], [31, 8, 8], [700, 2, 450, 1, 77, 6, 90]]
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, attn_implementation=attention.VARLEN)
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, attn_implementation="eager")
    with torch.no_grad():
        told = {name: each for name, each in row([{"input_ids": text} for text in texts]).items() if name != "labels"}
        packed = model(**told, sliding_window=window, use_cache=False).logits[0]
        for text in texts:
            near = torch.arange(len(text))[:, None] - torch.arange(len(text))
            seen = (near >= 0) & (near < (window or len(text)))
            mask = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)
            told = {"input_ids": torch.tensor([text]), "attention_mask": mask[None, None]}
            alone.append(plain(**told, use_cache=False).logits[0])
    torch.testing.assert_close(packed, torch.cat(alone), rtol=0, atol=1e-5)
    assert not torch.backends.cuda.cudnn_sdp_enabled(), "it would be compiled for each length"


def test_what_computes_attention_is_the_fastest_that_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    rank = import_module("tasks.engines.training.rank")

    def chosen(**fields: Any) -> str:
        return rank.attention_of(settings(**fields))

    assert chosen(precision="bf16") == chosen(precision="bf16", packing=True) == "sdpa"
    with monkeypatch.context() as on_gpu:
        on_gpu.setattr("torch.cuda.is_available", lambda: True)
        assert chosen(precision="bf16") == "sdpa"
        assert chosen(precision="bf16", packing=True) == "torch_varlen"
        assert chosen(precision="bf16", packing=True, attention="sdpa") == "sdpa"
    monkeypatch.setattr(rank, "is_flash_attn_2_available", lambda: True)
    assert chosen(precision="bf16") == "flash_attention_2"
    assert chosen(precision="fp32") == chosen(precision="bf16", attention="sdpa") == "sdpa"


def test_flash_attention_that_cannot_be_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    flash = settings(attention="flash_attention_2")
    monkeypatch.setattr(machine, "visible_gpus", list)
    with pytest.raises(MissingPrerequisite, match=r"needs an NVIDIA GPU.*set it to \"auto\""):
        check_packages(flash)
    monkeypatch.setattr(machine, "visible_gpus", lambda: ["0"])
    with pytest.raises(MissingPrerequisite, match=r"pip install flash_attn"):
        check_packages(flash)
    (tmp_path / "flash_attn").mkdir()
    (tmp_path / "flash_attn" / "__init__.py").touch()
    check_packages(flash)


def test_four_bits_without_their_package_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "bitsandbytes", raising=False)
    with pytest.raises(MissingPrerequisite, match=r"quantization = \"nf4\" needs the package bitsandbytes"):
        check_packages(settings(lora={"quantization": "nf4"}))


@pytest.mark.slow
def test_a_packed_step_is_the_step_of_the_same_examples_unpacked(tmp_path: Path) -> None:
    tiny_student(tmp_path / "base")
    write_mixture(tmp_path / "part.parquet")

    def step(packing: bool) -> dict[str, int | float]:
        training = settings(precision="fp32", batch_size=EXAMPLES, micro_batch_size=20, max_length=60, packing=packing)
        places = {"output": tmp_path / str(packing), "log_path": tmp_path / f"{packing}.log"}
        [only] = train_student(make_job(tmp_path, training=training, **places)).loss_curve
        return only

    assert step(packing=True) == pytest.approx(step(packing=False), rel=1e-3)
