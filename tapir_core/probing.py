"""Probes endpoints before the first paid row: one short request for each role, with the role's parameters.

Models refuse different fields: a temperature, `top_p`, a seed, the older name of the token limit. A refused field is
left out from then on (the token limit is renamed, because it limits costs), and the change is written into the run's
configuration, so that stage keys and request keys say what was asked. Every change is reported. If replies by a JSON
schema are wanted, the probe asks for one; an endpoint that replies otherwise is asked for text.

Limits: a field that a provider accepts and ignores looks as if it were obeyed.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tapir_core import errors, run_folder
from tapir_core.calls.types import Answer, Failure, Message, Outcome, Request, unsupported_remedy
from tapir_core.config import EndpointConfig, ReplyForm, RunConfig, Sampling
from tapir_core.config.load import with_changes
from tapir_core.json_reply import JsonReply
from tapir_core.text import Unparsed, canonical_json, digest, shorten

PROMPT = "Reply with the one word: ready"
"""What a probe asks."""
_SAME = {"max_tokens": "tokens_field", "max_completion_tokens": "tokens_field", "top_logprobs": "logprobs"}
"""Field of a request → what the configuration calls it."""

Ask = Callable[[str, EndpointConfig, Request], Outcome]
"""Sends a request to an endpoint, named by its field of the configuration."""


@dataclass(frozen=True, slots=True)
class _Probe:
    """One endpoint with one sampling."""

    where: str
    """Field that sets the endpoint."""
    how: str
    """Field that sets the sampling."""
    endpoint: EndpointConfig
    sampling: Sampling
    role: str
    top_logprobs: int = 0
    replies: str = ""
    """Field that asks for replies by a JSON schema; empty for text replies."""
    is_open: bool = False
    """Whether that field is `auto`, so that the probe decides."""

    @property
    def asked(self) -> str:
        """Digest of everything that is probed."""
        asked = [self.endpoint.model_dump(mode="json"), self.sampling.model_dump(mode="json")]
        return digest([*asked, self.replies] if self.replies else asked)


class _Word(JsonReply):
    word: str


def settle(
    config: RunConfig, known: Mapping[str, run_folder.Settled], ask: Ask, *, of: str = ""
) -> tuple[RunConfig, dict[str, run_folder.Settled]]:
    """The configuration without what its endpoints refuse, and the results of all probes.

    ``known`` are results of an earlier start of the run; they are not probed again. If an endpoint does not answer or a
    cap is reached, its fields stay as they are, and the stage reports the error. ``of`` limits the probes to samplings
    whose field begins with it.

    Raises:
        ConfigError: an endpoint refuses a field that must not be left out; with its message and the remedy.
    """
    found: dict[str, run_folder.Settled] = {}
    for name in [name for name, probe in _probes(config).items() if probe.how.startswith(of)]:
        # By the changed configuration: the result of one probe holds for the next one of the same endpoint.
        if probe := _probes(config).get(name):
            before = known.get(name)
            settled = before if before and before.asked == probe.asked else _settled(config, name, probe.asked, ask)
            if settled is not None:
                found[name], config = settled, with_changes(config, settled.changes)
    return config, found


def as_settled(config: RunConfig, known: Mapping[str, run_folder.Settled]) -> RunConfig:
    """The configuration as the probes of an earlier start left it; nothing is probed."""
    return settle(config, known, lambda *_: Failure("stopped", "not probed"))[0]


def in_words(found: Mapping[str, run_folder.Settled]) -> Iterator[str]:
    """One line for each change of the configuration, with the endpoint's message."""
    return (
        f"In this run {names} = {value}, because the endpoint said: {said}"
        for names, value, said in run_folder.by_words(found)
    )


def _probes(config: RunConfig) -> dict[str, _Probe]:
    """All samplings of all endpoints that may refuse something, by name."""
    teacher, judge = config.teacher, config.judge
    probes: list[_Probe] = []
    for name in ("labelling", "answering", "expanding", "refining"):
        sampling, replies = getattr(teacher, name), teacher.label_replies if name == "labelling" else "text"
        form = _by_schema("teacher.label_replies", replies, teacher.endpoint)
        probes.append(_Probe("teacher.endpoint", f"teacher.{name}", teacher.endpoint, sampling, "teacher", 0, *form))
    for where, endpoint in judge.endpoints.items():
        form = _by_schema("judge.replies", judge.replies, endpoint)
        probes.append(_Probe(where, "judge.sampling", endpoint, judge.sampling, "judge", 0, *form))
    for name, benchmark in config.evaluation.judged.items():
        where = "judge.endpoint" if benchmark.judge is None else f"evaluation.benchmarks.{name}.judge"
        how, endpoint = f"evaluation.benchmarks.{name}.sampling", config.judge_of(benchmark)
        probes.append(_Probe(where, how, endpoint, benchmark.sampling, "judge", benchmark.logprobs_asked))
    # The stand-in accepts all parameters, but no schema.
    asked = (each for each in probes if each.replies or not each.endpoint.takes_all)
    return {f"{each.how} at {each.where}": each for each in asked}


