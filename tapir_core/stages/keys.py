"""What a stage is known by: when its rows hold, and when they must be redone.

A stage's key covers: run id, stage, stage version, the config fields that can change its output, its ingredients
(prompt files, input files, the backbone) and its inputs' digests. Concurrency, retries, base URLs, batch sizes of
engines and shard sizes are no part of any key.
"""

from collections.abc import Mapping
from typing import Any

from tapir_core.config import RunConfig
from tapir_core.stages.stage import StageAt
from tapir_core.text import digest

__all__ = ["own_digest", "settings_of", "stage_key"]


def settings_of(at: StageAt, config: RunConfig, ingredients: Mapping[str, str]) -> list[Any]:
    """What a user puts into a stage: config fields, and name → digest of its ingredients."""
    return [at.stage.settings(config, at), {name: ingredients.get(name, "") for name in at.stage.files(config, at)}]


def own_digest(at: StageAt, config: RunConfig, ingredients: Mapping[str, str], version: int | None = None) -> str:
    """Digest of what goes into a stage beside its inputs' rows: what a user puts there, and the version of its code.

    That is ``version``, or today's.
    """
    return digest([at.name, version or at.stage.version, *settings_of(at, config, ingredients)])


def stage_key(
    at: StageAt,
    config: RunConfig,
    ingredients: Mapping[str, str],
    run_id: str,
    inputs: list[str],
    version: int | None = None,
) -> str:
    """The key that a stage's manifest must have to be served, if ``version`` of its code made it (today's if None).

    ``inputs`` are its inputs' digests in their order.
    """
    return digest([run_id, at.round, at.wave, own_digest(at, config, ingredients, version), inputs])
