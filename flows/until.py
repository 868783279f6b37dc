"""`--until STAGE`: where a drive of a run ends before the run does. Nothing that comes after the stage is started."""

from tapir_core.config import RunConfig
from tapir_core.errors import ConfigError
from tapir_core.run_folder import RunFolder
from tapir_core.stages import StageAt, plan
from tasks.runtime import current

__all__ = ["Reached", "comes_after", "end_if_reached", "find_stage"]


class Reached(Exception):
    """Raised in a flow when the stage that it was to go to holds."""


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


def comes_after(config: RunConfig, at: StageAt, other: StageAt | None) -> bool:
    """Whether ``at`` is planned after ``other``; a step of an expansion wave stands in no plan."""
    order = list(plan(config))
    return other is not None and at in order and order.index(at) > order.index(other)


def end_if_reached(run: RunFolder, at: StageAt) -> None:
    """Called when ``at`` holds.

    Raises:
        Reached: this drive goes no further.
    """
    if at == current(run).until:
        raise Reached(f"{at} was asked for and nothing after it")


def _known(config: RunConfig) -> str:
    """All names, each with its rounds: `pool, label, mix@0-2`."""
    rounds: dict[str, list[int]] = {}
    for at in plan(config):
        rounds.setdefault(at.name, []).extend([] if at.round is None else [at.round])
    spans = {name: f"@{min(numbers)}-{max(numbers)}" if numbers else "" for name, numbers in rounds.items()}
    return ", ".join(f"{name}{span}" for name, span in spans.items())
