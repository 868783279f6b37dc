"""Everything between a prompt and a stored answer. Start at `CallEngine.ask` and `ask_read`."""

from tapir_core.calls.answer_store import AnswerStore, root_store_url, run_key, store_url
from tapir_core.calls.budget import DRIVING, UNPAID, LiveSpend
from tapir_core.calls.engine import CallEngine, Parsed, ask_read, forget_unread
from tapir_core.calls.types import (
    TERMINAL,
    UNWATCHED,
    Answer,
    Endpoint,
    EndpointSource,
    Failure,
    FailureKind,
    LiveAddress,
    LiveAddresses,
    Message,
    Outcome,
    Request,
    Scored,
    Spend,
    Tokens,
    Watch,
    is_local,
)
from tapir_core.config import Role
