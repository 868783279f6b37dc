"""Turn a GGUF file into a folder of bf16 safetensors, a tokenizer and a chat template; a child process.

Run as ``python -m tasks.engines.backbone_main FILE.gguf FOLDER`` by `backbone.py`: torch and transformers stay out
of the driver, and their memory goes back when this ends. Reads nothing but the file: needs no model hub.
"""

import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

__all__ = ["convert"]


def convert(gguf: Path, folder: Path) -> None:
    """Write ``gguf`` to ``folder`` as a checkpoint that vLLM and TRL load."""
    tokenizer = AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name)
    model = AutoModelForCausalLM.from_pretrained(str(gguf.parent), gguf_file=gguf.name, dtype=torch.bfloat16)
    # The weights are plain bf16 by now; as long as these say otherwise, transformers refuses to save them.
    model.config.quantization_config = None
    model.hf_quantizer = None
    model.is_quantized = False
    model.quantization_method = None
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
