"""What the tests of the call engine share."""

from tapir_core.calls import Answer, AnswerStore, CallEngine, Endpoint, Outcome, Request
from tapir_core.calls.budget import Attempt, LiveSpend, make_attempt
from tapir_core.calls.wire import Reply
from tapir_core.config import CallsConfig
from tests.doubles.provider import Status, make_request

SLOW_DOWN = Status(429, {"error": {"message": "slow down"}})


def prompts(count: int, *, start: int = 0) -> list[Request]:
    return [make_request(f"question {number}") for number in range(start, start + count)]


def texts(outcomes: list[Outcome]) -> list[str]:
    return [outcome.text if isinstance(outcome, Answer) else outcome.kind for outcome in outcomes]


def never() -> Endpoint:
    raise AssertionError("the endpoint was asked for, though the store holds everything")


def open_engine(store_url: str, config: CallsConfig) -> CallEngine:
    return CallEngine(AnswerStore(store_url), config, run="a-run")


class UnbookedAttempts:
    """Attempts of a line that has no store behind it."""

    def __init__(self) -> None:
        self.settled: list[Reply] = []
        self.meter = LiveSpend()

    async def book(self, key: str, request: Request, endpoint: Endpoint) -> Attempt:
        return make_attempt("a-run", key, request, endpoint)

    def settle(self, _: Attempt, reply: Reply) -> None:
        self.settled.append(reply)

    async def count_useless(self, key: str, reply: Reply, more: int = 1) -> Reply:
        return reply

    def end(self, attempt: Attempt) -> None:
        """Nobody waits for room."""
