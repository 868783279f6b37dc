"""Our side of `calls.py`: what the judge's tasks do, without Prefect.

One engine on one SQLite store, claims and a budget in the store's transactions, shards in threads, each reply parsed as
a verdict and asked again when it is none.
"""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from calls_child import API_KEY, MAX_TOKENS, MODEL, Job, serve

# The engine imports these at its first call; the other sides have theirs before the clock starts.
import tapir_core.calls.endpoint
import tapir_core.calls.store_writes  # noqa: F401
from tapir_core.calls import AnswerStore, CallEngine, Endpoint, Message, Request, ask_read
from tapir_core.config import BudgetConfig, CallsConfig, Sampling
from tapir_core.judging.verdict import PairReply

SAMPLING = Sampling(max_tokens=MAX_TOKENS)
BUDGET = BudgetConfig(usd=1e6, requests=10**9, tokens=10**12, hours=1000.0)


def ask_tapir(job: Job, prompts: list[str]) -> list[str]:
    calls = CallsConfig(concurrency=job.concurrency)
    endpoint = Endpoint(
        job.base_url,
        job.concurrency,
        API_KEY,
        usd_per_million_prompt_tokens=0.15,
        usd_per_million_completion_tokens=0.6,
    )
    shards = [prompts[start : start + calls.rows_per_shard] for start in range(0, len(prompts), calls.rows_per_shard)]
    store = AnswerStore(f"sqlite:///{Path(job.folder) / 'store.sqlite'}")
    with CallEngine(store, calls, run="bench", budget=BUDGET) as engine, ThreadPoolExecutor(len(shards)) as threads:

        def judge(shard: list[str]) -> list[str]:
            requests = [make_request(prompt) for prompt in shard]
            parsed = ask_read(
                engine, requests, lambda: endpoint, lambda _, answer: PairReply.scores_in_text(answer.text), reasks=2
            )
            failed = [row for row in parsed if row.value is None]
            assert not failed, f"{len(failed)} rows failed, the first with: {failed[0].outcome}"
            return [row.raw for row in parsed]

        return [text for texts in threads.map(judge, shards) for text in texts]


def make_request(prompt: str) -> Request:
    return Request("judge", (Message("user", prompt),), MODEL, "bench", SAMPLING, run="bench")


if __name__ == "__main__":
    serve(ask_tapir, "tapir-distill")
