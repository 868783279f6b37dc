"""The ceiling of `calls.py`: aiohttp and nothing else, no store, no retries, no checks."""

import asyncio
import json

import aiohttp
from calls_child import API_KEY, MAX_TOKENS, MODEL, Job, serve


def ask_aiohttp(job: Job, prompts: list[str]) -> list[str]:
    return asyncio.run(_ask_all(job, prompts))


async def _ask_all(job: Job, prompts: list[str]) -> list[str]:
    rest, texts = iter(prompts), []
    headers = {"Authorization": f"Bearer {API_KEY}", "Content-Type": "application/json"}
    connector = aiohttp.TCPConnector(limit=job.concurrency)
    async with aiohttp.ClientSession(connector=connector, headers=headers) as session:

        async def work() -> None:
            for prompt in rest:
                messages = [{"role": "user", "content": prompt}]
                body = json.dumps({"model": MODEL, "messages": messages, "max_tokens": MAX_TOKENS}).encode()
                async with session.post(f"{job.base_url}/chat/completions", data=body) as response:
                    texts.append(json.loads(await response.read())["choices"][0]["message"]["content"])

        await asyncio.gather(*(work() for _ in range(job.concurrency)))
    return texts


if __name__ == "__main__":
    serve(ask_aiohttp, "aiohttp")
