"""What a stage is known by: when its rows hold, and when they must be redone.

A stage's key covers: run id, stage, stage version, the config fields that can change its output, its ingredients
(prompt files, input files, the backbone) and its inputs' digests. Concurrency, retries, base URLs, batch sizes of
engines and shard sizes are no part of any key.
"""

from collections.abc import Mapping
from typing import Any

from tapir_core.config import RunConfig
from tapir_core.stages import STAGES, StageAt, plan
from tapir_core.text import digest

__all__ = ["settings_of", "stage_key", "used_files"]


def settings_of(at: StageAt, config: RunConfig, ingredients: Mapping[str, str]) -> list[Any]:
    """What a user puts into a stage: config fields, and name → digest of its ingredients."""
    stage = STAGES[at.name]
    return [stage.fields(config, at), {name: ingredients.get(name, "") for name in stage.ingredients(config, at)}]


def stage_key(
    at: StageAt, config: RunConfig, ingredients: Mapping[str, str], *, run_id: str, version: int, inputs: list[str]
) -> str:
    """The key that a stage's manifest must have to be served.

    Args:
        at: the stage.
        config: of the run.
        ingredients: name → digest, of the run.
        run_id: of the run that made it.
        version: of the stage's code that made it.
        inputs: digests of the stage's inputs, in their order.
    """
    own = digest([at.name, version, *settings_of(at, config, ingredients)])
    return digest([run_id, at.round, at.wave, own, inputs])


def used_files(config: RunConfig, files: Mapping[str, str]) -> dict[str, str]:
    """Of ``files`` (name → digest) those that go into a stage which the run plans."""
    used = {name for at in plan(config) for name in STAGES[at.name].ingredients(config, at)}
    return {name: files[name] for name in files if name in used}
