"""Under which conditions the figures of a comparison were made, in words: those of its reference. Pure.

Names of files and folders of a machine stay out of it; digests stand in their place.

Limits: it is what the configuration asks for. What `precision = "auto"` came to on a device, and which versions of the
engines were at work, stands in each run's `training.json` and logs.
"""

from collections.abc import Mapping

from tapir_core.config import RunConfig
from tapir_core.config.presets import ComparisonConfig
from tapir_core.judging import mode_of
from tapir_core.reporting.model_card import backbone_name
from tapir_core.reporting.tables import Table
from tapir_core.stages import plan, settings_of, used_files
from tapir_core.summary.formats import count
from tapir_core.text import digest

__all__ = ["conditions_lines", "conditions_of", "conditions_table"]

_DIGITS = 12
"""Hex digits of a digest that are shown."""

_LINES = (("Student", "Answers", "Training"), ("Teacher", "Judge", "Prompts"), ("Sizes", "Run seeds", "Settings"))
"""What stands together on a line."""


def conditions_of(
    config: RunConfig, files: Mapping[str, str], comparison: ComparisonConfig, *, others: Mapping[str, int]
) -> dict[str, str]:
    """What → in words: student, its answers, training, teacher, judge, prompts, sizes, run seeds, settings.

    Args:
        config: of the reference with the first run seed.
        files: name → digest of the prompt and input files that go into it.
        comparison: what is compared.
        others: stage → version of its code that made the figures, where it is not that of this tapir.
    """
    template = f", chat template {found[:_DIGITS]}" if (found := files.get("file:chat_template")) else ""
    judges = ", ".join(endpoint.in_words("judge") for endpoint in config.judge.endpoints.values())
    used = sorted(used_files(config, files).items())
    prompts = [f"{name.removeprefix('prompt:')} {version}" for name, version in used if name.startswith("prompt:")]
    seeds = ", ".join(map(str, comparison.run_seeds))
    alone = f" (exploratory arms {comparison.run_seeds[0]})" if comparison.exploratory else ""
    stages = ", ".join(f"{stage} {version}" for stage, version in others.items())
    made_by = f", made by other versions of stages: {stages}" if others else ""
    return {
        "Student": backbone_name(config.student) + template,
        "Answers": f"{config.student.sampling.in_words}, by {config.student.engine.in_words}",
        "Training": _training(config),
        "Teacher": config.teacher.endpoint.in_words("teacher"),
        "Judge": f"{judges}; {mode_of(config.judge).in_words(config.judge)}",
        "Prompts": ", ".join(prompts),
        "Sizes": _sizes(config, files),
        "Run seeds": seeds + alone,
        "Settings": f"digest {_settings_digest(config, files)}{made_by}",
    }


def conditions_table(conditions: Mapping[str, str]) -> Table:
    """A row for each."""
    note = "Those of the reference, from which an arm departs in what its name says. Digests: 12 hex digits of SHA-256."
    return Table("Conditions", ("", "Conditions"), tuple(conditions.items()), text_columns=2, note=note)


def conditions_lines(conditions: Mapping[str, str]) -> list[str]:
    """The conditions on three lines of text."""
    return [" ".join(f"{name}: {conditions[name]}." for name in line) for line in _LINES if conditions]


def _training(config: RunConfig) -> str:
    training, basic = config.training, config.basic_tuning
    rounds = [config.round(number) for number in config.round_numbers]
    epochs = _of_parts(f"{basic.epochs:g}", [f"{each.epochs:g}" for each in rounds])
    rates = _of_parts(f"{basic.learning_rate:g}", [f"{each.learning_rate:g}" for each in rounds])
    sizes = f"batch size {training.batch_size}, up to {count(training.max_length)} tokens an example"
    return f"precision {training.precision}, epochs {epochs}, learning rate {rates}, {sizes}"


def _sizes(config: RunConfig, files: Mapping[str, str]) -> str:
    pool, heldout = (
        "no held-out" if source is None else source.in_words(files.get(f"file:{name}", "")[:_DIGITS])
        for name, source in (("pool", config.data.pool), ("heldout", config.data.heldout))
    )
    examples = _each([count(config.round(number).examples) for number in config.round_numbers])
    rounds = "1 round" if config.run.rounds == 1 else f"{config.run.rounds} rounds"
    basic = f"S_0 of {count(config.basic_tuning.examples)} examples"
    return f"{pool}, {heldout} instructions; {basic}, {rounds} of {examples}"


def _settings_digest(config: RunConfig, files: Mapping[str, str]) -> str:
    """Of all settings and files that can change a row of a stage; where a run lies, and how fast it may ask, cannot."""
    stages = [[at.name, *settings_of(at, config, files)] for at in plan(config)]
    return digest([backbone_name(config.student), *stages])[:_DIGITS]


def _of_parts(basic: str, rounds: list[str]) -> str:
    """The value of S_0 and of all rounds, or of both."""
    return basic if {basic} == set(rounds) else f"{basic} for S_0 and {_each(rounds)} for rounds"


def _each(values: list[str]) -> str:
    """The value of all rounds, or of each."""
    return values[0] if len(set(values)) == 1 else ", ".join(values)
