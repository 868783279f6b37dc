"""The base of every configuration section, and the field types that keep secrets out of it.

Sections are closed, frozen, strict (text is no number) and documented by the string under each field. TOML has no
null: the empty text `""` means nothing for every field that may be nothing. A table that sets some fields of a section
leaves the others as the field's own default has them: `[teacher.expanding]` with a length keeps its temperature.
"""

import re
from typing import Annotated, Any, get_args
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

__all__ = ["EnvironmentName", "Section", "StoreUrl", "WebAddress"]


class Section(BaseModel):
    """A part of the configuration. Unknown fields are errors; values never change after loading."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        use_attribute_docstrings=True,
        validate_default=True,
        allow_inf_nan=False,
        hide_input_in_errors=True,
        protected_namespaces=(),
    )

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        known = cls.model_fields
        return {name: _complete_value(known[name], value) if name in known else value for name, value in values.items()}


def _complete_value(field: FieldInfo, value: Any) -> Any:
    """Nothing for an empty text where nothing is allowed; a table completed from the field's default."""
    if value == "" and type(None) in get_args(field.annotation):
        return None
    default = field.default
    if isinstance(value, dict) and isinstance(default, Section):
        variant = getattr(default, "type", None)
        if value.get("type", variant) == variant:
            return {**default.model_dump(), **value}
    return value


def _check_environment_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        raise PydanticCustomError(
            "secret",
            "is no name of an environment variable (the value is not shown, it may be a key); "
            'write the name, such as "OPENAI_API_KEY", and export the key under it',
        )
    return name


def _check_web_address(address: str) -> str:
    parts = urlsplit(address)
    if parts.username or parts.password or parts.query:
        raise PydanticCustomError(
            "secret",
            "carries a user, a password or a query (the value is not shown); keep keys out of addresses: "
            "export them in an environment variable and name it in `api_key_env`",
        )
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise ValueError('is no web address; write it as "http://host:port/v1"')
    if parts.path.rstrip("/").endswith("/completions"):
        raise ValueError("names a method; write the address up to and with `/v1`")
    return address.rstrip("/")


def _check_store_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.password or "password=" in parts.query:
        raise PydanticCustomError(
            "secret",
            "carries a password (the value is not shown), and the configuration is kept in the run folder; "
            "export it as PGPASSWORD or keep it in ~/.pgpass",
        )
    if "://" not in url:
        raise ValueError('is no SQLAlchemy URL; write "sqlite:///path/store.sqlite" or "postgresql://user@host/name"')
    return url


EnvironmentName = Annotated[str, AfterValidator(_check_environment_name)]
"""Name of an environment variable; never what it holds."""

WebAddress = Annotated[str, AfterValidator(_check_web_address)]
"""Address of a server, without user, password and query."""

StoreUrl = Annotated[str, AfterValidator(_check_store_url)]
"""SQLAlchemy URL without a password."""
