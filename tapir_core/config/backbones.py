"""The list of backbones that one curriculum is run for: read, checked whole, added to.

A list is a TOML file of its own beside the configurations. Limits: an entry says what belongs to a backbone and nothing
else, so that all of them are taught by the same pool, teacher and judge; entries are added at the end of the file as
text, which leaves comments and order alone.
"""

import json
import re
import tomllib
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError, field_validator

from tapir_core.config._base import Section
from tapir_core.config.checks import check_student
from tapir_core.config.load import Table, read_toml
from tapir_core.config.problems import explain
from tapir_core.config.student import StudentConfig
from tapir_core.errors import ConfigError
from tapir_core.storage import Storage

__all__ = ["BackboneEntry", "BackboneList", "add_backbone", "load_backbones", "settings_of"]

_OWN = re.compile(
    r"(training|student\.engine|student\.sampling)\.[\w.]+=|(basic_tuning|rounds\.\w+)\.(epochs|learning_rate)="
)


class BackboneEntry(Section):
    """One backbone."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,39}$")]
    """What it is called: letters, digits, `.`, `_` and `-`, at most 40. Its run is named CURRICULUM-NAME."""

    backbone: Annotated[str, Field(min_length=1)]
    """Local folder, hub id, or `embedded:smollm2-135m-instruct`, as `student.backbone`."""

    revision: str | None = None
    """Revision of a hub id."""

    chat_template: str | None = None
    """Jinja file that replaces its own chat template; the curriculum's, which is another model's, is not taken."""

    precision: Literal["auto", "bf16", "fp32"] | None = None
    """Precision of its training; the curriculum's when left out."""

    overrides: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """More of its training, as `--set` writes it: any field of `training`, `student.engine` and `student.sampling`,
    `epochs` and `learning_rate` of `basic_tuning` and `rounds`."""

    @field_validator("overrides", mode="after")
    @classmethod
    def _only_what_is_its_own(cls, overrides: tuple[str, ...]) -> tuple[str, ...]:
        for each in overrides:
            if not _OWN.match(each):
                raise ValueError(
                    f"{each!r} is no setting of a backbone; write training.FIELD=VALUE, student.engine.…, "
                    "student.sampling.…, or epochs and learning_rate of basic_tuning and rounds.default"
                )
        return overrides


class BackboneList(Section):
    """A list of backbones, and the curriculum that they are taken through."""

    config: str
    """The curriculum: the configuration of a run. Its own backbone, and what an entry sets, are replaced."""

    backbones: Annotated[tuple[BackboneEntry, ...], Field(strict=False)]
    """The backbones, a `[[backbones]]` each; they run in this order."""

    @field_validator("backbones", mode="after")
    @classmethod
    def _names_differ(cls, backbones: tuple[BackboneEntry, ...]) -> tuple[BackboneEntry, ...]:
        if not backbones:
            raise ValueError("names no backbone; write a [[backbones]] with name and backbone")
        names = [each.name for each in backbones]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"names {', '.join(twice)} twice; each backbone has a run, and so a name, of its own")
        return backbones


def load_backbones(path: str | Path) -> BackboneList:
    """Read a list.

    Raises:
        ConfigError: it cannot be read, or something in it is wrong; carries every problem found.
    """
    return _check(read_toml(Path(path)), str(path))


def add_backbone(path: str | Path, entry: dict[str, str]) -> BackboneEntry:
    """Write a new entry at the end of a list; ``entry`` are its fields.

    Raises:
        ConfigError: the list or the entry is wrong, or the name is taken; nothing is written then.
    """
    read_toml(Path(path))
    before = Path(path).read_text(encoding="utf-8-sig")
    lines = [f"{field} = {json.dumps(value, ensure_ascii=False)}" for field, value in entry.items()]
    text = "\n".join([before.rstrip("\n"), "", "[[backbones]]", *lines, ""])
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        raise ConfigError(
            f"{str(path)!r} takes no entry at its end ({exc}); write its entries as [[backbones]]"
        ) from exc
    added = _check(table, str(path)).backbones[-1]
    student = StudentConfig(backbone=added.backbone, chat_template=added.chat_template)
    if problems := list(check_student(student)):
        raise ConfigError(problems, source=f"backbone {added.name}")
    Storage(Path(path).parent).write_bytes(Path(path).name, text.encode())
    return added


def settings_of(entry: BackboneEntry) -> list[str]:
    """What the entry changes in the curriculum's configuration, as `--set` writes it."""
    texts = {
        "student.backbone": entry.backbone,
        "student.revision": entry.revision or "",
        "student.chat_template": entry.chat_template or "",
    }
    precision = [] if entry.precision is None else [f"training.precision={entry.precision}"]
    return [
        *(f"{field}={json.dumps(text, ensure_ascii=False)}" for field, text in texts.items()),
        *precision,
        *entry.overrides,
    ]


def _check(table: Table, source: str) -> BackboneList:
    try:
        return BackboneList.model_validate(table)
    except ValidationError as error:
        raise ConfigError(explain(error, root=BackboneList), source=source) from error
