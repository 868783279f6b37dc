"""A sweep of a curriculum over backbones: which of them lack a finished run, and what became of each.

Limits: the weights behind a backbone's name are not read here. Other weights under an old name are found when the run
is opened, which refuses them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from tapir_core import paths, stages
from tapir_core.config import RunConfig
from tapir_core.config.presets import BackboneEntry
from tapir_core.run_folder import RunFolder, RunRef
from tapir_core.run_state import state_of

Outcome = Literal["finished before", "finished", "without a figure", "failed"]


@dataclass(frozen=True, slots=True)
class Sweep:
    """What is to be run for which backbones."""

    source: str
    """File of the curriculum's configuration."""
    overrides: tuple[str, ...]
    """`section.field=value` for every backbone; what a backbone sets itself wins over them."""
    curriculum: RunRef
    """Root and name of the curriculum's configuration: a backbone's run is this name with the backbone's."""
    entries: tuple[BackboneEntry, ...]


@dataclass(frozen=True, slots=True)
class Swept:
    """What became of one backbone."""

    name: str
    """In the list."""
    run: RunRef
    outcome: Outcome
    message: str = ""
    """What is wrong with it, or what its run came to."""

    @property
    def is_well(self) -> bool:
        """Whether nothing is left to fix: its run is finished, with every figure."""
        return self.outcome in ("finished before", "finished")


def lacks_run(config: RunConfig, files: Mapping[str, str]) -> bool:
    """Whether a backbone has no finished run of this configuration.

    A run belongs to it by name, whole configuration and the digests of the prompt and input ``files`` that go into its
    stages; it is finished when no stage is left. What only looks different (the judge's address) costs a look at the
    run, no call.

    Raises:
        ConfigError: the run's folder cannot be read.
    """
    run = RunFolder(RunRef(config.run.root, config.run.name))
    if not run.storage.exists(paths.RUN_RECORD):
        return True
    known = {name: digest for name, digest in run.record.ingredients.items() if name != "backbone"}
    same = run.config == config and stages.used_files(config, known) == stages.used_files(config, files)
    return not same or state_of(run).next_stage is not None


def finished_runs(swept: Sequence[Swept]) -> list[RunFolder]:
    """The runs that can be compared."""
    return [RunFolder(each.run) for each in swept if each.outcome != "failed"]


def sweep_sentence(swept: Sequence[Swept]) -> str:
    """How many backbones did what, and what is wrong with which."""
    by_outcome = {outcome: [each.name for each in swept if each.outcome == outcome] for outcome in get_args(Outcome)}
    counts = [f"{len(names)} {outcome} ({', '.join(names)})" for outcome, names in by_outcome.items() if names]
    return "\n".join(
        [f"Backbones: {'; '.join(counts)}.", *(f"{each.name}: {each.message}" for each in swept if not each.is_well)]
    )
