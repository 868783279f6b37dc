"""Every error a user can meet, with the exit code the command line gives it.

The tree::

    TapirError                exit 1   something failed; the message says what and what to do
    ├── ConfigError           exit 2   the configuration, a flag or an input file is wrong
    │   └── RunChanged        exit 2   this run folder belongs to another configuration
    ├── MissingPrerequisite   exit 1   something that must be there is not: environment, key, server, package
    ├── EngineError           exit 1   the student server or the trainer failed
    │   └── NodeLost          exit 1   a machine of several that train together is gone
    ├── RunBusy               exit 1   another driver holds this run
    ├── Stopped               exit 1   the run was suspended or cancelled before this was done
    ├── IncompleteBatch       exit 4   some outcomes are still retryable; the same command goes on
    │   └── TooMuchMissing    exit 4   more rows are missing than a stage accepts
    ├── NoFigure              exit 4   too many judgments failed for a figure; the same command changes nothing
    └── BudgetReached         exit 3   the spending cap is reached; nothing more is sent

A message says what happened, the offending value and the remedy. Foreign errors are translated where they enter,
with ``raise … from exc``.
"""

from collections.abc import Sequence


class TapirError(Exception):
    """Raised when something failed that a user can act on."""

    exit_code = 1


def told_by(error: Exception) -> TapirError | None:
    """The error of ours on which ``error`` came: one of Prefect, to whose server ours could not be told."""
    while not isinstance(error, TapirError):
        if not type(error).__module__.startswith(("prefect.", "httpx")) or not isinstance(error.__context__, Exception):
            return None
        error = error.__context__
    return error


class ConfigError(TapirError):
    """Raised when a configuration, a flag or an input file is wrong; carries every problem found, not the first."""

    exit_code = 2

    def __init__(self, problems: str | Sequence[str], *, source: str | None = None) -> None:
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        count = f"{len(self.problems)} problem{'s' if len(self.problems) != 1 else ''}"
        head = f"{count} in {source}:" if source else f"{count}:"
        is_alone = len(self.problems) == 1 and source is None
        super().__init__("\n".join(self.problems if is_alone else [head, *(f"  - {each}" for each in self.problems)]))


class RunChanged(ConfigError):
    """Raised when a run folder belongs to another configuration, other prompt files or another version of tapir."""


class MissingPrerequisite(TapirError):
    """Raised when an environment, a key, a server or a package that must be there is not."""


class EngineError(TapirError):
    """Raised when a child process (student server, trainer) failed; names its log file."""


class NodeLost(EngineError):
    """Raised when a machine of several that train together is gone: whoever starts again goes on from the last save."""


class RunBusy(TapirError):
    """Raised when another driver holds the lease of a run; ``flow_run`` is its address in the UI, if it has one."""

    def __init__(self, message: str, *, flow_run: str | None = None) -> None:
        super().__init__(message)
        self.flow_run = flow_run


class Stopped(TapirError):
    """Raised where work was left because the run was suspended or cancelled; what was received is stored."""


class IncompleteBatch(TapirError):
    """Raised when a shard or stage still has retryable outcomes; what was received is stored."""

    exit_code = 4


class TooMuchMissing(IncompleteBatch):
    """Raised when a stage misses a larger share of its rows than ``max_missing_share`` accepts."""


class NoFigure(TapirError):
    """Raised when so many judgments of a benchmark failed for good that those left would be no random sample."""

    exit_code = 4


class BudgetReached(TapirError):
    """Raised when the spending cap is reached; everything received is stored and the run can go on."""

    exit_code = 3
