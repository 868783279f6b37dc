"""`tapir estimate`: what a run will take, before it starts. Reads the pool, the store and earlier runs; asks nobody."""

from rich.console import Console

from flows.commands.terminal import print_table
from tapir_core.calls import Role
from tapir_core.config import RunConfig
from tapir_core.config.checks import check_config
from tapir_core.errors import ConfigError
from tapir_core.estimate.evidence import Evidence
from tapir_core.estimate.forecast import forecast
from tapir_core.estimate.history import past_seconds, store_exists, stored_lengths
from tapir_core.estimate.pool import look_at_pool, read_instructions
from tapir_core.estimate.prompts import measure_prompts
from tapir_core.estimate.types import Estimate, estimate_json
from tapir_core.paths import ESTIMATE
from tapir_core.prompts import PROMPT_NAMES, load_prompt
from tapir_core.randomness import derive_rng
from tapir_core.reporting.estimate_table import role_table, stage_table
from tapir_core.run_folder import RunFolder
from tapir_core.voices import Voice, voice_of
from tasks.runtime import store_url

__all__ = ["SAMPLE", "estimate_run", "print_estimate", "save_estimate"]

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
    teacher, judge = voice_of(config.teacher.endpoint, "teacher"), voice_of(config.judge.endpoint, "judge")
    voices: dict[Role, Voice] = {
        "label": teacher,
        "teach": teacher,
        "judge": judge,
        "expand": teacher,
        "refine": teacher,
    }
    evidence = Evidence(
        measure_prompts(config, prompts, sampled),
        len(sampled),
        stored_lengths(url, voices) if store_exists(url) else {},
        past_seconds(config),
    )
    endpoints = {"teacher": config.teacher.endpoint, "judge": config.judge.endpoint}
    batched = frozenset(role for role, endpoint in endpoints.items() if endpoint.mode == "batch")
    return forecast(config, look_at_pool(config, found, prompts["label"], url), evidence, batched)


def print_estimate(console: Console, estimate: Estimate) -> None:
    """The tables, who has no price, and what the figures rest on."""
    for table in (stage_table(estimate), role_table(estimate)):
        print_table(console, table, wrap=True)
    for line in estimate.unknown_prices:
        console.print(f"No price: {line}", style="yellow", markup=False, highlight=False, soft_wrap=True)
    console.print("Assumptions", style="bold")
    for sentence in estimate.assumptions:
        console.print(f"- {sentence}", markup=False, highlight=False, soft_wrap=True)


def save_estimate(run: RunFolder) -> None:
    """Keep in the run's folder what is expected of it, for the report; what was expected first stays."""
    if not run.storage.exists(ESTIMATE):
        run.storage.write_bytes(ESTIMATE, estimate_json(estimate_run(run.config, source=run.ref.name)).encode())
