"""Attention on a GPU, by what torch brings: nothing has to be installed for it.

Packed rows go to torch's kernel for sequences of any length, which takes from TRL's collator (`padding_free`) where the
examples of a row end. They do not see each other and no mask is made, so that time and memory grow with each example's
length: on an H200 rows of 8,192 tokens took a third of SDPA's time (docs/LOG.md).
"""

from typing import Any

import torch
from torch.nn.attention import varlen
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import repeat_kv
from transformers.masking_utils import AttentionMaskInterface

VARLEN = "torch_varlen"
"""What transformers calls it (`attn_implementation`)."""


def prepare() -> None:
    """Let models be loaded with `VARLEN`, and keep SDPA from cuDNN.

    On Hopper torch prefers cuDNN's attention, which is compiled anew for each length that a batch is padded to.
    """
    AttentionInterface.register(VARLEN, _attend)
    AttentionMaskInterface.register(VARLEN, lambda *_, **__: None)
    torch.backends.cuda.enable_cudnn_sdp(False)


def _attend(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: None,
    *,
    scaling: float | None = None,
    sliding_window: int | None = None,
    cu_seq_lens_q: torch.Tensor,
    max_length_q: int,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention in one row of examples.

    Args:
        module: The layer.
        query: (1, heads, tokens, head size).
        key: The same, or with fewer heads, each for as many of the query's.
        value: As ``key``.
        attention_mask: None.
        scaling: Of the products, before their softmax.
        sliding_window: Tokens that one sees, itself among them; unset: all before it.
        cu_seq_lens_q: Where each example begins, and where the last one ends.
        max_length_q: Tokens of the longest.

    Returns:
        (1, tokens, heads, head size), and no weights.
    """
    share = query.shape[1] // key.shape[1]
    parts = (query, repeat_kv(key, share), repeat_kv(value, share))
    rows = [part[0].transpose(0, 1).contiguous() for part in parts]
    window = (sliding_window - 1 if sliding_window else -1, 0)
    bounds = (cu_seq_lens_q, cu_seq_lens_q, max_length_q, max_length_q)
    return varlen.varlen_attn(*rows, *bounds, scale=scaling, window_size=window)[None], None
