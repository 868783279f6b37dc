"""The two roles that are paid for, teacher and judge, where they answer, and the verifier that helps a judge."""

import json
import sys
from abc import abstractmethod
from collections.abc import Iterable
from importlib.machinery import PathFinder
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple, Self
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from tapir_core.config._base import (
    BY_FORM,
    DIFFERENT,
    OTHER,
    TEXT,
    EnvironmentName,
    Free,
    HeaderName,
    Kind,
    Later,
    Section,
    T,
    WebAddress,
    check_no_key,
    check_web_address,
    environment_name,
    matching,
    secret,
    short_form,
)
from tapir_core.text import canonical_json

STANDIN_VERSION = "b0b7099debf8"
"""Version of the stand-in's answers, under which they are stored; raised when they change."""


OrProviders = Annotated[Annotated[T, OTHER] | Annotated[Literal["provider"], TEXT], BY_FORM]
"""`"provider"` in place of a number: the field is left out of the request, and the provider takes its own."""


class Sampling(Section):
    """How an answer is drawn. Part of a stored answer's identity."""

    temperature: OrProviders[NonNegativeFloat] = 0.0
    """0 is greedy; `"provider"` leaves it out, for models that refuse one."""

    top_p: OrProviders[Annotated[float, Field(gt=0, le=1)]] = 1.0
    """Nucleus share; `"provider"` leaves it out, for models that refuse one."""

    max_tokens: PositiveInt = 1024
    """Longest answer in tokens; a longer one is cut off (`finish_reason = length`)."""

    top_k: Later[PositiveInt | None] = None
    """Draws among so many tokens, where the server knows the field, as vLLM does; unset: left out."""

    repetition_penalty: Later[PositiveFloat | None] = None
    """Divides the weight of tokens that stood there before, as vLLM does; unset: left out."""

    @property
    def in_words(self) -> str:
        """For a reader of figures."""
        temperature, top_p = (
            "of the provider" if isinstance(value, str) else f"{value:g}" for value in (self.temperature, self.top_p)
        )
        more = "".join(f", {name} {value:g}" for name, value in self.more_fields.items())
        return f"temperature {temperature}, top_p {top_p}{more}, {self.max_tokens} token{'s' * (self.max_tokens != 1)}"

    @property
    def more_fields(self) -> dict[str, float]:
        """What OpenAI's API does not know, as vLLM calls it: only what is set."""
        more = {"top_k": self.top_k, "repetition_penalty": self.repetition_penalty}
        return {name: value for name, value in more.items() if value is not None}


class BatchConfig(Section):
    """How a Batch API is used where `mode = "batch"`. Nothing here changes an answer."""

    completion_window: Annotated[str, Field(pattern=r"^[1-9]\d*[hd]$")] = "24h"
    """Time in which the provider promises to answer, as it names it; OpenAI knows `24h` only."""

    poll_seconds: PositiveFloat = 30.0
    """Longest pause between two looks at a batch; the first ones are shorter."""

    max_rows: Annotated[int, Field(ge=1, le=50_000)] = 20_000
    """Most requests of one batch. Fewer than a provider allows, so that a batch that fails costs little time."""

    max_bytes: Annotated[int, Field(ge=1, le=200_000_000)] = 100_000_000
    """Largest input file of one batch, in bytes."""


def _check_addresses(value: Any) -> Any:
    """Each address checked as `WebAddress` is; what is wrong with a list shows no entry, one of them may hold a key."""
    if not isinstance(value, list | tuple):
        return check_web_address(value)
    if not value or len(set(map(str, value))) < len(value):
        raise ValueError("is an empty list, or names an address twice; write each address once")
    try:
        return tuple(map(check_web_address, value))
    except ValueError as error:
        raise secret(f"holds an address that {error}") from None


class ModelIdentity(NamedTuple):
    """Under which model and identity answers are stored and re-used; the address is no part of it."""

    model: str
    """As the server knows it."""
    identity: str


