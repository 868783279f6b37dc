"""What is known of a run whose pool is one short instruction."""

from tapir_core.config import RunConfig
from tapir_core.estimate.evidence import Evidence, mean_tokens, measure_prompts
from tapir_core.prompts import PROMPT_NAMES, load_prompt

PROMPTS = {name: load_prompt(name) for name in PROMPT_NAMES}


def measured(config: RunConfig) -> Evidence:
    row = {"instruction": "Add 2 and 3.", "system": None, "reference": None}
    return Evidence(measure_prompts(config, PROMPTS, [row]), mean_tokens([row["instruction"] or ""]), 1)
