"""What computes the layers of a student on a GPU: faster kernels than a model's own, where there are any.

Norms, activations and positions are Liger's where it is installed and knows the model. Attention is FlashAttention 2
where it is installed, else what torch brings. Packed rows go to torch's kernel for sequences of any length, which takes
from TRL's collator (`padding_free`) where the examples of a row end. They do not see each other and no mask is made:
time and memory grow with the length of each. On an H200 rows of 8,192 tokens took a third of SDPA's time, and a 1.8B
student with Liger three quarters of the time without (docs/LOG.md).
"""

from typing import Any

import torch
from torch.nn.attention import varlen
from transformers import AttentionInterface, PreTrainedConfig, PreTrainedModel
from transformers.integrations.liger import apply_liger_kernel
from transformers.integrations.sdpa_attention import repeat_kv
from transformers.utils import is_flash_attn_2_available, is_liger_kernel_available

from tapir_core.config import TrainingConfig
from tapir_core.errors import ConfigError

VARLEN = "sdpa_varlen"
"""What transformers calls torch's kernel; with `sdpa` in it, models that have no SDPA are refused this as well."""

_LIGER = {"llama": "silu", "qwen2": "silu", "qwen3": "silu", "gemma3_text": "gelu_pytorch_tanh"}
"""Families whose layers Liger's were compared with (docs/LOG.md) → the activation that it computes for them."""

_LARGEST_HEAD = 256
"""Of torch's kernel, which wants a multiple of 8."""


def attention_of(training: TrainingConfig) -> str:
    """What a model is loaded with, the precision being settled."""
    if training.attention != "auto":
        return training.attention
    return "flash_attention_2" if training.precision == "bf16" and is_flash_attn_2_available() else "sdpa"


def prepare(model: PreTrainedModel, training: TrainingConfig) -> None:
    """Have ``model`` computed by Liger, and attend in packed rows by torch's kernel, where they can.

    SDPA is kept from cuDNN: on Hopper torch prefers its attention, which is compiled anew for each length that a batch
    is padded to. Liger's losses are left out: TRL's is fused as well.
    """
    torch.backends.cuda.enable_cudnn_sdp(False)
    if torch.cuda.is_available() and is_liger_kernel_available() and _suits_liger(model.config):
        apply_liger_kernel(model, {"cross_entropy": False, "fused_linear_cross_entropy": False})
    has_kernel = (
        training.precision == "bf16"
        and torch.cuda.is_available()
        and torch.cuda.is_bf16_supported(including_emulation=False)
    )
    packed_by_sdpa = training.packing and training.attention == "auto" and attention_of(training) == "sdpa"
    if packed_by_sdpa and has_kernel and model._supports_attention_backend:
        AttentionInterface.register(VARLEN, _attend)
        model.set_attn_implementation(VARLEN)


def _suits_liger(config: PreTrainedConfig) -> bool:
    """Whether its layers are the model's; itself it looks at neither activation nor biases."""
    told = config.to_dict()
    activation = told.get("hidden_act") or told.get("hidden_activation")
    return _LIGER.get(told["model_type"], "none") == activation and not told.get("mlp_bias")


def in_words(model: PreTrainedModel) -> str:
    """What computes a prepared ``model``, and what might do it faster."""
    by_liger = any(str(module.forward.__module__).startswith("liger_kernel") for module in model.modules())
    more = ", kernels of Liger" if by_liger else ""
    if torch.cuda.is_available() and not is_liger_kernel_available() and _suits_liger(model.config):
        more = "; liger-kernel is not installed (docs/training.md)"
    return f"{model.config._attn_implementation}{more}"


def _attend(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: None,
    *,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    cu_seq_lens_q: torch.Tensor | None = None,
    max_length_q: int | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention in one row of examples.

    Args:
        module: The layer.
        query: (1, heads, tokens, head size).
        key: The same, or with fewer heads, each for as many of the query's.
        value: As ``key``.
        attention_mask: None.
        dropout: Nothing else than 0 can be had, and neither ``softcap`` nor ``s_aux``.
        scaling: Of the products, before their softmax.
        sliding_window: Tokens that one sees, itself among them; unset: all before it.
        softcap: Largest product.
        s_aux: Sinks of attention.
        cu_seq_lens_q: Where each example begins, and where the last one ends.
        max_length_q: Tokens of the longest.

    Returns:
        (1, tokens, heads, head size), and no weights.

    Raises:
        ConfigError: the layer attends in another way, or does not hand on where examples end.
    """
    size = query.shape[-1]
    unknown = dropout or softcap or s_aux is not None or size > _LARGEST_HEAD or size % 8 or value.shape[-1] != size
    if unknown or cu_seq_lens_q is None or max_length_q is None:
        raise ConfigError(
            f"{type(module).__name__} attends in a way that torch's kernel for packed rows does not know; "
            'set training.attention = "sdpa"'
        )
    share = query.shape[1] // key.shape[1]
    parts = (query, repeat_kv(key, share), repeat_kv(value, share))
    attended = varlen.varlen_attn(
        *(part[0].transpose(0, 1).contiguous() for part in parts),
        *(cu_seq_lens_q, cu_seq_lens_q, max_length_q, max_length_q),
        scale=scaling,
        window_size=(sliding_window - 1 if sliding_window else -1, 0),
    )
    return attended[None], None