class EndpointConfig(Kind):
    """Where a teacher or judge answers. What it costs stands in `prices`, how it is asked in `tasks.engines`."""

    takes_all: ClassVar[bool] = False
    """Whether it refuses no field of a request that a role may ask with, so that nothing need be found out."""

    takes_turns: ClassVar[bool] = False
    """Whether the run serves it on the machine that serves and trains the student too."""

    @abstractmethod
    def model_for(self, role: str) -> str:
        """What the server calls the model that is `teacher` or `judge`."""

    def identity_for(self, role: str) -> str:
        """Provider and revision: the kind with all that shapes its answers, unless the kind says it otherwise."""
        return canonical_json(self.shaping())

    def answers_as(self, role: str) -> ModelIdentity:
        """Under which name its answers as `teacher` or `judge` are stored."""
        return ModelIdentity(self.model_for(role), self.identity_for(role))

    def in_words(self, role: str) -> str:
        """Who answers, for a reader of figures."""
        return f"{self.model_for(role)} ({self.identity_for(role)})"

    @property
    def live(self) -> Self:
        """The same, asked at once and not through a Batch API."""
        return self.model_copy(update={"mode": "live"}) if "mode" in type(self).model_fields else self

    def lacking(self, field: str) -> Iterable[str]:
        """What this machine lacks before a run may start, each with its remedy; ``field`` names it."""
        return ()

    @property
    def name(self) -> str:
        """What it is called in a report."""
        return self.model_for("teacher")

    @property
    def is_standin(self) -> bool:
        """Whether our stand-in answers; as a server of its own too it is known by its model name."""
        return self.model_for("teacher").startswith("standin-")

    @property
    def base_urls(self) -> tuple[str, ...]:
        """Every address outside; none of a server that the run starts."""
        return ()

    @property
    def place(self) -> str:
        """Which model answers, and where: what a speed that was measured is of."""
        return " ".join((self.name, *self.base_urls))

    @property
    def in_batches(self) -> BatchConfig | None:
        """How a Batch API is used; None where it is asked live."""
        return getattr(self, "batch", None) if getattr(self, "mode", "live") == "batch" else None


def _check_texts(texts: dict[str, Any]) -> dict[str, Any]:
    """Texts by name, none of which is a key; each may be the name of an environment variable in its place."""
    for name, value in check_no_key(texts).items():
        if not isinstance(value, str) and environment_name(value) is None:
            raise secret(f'{name} is no text; write it in quotes, or as {{ env = "NAME" }} with the name in capitals')
    return texts


def _check_headers(headers: dict[str, Any]) -> dict[str, Any]:
    """The headers, none of which carries a key: they stand in the run's folder."""
    in_text = (name for name, value in headers.items() if isinstance(value, str))
    if named := [name for name in in_text if name.lower() in ("authorization", "api-key", "x-api-key", "cookie")]:
        raise secret(
            f"{named[0]} carries a key, and is not kept; name the key's variable in api_key_env, and its header in "
            "key_header"
        )
    return _check_texts(headers)


ExtraBody = Annotated[dict[str, Any], AfterValidator(check_no_key)]
"""More fields of a request; a text in them may be `{ env = "NAME" }`."""


