"""A tiny student made from nothing: for tests of the whole loop, in seconds and without a download.

A random model of Llama's shape (about 200,000 weights), a byte-level tokenizer trained on this project's own
sources, a chat template. vLLM serves it and the trainer trains it; it knows nothing and answers noise.
Run as ``python -m tests.tiny_student FOLDER [SEED]``.
"""

import sys
from pathlib import Path

__all__ = ["tiny_student"]

CHAT_TEMPLATE = (
    "{% for message in messages %}<|start|>{{ message['role'] }}\n{{ message['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)


def tiny_student(folder: Path, seed: int = 1, *, vocabulary: int = 1024, max_length: int = 2048) -> Path:
    """Write a tiny random student to ``folder``; equal seeds give equal weights."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=["<|pad|>", "<|start|>", "<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    sources = sorted(Path(__file__).resolve().parents[1].glob("tapir_core/**/*.py"))
    tokenizer.train_from_iterator((path.read_text(encoding="utf-8") for path in sources), trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|start|>",
        eos_token="<|end|>",
        pad_token="<|pad|>",
        model_max_length=max_length,
    )
    fast.chat_template = CHAT_TEMPLATE
    # vLLM's CPU attention knows head sizes from 32 on.
    shape = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        max_position_embeddings=max_length,
        bos_token_id=fast.bos_token_id,
        eos_token_id=fast.eos_token_id,
        pad_token_id=fast.pad_token_id,
        tie_word_embeddings=True,
        dtype="bfloat16",
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlamaForCausalLM(shape).to(torch.bfloat16)
    model.save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


if __name__ == "__main__":
    tiny_student(Path(sys.argv[1]), *map(int, sys.argv[2:3]))
