"""Replies by a JSON schema (`response_format`): what is asked for, and validation of the reply.

A form is a class of fields. A probe before the first row finds out which endpoints obey a schema; the others are asked
for text.
"""

from typing import Self

from pydantic import BaseModel, ConfigDict, ValidationError

from tapir_core.text import Unparsed, canonical_json

_ASKED = (
    "\n\nDo not write that last line. Your whole reply is one JSON object with these fields, in this order: {fields}."
)


class JsonReply(BaseModel):
    """The base of every form. Limits of values are checked here and are in no schema: not every server knows them."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @classmethod
    def schema_text(cls) -> str:
        """The JSON schema, as canonical JSON."""
        schema = cls.model_json_schema()
        schema.pop("description", None)  # the docstring, which is not for the model
        return canonical_json(schema)

    @classmethod
    def asked_by(cls, prompt: str) -> str:
        """A prompt that asks for a last line, changed to ask for this form instead."""
        return prompt + _ASKED.format(
            fields=", ".join(f"`{name}` ({field.description})" for name, field in cls.model_fields.items())
        )

    @classmethod
    def read(cls, raw: str | None) -> Self | Unparsed:
        """The reply, if all of it is valid JSON of this form."""
        try:
            return cls.model_validate_json(raw or "")
        except ValidationError:
            return Unparsed("no JSON of the schema")
