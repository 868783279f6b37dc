"""The configuration of the run that `tests/run_builder.py` builds."""

from pathlib import Path
from typing import Any

from tapir_core.config import RunConfig
from tapir_core.standin.families import FAMILIES

__all__ = ["make_config"]


def make_config(root: Path | str, **sections: Any) -> RunConfig:
    """A small configuration on the stand-in; sections given replace those here."""
    task_types = sorted({family.task_type for family in FAMILIES.values()})
    target = {name: 1 / len(task_types) for name in task_types}
    run = {"name": "example", "root": str(root), "rounds": 2, **sections.pop("run", {})}
    base: dict[str, Any] = {
        "run": run,
        "data": {
            "pool": {"type": "standin", "rows": 240},
            "heldout": {"type": "standin", "dev": 40, "test": 80},
        },
        "teacher": {"endpoint": {"type": "standin"}},
        "judge": {"endpoint": {"type": "standin"}},
        "curriculum": {"target_shares": target, "alpha_start": 0.5, "expansion": {"max_waves": 2}, "refine": True},
        "basic_tuning": {"examples": 64},
        "rounds": {"default": {"examples": 96, "selection": {"type": "hard_share", "share": 0.3}}},
    }
    return RunConfig.model_validate({**base, **sections})
