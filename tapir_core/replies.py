"""Replies by a JSON schema (`response_format`): what is asked for, and a reply that counts only if it validates.

A form is a class of fields. Which endpoints obey one is found out by a probe before the first row; where one does not,
its role is asked for text as ever.
"""

from typing import Self

from pydantic import BaseModel, ConfigDict, ValidationError

from tapir_core.text import Unparsed, canonical_json

_ASKED = (
    "\n\nDo not write that last line. Your whole reply is one JSON object with these fields, in this order: {fields}."
)


class JsonReply(BaseModel):
    """The base of every form. Limits of values are checked here and stand in no schema: not every server knows them."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @classmethod
    def schema_text(cls) -> str:
        """The JSON schema, as canonical JSON."""
        schema = cls.model_json_schema()
        schema.pop("description", None)  # the docstring, which is for another reader
        return canonical_json(schema)

    @classmethod
    def asked_by(cls, prompt: str) -> str:
        """A prompt that asks for a last line, asking for this form in its place."""
        fields = (f"`{name}` ({field.description})" for name, field in cls.model_fields.items())
        return prompt + _ASKED.format(fields=", ".join(fields))

    @classmethod
    def read(cls, raw: str | None) -> Self | Unparsed:
        """The reply as it stands there, whole."""
        try:
            return cls.model_validate_json(raw or "")
        except ValidationError:
            return Unparsed("no JSON of the schema")
