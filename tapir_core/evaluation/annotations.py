"""Judgments of AlpacaEval 2.0: the order of the outputs, what the annotator says, win rates, files of judgments.

The scale of a preference: 1 the baseline's output is better, 2 the model's, between them a probability, 1.5 a draw.
The annotator is asked for one token, the identifier of the better output: ``m`` is the one shown first, ``M`` the
one shown second. Source: tatsu-lab/alpaca_eval, annotator `weighted_alpaca_eval_gpt4_turbo`.

Annotations are a JSON list or JSON lines, one object a judgment: ``preference`` with ``output_1`` (the baseline's) and
``output_2`` (the model's), as in the original's ``annotations.json``; or with ``len_baseline`` and ``len_model`` in
their place. ``switched`` (whether the model's output was shown first) may be there, and who they are of: ``annotator``,
``generator_1`` (the baseline), ``model`` or ``generator_2``; other fields are passed over.
"""

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tapir_core.errors import ConfigError
from tapir_core.evaluation.rows import BadRowError, answer_of, parse_rows, read_rows, text_of
from tapir_core.evaluation.statistics import MAX_FAILED_SHARE, PERCENT, Figure, estimate_difference, mean_figure
from tapir_core.judging.estimates import Estimate
from tapir_core.text import Unparsed

BASELINE, DRAW, MODEL = 1.0, 1.5, 2.0
"""Preferences at the ends of the scale and in its middle."""

FIRST, SECOND = "m", "M"
"""Identifiers of the output shown first and of the one shown second."""

_AROUND_A_CHOICE = " \t\r\n\"'`*.()[]"

_LENGTHS = {"baseline_chars": ("len_baseline", "output_1"), "model_chars": ("len_model", "output_2")}
_LISTED = 5
_NAMES = {"model": ("model", "generator_2"), "annotator": ("annotator",), "baseline": ("generator_1",)}
"""Who judgments are of, and the fields that name them, the first one that is there."""


@dataclass(frozen=True, slots=True)
class Annotation:
    """One judgment, as the figures take it."""

    preference: float | None
    """1-2; None when it failed."""
    model_chars: int
    """Length of the model's output in code points."""
    baseline_chars: int
    """Length of the baseline's output in code points."""
    switched: bool | None = None
    """Whether the model's output was shown first; None where nobody wrote it down."""

    @property
    def win(self) -> float | None:
        """The probability that the model's output is better, 0-1; None when the judgment failed."""
        return None if self.preference is None else self.preference - BASELINE


@dataclass(frozen=True, slots=True)
class WinRates:
    """How often the model's output is better than the baseline's."""

    win_rate: Figure
    """Mean probability that the model's output is better, in per cent; its standard error is the published one."""
    discrete: Figure
    """Share of judgments that the model wins, a draw as one half, in per cent."""
    n_wins: int
    n_wins_base: int
    n_draws: int
    """Judgments of exactly 1.5."""


@dataclass(frozen=True, slots=True)
class AnnotationFile:
    """The judgments of one model, by one annotator, against one baseline."""

    judged: list[Annotation]
    """In the order of the file."""
    names: dict[str, str]
    """``model``, ``annotator`` and ``baseline``, those that rows name."""

    @property
    def in_words(self) -> str:
        """Whose judgments they are; empty where no row says so."""
        return "; ".join(f"{who}: {name}" for who, name in self.names.items())


def is_switched(instruction: str) -> bool:
    """Whether the model's output is shown first: drawn from the instruction alone, so equal for every model.

    The draw is the original's (its seed is 0), since its judgments are only met in its orders.
    """
    return random.Random(f"is_switched_outputs{instruction}0").choices([False, True], k=1)[0]


def preference_from_logprobs(logprobs: Mapping[str, float], *, switched: bool) -> float | Unparsed:
    """The preference (1-2) that the first token's log-probabilities give.

    Args:
        logprobs: token → natural logarithm of its probability, for the most likely first tokens. An identifier that
            is not among them has probability 0; all other tokens are disregarded.
        switched: whether the model's output was shown first.
    """
    found = {token: logprobs[token] for token in (FIRST, SECOND) if token in logprobs}
    highest = max(found.values(), default=-math.inf)
    if highest == -math.inf:
        return Unparsed("no identifier among the tokens")
    first, second = (math.exp(found[token] - highest) if token in found else 0.0 for token in (FIRST, SECOND))
    return _unswitched(first / (first + second), switched)


def preference_from_choice(reply: str | None, *, switched: bool) -> float | Unparsed:
    """1 or 2, from a reply that is an identifier and nothing else but blanks, quotation marks or brackets."""
    choice = (reply or "").strip(_AROUND_A_CHOICE)
    if choice not in (FIRST, SECOND):
        return Unparsed("no identifier")
    return _unswitched(float(choice == FIRST), switched)


def kept_preference(stored: float | None) -> float | None:
    """The preference (1-2) that a stored one means; None when the judgment failed.

    Failed is what is None, NaN or off the scale (-1 is the original's mark). 0 is an old spelling of a draw.
    """
    if stored == 0:
        return DRAW
    return stored if stored is not None and BASELINE <= stored <= MODEL else None


