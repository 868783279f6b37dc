"""What the acceptance tests ask, and what a provider without faults answers to it: 2,000 rows that never change."""

import json
import random
from hashlib import sha256

from tapir_core.calls import Endpoint, Message, Request
from tapir_core.calls.wire import request_body
from tapir_core.config import Sampling
from tapir_core.judging.prompt import fill_in
from tapir_core.prompts import load_prompt
from tapir_core.standin.families import sample_problems
from tapir_core.standin.rules import Behaviour
from tapir_core.standin.server import reply_to

ROWS = 2000
UNKNOWN = 40
"""Rows of the teacher's that the stand-in refuses."""


def teacher_requests() -> list[Request]:
    """Plain instructions; every fiftieth is one that the stand-in does not know."""
    problems = sample_problems(ROWS - UNKNOWN, max_level=3, rng=random.Random(1))
    asked = [problem.instruction for problem in problems]
    for number in range(UNKNOWN):
        asked.insert(number * ROWS // UNKNOWN, f"Tell me of river {number}.")
    return [_request("teach", "standin-teacher", text) for text in asked]


def judge_requests() -> list[Request]:
    """Verdicts on the refined and the plain answer to one instruction, both orders in turn."""
    prompt = load_prompt("judge")
    asked = []
    for number, problem in enumerate(sample_problems(ROWS, max_level=3, rng=random.Random(2))):
        first, second = (problem.refined, problem.plain) if number % 2 else (problem.plain, problem.refined)
        given = {"instruction": problem.instruction, "system": None, "reference": None}
        text = fill_in(prompt, **given, answer_1=first, answer_2=second)
        asked.append(_request("judge", "standin-judge", text))
    return asked


def digest_in_log(request: Request) -> str:
    """The digest under which the stand-in's log has a request."""
    return sha256(_sent(request)).hexdigest()


def undisturbed(request: Request) -> tuple[str, str]:
    """Status and text of the stand-in's reply when nothing fails: as the store words them."""
    message = reply_to(_sent(request), Behaviour()).body["choices"][0]["message"]
    return ("refused", message["refusal"]) if message["refusal"] else ("answer", message["content"])


def _request(role: str, model: str, text: str) -> Request:
    assert role in {"teach", "judge"}
    return Request(
        role="judge" if role == "judge" else "teach",
        messages=(Message("user", text),),
        model=model,
        identity="standin-acceptance",
        sampling=Sampling(),
        run="acceptance",
    )


def _sent(request: Request) -> bytes:
    return json.dumps(request_body(request, Endpoint("", 1)), ensure_ascii=False).encode()
