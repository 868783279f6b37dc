"""From a TOML file and `--set` to a configuration, and from a `RunConfig` to its resolved JSON and back.

Every problem of a file is reported at once. What needs a look at the disk or the environment is in `checks.py`. What an
earlier version of tapir resolved is translated on reading, so that its runs stay readable.
Include files and variables are not supported: a configuration is one file.
"""

import datetime
import json
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from tapir_core.config._base import Section
from tapir_core.config.reference import explain
from tapir_core.config.run import RunConfig
from tapir_core.errors import ConfigError
from tapir_core.paths import RESOLVED_CONFIG

Table = dict[str, Any]
AnySection = TypeVar("AnySection", bound=Section)

TRANSLATIONS: list[Callable[[Table], None]] = []
"""Each makes a resolved configuration of version 1, 2, … one of the next version, in place.

Whoever renames or removes a field appends what moves or drops it. It bears tables that lack the field.
"""


def load_config(path: str | Path, overrides: Sequence[str] = (), name: str | None = None) -> RunConfig:
    """Read a configuration.

    Args:
        path: a TOML file.
        overrides: `section.field=value`, applied in order after the file; a value is TOML, or else text.
        name: replaces `run.name`, after everything else.

    Raises:
        ConfigError: the file cannot be read, or something in it is wrong; carries every problem found.
    """
    given = [*overrides, *([f"run.name={json.dumps(name, ensure_ascii=False)}"] if name is not None else [])]
    return validated(RunConfig, read_toml(Path(path)), str(path), given)


def replace_values(config: RunConfig, overrides: Sequence[str], *, source: str = RESOLVED_CONFIG) -> RunConfig:
    """A configuration with values replaced, as `--set` writes them.

    Raises:
        ConfigError: carries every problem found.
    """
    return validated(RunConfig, config.model_dump(mode="json"), source, overrides)


def validated(root: type[AnySection], table: Table, source: str, overrides: Sequence[str] = ()) -> AnySection:
    """What a table, with the overrides written into it, says.

    Raises:
        ConfigError: carries every problem found; ``source`` is where the table is from.
    """
    problems = [problem for override in overrides if (problem := _apply(table, override))]
    try:
        found = root.model_validate(table)
    except ValidationError as error:
        paths = [override.partition("=")[0].strip() for override in overrides]
        raise ConfigError([*problems, *explain(error, paths, root=root)], source=source) from error
    if problems:
        raise ConfigError(problems, source=source)
    return found


def resolved_json(config: RunConfig) -> str:
    """The configuration with every default written out; equal configurations give equal text. Holds no secret."""
    return json.dumps(resolved_table(config), indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def resolved_table(config: RunConfig) -> Table:
    """What `resolved_json` writes, with its version."""
    # Figures name the digest of the text: until a field is renamed there is no version in it, as there was none.
    return config.model_dump(mode="json") | ({"version": _newest()} if TRANSLATIONS else {})


def load_resolved(content: bytes | str, *, source: str = RESOLVED_CONFIG) -> RunConfig:
    """Read what `resolved_json` wrote, now or in an earlier version of tapir.

    Raises:
        ConfigError: it is no JSON, or a later version of tapir wrote it.
    """
    try:
        table = json.loads(content)
    except ValueError as exc:
        raise ConfigError(f"{source} is no JSON ({exc}); it was edited or damaged") from exc
    version = table.pop("version", 1) if isinstance(table, dict) else 1
    for translate in TRANSLATIONS[version - 1 :]:
        translate(table)
    remedy = "a newer version of tapir wrote it, or it was edited: go on with the version that wrote it"
    told = f"{source} ({remedy})"
    if version > _newest():
        raise ConfigError([f"version: value {version}: this version of tapir reads up to {_newest()}"], source=told)
    return validated(RunConfig, table, told)


def read_toml(path: Path) -> Table:
    """A TOML file's content.

    Raises:
        ConfigError: it cannot be read, or is no TOML.
    """
    try:
        return tomllib.loads(path.read_bytes().decode("utf-8-sig"))
    except FileNotFoundError as exc:
        raise ConfigError(f"there is no configuration {str(path)!r}; see the shipped ones in configs/") from exc
    except OSError as exc:
        raise ConfigError(f"configuration {str(path)!r} cannot be read: {exc.strerror}") from exc
    except ValueError as exc:
        raise ConfigError(f"configuration {str(path)!r} is no TOML in UTF-8: {exc}; repair it") from exc


def _newest() -> int:
    """Version of the configurations that are written now."""
    return 1 + len(TRANSLATIONS)


def _apply(table: Table, override: str) -> str | None:
    """Write one override into the table; says what is wrong with it, if anything."""
    path, equals, text = override.partition("=")
    steps = [step.strip() for step in path.split(".")]
    if not equals or not all(steps):
        return f"--set {override}: write --set section.field=value"
    for depth, step in enumerate(steps[:-1], start=1):
        table = table.setdefault(step, {})
        if not isinstance(table, dict):
            return f"--set {override}: {'.'.join(steps[:depth])} is a value and has no fields"
    table[steps[-1]] = _read_value(text.strip())
    return None


def _read_value(text: str) -> Any:
    """The text as a TOML value; what is none, or is a date, which no field holds, stays text."""
    try:
        parsed = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    if len(parsed) > 1 or isinstance(parsed["value"], datetime.date | datetime.time):
        return text
    return parsed["value"]
