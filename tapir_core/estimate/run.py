"""The estimate of one run, from its configuration, a sample of its pool, the store and earlier runs. Asks nobody."""

from tapir_core.calls.store_address import store_url
from tapir_core.config import RunConfig
from tapir_core.config.checks import check_config
from tapir_core.errors import ConfigError
from tapir_core.estimate.costs import benchmark_chargers, chargers_of
from tapir_core.estimate.evidence import Evidence, look_at_pool, past_seconds, read_instructions, stored_lengths
from tapir_core.estimate.forecast import forecast
from tapir_core.estimate.prompts import measure_benchmarks, measure_prompts
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
    if problems := check_config(config):
        raise ConfigError(problems, source=source)
    found = read_instructions(config)
    prompts = {name: load_prompt(name, config.run.prompts) for name in PROMPT_NAMES}
    sampled = derive_rng(config.run.seed, "estimate").sample(found.pool, min(sample, len(found.pool)))
    url, chargers, roles = store_url(config), chargers_of(config), asked_in_roles().items()
    asked = [(role, each.voice) for each in chargers for role, asks in roles if asks == each.asks]
    judges = benchmark_chargers(config, chargers[1])
    versions = {name: [prompts[each].version for each in config.evaluation.judged[name].prompts] for name in judges}
    pool = look_at_pool(config, found, prompts["label"], url)
    evidence = Evidence(
        prompts=measure_prompts(config, prompts, sampled, pool.natural_shares),
        sampled=len(sampled),
        lengths=stored_lengths(url, {each: (*each, ()) for each in asked}),
        benchmarks=measure_benchmarks(config, prompts),
        judgments=stored_lengths(
            url, {name: ("benchmark", each.voice, versions[name]) for name, each in judges.items()}
        ),
        seconds=past_seconds(config),
    )
    return forecast(config, pool, evidence)


def save_estimate(run: RunFolder) -> None:
    """Keep in the run's folder what is expected of it, for the report; what was expected first stays."""
    if not run.storage.exists(ESTIMATE):
        run.storage.write_bytes(ESTIMATE, estimate_json(estimate_run(run.kept_config, source=run.ref.name)).encode())
