"""Backbones for tests: folders that pass for one as long as nothing loads them, and tiny ones that engines load."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.harness.processes import REPOSITORY

__all__ = [
    "CHECKPOINT",
    "make_checkpoint",
    "make_tiny_students",
    "make_tokenized",
    "needs_harness",
    "needs_student_env",
]

CHECKPOINT = {
    "config.json": "{}",
    "model.safetensors": "weights",
    "tokenizer.json": "{}",
    "chat_template.jinja": "{{ messages }}",
}
"""What each file of a checkpoint says that nothing loads."""

needs_student_env = pytest.mark.skipif(
    not os.access(REPOSITORY / ".venv-vllm" / "bin" / "python", os.X_OK),
    reason="needs .venv-vllm: run `make student-env`",
)

needs_harness = pytest.mark.skipif(
    not os.access(REPOSITORY / ".venv-lm-eval" / "bin" / "python", os.X_OK),
    reason="needs .venv-lm-eval: run `make test-lm-eval`",
)


def make_checkpoint(folder: Path, **changes: str | None) -> Path:
    """A folder with the files of a checkpoint; a change names a file with `__` for the dot, nothing leaves it out."""
    folder.mkdir(parents=True, exist_ok=True)
    files = CHECKPOINT | {name.replace("__", "."): text for name, text in changes.items()}
    for name, text in files.items():
        if text is not None:
            (folder / name).write_text(text)
    return folder


def make_tokenized(folder: Path, *more_tokens: str, is_special: bool = True, **config: int) -> Path:
    """A checkpoint with a real tokenizer, of 512 tokens and ``more_tokens``, for a model of 512 embeddings."""
    from tasks.engines.tiny_student import CHAT_TEMPLATE, small_tokenizer

    special = {"pad_token": "<|pad|>", "bos_token": "<|start|>", "eos_token": "<|end|>"}
    tokenizer = small_tokenizer([*special.values()], 512, **special)
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.add_tokens([*more_tokens], special_tokens=is_special)
    make_checkpoint(folder, config__json=json.dumps({"vocab_size": 512, **config}))
    tokenizer.save_pretrained(folder)
    return folder


def make_tiny_students(folder: Path, count: int) -> list[Path]:
    """Backbones of different weights, `tiny-1` and on, made in processes of their own: this one loads no torch."""
    students = [folder / f"tiny-{seed}" for seed in range(1, count + 1)]
    for seed, student in enumerate(students, start=1):
        command = [sys.executable, "-m", "tasks.engines.tiny_student", str(student), str(seed)]
        subprocess.run(command, check=True, cwd=REPOSITORY, capture_output=True)
    return students
