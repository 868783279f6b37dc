"""From a TOML file and `--set` to a checked configuration, and from a `RunConfig` to its resolved JSON and back.

Every problem of a file is reported at once. A configuration is one file, and may extend one preset; variables are not
supported.
"""

import json
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from tapir_core import errors, paths
from tapir_core.config import RunConfig, Section, reference, student

Table = dict[str, Any]
AnySection = TypeVar("AnySection", bound=Section)

VERSION = 4
"""Of the resolved configurations that are written now; what a development version wrote has a lower one."""


def _without_gone(table: Table) -> Table:
    """A section without what development versions wrote and no result depends on.

    Of MT-Bench its mode, if that is the one there is now, and a baseline; of the stand-in how it was asked.
    """
    gone = ("modes", "baseline") if table.get("type") == "mt_bench" and table.get("modes") == ["single"] else ()
    gone = ("mode", "batch") if table.get("type") == "standin" else gone
    return {name: value for name, value in table.items() if name not in gone}


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
    table = _extended(read_toml(Path(path)), Path(path).parent, given)
    return _located(validated(RunConfig, table, str(path), given), Path(path).parent)


def _located(config: RunConfig, folder: Path) -> RunConfig:
    """The configuration with the folder of its file, where its verifier is looked for."""
    verifier = config.judge.verifier
    if verifier is None or verifier.folder:
        return config
    located = verifier.model_copy(update={"folder": str(folder)})
    return config.model_copy(update={"judge": config.judge.model_copy(update={"verifier": located})})


def replace_values(config: RunConfig, overrides: Sequence[str], *, source: str = paths.RESOLVED_CONFIG) -> RunConfig:
    """A configuration with values replaced, as `--set` writes them.

    Raises:
        ConfigError: carries every problem found.
    """
    return validated(RunConfig, config.model_dump(mode="json"), source, overrides)


def with_changes(config: RunConfig, changes: Mapping[str, Any]) -> RunConfig:
    """A configuration with values replaced: path of a field, through lists too → its value.

    Raises:
        ConfigError: carries every problem found.
    """
    if not changes:
        return config
    table = config.model_dump(mode="json")
    for path, value in changes.items():
        *steps, name = path.split(".")
        part: Any = table
        for step in steps:
            part = part[int(step) if isinstance(part, list) else step]
        part[name] = value
    return validated(RunConfig, table, paths.RESOLVED_CONFIG)


def spell_out_rounds(config: RunConfig) -> RunConfig:
    """The same with an entry for each round, so that one can be changed without touching those after it."""
    rounds = {str(number): config.round(number) for number in config.round_numbers}
    # What counts as set is written, and every field of an entry is to be.
    return config.model_copy(
        update={"rounds": {name: entry.model_copy(update=dict(entry)) for name, entry in rounds.items()}}
    )


def validated(root: type[AnySection], table: Table, source: str, overrides: Sequence[str] = ()) -> AnySection:
    """What a table, with the overrides written into it, says.

    Raises:
        ConfigError: carries every problem found; ``source`` is where the table is from.
    """
    wrong = [said for override in overrides for said in _apply(table, override)]
    try:
        found = root.model_validate(table)
    except ValidationError as error:
        wrong += reference.explain(error, [override.partition("=")[0].strip() for override in overrides], root)
    if wrong:
        raise errors.ConfigError(wrong, source=source)
    return found


