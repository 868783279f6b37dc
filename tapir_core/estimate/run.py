"""The estimate of one run, from its configuration, a sample of its pool, the store and earlier runs. Asks nobody."""

from tapir_core.calls.store_address import store_url
from tapir_core.config import RunConfig
from tapir_core.config.checks import check_config
from tapir_core.errors import ConfigError
from tapir_core.estimate.benchmarks import measure_benchmarks
from tapir_core.estimate.costs import benchmark_chargers, chargers_of
from tapir_core.estimate.evidence import Evidence
from tapir_core.estimate.forecast import forecast
from tapir_core.estimate.history import judgment_lengths, past_seconds, store_exists, stored_lengths
from tapir_core.estimate.pool import look_at_pool, read_instructions
from tapir_core.estimate.prompts import measure_prompts
from tapir_core.estimate.types import Estimate, estimate_json
from tapir_core.paths import ESTIMATE
from tapir_core.prompts import PROMPT_NAMES, load_prompt
from tapir_core.randomness import derive_rng
from tapir_core.run_folder import RunFolder
from tapir_core.stages import asked_in_roles

__all__ = ["SAMPLE", "estimate_run", "save_estimate"]

SAMPLE = 200
"""Instructions that are put into the real prompts."""


def estimate_run(config: RunConfig, *, source: str, sample: int = SAMPLE) -> Estimate:
    """What the run will take; ``source`` names the configuration in errors.

    Raises:
        ConfigError: the configuration is wrong, or a file of the pool or of a benchmark is not there or wrong.
    """
    problems = check_config(config)
    if problems:
        raise ConfigError(problems, source=source)
    found = read_instructions(config)
    prompts = {name: load_prompt(name, config.run.prompts) for name in PROMPT_NAMES}
    rng = derive_rng(config.run.seed, "estimate")
    sampled = rng.sample(found.pool, min(sample, len(found.pool)))
    url = store_url(config)
    chargers = chargers_of(config)
    roles = [(role, asks) for role, asks in asked_in_roles().items() if role != "benchmark"]
    asked = [(role, each.voice) for each in chargers for role, asks in roles if asks == each.asks]
    judges = {name: each.voice for name, each in benchmark_chargers(config, chargers[1]).items()}
    there = store_exists(url)
    pool = look_at_pool(config, found, prompts["label"], url)
    evidence = Evidence(
        prompts=measure_prompts(config, prompts, sampled, pool.natural_shares),
        sampled=len(sampled),
        lengths=stored_lengths(url, asked) if there else {},
        benchmarks=measure_benchmarks(config, prompts),
        judgments=judgment_lengths(url, config, judges, prompts) if there else {},
        seconds=past_seconds(config),
    )
    return forecast(config, pool, evidence)


def save_estimate(run: RunFolder) -> None:
    """Keep in the run's folder what is expected of it, for the report; what was expected first stays."""
    if not run.storage.exists(ESTIMATE):
        run.storage.write_bytes(ESTIMATE, estimate_json(estimate_run(run.kept_config, source=run.ref.name)).encode())
