"""Tiny random models of the architectures of the presets, with their families' special tokens and end-of-turn."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tasks.engines.tiny_student import small_shape, small_tokenizer, write_random

__all__ = ["FAMILIES", "Family"]

VOCABULARY = 512
PIECES = r"\s*[\r\n]+| ?\S+|\s+"
"""Line ends are a piece whatever follows, as in these families: else a prompt's last ones and an answer would meet."""
MAX_LENGTH = 1024


@dataclass(frozen=True)
class Family:
    preset: str
    architecture: str
    """As transformers and vLLM call it."""
    shape: str
    """The configuration class of transformers."""
    tokens: dict[str, str]
    """Those that the tokenizer names."""
    more_tokens: tuple[str, ...]
    """Those that only the chat template writes."""
    closing: str
    """What ends an answer."""
    more_shape: dict[str, Any] = field(default_factory=dict)

    def make(self, folder: Path, seed: int = 1) -> Path:
        import transformers

        special = dict.fromkeys([*self.tokens.values(), *self.more_tokens])
        tokenizer = small_tokenizer([*special], VOCABULARY, pieces=PIECES, model_max_length=MAX_LENGTH, **self.tokens)
        if bos := self.tokens.get("bos_token"):
            _begin_with(tokenizer, bos)
        shape = getattr(transformers, self.shape)(**small_shape(tokenizer, MAX_LENGTH) | self.more_shape)
        write_random(shape, tokenizer, folder, seed)
        return folder


def _begin_with(tokenizer: Any, bos: str) -> None:
    """Put the token before every text, as the tokenizers of Llama and Gemma do; their templates write it too."""
    from tokenizers.processors import TemplateProcessing

    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{bos} $A", special_tokens=[(bos, tokenizer.convert_tokens_to_ids(bos))]
    )


_QWEN = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
_LLAMA = {"bos_token": "<|begin_of_text|>", "eos_token": "<|end_of_text|>", "pad_token": "<|finetune_right_pad_id|>"}
_GEMMA = {"pad_token": "<pad>", "eos_token": "<eos>", "bos_token": "<bos>", "unk_token": "<unk>"}

FAMILIES = (
    Family("qwen2.5", "Qwen2ForCausalLM", "Qwen2Config", _QWEN, ("<|im_start|>",), "<|im_end|>"),
    Family("qwen3", "Qwen3ForCausalLM", "Qwen3Config", _QWEN, ("<|im_start|>", "<think>", "</think>"), "<|im_end|>"),
    Family(
        "llama3.2",
        "LlamaForCausalLM",
        "LlamaConfig",
        _LLAMA,
        ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        "<|eot_id|>",
        {
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 500000.0,
                "factor": 32.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 512,
            }
        },
    ),
    Family(
        "gemma3",
        "Gemma3ForCausalLM",
        "Gemma3TextConfig",
        _GEMMA,
        ("<start_of_turn>", "<end_of_turn>"),
        "<end_of_turn>",
        {
            "query_pre_attn_scalar": 64,
            "sliding_window": 32,
            "layer_types": ["sliding_attention", "full_attention"],
        },
    ),
)
