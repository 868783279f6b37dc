"""vLLM's own offline engine, for `student.py`: ``LLM.chat`` on the prompts of a file, timed.

Run in the student's environment: ``python student_offline.py JOB.json RESULT.json``. Starting and warming up are not
timed.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

from vllm import LLM, SamplingParams


def answer(job: dict[str, Any]) -> dict[str, float]:
    engine = LLM(**job["engine"])
    sampling = SamplingParams(temperature=0, max_tokens=job["max_tokens"])
    chats = [[{"role": "user", "content": prompt}] for prompt in job["prompts"]]
    warm_up = [[{"role": "user", "content": prompt}] for prompt in job["warm_up"]]
    engine.chat(warm_up, sampling, use_tqdm=False)
    began = time.perf_counter()
    replies = engine.chat(chats, sampling, use_tqdm=False)
    seconds = time.perf_counter() - began
    return {"seconds": seconds, "tokens": sum(len(reply.outputs[0].token_ids) for reply in replies)}


if __name__ == "__main__":
    result = answer(json.loads(Path(sys.argv[1]).read_text()))
    Path(sys.argv[2]).write_text(json.dumps(result))
