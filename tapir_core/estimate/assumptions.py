"""What nobody knows before a run, with a likely value and the two ends between which it may lie.

The figures are stated here and nowhere else, and the estimate repeats them in words. The stand-in has its own: it is
rules, so that little is open. Scenarios are the likely values together, and every combination of the ends.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from itertools import product
from typing import Generic, TypeVar

from tapir_core.calls import Role
from tapir_core.config import EndpointConfig

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Range:
    """Likely value, and the ends: the one that makes few or cheap calls, and the one that makes many."""

    few: float
    likely: float
    many: float


@dataclass(frozen=True, kw_only=True)
class _Open(Generic[T]):
    """What is open before a run: its range, or in a scenario its value."""

    usable_share: T
    """Instructions with a usable teacher answer and a task type."""
    hard_share: T
    """Scored instructions above δ, where a threshold selects; few seeds mean many expansions."""
    passes_share: T
    """New instructions that pass the gates on their text."""
    keeps_type_share: T
    """Of these, the ones whose label is the wanted task type."""
    skew: T
    """How unevenly the pool's task types are spread, where they are not known: share of the k-th ∝ 1 / k^skew."""
    unevenness: T
    """How unequally hard the task types are: of three, one has this much fewer seeds than its share of the pool would
    give it, and one as much more. What few have, new instructions must fill."""
    reask_share: T
    """Labels, expansions and verdicts that are asked for once more because they cannot be parsed."""
    repeat_half_tokens: T
    """Of two greedy answers to one instruction, a share is equal word for word: it halves every so many tokens. Equal
    answers make equal judge prompts, which are paid once."""
    length: T
    """Factor on the completion tokens below."""
    pace: T
    """Factor on the seconds of a call."""
    batch_hours: T
    """One batch from upload to result, whatever its size; 24 hours are what providers promise."""


Scenario = _Open[float]
"""One value for everything that is open."""


@dataclass(frozen=True, kw_only=True)
class Priors(_Open[Range]):
    """What is assumed of a teacher and a judge of one kind."""

    batch_hours: Range = Range(0.2, 2.0, 24.0)
    completion_tokens: dict[Role, float]
    """Of one reply, where the store has no history of the model; an expansion adds the length of an instruction."""


MODEL = Priors(
    usable_share=Range(0.9, 0.98, 1.0),
    hard_share=Range(0.75, 0.3, 0.15),
    passes_share=Range(1.0, 0.85, 0.6),
    keeps_type_share=Range(1.0, 0.8, 0.6),
    skew=Range(0.0, 1.0, 2.0),
    unevenness=Range(0.0, 0.7, 1.0),
    reask_share=Range(0.0, 0.01, 0.1),
    repeat_half_tokens=Range(10.0, 5.0, 1.0),
    length=Range(0.5, 1.0, 2.0),
    pace=Range(0.5, 1.0, 3.0),
    completion_tokens={
        "label": 12,
        "teach": 250,
        "answer": 250,
        "judge": 120,
        "expand": 20,
        "refine": 400,
        "benchmark": 150,
    },
)
"""Large language models behind an API."""

STANDIN = Priors(
    usable_share=Range(0.97, 1.0, 1.0),
    hard_share=Range(0.9, 0.7, 0.4),
    passes_share=Range(1.0, 0.99, 0.9),
    keeps_type_share=Range(1.0, 1.0, 0.95),
    skew=Range(0.0, 1.0, 2.0),
    unevenness=Range(0.0, 0.7, 1.0),
    reask_share=Range(0.0, 0.0, 0.01),
    repeat_half_tokens=Range(10.0, 5.0, 2.0),
    length=Range(0.8, 1.0, 1.5),
    pace=Range(0.5, 1.0, 3.0),
    completion_tokens={"label": 4, "teach": 4, "answer": 7, "judge": 28, "expand": 5, "refine": 16, "benchmark": 20},
)
"""Our rule-based stand-in, on its own verifiable instructions."""

BACKBONE_SHARE = 0.75
"""Of the student's `max_tokens` that an untouched backbone uses on average: it has not learnt to stop."""

NEW_ARE_HARD = 0.6
"""Share of new instructions that the difficulty check keeps: they imitate hard ones."""

KNOWN_POWER = 0.4
"""What the store or an earlier run shows is less open: its factor counts to this power."""

STANDIN_SECONDS = 0.004
"""The stand-in's work for one reply; it works at one at a time."""

FIRST_TOKEN_SECONDS = {"teacher": 0.7, "judge": 0.7, "student": 0.5}
TOKENS_PER_SECOND = {"teacher": 60.0, "judge": 60.0, "student": 40.0}
"""Of one reply among as many as the configuration keeps in flight."""

_TOGETHER = (
    ("hard_share",),
    ("passes_share", "keeps_type_share"),
    ("skew", "unevenness"),
    ("usable_share", "reask_share", "repeat_half_tokens", "length", "pace", "batch_hours"),
)
"""What goes to an end together; the groups are independent of each other."""


def priors_of(endpoint: EndpointConfig) -> Priors:
    """What is assumed of an endpoint."""
    return STANDIN if endpoint.is_standin else MODEL


def scenarios(priors: Priors) -> Iterator[Scenario]:
    """The likely scenario first, then every combination of the ends."""
    ranges: dict[str, Range] = {each.name: getattr(priors, each.name) for each in fields(_Open)}
    yield Scenario(**{name: each.likely for name, each in ranges.items()})
    for ends in product(("few", "many"), repeat=len(_TOGETHER)):
        end_of = {name: end for group, end in zip(_TOGETHER, ends, strict=True) for name in group}
        yield Scenario(**{name: getattr(each, end_of[name]) for name, each in ranges.items()})
