"""Where the runs of a root keep their answers."""

from pathlib import Path

from tapir_core.config import RunConfig
from tapir_core.errors import ConfigError
from tapir_core.paths import STORE


def root_store_url(root: str) -> str:
    """URL of the store that the runs of ``root`` share unless their `calls.store_url` names another.

    Raises:
        ConfigError: the root is not on this machine; its runs keep their answers at their `calls.store_url`.
    """
    if "://" in root:
        raise ConfigError(
            f"the runs of {root!r} keep their answers at their calls.store_url; set it, or name it with --store"
        )
    return f"sqlite:///{Path(root, STORE).absolute()}"


def store_url(config: RunConfig) -> str:
    """Where answers are kept: the configured database, or the root's SQLite file."""
    return config.calls.store_url or root_store_url(config.run.root)


def run_key(config: RunConfig) -> str:
    """The name of a run that every process knows it by: its place."""
    root = config.run.root
    place = root.rstrip("/") if "://" in root else Path(root).absolute()
    return f"{place}/{config.run.name}"
