"""What computes a student on a GPU; examples that share a row do not see each other, whatever computes attention."""

import sys
from collections.abc import Mapping
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from types import MethodType, ModuleType
from typing import Any

import pytest

from tapir_core.config import TrainingConfig
from tapir_core.errors import ConfigError, MissingPrerequisite
from tasks.engines import machine
from tasks.engines.tiny_student import tiny_student
from tasks.engines.training.launch import train_student
from tasks.engines.training.prerequisites import check_packages
from tests.tasks.engines.training.test_trainer import EXAMPLES, make_job, write_mixture


def settings(**fields: Any) -> TrainingConfig:
    return TrainingConfig.model_validate(fields)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_packed_examples_have_the_logits_that_they_have_alone(tmp_path: Path, precision: str) -> None:
    import torch
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    job = make_job(tmp_path, base=tiny_student(tmp_path / "base"), training=settings(precision=precision, packing=True))
    model = import_module("tasks.engines.training.trainer")._load_base(job).eval()
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


PACKED = {"precision": "bf16", "packing": True}


@pytest.fixture
def on_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU as far as the choice of attention looks, and what its kernel computes."""
    import torch
    from torch.nn.attention import varlen

    def kernel(
        query: Any, key: Any, value: Any, begins: Any, key_begins: Any, longest: int, key_longest: int, **told: Any
    ) -> Any:
        """Of (tokens, heads, head size), each example by itself."""
        assert begins is key_begins
        assert longest == key_longest == max(begins.diff().tolist())
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
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)


@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.usefixtures("on_gpu")
def test_on_a_gpu_packed_examples_are_handed_to_torch_one_by_one(tmp_path: Path, window: int | None) -> None:
    import torch
    from transformers import AutoModelForCausalLM
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    from tasks.engines.training import kernels

    base = tiny_student(tmp_path / "base")
    packing, alone = (
        AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, attn_implementation=name).train()
        for name in ("sdpa", "eager")
    )
    kernels.prepare(packing, settings(**PACKED))
    packing.activation_checkpointing_enable()
    texts = [[5, 9, 200, 17, 4], [31, 8, 8], [700, 2, 450, 1, 77, 6, 90]]
    row = DataCollatorForLanguageModeling(pad_token_id=0, padding_free=True)([{"input_ids": text} for text in texts])
    del row["labels"]
    packed = packing(**row, sliding_window=window, use_cache=False).logits[0]
    each = []
    for text in texts:
        back = torch.arange(len(text))[:, None] - torch.arange(len(text))
        seen = (back >= 0) & (back < (window or len(text)))
        mask = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)[None, None]
        each.append(alone(torch.tensor([text]), attention_mask=mask, use_cache=False).logits[0])
    torch.testing.assert_close(packed, torch.cat(each), rtol=0, atol=1e-5)
    for logits in (packed, torch.cat(each)):
        logits.pow(2).sum().backward()
    for (name, one), other in zip(packing.named_parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-3, atol=1e-3, msg=name)


@pytest.mark.usefixtures("on_gpu")
def test_a_model_that_attends_in_another_way_than_torchs_kernel_is_refused(tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, GPT2Config

    from tasks.engines.training import kernels

    shape = GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=32, attn_pdrop=0.1)
    model = AutoModelForCausalLM.from_config(shape, attn_implementation="sdpa").train()
    kernels.prepare(model, settings(**PACKED))
    begins = torch.tensor([0, 3], dtype=torch.int32)
    with pytest.raises(ConfigError, match=r"GPT2Attention attends in a way.*training.attention = \"sdpa\""):
        model(torch.tensor([[1, 2, 3]]), cu_seq_lens_q=begins, max_length_q=3, use_cache=False)


@pytest.mark.usefixtures("on_gpu")
def test_what_computes_attention_is_the_fastest_that_can(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    from tasks.engines.training import kernels

    base = tiny_student(tmp_path / "base")

    def chosen(**fields: Any) -> str:
        model = AutoModelForCausalLM.from_pretrained(base, attn_implementation="sdpa")
        kernels.prepare(model, settings(**fields))
        return str(model.config._attn_implementation)

    assert chosen(**PACKED) == "sdpa_varlen"
    assert not torch.backends.cuda.cudnn_sdp_enabled(), "it would be compiled for each length"
    assert chosen(precision="bf16") == chosen(**PACKED, attention="sdpa") == "sdpa"
    assert chosen(packing=True, precision="fp32") == "sdpa", "the kernel has no fp32"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert chosen(**PACKED) == "sdpa"
    assert kernels.attention_of(settings(**PACKED)) == "sdpa"
    monkeypatch.setattr(kernels, "is_flash_attn_2_available", lambda: True)
    assert kernels.attention_of(settings(**PACKED)) == "flash_attention_2"
    others = settings(precision="fp32"), settings(precision="bf16", attention="sdpa")
    assert {kernels.attention_of(each) for each in others} == {"sdpa"}


def test_where_liger_is_installed_it_computes_the_layers_on_a_gpu_and_leaves_the_loss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_gpu: None
) -> None:
    import torch
    from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, PreTrainedConfig
    from transformers.integrations import liger

    from tasks.engines.training import kernels

    def norm(self: Any, states: Any) -> Any:
        return self.weight * torch.nn.functional.rms_norm(states, states.shape[-1:], eps=self.variance_epsilon)

    def apply(model: Any, **told: bool) -> None:
        assert told == {"cross_entropy": False, "fused_linear_cross_entropy": False}
        model.model.norm.forward = MethodType(norm, model.model.norm)

    norm.__module__ = "liger_kernel.transformers.rms_norm"
    package, part = ModuleType("liger_kernel"), ModuleType("liger_kernel.transformers")
    monkeypatch.setitem(sys.modules, "liger_kernel", package)
    monkeypatch.setitem(sys.modules, "liger_kernel.transformers", part)
    monkeypatch.setattr(part, "_apply_liger_kernel_to_instance", apply, raising=False)
    for each in (kernels, liger):
        monkeypatch.setattr(each, "is_liger_kernel_available", lambda: True)
    model = AutoModelForCausalLM.from_pretrained(tiny_student(tmp_path / "base"), attn_implementation="sdpa")
    assert kernels.in_words(model) == "sdpa"
    with monkeypatch.context() as without:
        without.setattr(kernels, "is_liger_kernel_available", lambda: False)
        kernels.prepare(model, settings(precision="bf16"))
        assert kernels.in_words(model) == "sdpa; liger-kernel is not installed (docs/training.md)"
    kernels.prepare(model, settings(**PACKED))
    assert kernels.in_words(model) == "sdpa_varlen, kernels of Liger"

    def untouched(shape: PreTrainedConfig) -> None:
        other = AutoModelForCausalLM.from_config(shape, attn_implementation="sdpa")
        kernels.prepare(other, settings(**PACKED))
        assert "iger" not in kernels.in_words(other)

    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 32}
    untouched(LlamaConfig(**small, hidden_act="relu"))
    untouched(LlamaConfig(**small, mlp_bias=True))
    untouched(GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=32))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    untouched(model.config)


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


@pytest.mark.operations
def test_a_packed_step_is_the_step_of_the_same_examples_unpacked(tmp_path: Path) -> None:
    tiny_student(tmp_path / "base")
    write_mixture(tmp_path / "part.parquet")

    def step(packing: bool) -> dict[str, int | float]:
        training = settings(precision="fp32", batch_size=EXAMPLES, micro_batch_size=20, max_length=60, packing=packing)
        places = {"output": tmp_path / str(packing), "log_path": tmp_path / f"{packing}.log"}
        [only] = train_student(make_job(tmp_path, training=training, **places)).loss_curve
        return only

    assert step(packing=True) == pytest.approx(step(packing=False), rel=1e-3)