def measure_win_rates(judged: Sequence[Annotation], *, max_failed_share: float = MAX_FAILED_SHARE) -> WinRates:
    """Win rates over one model's judgments; above ``max_failed_share`` (0-1) of failures there are none."""
    shares = [None if each.win is None else 100 * each.win for each in judged]
    outcomes = [None if share is None else 50.0 if share == 50 else 100.0 * (share > 50) for share in shares]
    return WinRates(
        mean_figure(shares, scale=PERCENT, max_failed_share=max_failed_share),
        mean_figure(outcomes, scale=PERCENT, max_failed_share=max_failed_share),
        n_wins=outcomes.count(100.0),
        n_wins_base=outcomes.count(0.0),
        n_draws=outcomes.count(50.0),
    )


def measure_position(judged: Sequence[Annotation]) -> Estimate:
    """How much standing first raises the model's win rate, in points of 100.

    Between different instructions, since each is shown in one order only: the rate where the model's output stood
    first minus the rate where it stood second. `judging.agreement.favoured_position` reads it.
    """
    known = [(each.switched, 100 * each.win) for each in judged if each.win is not None]
    first, second = ([win for switched, win in known if switched is side] for side in (True, False))
    return estimate_difference(first, second)


def read_annotations(path: str) -> AnnotationFile:
    """Judgments, and whose they are.

    Raises:
        ConfigError: the file cannot be read, holds no judgment or those of several models, annotators or baselines, or
            has a row that is none.
    """
    rows = read_rows(path, lambda row: (_annotation(row), {who: _name(row, who) for who in _NAMES}), "annotation")
    found = {who: list(dict.fromkeys(name for _, names in rows if (name := names[who]) is not None)) for who in _NAMES}
    if several := [f"{len(names)} {who}s ({_some(names)})" for who, names in found.items() if len(names) > 1]:
        raise ConfigError(
            f"{path!r} holds judgments of {' and '.join(several)}; give those of one, since figures are of one model, "
            "by one annotator, against one baseline"
        )
    return AnnotationFile([each for each, _ in rows], {who: name for who, names in found.items() for name in names})


def read_outputs(path: str) -> dict[str, str | None]:
    """Instruction → output of one model: a JSON list or JSON lines with ``instruction`` and ``output``.

    An output that failed (`null` or ``$ERROR$``) is nothing.

    Raises:
        ConfigError: the file cannot be read, has a row that is no output, or different outputs to one instruction.
    """
    outputs = read_rows(path, _output, "output")
    # The first of several counts for the comparison below, and there is no other.
    found = dict(reversed(outputs))
    twice = {
        instruction: (found[instruction], output) for instruction, output in outputs if found[instruction] != output
    }
    if twice:
        shown = [
            f"{_begin(instruction)}: {_begin(first)} and {_begin(second)}"
            for instruction, (first, second) in list(twice.items())[:_LISTED]
        ]
        raise ConfigError(
            f"{path!r} has different outputs to {len(twice)} of its instructions ({'; '.join(shown)}); keep one of each"
        )
    return found


def annotations_by_model(text: str, path: str) -> list[list[Annotation]]:
    """The judgments in ``text``, of each model that its rows name; ``path`` is named in messages.

    Raises:
        ConfigError: ``text`` is damaged, holds nothing, or has a row that is no judgment.
    """
    models: dict[str | None, list[Annotation]] = {}
    for model, annotation in parse_rows(text, path, lambda row: (_name(row, "model"), _annotation(row)), "annotation"):
        models.setdefault(model, []).append(annotation)
    return [*models.values()]


def _unswitched(first_is_better: float, switched: bool) -> float:
    return BASELINE + first_is_better if switched else MODEL - first_is_better


def _output(fields: Mapping[str, Any]) -> tuple[str, str | None]:
    if "output" not in fields:
        raise BadRowError(f"no output (found {', '.join(map(str, fields)) or 'nothing'})")
    return text_of(fields, "instruction"), answer_of(fields["output"], "output")


def _begin(text: str | None) -> str:
    return "none" if text is None else repr(text[:60])


def _name(fields: Mapping[str, Any], who: str) -> str | None:
    found = next((fields[field] for field in _NAMES[who] if field in fields), None)
    return None if found is None else str(found)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_LISTED]) + (", …" if len(names) > _LISTED else "")


def _annotation(fields: Mapping[str, Any]) -> Annotation:
    if "preference" not in fields:
        raise BadRowError(f"no preference (found {', '.join(map(str, fields)) or 'nothing'})")
    stored, switched = fields["preference"], fields.get("switched")
    if stored is not None and (isinstance(stored, bool) or not isinstance(stored, int | float)):
        raise BadRowError(f"preference must be a number or null, got {stored!r}")
    if not isinstance(switched, bool | None):
        raise BadRowError(f"switched must be true, false or null, got {switched!r}")
    lengths = {name: _length(fields, *sources) for name, sources in _LENGTHS.items()}
    return Annotation(kept_preference(stored), switched=switched, **lengths)


def _length(fields: Mapping[str, Any], length: str, output: str) -> int:
    if isinstance(found := fields.get(length), int):
        return found
    if isinstance(text := fields.get(output), str):
        return len(text)
    raise BadRowError(f"neither {length} (a whole number) nor {output} (a text)")
