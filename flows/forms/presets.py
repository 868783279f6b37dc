"""What forms offer to begin with: the files of `configs/` in the folder in which a worker works."""

from collections.abc import Iterable
from pathlib import Path

from tapir_core.paths import BACKBONES

__all__ = ["comparison_presets", "preset_file", "run_presets"]

_FOLDER = Path("configs")
_COMPARISONS = "compare_*.toml"


def run_presets() -> dict[str, list[str]]:
    """For the field of a form: names of the configurations of a run."""
    others = {Path(BACKBONES).name, *(file.name for file in _FOLDER.glob(_COMPARISONS))}
    return _choice(file.stem for file in _FOLDER.glob("*.toml") if file.name not in others)


def comparison_presets() -> dict[str, list[str]]:
    """For the field of a form: names of the comparisons."""
    return _choice(file.stem for file in _FOLDER.glob(_COMPARISONS))


def preset_file(name: str) -> Path:
    """The file of a preset."""
    return _FOLDER / f"{name}.toml"


def _choice(names: Iterable[str]) -> dict[str, list[str]]:
    """Any text may be typed where there are none."""
    listed = sorted(names)
    return {"enum": listed} if listed else {}