class OpenAIEndpoint(EndpointConfig):
    """A server that speaks OpenAI's chat completions."""

    type: Literal["openai"] = "openai"

    base_url: Free[Annotated[str | tuple[str, ...], BeforeValidator(_check_addresses)]] = "https://api.openai.com/v1"
    """Address up to and with `/v1`, or a list that shares the load. Re-runs nothing where `identity` is set."""

    model: Annotated[str, Field(min_length=1)]
    """Model name as the server knows it."""

    identity: Annotated[str, Field(min_length=1)] | None = None
    """Under which answers are re-used, such as `openai-2026-10`; unset: the provider's host and the model."""

    api_key_env: Free[EnvironmentName | None] = "OPENAI_API_KEY"
    """Environment variable that holds the key, which is never stored; `""` for a server without keys."""

    api_key_file: Free[str | None] = None
    """File that holds the key and nothing else, instead of the variable; for machines where secrets are mounted."""

    key_header: Free[HeaderName] = "Authorization"
    """Header that carries the key: as `Bearer` in `Authorization`, else alone, as in Azure's `api-key`."""

    headers: Free[Annotated[dict[HeaderName, Any], AfterValidator(_check_headers)]] = Field({})
    """More headers of every request. They stand in the run's folder; a secret is written `{ env = "NAME" }`."""

    query: Free[Annotated[dict[str, Any], AfterValidator(_check_texts)]] = Field({})
    """What is added to every address, such as Azure's `api-version`; a secret is written `{ env = "NAME" }`."""

    proxy: Free[WebAddress | None] = None
    """HTTP proxy of every request; unset: that of the environment."""

    reasoning_effort: Annotated[str, Field(min_length=1)] | None = None
    """How long a reasoning model thinks, in the provider's word; unset: left out."""

    extra_body: ExtraBody = Field({})
    """More fields of every request, as the provider names them; in place of ours where they have the same name. A
    secret is written `{ env = "NAME" }`: the name alone is kept, and enters keys."""

    thinking: Literal["strip", "keep"] = "strip"
    """Whether the thoughts that a reply begins with are taken out of the answer; `teacher.thinking` says what of kept
    ones is trained."""

    tokens_field: Free[Literal["max_tokens", "max_completion_tokens"] | None] = None
    """What the provider calls the longest answer; unset: found out before the first row is asked."""

    seed: Free[bool | None] = None
    """Whether a drawn sample carries its number as `seed`; false for providers that refuse the field. Left out: yes,
    but not to a local address, for vLLM on a CPU ends of it."""

    requests_per_minute: Free[PositiveFloat | None] = None
    """Most requests sent to one address in a minute; what its response headers say holds in any case."""

    tokens_per_minute: Free[PositiveFloat | None] = None
    """Most prompt and completion tokens asked of one address in a minute; a prompt's are estimated from its length."""

    usd_per_million_prompt_tokens: Free[NonNegativeFloat | None] = None
    """Price of 1,000,000 prompt tokens; unset: the provider's list price, or free at a local address."""

    usd_per_million_completion_tokens: Free[NonNegativeFloat | None] = None
    """Price of 1,000,000 completion tokens; unset: the provider's list price, or free at a local address."""

    mode: Free[Literal["live", "batch"]] = "live"
    """`batch` asks through the Batch API: up to a day later, at half the price. Re-runs nothing."""

    batch: Free[BatchConfig] = BatchConfig()
    """Files and polling of `mode = "batch"`."""

    def model_for(self, _role: str) -> str:
        """The same for every role."""
        return self.model

    def identity_for(self, _role: str) -> str:
        """As the configuration says, with all that shapes answers beside the model."""
        named = self.identity or f"{urlsplit(self.base_urls[0]).hostname}/{self.model}"
        more = self.body_fields | ({"thinking": self.thinking} if self.thinking != "strip" else {})
        return f"{named} {canonical_json(more)}" if more else named

    @property
    def body_fields(self) -> dict[str, Any]:
        """What stands in every request beside messages and sampling."""
        return ({"reasoning_effort": self.reasoning_effort} if self.reasoning_effort else {}) | self.extra_body

    @property
    def base_urls(self) -> tuple[str, ...]:
        """Every address."""
        return (self.base_url,) if isinstance(self.base_url, str) else self.base_url


class StandinEndpoint(EndpointConfig):
    """The offline stand-in, started with the run. It is rule-based and no LLM; it knows its own families only."""

    takes_all: ClassVar[bool] = True

    type: Literal["standin"] = "standin"

    position_bias: NonNegativeFloat = 0.5
    """Points that the judge adds to the answer shown first."""

    noise: NonNegativeFloat = 0.5
    """Standard deviation of the judge's scores, in points; the same request always gets the same noise."""

    prefers: Literal["better", "first", "longer"] = "better"
    """Which of two answers to a benchmark's question it prefers; the last two are faults to be shown."""

    logprobs: bool = True
    """Whether it gives log-probabilities to who asks for them."""

    version: str = STANDIN_VERSION
    """Which stand-in answered. Of an earlier one, there is what the store holds; nothing more can be asked."""

    latency_ms: Free[NonNegativeInt] = 0
    """Milliseconds before each reply."""

    def model_for(self, role: str) -> str:
        """A name for each role."""
        return f"standin-{role}"

    def identity_for(self, role: str) -> str:
        """Its version; as a judge, with what changes its verdicts."""
        if role != "judge":
            return f"standin-{self.version}"
        prefers = "" if self.prefers == "better" else f"-prefers-{self.prefers}"
        logprobs = "" if self.logprobs else "-no-logprobs"
        return f"standin-{self.version}-bias{self.position_bias:g}-noise{self.noise:g}{prefers}{logprobs}"

    def in_words(self, role: str) -> str:
        """Who answers, and that it is no LLM."""
        return f"{self.model_for(role)} ({self.identity_for(role)}; rules, no LLM)"

    @property
    def name(self) -> str:
        """Whatever it is asked as."""
        return "the stand-in"


