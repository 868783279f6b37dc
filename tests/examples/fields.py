"""A field of the configuration for an example; in the product it is a line of its class."""

from typing import Any

from pydantic.fields import FieldInfo

from tapir_core.config import RunConfig, Section

__all__ = ["add_field"]


def add_field(section: type[Section], name: str, annotation: Any, default: Any) -> None:
    """Give a section one more field, and let the whole configuration know of it."""
    section.__annotations__[name] = annotation
    section.model_fields[name] = FieldInfo(annotation=annotation, default=default)
    section.model_rebuild(force=True)
    for field in RunConfig.model_fields.values():
        if isinstance(field.default, section):
            field.default = section()
    RunConfig.model_rebuild(force=True)
