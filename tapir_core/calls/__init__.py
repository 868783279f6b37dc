"""Everything between a prompt and a stored answer. Start at `CallEngine.ask` and `ask_parsed`."""

from tapir_core.calls.answer_store import AnswerStore
from tapir_core.calls.asking import IsStopped, OnOutcome, never_stopped
from tapir_core.calls.engine import CallEngine
from tapir_core.calls.reask import Parsed, ask_parsed, ask_read, forget_unread
from tapir_core.calls.spend import LiveSpend, Spend
from tapir_core.calls.types import (
    TERMINAL,
    Answer,
    Endpoint,
    EndpointSource,
    Failure,
    FailureKind,
    Message,
    Outcome,
    Request,
    Role,
)

__all__ = [
    "TERMINAL",
    "Answer",
    "AnswerStore",
    "CallEngine",
    "Endpoint",
    "EndpointSource",
    "Failure",
    "FailureKind",
    "IsStopped",
    "LiveSpend",
    "Message",
    "OnOutcome",
    "Outcome",
    "Parsed",
    "Request",
    "Role",
    "Spend",
    "ask_parsed",
    "ask_read",
    "forget_unread",
    "never_stopped",
]
