"""A tiny random student, made in seconds and without a download: what `tapir smoke` and tests take through the loop.

A model of Llama's shape, a byte-level tokenizer trained on problems of the stand-in, a chat template. vLLM serves it
and the trainer trains it; it knows nothing and answers noise. A child runs this module
(``python -m tasks.engines.tiny_student FOLDER [SEED]``), so that who drives a run loads no torch.
"""

import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tapir_core.standin.families import sample_problems

CHAT_TEMPLATE = (
    "{% for message in messages %}<|start|>{{ message['role'] }}\n{{ message['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)

_PROBLEMS = 2000
"""What the tokenizer is trained on: enough for a thousand tokens, drawn in a second."""


def tiny_student(folder: Path, seed: int = 1, *, vocabulary: int = 1024, max_length: int = 2048) -> Path:
    """Write a tiny random student to ``folder``; equal seeds give equal weights."""
    from transformers import LlamaConfig

    tokens = {"pad_token": "<|pad|>", "bos_token": "<|start|>", "eos_token": "<|end|>"}
    tokenizer = small_tokenizer(list(tokens.values()), vocabulary, model_max_length=max_length, **tokens)
    tokenizer.chat_template = CHAT_TEMPLATE
    return write_random(LlamaConfig(**small_shape(tokenizer, max_length)), tokenizer, folder, seed)


def small_tokenizer(special_tokens: Sequence[str], vocabulary: int, *, pieces: str = "", **settings: Any) -> Any:
    """A byte-level tokenizer of ``vocabulary`` tokens, the special ones first; as fixed as the stand-in's version.

    No token reaches over the ends of ``pieces``, a regular expression; by default over those of GPT-2. ``settings`` are
    transformers' own.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    split = [pre_tokenizers.Split(Regex(pieces), "isolated")] if pieces else []
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not pieces)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*split, to_bytes]) if split else to_bytes
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(special_tokens),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    problems = sample_problems(_PROBLEMS, max_level=5, rng=random.Random(0))
    tokenizer.train_from_iterator((f"{each.instruction}\n{each.refined}" for each in problems), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **settings)


def small_shape(tokenizer: Any, max_length: int) -> dict[str, Any]:
    """Two narrow layers, as configurations of transformers say it.

    Heads are of size 64, which every attention kernel of vLLM knows, on processors and on GPUs.
    """
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 64,
        "max_position_embeddings": max_length,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "tie_word_embeddings": True,
    }


def write_random(shape: Any, tokenizer: Any, folder: Path, seed: int) -> Path:
    """Write a model of ``shape`` with random weights in bfloat16, and its tokenizer, to ``folder``."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(shape, dtype=torch.float32).to(torch.bfloat16)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


if __name__ == "__main__":
    tiny_student(Path(sys.argv[1]), *map(int, sys.argv[2:3]))
