"""Where teacher and judge answer: any OpenAI-compatible endpoint, or the stand-in."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt

from tapir_core.config._base import EnvironmentName, Section, WebAddress

__all__ = ["EndpointConfig", "OpenAIEndpoint", "Sampling", "StandinEndpoint"]


class Sampling(Section):
    """How an answer is drawn. Part of a stored answer's identity."""

    temperature: NonNegativeFloat = 0.0
    """0 is greedy."""

    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Nucleus share."""

    max_tokens: PositiveInt = 1024
    """Longest answer in tokens; a longer one is cut off (`finish_reason = length`)."""


class OpenAIEndpoint(Section):
    """A server that speaks OpenAI's chat completions."""

    type: Literal["openai"] = "openai"

    base_url: WebAddress = "https://api.openai.com/v1"
    """Address up to and with `/v1`. Changing it re-runs nothing: `identity` says what answers there."""

    model: Annotated[str, Field(min_length=1)]
    """Model name as the server knows it."""

    identity: Annotated[str, Field(min_length=1)]
    """A name for provider and revision, such as `openai-2026-10`. Answers are re-used under the same identity only."""

    api_key_env: EnvironmentName | None = "OPENAI_API_KEY"
    """Environment variable that holds the key, which is never stored; nothing (`""`) for a server without keys."""

    usd_per_million_prompt_tokens: NonNegativeFloat = 0.0
    """Price of 1,000,000 prompt tokens, for the live spend."""

    usd_per_million_completion_tokens: NonNegativeFloat = 0.0
    """Price of 1,000,000 completion tokens, for the live spend."""


class StandinEndpoint(Section):
    """The offline stand-in, started with the run. It is rule-based and no LLM; it knows its own families only."""

    type: Literal["standin"] = "standin"

    position_bias: NonNegativeFloat = 0.5
    """Points that the judge adds to the answer shown first."""

    noise: NonNegativeFloat = 0.5
    """Standard deviation of the judge's scores, in points; the same request always gets the same noise."""

    latency_ms: NonNegativeInt = 0
    """Milliseconds before each reply."""


EndpointConfig = Annotated[OpenAIEndpoint | StandinEndpoint, Field(discriminator="type")]
"""`type = "openai"` or `"standin"`."""
