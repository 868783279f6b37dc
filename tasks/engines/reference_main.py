"""What transformers makes of token ids with a checkpoint, on processors: a server's answers are compared with it.

A script (`supervisor.ScriptRunner`): its job names the checkpoint and lists of ids, its result is the log-probability
of each token but the first, in nats.
"""

import json
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM


def log_probs(checkpoint: str, texts: list[list[int]]) -> list[list[float]]:
    """Of each text the log-probability of each token after those before it."""
    model = AutoModelForCausalLM.from_pretrained(
        checkpoint, dtype=torch.float32, trust_remote_code=False, use_safetensors=True
    ).eval()
    found = list[list[float]]()
    with torch.inference_mode():
        for text in texts:
            ids = torch.tensor(text)
            said = model(ids[None]).logits[0, :-1].log_softmax(-1)
            found.append(said.gather(1, ids[1:, None])[:, 0].tolist())
    return found


if __name__ == "__main__":
    job, result = map(Path, sys.argv[1:])
    result.write_text(json.dumps(log_probs(**json.loads(job.read_text()))))