def resolved_json(config: RunConfig) -> str:
    """The configuration with every default written out; equal configurations give equal text. Holds no secret."""
    return json.dumps(resolved_table(config), indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def resolved_table(config: RunConfig) -> Table:
    """What `resolved_json` writes, with its version."""
    return config.model_dump(mode="json") | {"version": VERSION}


def differing(one: Any, other: Any, name: str = "") -> Iterator[tuple[str, Any, Any]]:
    """What two tables do not share: its name, that of nested ones joined by dots, and both values."""
    if not (isinstance(one, dict) and isinstance(other, dict)):
        yield from () if one == other else [(name, one, other)]
        return
    for each in dict.fromkeys([*one, *other]):
        yield from differing(one.get(each), other.get(each), f"{name}.{each}" if name else each)


def answered_by(config: RunConfig, standin: str) -> RunConfig:
    """The same with this version of the stand-in wherever it answers."""
    table = json.loads(
        config.model_dump_json(),
        object_hook=lambda part: part | {"version": standin} if "position_bias" in part else part,
    )
    return RunConfig.model_validate(table)


def load_resolved(content: bytes | str, *, source: str = paths.RESOLVED_CONFIG) -> RunConfig:
    """Read what `resolved_json` wrote, or a development version of tapir.

    Raises:
        ConfigError: it is no JSON, or a later version of tapir wrote it.
    """
    try:
        table = json.loads(content, object_hook=_without_gone)
    except ValueError as exc:
        raise errors.ConfigError(
            f"{source} is no JSON ({exc}): it was edited or damaged; put back a copy of it, or start the run "
            "under another --name: stored answers are re-used"
        ) from exc
    blamed = f"{source} (a newer version of tapir wrote it, or it was edited: go on with the version that wrote it)"
    if isinstance(table, dict):
        version = table.pop("version", 1)
        if version not in range(1, VERSION + 1):
            problem = f"version: value {version!r}: this version of tapir reads up to {VERSION}"
            raise errors.ConfigError([problem], source=blamed)
    return validated(RunConfig, table, blamed)


def _extended(table: Table, folder: Path, overrides: Sequence[str]) -> Table:
    """The table over the preset that its `extends` names: a shipped one (`presets/NAME`), or a file beside its own.

    A preset without adapters has learning rates for all weights, which those of the table or of ``overrides`` do not
    take.

    Raises:
        ConfigError: there is no such preset, or it extends another one.
    """
    name = table.pop("extends", None)
    if name is None:
        return table
    is_shipped = isinstance(name, str) and name.startswith("presets/")
    path = student.PRESETS.parent / f"{name}.toml" if is_shipped else folder / str(name)
    if not path.is_file():
        names = ", ".join(f"presets/{each}" for each in student.shipped("toml"))
        raise errors.ConfigError(f"extends: value {name!r}: there is no such preset; shipped are {names}")
    preset = read_toml(path)
    if "extends" in preset:
        raise errors.ConfigError(f"extends: value {name!r}: {path} extends another one, and one level is the limit")
    own_adapters = "'lora'" in str(table.get("training")) or any(each.startswith("training.lora") for each in overrides)
    if own_adapters and "lora" not in preset.get("training", {}):
        for section in (preset.get("basic_tuning", {}), *preset.get("rounds", {}).values()):
            section.pop("learning_rate", None)
    return _merged(preset, table)


def written(path: str | Path, overrides: Sequence[str]) -> str:
    """A configuration file with these overrides, as TOML: a field a line, without comments; what it extends is in it.

    Raises:
        ConfigError: the file cannot be read, or an override is wrong.
    """
    table = _extended(read_toml(Path(path)), Path(path).parent, overrides)
    validated(RunConfig, table, str(path), overrides)
    return "".join(f"{line}\n" for line in _toml_lines(table))


def _toml_lines(table: Table, before: str = "") -> Iterator[str]:
    for name, value in table.items():
        key = before + (name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _toml(name))
        if isinstance(value, dict) and value:
            yield from _toml_lines(value, f"{key}.")
        else:
            yield f"{key} = {_toml(value)}"


def _toml(value: Any) -> str:
    """Texts, numbers and truth values are written as in JSON; what is unset as an empty text."""
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{_toml(name)} = {_toml(each)}' for name, each in value.items())} }}"
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    return json.dumps("" if value is None else value, ensure_ascii=False).replace("\x7f", "\\u007f")


def rounds_setting(config: RunConfig) -> str:
    """All its rounds spelled out, as `--set` writes them."""
    return "rounds=" + _toml(
        {name: entry.model_dump(mode="json") for name, entry in spell_out_rounds(config).rounds.items()}
    )


def _merged(below: Table, above: Table) -> Table:
    """``above`` over ``below``, table by table; one of another `type` takes the place of all that is below it."""

    def laid(over: Any, under: Any) -> Any:
        is_same = (
            isinstance(over, dict)
            and isinstance(under, dict)
            and over.get("type", under.get("type")) == under.get("type")
        )
        return _merged(under, over) if is_same else over

    return below | {name: laid(value, below.get(name)) for name, value in above.items()}


def read_toml(path: Path) -> Table:
    """A TOML file's content.

    Raises:
        ConfigError: it cannot be read, or is no TOML.
    """
    try:
        return tomllib.loads(path.read_bytes().decode("utf-8-sig"))
    except FileNotFoundError as exc:
        raise errors.ConfigError(f"there is no configuration {str(path)!r}; see the shipped ones in configs/") from exc
    except OSError as exc:
        raise errors.ConfigError(f"configuration {str(path)!r} cannot be read: {exc.strerror}") from exc
    except ValueError as exc:
        raise errors.ConfigError(f"configuration {str(path)!r} is no TOML in UTF-8: {exc}; repair it") from exc


def _apply(table: Table, override: str) -> Iterator[str]:
    """Write one override into the table, or say what is wrong with it."""
    path, equals, text = override.partition("=")
    steps = [step.strip() for step in path.split(".")]
    if not equals or not all(steps):
        yield f"--set {override}: write --set section.field=value"
        return
    for depth, step in enumerate(steps[:-1], start=1):
        table = table.setdefault(step, {})
        if not isinstance(table, dict):
            before, rest = ".".join(steps[:depth]), ".".join(steps[depth:])
            yield (
                f"--set {override}: {before} is a value and has no fields; if it is the short form of a table, write "
                f"--set '{before}={{ type = {json.dumps(table)}, {rest} = {text.strip()} }}'"
            )
            return
    table[steps[-1]] = _read_value(text.strip())


def _read_value(text: str) -> Any:
    """The text as a TOML value; what is none, or is a date, which no field holds, stays text."""
    try:
        parsed = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return (
        parsed["value"] if len(parsed) == 1 and isinstance(parsed["value"], str | int | float | list | dict) else text
    )
