"""The keys of every kind of configuration are as recorded: nothing that is done is redone or paid for again."""

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import pytest
from pydantic import BaseModel

from tapir_core.config import Kind, RunConfig
from tapir_core.config.load import load_config
from tapir_core.sources import settle_sizes
from tests.golden.adapter import keys_of, stages_in_none
from tests.golden.recorded import check_keys
from tests.golden.variants import VARIANTS, overrides

MEMORY = Path("/dev/shm")
"""Where writing whole files costs nothing."""
ROOT = Path(__file__).parents[2]
VALUE = "a value"


@pytest.fixture(autouse=True)
def _at_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    for role in ("TEACHER", "STUDENT"):
        monkeypatch.setenv(f"{role}_KEY", "no-key")


def config_of(variant: str) -> RunConfig:
    return load_config("tests/golden/keys.toml", overrides(variant))


def test_every_key_is_as_recorded() -> None:
    found = {}
    for variant in VARIANTS:
        with TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as folder:
            found[variant] = keys_of(settle_sizes(config_of(variant))[0], Path(folder))
    check_keys(found)


def test_every_stage_is_in_a_variant() -> None:
    lacking = stages_in_none(map(config_of, VARIANTS))
    assert lacking == set(), "add a variant that has them to tests/golden/variants.py, and record it (docs/testing.md)"


def test_every_member_of_every_union_of_the_configuration_is_in_a_variant() -> None:
    """A new kind of pool, engine, endpoint, judge, selection or benchmark has to be recorded before it has users."""
    seen = {member for variant in VARIANTS for member in members_in(config_of(variant))}
    lacking = sorted(f"{field} = {member}" for field, member in set(all_members(RunConfig)) - seen)
    remedy = "add a variant for each to tests/golden/variants.py, and record its keys (docs/testing.md)"
    if lacking:
        pytest.fail("\n  ".join([f"no recorded configuration has these; {remedy}:", *lacking]), pytrace=False)


Member = tuple[str, str]
"""A field of a section, and one of the several things that it may be."""


def all_members(section: type[BaseModel]) -> Iterator[Member]:
    """Of all sections below, those of fields that may be several things."""
    for each in sections_below(section):
        for name, field in each.model_fields.items():
            kinds = set(kinds_of(field.annotation))
            yield from ((f"{each.__name__}.{name}", kind) for kind in kinds if len(kinds) > 1)


def members_in(section: BaseModel) -> Iterator[Member]:
    """What the fields of a configuration are."""
    for name, field in type(section).model_fields.items():
        kinds = set(kinds_of(field.annotation))
        for value in leaves(getattr(section, name)):
            if isinstance(value, BaseModel):
                yield from members_in(value)
            kind = type(value).__name__ if isinstance(value, BaseModel) else str(value)
            yield f"{type(section).__name__}.{name}", kind if kind in kinds else VALUE


@cache
def sections_below(section: type[BaseModel]) -> set[type[BaseModel]]:
    found = {section}
    for field in section.model_fields.values():
        for each in types_in(field.annotation):
            found |= sections_below(each) if isinstance(each, type) and issubclass(each, BaseModel) else set()
    return found


def kinds_of(annotation: Any) -> Iterator[str]:
    for each in types_in(annotation):
        if isinstance(each, type) and issubclass(each, BaseModel):
            yield each.__name__
        elif each is bool:
            yield from ("True", "False")
        else:
            yield "None" if each is NoneType else VALUE if isinstance(each, type) else str(each)


def types_in(annotation: Any) -> Iterator[Any]:
    """The types that a value may have, through unions, families of kinds and containers, and the values of literals."""
    arguments = get_args(annotation)
    if get_origin(annotation) is Annotated:
        yield from types_in(arguments[0])
    elif get_origin(annotation) is Literal:
        yield from arguments
    elif get_origin(annotation) in (Union, UnionType, tuple, dict):
        for each in arguments:
            yield from types_in(each) if each is not Ellipsis else ()
    elif isinstance(annotation, type) and issubclass(annotation, Kind) and annotation in Kind.__subclasses__():
        yield from annotation.kinds().values()
    else:
        yield annotation


def leaves(value: Any) -> Iterator[Any]:
    """A value, or those in a container with its keys."""
    if isinstance(value, dict):
        yield from (*value, *value.values())
    elif isinstance(value, tuple):
        yield from value
    else:
        yield value
