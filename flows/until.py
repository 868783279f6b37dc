"""`--until STAGE`: where a drive of a run ends before the run does. Nothing that comes after the stage is started."""

from tapir_core.config import RunConfig
from tapir_core.errors import ConfigError
from tapir_core.stages import StageAt, plan

__all__ = ["find_stage", "stages_until"]


def find_stage(config: RunConfig, name: str) -> StageAt:
    """The stage that a person names: `teach`, `judge` (of round 1), `judge@2`, `train@0` (of S_0).

    Raises:
        ConfigError: the run has no such stage.
    """
    stage, _, number = name.partition("@")
    found = [at for at in plan(config) if at.name == stage]
    wanted = [at for at in found if number == ("" if at.round is None else str(at.round))]
    wanted += [at for at in found if not number and at.round == 1]
    if not wanted:
        raise ConfigError(f"--until {name}: this run has no such stage; it has {_known(config)}")
    return wanted[0]


def stages_until(config: RunConfig, name: str | None) -> list[StageAt]:
    """The plan as far as a person wants to go: to the stage of that name, or all of it.

    Raises:
        ConfigError: the run has no such stage.
    """
    stages = list(plan(config))
    return stages if name is None else stages[: stages.index(find_stage(config, name)) + 1]


def _known(config: RunConfig) -> str:
    """All names, each with its rounds: `pool, label, mix@0-2`."""
    rounds: dict[str, list[int]] = {}
    for at in plan(config):
        rounds.setdefault(at.name, []).extend([] if at.round is None else [at.round])
    spans = {name: f"@{min(numbers)}-{max(numbers)}" if numbers else "" for name, numbers in rounds.items()}
    return ", ".join(f"{name}{span}" for name, span in spans.items())
