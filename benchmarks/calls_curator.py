"""bespokelabs-curator's side of `calls.py`, used as its documentation says for an OpenAI-compatible endpoint."""

import os
from importlib.util import find_spec
from pathlib import Path

litellm = find_spec("litellm")
assert litellm is not None
assert litellm.origin is not None
os.environ |= {
    "TELEMETRY_ENABLED": "false",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "HF_HUB_OFFLINE": "1",
    # It counts the tokens of its prompts; the encoding comes with litellm, so that nothing is downloaded.
    "TIKTOKEN_CACHE_DIR": str(Path(litellm.origin).parent / "litellm_core_utils" / "tokenizers"),
}

from bespokelabs import curator  # noqa: E402  # reads the variables above when it is imported
from calls_child import API_KEY, MAX_TOKENS, MODEL, Job, serve  # noqa: E402

UNLIMITED = 10**9


def ask_curator(job: Job, prompts: list[str]) -> list[str]:
    llm = curator.LLM(
        model_name=MODEL,
        backend="openai",
        generation_params={"max_tokens": MAX_TOKENS},
        backend_params={
            "base_url": job.base_url,
            "api_key": API_KEY,
            "max_concurrent_requests": job.concurrency,
            "max_requests_per_minute": UNLIMITED,
            "max_tokens_per_minute": UNLIMITED,
        },
    )
    return list(llm(prompts, working_dir=job.folder).dataset["response"])


if __name__ == "__main__":
    serve(ask_curator, "bespokelabs-curator")
