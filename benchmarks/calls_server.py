"""The mock provider of `calls.py`: chat completions after a lognormal pause, in a process of its own.

``python calls_server.py JSON`` prints its address and serves until its standard input ends, then prints what it saw.
The pauses come from one seeded generator in order of arrival, so that each side meets the same ones. An answer is a
judge's verdict that begins with the number of its question; it takes no tokenizer and no parsing, to leave the
processor to the side that is measured.
"""

import asyncio
import json
import math
import random
import re
import sys
from dataclasses import asdict, dataclass

from aiohttp import web

NUMBER = re.compile(rb"Question \d+")
REASONS = " ".join(["The first answer is correct and complete, the second one leaves out a step."] * 6)
VERDICT = f"{REASONS}\n\nScores: [[8, 6]]"


@dataclass
class Seen:
    requests: int = 0
    most_at_once: int = 0
    pauses_seconds: float = 0.0


class Provider:
    def __init__(self, *, median_seconds: float, sigma: float, seed: int) -> None:
        self.seen = Seen()
        self._rng = random.Random(seed)
        self._mu, self._sigma = math.log(median_seconds), sigma
        self._at_once = 0

    async def answer(self, request: web.Request) -> web.Response:
        body = await request.read()
        found = NUMBER.search(body)
        pause = self._rng.lognormvariate(self._mu, self._sigma)
        self.seen.requests += 1
        self.seen.pauses_seconds += pause
        self._at_once += 1
        self.seen.most_at_once = max(self.seen.most_at_once, self._at_once)
        try:
            await asyncio.sleep(pause)
        finally:
            self._at_once -= 1
        return web.json_response(_completion(found[0].decode() if found else "Hello", len(body)))


def _completion(number: str, prompt_bytes: int) -> dict[str, object]:
    prompt_tokens, completion_tokens = prompt_bytes // 4, len(VERDICT) // 4
    return {
        "id": f"chatcmpl-{number}",
        "object": "chat.completion",
        "created": 0,
        "model": "gpt-4o-mini",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": f"{number}: {VERDICT}", "refusal": None},
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": prompt_tokens + completion_tokens,
        },
    }


async def serve(provider: Provider) -> None:
    application = web.Application()
    application.router.add_post("/v1/chat/completions", provider.answer)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, backlog=1024).start()
    host, port = runner.addresses[0][:2]
    print(f"http://{host}:{port}/v1", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    print(json.dumps(asdict(provider.seen)), flush=True)
    await runner.cleanup()


if __name__ == "__main__":
    asyncio.run(serve(Provider(**json.loads(sys.argv[1]))))