Role = Literal["probe", "label", "teach", "answer", "judge", "expand", "refine", "benchmark", "rollout", "score"]
"""What a call is for; a column of the store, not part of the key."""

Order = Literal["teacher_first", "student_first"]

ReplyForm = Literal["auto", "json", "text"]
"""`json`: by a JSON schema (`response_format`) where the probe before the first row shows that it is obeyed, else as
`text`; `auto`: the same, but of a stand-in `text` without a probe."""

PanelRule = Literal["mean", "majority"]
"""`mean`: of all who scored. `majority`: of those who named the winner that most named; of all when none leads."""


SHIPPED = ("exact", "numeric", "json_schema", "python_tests")
"""Functions of `tapir_core.verifiers`."""

VerifierUse = Literal["judge", "filter", "heldout"]
"""What a verifier's score stands for: a judge's verdict, whether a teacher's answer is usable, a held-out mark."""


class VerifierConfig(Section):
    """A function that scores answers from 0 to 1 (docs/verifiers.md); a text in place of the table is `function`."""

    function: Annotated[
        str,
        matching(
            rf"{'|'.join(SHIPPED)}|[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*",
            f'is no verifier; write "module:function" for one of your own, or one of {", ".join(SHIPPED)}',
        ),
    ]
    """`module:function` of your own, or a shipped one: `exact`, `numeric`, `json_schema`, `python_tests`."""

    uses: Annotated[tuple[VerifierUse, ...], Field(min_length=1, strict=False), DIFFERENT] = (
        "judge",
        "filter",
        "heldout",
    )
    """`judge`: it scores in the judge's place where it can; `filter`: a teacher's answer that it finds wrong is
    unusable; `heldout`: it marks the held-out set in place of the exact final result."""

    only: bool = False
    """No judge is asked: an instruction that the verifier cannot score is unscored."""

    min_score: Annotated[float, Field(gt=0, le=1)] = 1.0
    """An answer that scores less is wrong: to the filter, and in the held-out set."""

    timeout_seconds: PositiveFloat = 10.0
    """Longest time for one answer."""

    memory_gib: PositiveFloat = 2.0
    """Most address space of its process, in GiB; one that imports a large library needs more."""

    folder: Free[str] = ""
    """Where its module is looked for, before the installed packages; left out: the configuration file's folder."""

    @model_validator(mode="after")
    def _only_as_judge(self) -> "VerifierConfig":
        if self.only and "judge" not in self.uses:
            raise ValueError('only = true asks no judge, and "judge" is not in uses; add it there, or leave `only` out')
        return self

    @property
    def module(self) -> str:
        """Where the function stands."""
        return "tapir_core.verifiers" if self.function in SHIPPED else self.function.partition(":")[0]

    @property
    def path(self) -> list[str]:
        """Folders in which modules are looked for, in this order."""
        return [str(Path(self.folder).absolute()), *(each for each in sys.path if each)]

    @property
    def source(self) -> str | None:
        """File of the user's module, found without running any of it; None where there is none, or it is shipped."""
        if self.function in SHIPPED:
            return None
        # Each part of a dotted name is looked for where the one before it says.
        folders, found = self.path, None
        for name in self.module.split("."):
            spec = PathFinder.find_spec(name, folders)
            if spec is None:
                return None
            folders, found = list(spec.submodule_search_locations or []), spec.origin
        return found if found is not None and Path(found).is_file() else None


