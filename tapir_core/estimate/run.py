"""The estimate of one run, from its configuration, a sample of its pool, the store and earlier runs. Asks nobody."""

from tapir_core.calls.store.address import store_url
from tapir_core.config import RunConfig
from tapir_core.config.checks import check_config
from tapir_core.errors import ConfigError
from tapir_core.estimate.evidence import Evidence
from tapir_core.estimate.forecast import forecast
from tapir_core.estimate.history import past_seconds, store_exists, stored_lengths
from tapir_core.estimate.line import ASKS, chargers_of
from tapir_core.estimate.pool import look_at_pool, read_instructions
from tapir_core.estimate.prompts import measure_prompts
from tapir_core.estimate.types import Estimate, estimate_json
from tapir_core.paths import ESTIMATE
from tapir_core.prompts import PROMPT_NAMES, load_prompt
from tapir_core.randomness import derive_rng
from tapir_core.run_folder import RunFolder

__all__ = ["SAMPLE", "estimate_run", "save_estimate"]

SAMPLE = 200
"""Instructions that are put into the real prompts."""


def estimate_run(config: RunConfig, *, source: str, sample: int = SAMPLE) -> Estimate:
    """What the run will take; ``source`` names the configuration in errors.

    Raises:
        ConfigError: the configuration or the pool's file is wrong.
    """
    problems = check_config(config)
    if problems:
        raise ConfigError(problems, source=source)
    found = read_instructions(config)
    prompts = {name: load_prompt(name, config.run.prompts) for name in PROMPT_NAMES}
    rng = derive_rng(config.run.seed, "estimate")
    sampled = rng.sample(found.pool, min(sample, len(found.pool)))
    url = store_url(config)
    asked = [(role, each.voice) for each in chargers_of(config) for role, asks in ASKS.items() if asks == each.asks]
    pool = look_at_pool(config, found, prompts["label"], url)
    evidence = Evidence(
        measure_prompts(config, prompts, sampled, pool.natural_shares),
        len(sampled),
        stored_lengths(url, asked) if store_exists(url) else {},
        past_seconds(config),
    )
    return forecast(config, pool, evidence)


def save_estimate(run: RunFolder) -> None:
    """Keep in the run's folder what is expected of it, for the report; what was expected first stays."""
    if not run.storage.exists(ESTIMATE):
        run.storage.write_bytes(ESTIMATE, estimate_json(estimate_run(run.config, source=run.ref.name)).encode())
