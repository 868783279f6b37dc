"""The base of every configuration section, of everything that a `type` tells apart, and types that keep secrets out.

Sections are closed, frozen, strict (text is no number) and documented by the string under each field. TOML has no
null: the empty text `""` leaves every field unset that may be. A table that sets some fields of a section
leaves the others as the field's own default has them: `[teacher.expanding]` with a length keeps its temperature.

A family of kinds (`class SelectionRule(Kind)`) is open: each subclass registers itself by its `type` when it is
defined, and a field of the family's type holds any of them, also one that a module beside the product defines later.
What a kind does without other layers are methods of its class; the rest are `by_kind` functions beside the behaviour.
"""

import re
from abc import ABC
from collections.abc import Callable, Mapping
from functools import cache, singledispatch, update_wrapper
from inspect import signature
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeAlias, TypeVar, Union, get_args
from urllib.parse import urlsplit

import pydantic
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

if TYPE_CHECKING:
    from functools import _SingleDispatchCallable

T = TypeVar("T")
AnyKind: TypeAlias = type[Any]


Mark = Literal["free", "later", "saves", "file", "folder", "answers", "replies", "apart", "dev"]
"""What a field says of itself beside its type, as in `proxy: Free[str | None]`."""

Free = Annotated[T, "free"]
"""Its value changes no answer and no row: how fast, how dear, where a file lies (its content is known by digest). It
stands in no key and in no identity, so that it can be changed at any time."""

File = Annotated[T, "free", "file"]
"""Names a file, or unset; a file is known by what it holds."""

Later = Annotated[T, "later"]
"""A section got it when runs with that section existed: at its default it is left out of what shapes rows and of what
is written, so that no key and no file of those runs changes."""