def _schema_text(given: Any) -> Any:
    """A schema in canonical JSON, which a configuration keeps in the place of a file."""
    if not given:
        return ""
    import jsonschema  # slow to import, and rarely needed

    try:
        is_file = isinstance(given, str) and not given.lstrip().startswith("{")
        schema = json.loads(Path(given).read_text("utf-8") if is_file else given) if isinstance(given, str) else given
        checker = jsonschema.validators.validator_for(schema)
        checker.check_schema(schema)
        checker(schema).is_valid({})
    except Exception as exc:  # whatever is wrong with it would be wrong with every answer
        why = str(exc).partition("\n")[0]
        raise ValueError(f"cannot be read as a JSON schema ({why}); name a file of this machine that has one") from exc
    return canonical_json(schema)


class TeacherConfig(Section):
    """The strong LLM that labels, answers, expands and refines (the paper's oracle LLM)."""

    endpoint: EndpointConfig
    """Where it answers."""

    answering: Sampling = Sampling(max_tokens=1024)
    """Sampling of the plain answers."""

    answer_schema: Annotated[Later[str], BeforeValidator(_schema_text)] = ""
    """JSON schema that plain answers have to obey, as a table or as the name of a `.json` file: sent as
    `response_format`, strict as in OpenAI's API. An answer that does not obey is not usable (docs/verifiers.md)."""

    thinking: Later[Literal["drop", "keep", "cap"]] = "drop"
    """What is trained of a thought before a plain answer: nothing; all of it; with `"cap"` one that is not longer than
    `thinking_tokens`, and nothing of a longer one. Below 3B dropping is better (arXiv 2509.22193, 2502.12143)."""

    thinking_tokens: Later[PositiveInt] = 1024
    """Longest thought for `"cap"`, in tokens, which are estimated from its characters."""

    answers_per_prompt: Later[PositiveInt] = 1
    """Plain answers that the teacher gives to each instruction of the pool; more than one need a temperature above 0.
    New instructions, and rows that bring their answer, have one. What the verifier finds wrong is left out."""

    answers_used: Later[Literal["all", "best", "likeliest"]] = "all"
    """Of several answers: `all` are trained, in rounds that imitate; `best`: the one that the verifier scores highest;
    `likeliest`: from round 1 the one with the highest mean log-probability under S_0 (as arXiv 2502.04194). Verdicts,
    held-out sets and rollouts go by one."""

    takes_refusals: Later[bool] = False
    """Whether an answer that refuses, or repeats what was asked, is usable: for a model that is to be copied with its
    refusals (docs/adopt.md)."""

    labelling: Sampling = Sampling(max_tokens=256)
    """Sampling of the task-type labels."""

    expanding: Sampling = Sampling(temperature=1.0, max_tokens=1024)
    """Sampling of new instructions; each sample has an index of its own."""

    refining: Sampling = Sampling(max_tokens=2048)
    """Sampling of refined answers."""

    terms: Free[str | None] = None
    """Licence or terms under which its answers may be trained on; stands in the model card of `tapir export`."""

    reasks: NonNegativeInt = 2
    """Times that a reply which cannot be parsed (label, expansion) is asked for again."""

    label_replies: ReplyForm = "text"
    """`json` asks for labels by a JSON schema; where the endpoint obeys none, the run has `text`, and says so."""

    def answers_trained(self, objective: str) -> int:
        """Most answers to one instruction that a round of this objective is trained on."""
        return self.answers_per_prompt if self.answers_used == "all" and objective == "imitate" else 1

    @property
    def takes_likeliest(self) -> bool:
        """Whether S_0 says which of several answers later rounds learn from."""
        return self.answers_per_prompt > 1 and self.answers_used == "likeliest"

    @model_validator(mode="before")
    @classmethod
    def _keep_thoughts(cls, given: Any) -> Any:
        """What is to be trained its endpoint keeps."""
        match given:
            case {"endpoint": {"type": "openai" | "vllm"} as endpoint} if given.get("thinking", "drop") != "drop":
                return {**given, "endpoint": {"thinking": "keep", **endpoint}}
        return given


class AskedAs(NamedTuple):
    """What a value of `judge.mode` means; `tapir_core.judging.verdict` says what a judge replies."""

    prompt: str
    """Name of its prompt."""
    shows_both: bool
    """Whether both answers stand in one prompt, in each of `judge.orders`; else one, and its one order is its name."""


