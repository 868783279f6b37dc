"""distilabel's side of `calls.py`, used as its documentation says for an OpenAI-compatible endpoint.

Its step sends one input batch at a time and waits for all of it, so the batch is what it has in flight.
"""

from calls_child import API_KEY, MAX_TOKENS, MODEL, Job, serve
from distilabel.models import OpenAILLM
from distilabel.pipeline import Pipeline
from distilabel.steps import LoadDataFromDicts
from distilabel.steps.tasks import TextGeneration


def ask_distilabel(job: Job, prompts: list[str]) -> list[str]:
    with Pipeline(name="bench", cache_dir=job.folder) as pipeline:
        rows = LoadDataFromDicts(data=[{"instruction": prompt} for prompt in prompts], batch_size=job.concurrency)
        llm = OpenAILLM(
            model=MODEL,
            base_url=job.base_url,
            api_key=API_KEY,
            generation_kwargs={"max_new_tokens": MAX_TOKENS},
        )
        rows >> TextGeneration(llm=llm, input_batch_size=job.concurrency)
    return list(pipeline.run(use_cache=False)["default"]["train"]["generation"])


if __name__ == "__main__":
    serve(ask_distilabel, "distilabel")
