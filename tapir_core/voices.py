"""Who answers: the model name and the identity under which a role's answers are stored and re-used.

A base URL is no part of it: the same model at another address is the same voice.
"""

from dataclasses import dataclass

from tapir_core.config import EndpointConfig, OpenAIEndpoint
from tapir_core.standin import STANDIN_VERSION

__all__ = ["Voice", "voice_of"]


@dataclass(frozen=True, slots=True)
class Voice:
    """Model and identity of a role's answers."""

    model: str
    identity: str


def voice_of(endpoint: EndpointConfig, role: str) -> Voice:
    """The voice that an endpoint gives to `teacher` or `judge`."""
    if isinstance(endpoint, OpenAIEndpoint):
        return Voice(endpoint.model, endpoint.identity)
    identity = f"standin-{STANDIN_VERSION}"
    if role == "judge":
        identity += f"-bias{endpoint.position_bias:g}-noise{endpoint.noise:g}"
    return Voice(f"standin-{role}", identity)