class Section(pydantic.BaseModel):
    """A part of the configuration. Unknown fields are errors; values never change after loading."""

    model_config = pydantic.ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        use_attribute_docstrings=True,
        validate_default=True,
        allow_inf_nan=False,
        hide_input_in_errors=True,
        protected_namespaces=(),
    )

    def __hash__(self) -> int:
        return hash(self.model_dump_json())  # fields may be tables, which have no hash

    @classmethod
    @cache
    def with_mark(cls, mark: Mark) -> Mapping[str, Any]:
        """Every field that bears the mark, with its default."""
        return {name: field.default for name, field in cls.model_fields.items() if mark in field.metadata}

    @property
    def files(self) -> dict[str, str]:
        """The files that it is made of, or their addresses, by the field that names each."""
        return {field: path for field in self.with_mark("file") if isinstance(path := getattr(self, field), str)}

    def shaping(self) -> dict[str, Any]:
        """All fields by name that can change an answer or a row: what goes into stage keys and identities."""
        left_out = self.with_mark("free").keys() | self._unchanged()
        return {name: _shaping(value) for name, value in self if name not in left_out}

    def _unchanged(self) -> set[str]:
        return {name for name, default in self.with_mark("later").items() if getattr(self, name) == default}

    @pydantic.model_serializer(mode="wrap")
    def _write(self, write: pydantic.SerializerFunctionWrapHandler) -> dict[str, Any]:
        unchanged = self._unchanged()
        return {name: value for name, value in write(self).items() if name not in unchanged}

    @pydantic.model_validator(mode="before")
    @classmethod
    def _complete(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        return values | {
            name: _complete_value(field, values[name]) for name, field in cls.model_fields.items() if name in values
        }


def _shaping(value: Any) -> Any:
    if isinstance(value, Section):
        return value.shaping()
    if isinstance(value, dict):
        return {name: _shaping(each) for name, each in value.items()}
    return [_shaping(each) for each in value] if isinstance(value, tuple) else value


def _complete_value(field: FieldInfo, value: Any) -> Any:
    """None for an empty text where None is allowed; a table completed from the field's default."""
    if value == "" and type(None) in get_args(field.annotation):
        return None
    default = field.default.model_dump() if isinstance(field.default, Section) else {}
    kind = default.get("type")
    return default | value if isinstance(value, dict) and value.get("type", kind) == kind else value


def is_family(section: Any) -> bool:
    """Whether it is the type of a field that may hold several kinds."""
    return isinstance(section, type) and "_kinds" in vars(section)


class Kind(Section):
    """One of the several things that a field may be; a direct subclass is the family, its subclasses are the kinds."""

    _kinds: ClassVar[dict[str, AnyKind]]

    if TYPE_CHECKING:

        @property
        def type(self) -> str:
            """What the kind is called in a configuration."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if Kind in cls.__bases__:
            cls._kinds = {}

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        if is_family(cls) or ABC in cls.__bases__:
            return
        family: AnyKind = next(each for each in cls.__mro__ if is_family(each))
        name = cls.model_fields["type"].default if "type" in cls.model_fields else None
        if lacking := sorted({*cls.__abstractmethods__, *([] if isinstance(name, str) else ["type"])}):
            raise TypeError(
                f"{cls.__name__} lacks {', '.join(lacking)}; define what {family.__name__} says of it (a type is "
                'written `type: Literal["name"] = "name"`; what several kinds have in common has ABC among its bases)'
            )
        taken = family._kinds.get(name, cls)
        if (taken.__module__, taken.__qualname__) != (cls.__module__, cls.__qualname__):
            raise TypeError(f"{cls.__name__} has type = {name!r}, which {taken.__name__} has already; give it another")
        family._kinds[name] = cls

    @classmethod
    def kinds(cls) -> Mapping[str, AnyKind]:
        """Every kind of the family that is defined by now, by its `type`."""
        return cls._kinds

    @classmethod
    def read(cls, value: Any) -> Any:
        """The kind that a table describes by its `type`."""
        return _reader(tuple(cls._kinds.values())).validate_python(value)

    # Of a family: whatever is registered when a value is read or described, not when the field was defined.
    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: pydantic.GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(cls.read) if is_family(cls) else handler(source)

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: pydantic.GetJsonSchemaHandler) -> dict[str, Any]:
        return (
            {"oneOf": [handler(kind.__pydantic_core_schema__) for kind in cls._kinds.values()]}
            if is_family(cls)
            else handler(schema)
        )


@cache
def _reader(kinds: tuple[AnyKind, ...]) -> pydantic.TypeAdapter[Any]:
    several: Any = Union[kinds]  # noqa: UP007  # made of a list
    return pydantic.TypeAdapter(Annotated[several, pydantic.Discriminator("type")])


BY_KIND: list[tuple[type[Kind], "_SingleDispatchCallable[Any]"]] = []
"""Functions that do something else for each kind of a family; a test goes through all of them with every kind."""


def by_kind(family: type[Kind]) -> "Callable[[Callable[..., T]], _SingleDispatchCallable[T]]":
    """A `functools.singledispatch` over the kinds of a family; a kind that nobody registered is told what to add."""

    def wrap(declared: Callable[..., T]) -> "_SingleDispatchCallable[T]":
        def lacking(kind: Kind, *_: Any, **__: Any) -> T:
            name, of, (first, *others) = declared.__name__, type(kind).__name__, signature(declared).parameters
            raise TypeError(
                f"{declared.__module__}.{name} does nothing for {of} yet; add there, or beside {of}:\n"
                f"    @{name}.register\n    def _({', '.join([f'{first}: {of}', *others])}): …"
            )

        function = singledispatch(update_wrapper(lacking, declared))
        BY_KIND.append((family, function))
        return function

    return wrap


def problems(said: Mapping[str, object]) -> list[str]:
    """Of sentences on what is wrong those that hold: each with whether it does."""
    return [sentence for sentence, holds in said.items() if holds]


def secret(said: str) -> PydanticCustomError:
    """The error of a value that may be a secret: it is not repeated in what is said."""
    return PydanticCustomError("secret", "{said}", {"said": said})


_KEY = re.compile(
    r"""(?i:bearer|basic|token)\ (?=.*\d)[\w+/=.~-]{10,} | [sprk]k-[\w-]{12,} | [spr]k_(?:live|test)_\w+
    | gh[pousr]_\w{16,} | github_pat_\w+ | hf_\w{16,} | gsk_\w{16,} | r8_\w{16,} | xai-\w{16,} | nvapi-\S{16,}
    | pplx-\w{16,} | glpat-\S{16,} | xox[a-z]-\S+ | AIza[\w-]{20,} | ya29\.\S+ | AKIA[A-Z0-9]{12,}
    | eyJ[\w-]{10,}\.[\w-]+\.\S* | -----BEGIN\ .*""",
    re.VERBOSE | re.DOTALL,
)
"""Keys as providers and clouds write them."""
_RANDOM = re.compile(r"[0-9a-f]{32,}|[0-9A-F]{32,}|(?=.*\d\D.*\d\D.*\d)(?=.*[a-z])(?=.*[A-Z])[A-Za-z0-9+/=%]{32,}")
"""A long text that means nothing."""
_NAMES_KEY = re.compile(
    r"(?:key|token|secret|password|passwd|pwd|code|auth|authorization|credentials?|sig|signature|cookie)$",
    re.IGNORECASE,
)
_NAMES_NONE = re.compile(
    r"cache|idempot|user|identifier|(?:rout|partition|sort)\w*key|hash|revision|commit|digest|(?:eos|bos|pad|stop)\w*$",
    re.IGNORECASE,
)
_OPAQUE = re.compile(r"(?=.*\d)[\w+/=.:%~-]{12,}")


def check_no_key(value: T, name: str = "") -> T:
    """A value, or a table of values, none of which is a key: it would stand in the run's folder and in the store.

    A table ``{ env = "NAME" }`` stands for what the environment variable holds when the endpoint is called.

    Raises:
        PydanticCustomError: a text looks like a key, by its form or by the ``name`` of its field.
    """
    if isinstance(value, dict):
        for each, inner in value.items():
            check_no_key(inner, name if each == "env" else str(each))
    elif isinstance(value, list | tuple):
        for inner in value:
            check_no_key(inner, name)
    elif isinstance(value, str):
        is_named = bool(_NAMES_KEY.search(name) and _OPAQUE.fullmatch(value))
        is_strange = (is_named or bool(_RANDOM.fullmatch(value))) and not _NAMES_NONE.search(name)
        if _KEY.fullmatch(value) or is_strange:
            raise secret(
                f"{name} looks like a key (the value is not shown), and the configuration is kept in the run folder; "
                'export it, and write { env = "NAME" } in its place, which keeps the name of the variable alone'
            )
    return value


def environment_name(value: object) -> str | None:
    """The variable that a table ``{ env = "NAME" }`` names, in capitals; None for any other value."""
    name = value["env"] if isinstance(value, dict) and value.keys() == {"env"} else None
    return name if isinstance(name, str) and re.fullmatch(r"[A-Z_][A-Z0-9_]*", name) else None


def check_different(values: tuple[T, ...]) -> tuple[T, ...]:
    """The values, if none of them, or of their names, stands there twice.

    Raises:
        ValueError: one does.
    """
    names = [str(getattr(each, "name", each)) for each in values]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"names {', '.join(twice)} twice; each is named once")
    return values


def matching(pattern: str, otherwise: str, *, may_be_secret: bool = False) -> pydantic.AfterValidator:
    """Of a text: refuses one that is not of this form as a whole, with what is said ``otherwise``."""

    def check(text: str) -> str:
        if re.fullmatch(pattern, text):
            return text
        raise secret(otherwise) if may_be_secret else ValueError(otherwise)

    return pydantic.AfterValidator(check)


def short_form(field: str) -> pydantic.BeforeValidator:
    """Of a table: takes a text in its place as the value of this field."""
    return pydantic.BeforeValidator(lambda given: {field: given} if isinstance(given, str) else given)


def check_web_address(address: Any) -> str:
    """The address as it is kept.

    Raises:
        ValueError: it is none, or carries what is secret, and is not shown then.
    """
    if not isinstance(address, str):
        raise ValueError('is no text; write it as "http://host:port/v1"')
    parts = urlsplit(address)
    if parts.username or parts.password or parts.query:
        raise secret(
            "carries a user, a password or a query (the value is not shown); keep keys out of addresses: "
            "export them in an environment variable and name it in `api_key_env`"
        )
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:
        raise ValueError('is no web address; write it as "http://host:port/v1"')
    if parts.path.rstrip("/").endswith("/completions"):
        raise ValueError("names a method; write the address up to and with `/v1`")
    return address.rstrip("/")


def _check_store_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.password or "password=" in parts.query:
        raise secret(
            "carries a password (the value is not shown), and the configuration is kept in the run folder; "
            "export it as PGPASSWORD or keep it in ~/.pgpass"
        )
    if "://" not in url:
        raise ValueError('is no SQLAlchemy URL; write "sqlite:///path/store.sqlite" or "postgresql://user@host/name"')
    return url


DIFFERENT = pydantic.AfterValidator(check_different)
"""Of a list: refuses what it names twice."""

EnvironmentName = Annotated[
    str,
    matching(
        r"[A-Za-z_][A-Za-z0-9_]*",
        "is no name of an environment variable (the value is not shown, it may be a key); "
        'write the name, such as "OPENAI_API_KEY", and export the key under it',
        may_be_secret=True,
    ),
]
"""Name of an environment variable; never what it holds."""

HeaderName = Annotated[str, matching(r"[A-Za-z0-9-]+", 'is no name of an HTTP header; write it as "api-key"')]
"""Name of an HTTP header."""

WebAddress = Annotated[str, pydantic.AfterValidator(check_web_address)]
"""Address of a server, without user, password and query."""

StoreUrl = Annotated[str, pydantic.AfterValidator(_check_store_url)]
"""SQLAlchemy URL without a password."""

TEXT, OTHER = pydantic.Tag("(text)"), pydantic.Tag("(other)")
"""Of a field that holds a text or something else: which is which, `Annotated[str, TEXT] | Annotated[float, OTHER]`."""

BY_FORM = pydantic.Discriminator(lambda value: TEXT.tag if isinstance(value, str) else OTHER.tag)
"""Tells the two apart, so that an error speaks of the form that was written, and of no other."""

AutoSize: TypeAlias = Annotated[
    Annotated[pydantic.PositiveInt, OTHER] | Annotated[Literal["auto"], TEXT],
    BY_FORM,
]
"""Examples, or what `tapir_core.curriculum.sizes` makes of the pool before a run is opened."""