def _by_schema(field: str, wished: ReplyForm, endpoint: EndpointConfig) -> tuple[str, bool]:
    """The field that asks for replies by a schema, if one does, and whether the probe decides on it."""
    is_text = wished == "text" or (wished == "auto" and endpoint.takes_all)
    return ("", False) if is_text else (field, wished == "auto")


def _settled(config: RunConfig, name: str, asked: str, ask: Ask) -> run_folder.Settled | None:
    changes: dict[str, Any] = {}
    said: list[str] = []
    while probe := _probes(with_changes(config, changes)).get(name):
        outcome = ask(probe.where, probe.endpoint, _request(probe))
        refusal = _refusal(probe, outcome)
        if refusal is None:
            if probe.is_open and isinstance(outcome, Answer):
                changes[probe.replies] = "json"
                said.append(_replied(outcome.text))
            break
        if not refusal.parameter:
            _refuse(probe, refusal)
            return None
        field, value = _without(probe, refusal)
        changes[field] = value
        said.append(refusal.said or refusal.message)
    return run_folder.Settled(asked, changes, tuple(said))


def _refusal(probe: _Probe, outcome: Outcome) -> Failure | None:
    """Why an endpoint does not accept a probe; None if it does."""
    # An endpoint that refuses the prompt, or has no room for it, has accepted the fields.
    if isinstance(outcome, Failure) and outcome.kind not in ("refused", "too_long"):
        return outcome
    text = outcome.message if isinstance(outcome, Failure) else outcome.text
    if not probe.replies or not isinstance(_Word.read(text), Unparsed):
        return None
    return Failure("unsupported", _replied(text), parameter="response_format")


def _replied(text: str) -> str:
    return f"to a request for JSON by a schema it replied {shorten(text, 80)!r}"


def _without(probe: _Probe, refusal: Failure) -> tuple[str, Any]:
    """The field of the configuration to change, and its value, if the endpoint refuses a field of the request.

    Raises:
        ConfigError: the field must not be left out, or was left out and is refused all the same.
    """
    name = _SAME.get(refusal.parameter, refusal.parameter)
    if name in ("temperature", "top_p") and getattr(probe.sampling, name) != "provider":
        return f"{probe.how}.{name}", "provider"
    if name == "seed" and getattr(probe.endpoint, "seed", False) is not False:
        return f"{probe.where}.seed", False
    if name == "response_format" and probe.replies:
        return probe.replies, "text"
    if name == "tokens_field" and getattr(probe.endpoint, "tokens_field", "") is None:
        # Renamed and never left out: it limits the cost of an answer.
        other = {"max_tokens": "max_completion_tokens", "max_completion_tokens": "max_tokens"}[refusal.parameter]
        return f"{probe.where}.{name}", other
    remedy = unsupported_remedy(refusal.parameter)
    if name == "logprobs" and probe.top_logprobs:
        remedy = f"Set {probe.how.removesuffix('.sampling')}.top_logprobs = 0, or let another judge judge it"
    raise errors.ConfigError(f"{probe.where}: {probe.endpoint.name} said: {refusal.said or refusal.message}. {remedy}")


def _refuse(probe: _Probe, failure: Failure) -> None:
    """Raise ConfigError if every row would fail as the probe did."""
    by_kind = {
        "used_up": f"{probe.how}.max_tokens: value {probe.sampling.max_tokens}: {failure.message}",
        "bad_request": f"{probe.where}: {probe.endpoint.name} refuses what {probe.how} asks: {failure.message}. "
        "Correct it, or the endpoint's extra_body",
    }
    if said := f"{probe.where}: {failure.message}" if failure.refuses_all else by_kind.get(failure.kind):
        raise errors.ConfigError(said)


def _request(probe: _Probe) -> Request:
    endpoint = probe.endpoint
    # These fields change no answer, but whether the probe gets one.
    sent = endpoint.model_dump(include={"tokens_field", "seed"})
    return Request(
        role="probe",
        messages=(Message("user", PROMPT),),
        model=endpoint.model_for(probe.role),
        identity=f"{endpoint.identity_for(probe.role)} {canonical_json(sent)}",
        sampling=probe.sampling,
        # With a seed, because every re-ask has one.
        sample_index=1,
        top_logprobs=probe.top_logprobs,
        schema=_Word.schema_text() if probe.replies else "",
    )
