"""What a training is said to need is what it took, for three sizes of a model on a CPU."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from tapir_core.config import Imitate, OnPolicy, TrainingConfig
from tapir_core.stages import ROLLOUT, SCORE
from tasks.engines.tiny_student import CHAT_TEMPLATE, small_shape, small_tokenizer, write_random
from tasks.engines.training import prerequisites
from tasks.engines.training.launch import TrainingJob, train_student

# A processor that has no bf16 takes minutes for two steps.
pytestmark = [pytest.mark.operations, pytest.mark.timeout(2700)]

SHAPES = {
    "8M": {"hidden_size": 256, "num_hidden_layers": 8, "intermediate_size": 704, "vocab_size": 4096},
    "26M": {"hidden_size": 384, "num_hidden_layers": 12, "intermediate_size": 1024, "vocab_size": 16384},
    "110M": {"hidden_size": 768, "num_hidden_layers": 12, "intermediate_size": 2048, "vocab_size": 32768},
}
LETTERS = "a b c d e f g h"
"""Of one token each, as the blank before it."""


def model(folder: Path, size: str) -> Path:
    tokens = {"pad_token": "<|pad|>", "bos_token": "<|start|>", "eos_token": "<|end|>"}
    tokenizer = small_tokenizer(list(tokens.values()), 1024, model_max_length=2048, **tokens)
    tokenizer.chat_template = CHAT_TEMPLATE
    shape = small_shape(tokenizer, 2048) | SHAPES[size]
    heads = shape["hidden_size"] // 64
    return write_random(
        LlamaConfig(**shape | {"num_attention_heads": heads, "num_key_value_heads": heads // 2}), tokenizer, folder, 1
    )


def write_rollouts(base: Path, folder: Path, tokens: int, rows: int) -> tuple[Path, Path]:
    """Rollouts of one token over and over, and scores by which the teacher finds all alike."""
    ids = [5] * tokens
    with torch.no_grad():
        said = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)(torch.tensor([ids])).logits
    own = said[0, :-1].log_softmax(-1)[1:, 5].tolist()
    drawn = [(f"i{row}", 1, ids[:2], ids[2:], own, "length") for row in range(rows)]
    scored = [(f"i{row}", 1, own, [[5, 6]] * len(own), [[-1.0, -2.0]] * len(own)) for row in range(rows)]
    pl.DataFrame(drawn, schema=ROLLOUT.columns, orient="row").write_parquet(folder / "rollouts.parquet")
    pl.DataFrame(scored, schema=SCORE.columns, orient="row").write_parquet(folder / "scores.parquet")
    return folder / "rollouts.parquet", folder / "scores.parquet"


@pytest.mark.parametrize(
    ("size", "micro_batch", "length", "training"),
    [
        ("8M", 8, 400, {"precision": "fp32"}),
        ("26M", 8, 200, {"precision": "fp32"}),
        ("26M", 4, 400, {"precision": "bf16"}),
        ("110M", 1, 40, {"precision": "fp32"}),
        ("110M", 1, 40, {"precision": "bf16"}),
        ("110M", 4, 200, {"precision": "bf16", "gradient_checkpointing": True}),
        ("110M", 4, 200, {"precision": "bf16", "lora": {"rank": 16}}),
        ("26M", 8, 200, {"precision": "fp32", "loss": "forward_kl"}),
        ("26M", 16, 200, {"precision": "bf16", "loss": "forward_kl"}),
    ],
    ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else str(value),
)
def test_the_estimate_is_within_a_fifth_of_the_peak(
    tmp_path: Path, size: str, micro_batch: int, length: int, training: dict[str, Any]
) -> None:
    training = dict(training)
    base, loss = model(tmp_path / "base", size), training.pop("loss", None)
    rollouts, scores = write_rollouts(base, tmp_path, length, 4 * micro_batch) if loss else (None, None)
    text = " ".join((LETTERS.split() * length)[: length - 20])
    row = [{"role": "user", "content": "a b"}, {"role": "assistant", "content": text}]
    pl.DataFrame({"messages": [row] * (4 * micro_batch)}).write_parquet(tmp_path / "rows.parquet")
    config = TrainingConfig(
        batch_size=2 * micro_batch, micro_batch_size=micro_batch, max_length=512, processes=1, **training
    )
    done = train_student(
        TrainingJob(
            base=base,
            mixture=(tmp_path / "rows.parquet",),
            output=tmp_path / "attempt",
            training=config,
            epochs=1,
            learning_rate=1e-4,
            seed=1,
            log_path=tmp_path / "trainer.log",
            objective=OnPolicy(loss=loss) if loss else Imitate(),
            rollouts=(rollouts,) if rollouts else (),
            scores=(scores,) if scores else (),
        )
    )
    longest, found = done.total_tokens // done.examples, prerequisites.size_of(base)
    assert found is not None
    assert longest == pytest.approx(length, abs=20)
    in_bf16 = config.precision == "bf16"
    needed = prerequisites.estimate_memory(
        config, found, in_bf16=in_bf16, longest=longest, processes=1, holds_logits=bool(loss)
    )
    told = (tmp_path / "trainer.log").read_text()
    assert f"= {sum(needed.values()) / 2**30:.2f} GiB a process" in told, "what the trainer says before it begins"
    assert sum(needed.values()) == pytest.approx(done.peak_memory, rel=0.2), needed
