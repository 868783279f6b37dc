"""Who answers: the model name and the identity under which a role's answers are stored and re-used.

A base URL is no part of it: the same model at another address is the same voice.
"""

from dataclasses import dataclass

from tapir_core.config import EndpointConfig, JudgeConfig, JudgedBenchmark, OpenAIEndpoint, RunConfig
from tapir_core.standin import STANDIN_VERSION

__all__ = ["Voice", "benchmark_judge", "judge_names", "judge_voices", "voice_of"]


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
        identity += "" if endpoint.prefers == "better" else f"-prefers-{endpoint.prefers}"
        identity += "" if endpoint.logprobs else "-no-logprobs"
    return Voice(f"standin-{role}", identity)


def benchmark_judge(config: RunConfig, benchmark: JudgedBenchmark) -> EndpointConfig:
    """Who judges a benchmark: its own judge, or the run's first one."""
    return benchmark.judge or config.judge.endpoint


def judge_voices(judge: JudgeConfig) -> tuple[Voice, ...]:
    """The voice of every judge, the first judge first."""
    return tuple(voice_of(endpoint, "judge") for endpoint in judge.endpoints.values())


def judge_names(judge: JudgeConfig) -> tuple[str, ...]:
    """What every judge is called, the first judge first: its model, with its identity where two have the same model."""
    voices = judge_voices(judge)
    models = [voice.model for voice in voices]
    return tuple(
        voice.model if models.count(voice.model) == 1 else f"{voice.model} ({voice.identity})" for voice in voices
    )