ASKED_AS = {
    "pairwise": AskedAs("judge", shows_both=True),
    "pointwise": AskedAs("judge_pointwise", shows_both=False),
}
if TYPE_CHECKING:
    JudgeModeName = str
else:
    JudgeModeName = Literal[tuple(ASKED_AS)]


class JudgeConfig(Section):
    """The LLM that scores student against teacher; may be the teacher with another prompt."""

    endpoint: EndpointConfig = Field(json_schema_extra={"default_in_words": "default the teacher's"})
    """Where it answers, of a panel the first judge."""

    panel: Annotated[tuple[EndpointConfig, ...], Field(strict=False)] = ()
    """More judges, each with the fields of an endpoint in a `[[judge.panel]]`: every judge scores every pair."""

    panel_rule: PanelRule = "mean"
    """How a panel's scores become one: the mean of all judges, or of the `majority` that names the same winner."""

    mode: JudgeModeName = "pairwise"
    """`pairwise` shows both answers in one prompt; `pointwise` scores one answer a call, the teacher's only once."""

    orders: Annotated[tuple[Order, ...], Field(min_length=1, max_length=2, strict=False), DIFFERENT] = (
        "teacher_first",
        "student_first",
    )
    """Orders in which the two answers are shown; an instruction is scored only when every order is."""

    sampling: Sampling = Sampling(max_tokens=1024)
    """Sampling of verdicts."""

    reasks: NonNegativeInt = 2
    """Times that a verdict which cannot be parsed is asked for again before it is unscored."""

    replies: ReplyForm = "auto"
    """Verdicts by a JSON schema where a judge obeys one (`json`, and `auto` but of the stand-in), else as `text`; the
    run says and keeps which. Small models keep to a schema where they forget a last line."""

    verifier: Annotated[VerifierConfig, short_form("function")] | None = None
    """A Python function that scores answers: `"module:function"`, a shipped one, or a table (docs/verifiers.md)."""

    @property
    def marker(self) -> VerifierConfig:
        """What tells right answers from wrong ones without a judge: the verifier, or the exact final result."""
        return self.verifier or VerifierConfig(function="exact")

    def verifies(self, use: VerifierUse) -> VerifierConfig | None:
        """The verifier, if it has this use."""
        return self.verifier if self.verifier and use in self.verifier.uses else None

    @property
    def marks_without_reference(self) -> bool:
        """Whether held-out rows need no reference: a verifier of the user's own marks them, and may do without."""
        verifier = self.verifies("heldout")
        return verifier is not None and verifier.function not in SHIPPED

    @property
    def asked_as(self) -> AskedAs:
        """What its mode means."""
        return ASKED_AS[self.mode]

    @property
    def expected_orders(self) -> tuple[str, ...]:
        """The orders that an instruction must be scored in before it counts as scored."""
        return self.orders if self.asked_as.shows_both else (self.mode,)

    @property
    def verdicts_per_instruction(self) -> int:
        """Rows of ``verdicts/`` that an instruction gets: one an order and judge; of a verifier, one an order."""
        return len(self.expected_orders) * max(1, len(self.endpoints))

    @property
    def endpoints(self) -> dict[str, EndpointConfig]:
        """Every judge's endpoint by the field that sets it, the first judge first; none beside `verifier.only`."""
        if self.verifier and self.verifier.only:
            return {}
        return {
            "judge.endpoint": self.endpoint,
            **{f"judge.panel.{place}": endpoint for place, endpoint in enumerate(self.panel)},
        }

    @property
    def identities(self) -> tuple[ModelIdentity, ...]:
        """Every judge's, the first judge first."""
        return tuple(endpoint.answers_as("judge") for endpoint in self.endpoints.values())

    @property
    def names(self) -> tuple[str, ...]:
        """What every judge is called, the first first: its model, with its identity where two have the same model."""
        models = [model for model, _ in self.identities]
        return tuple(
            model if models.count(model) == 1 else f"{model} ({identity})" for model, identity in self.identities
        )

    @property
    def all_names(self) -> tuple[str, ...]:
        """Who gives verdicts: the verifier where it is used so, by its function, then every judge."""
        verifier = self.verifies("judge")
        return (*([verifier.function] if verifier else []), *self.names)
