"""A teacher or judge that is an open model, served by the run itself on the machine that drives it."""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from tapir_core.config._base import problems
from tapir_core.config.roles import EndpointConfig, ExtraBody
from tapir_core.config.student import StudentConfig, VllmEngine, VllmSettings
from tapir_core.text import canonical_json


class VllmEndpoint(VllmSettings, EndpointConfig):
    """An open model on a vLLM server that the run starts; it, the student and training have the machine in turn."""

    takes_all: ClassVar[bool] = True
    takes_turns: ClassVar[bool] = True

    type: Literal["vllm"] = "vllm"

    model: Annotated[str, Field(min_length=1)]
    """Local folder or hub id."""

    revision: str | None = None
    """Revision of a hub id."""

    identity: Annotated[str, Field(min_length=1)] | None = None
    """Under which answers are re-used, with model, revision and what shapes answers. Give it a new value when the files
    of a folder or of a chat template change, or name a `revision`: the main branch of a hub id may move."""

    chat_template: str | None = None
    """Jinja file, or the name of a shipped template, in place of the model's own."""

    extra_body: ExtraBody = Field({})
    """More fields of every request, such as `chat_template_kwargs = { enable_thinking = false }`."""

    thinking: Literal["strip", "keep"] = "strip"
    """Whether the thoughts that a reply begins with are taken out of the answer."""

    def __hash__(self) -> int:
        return hash(self.model_dump_json())

    def model_for(self, _role: str) -> str:
        """The same for every role."""
        return self.model

    def identity_for(self, _role: str) -> str:
        """Name or revision, with all that shapes answers beside the model."""
        shaping = {name: each for name, each in self.shaping().items() if name not in ("type", "model", "identity")}
        return f"{self.identity or 'vllm'} {canonical_json(shaping)}"

    def in_words(self, role: str) -> str:
        """Who answers, and from where."""
        named = self.identity or self.revision
        return f"{self.model} ({f'{named}, ' if named else ''}served by the run)"

    @property
    def as_vllm(self) -> VllmEngine:
        """How its server computes."""
        return VllmEngine(**{name: getattr(self, name) for name in VllmSettings.model_fields})

    @property
    def as_student(self) -> StudentConfig:
        """What a server of ours takes to serve it as it serves a student."""
        return StudentConfig(
            backbone=self.model, revision=self.revision, chat_template=self.chat_template, engine=self.as_vllm
        )


def check_served(
    endpoints: Mapping[str, EndpointConfig], longest: Mapping[str, int], *, asked_at_once: bool
) -> list[str]:
    """What is wrong with the models that a run is to serve.

    Args:
        endpoints: All that it asks, by field.
        longest: Tokens of the longest answer that is asked of each, by field.
        asked_at_once: Whether a stage asks the student, too, so that they cannot have the machine in turn.
    """
    served = {field: each for field, each in endpoints.items() if isinstance(each, VllmEndpoint)}
    (first, one), *_ = [*served.items(), ("", None)]
    return problems(
        {
            f'{field}: type = "vllm" with other fields than {first}: a run serves one model beside its student; let '
            "both have the same fields, or serve one of them yourself": each != one
            for field, each in served.items()
        }
        | {
            f'{first}: type = "vllm" cannot be with curriculum.expansion.check_difficulty, which asks teacher, student '
            "and judge about each new instruction, while these have the machine in turn; leave one of the two out": (
                one is not None and asked_at_once
            )
        }
        | {
            f"{field}.max_model_length: value {each.max_model_length}: leaves no room for a prompt beside an answer of "
            f"{longest[field]} tokens; raise it": longest[field] >= each.max_model_length
            for field, each in served.items()
        }
    )
