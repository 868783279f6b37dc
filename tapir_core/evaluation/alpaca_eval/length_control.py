"""The length-controlled win rate of AlpacaEval 2.0: what the win rate would be, were both outputs equally long. Pure.

One small regression a model: the log-odds of the model's win are ``theta t + phi d + psi``, with t the tanh of how much
longer the baseline's output is, in standard deviations; d how beatable the baseline is on the instruction (a published
table); psi the model. *Anchors* hold theta and phi: judgments of the baseline model told to be long, or brief, against
itself, for which psi counts nothing. The rate is the mean prediction with t = 0.

Kept from the original, since its published figures rest on it: d is looked up by the row's place in its file, so a file
that lacks rows shifts it; the standard error is the spread of predictions over instructions, no sampling error.
Departures: an exact solver (`logistic`), and folds dealt row by row from the last, where the original's depend on the
build of numpy that sorts equal numbers (up to 0.15 points). And judgments that are all a win, a loss or a draw, without
log-probabilities, enter the fit as 99.8, 0.2 and 50 %: where lengths alone part wins from losses, psi could else be
anything.

Without anchors and difficulty this is the original's ``length_controlled_minimal``: never beside a published rate.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from tapir_core.evaluation.alpaca_eval.logistic import Floats, SoftRows, fit_logistic, log_loss, sigmoid
from tapir_core.evaluation.alpaca_eval.preference import BASELINE, DRAW, Annotation
from tapir_core.judging.estimates import Estimate, estimate_mean

__all__ = [
    "STRENGTHS",
    "Anchors",
    "LengthModel",
    "choose_strength",
    "control_length",
    "fit_length_model",
    "is_far_from",
    "join_anchors",
    "make_anchors",
    "predict_win_rate",
]

STRENGTHS = tuple(10 ** (-4 + 8 * step / 9) for step in range(10))
"""Values of C that cross-validation chooses from."""

_FOLDS = 5
_ANCHOR_WEIGHT = 0.1
"""0.2 shared by the two anchor models."""
_DOUBT = 0.002
"""Left to the other side of a judgment that only names a winner."""


@dataclass(frozen=True, slots=True)
class LengthModel:
    """Coefficients of one model's regression."""

    theta: float
    """Of the length; negative where the annotator favours the longer output."""
    phi: float
    """Of the difficulty."""
    psi: float
    """Of the model."""


@dataclass(frozen=True, slots=True)
class Anchors:
    """Judgments of anchor models, as the regression takes them; one place a judgment."""

    lengths: Floats
    """t."""
    difficulty: Floats
    """d."""
    wins: Floats
    """Labels, 0-1."""


def make_anchors(judged: Sequence[Annotation], difficulty: Sequence[float]) -> Anchors:
    """One anchor model's judgments, in the order of the table; the failed ones are left out."""
    kept = np.array([each.preference is not None for each in judged])
    wins = np.array([each.preference - BASELINE for each in judged if each.preference is not None])
    if np.isin(wins, (0.0, 0.5, 1.0)).all():
        wins = wins.clip(_DOUBT, 1 - _DOUBT)
    return Anchors(_lengths(judged)[kept], np.array(difficulty[: len(judged)])[kept], wins)


def join_anchors(parts: Sequence[Anchors]) -> Anchors:
    """All anchor models' judgments, one model after the other."""
    none = np.zeros(0)
    return Anchors(
        np.concatenate([none, *(each.lengths for each in parts)]),
        np.concatenate([none, *(each.difficulty for each in parts)]),
        np.concatenate([none, *(each.wins for each in parts)]),
    )


def control_length(judged: Sequence[Annotation], difficulty: Sequence[float], anchors: Anchors) -> Estimate:
    """The length-controlled win rate in per cent, with the strength chosen by cross-validation.

    Its ``stderr`` is the original's ``lc_standard_error``; there is no interval, because that is no sampling error.

    Args:
        judged: the model's judgments, in the order of the file.
        difficulty: the table, at least as long.
        anchors: judgments of the anchor models.
    """
    strength = choose_strength(judged, difficulty, anchors)
    return predict_win_rate(fit_length_model(judged, difficulty, anchors, strength), difficulty[: len(judged)])


def fit_length_model(
    judged: Sequence[Annotation], difficulty: Sequence[float], anchors: Anchors, strength: float
) -> LengthModel:
    """The coefficients at C = ``strength``; all 0 for the baseline against itself."""
    if _is_baseline(judged):
        return LengthModel(0.0, 0.0, 0.0)
    return LengthModel(*map(float, fit_logistic(_rows(judged, difficulty, anchors), strength)))


def choose_strength(judged: Sequence[Annotation], difficulty: Sequence[float], anchors: Anchors) -> float:
    """The C with the lowest loss over five folds; the first of equals."""
    rows = _rows(judged, difficulty, anchors)
    n = rows.labels.size
    fold_of = np.arange(n)[::-1] % _FOLDS
    losses = np.zeros(len(STRENGTHS))
    for fold in range(min(_FOLDS, n)):
        inside, beta = fold_of == fold, None
        for place, strength in enumerate(STRENGTHS):
            beta = fit_logistic(rows.take(~inside), strength, beta)
            losses[place] += log_loss(rows.take(inside), beta)
    return STRENGTHS[int(np.argmin(losses))]


def predict_win_rate(model: LengthModel, difficulty: Sequence[float]) -> Estimate:
    """The rate in per cent that the coefficients predict at equal lengths, over these instructions."""
    found = estimate_mean((100 * sigmoid(model.phi * np.array(difficulty) + model.psi)).tolist())
    return replace(found, low=None, high=None, why="the spread of predictions is no sampling error")


def is_far_from(controlled: float, raw: float) -> bool:
    """True when the controlled rate is so far from the raw one (per cent) that the regression is to be doubted."""
    return controlled < min(raw - raw / 4, raw - 10) or controlled > max(raw + (100 - raw) / 4, raw + 10)


def _rows(judged: Sequence[Annotation], difficulty: Sequence[float], anchors: Anchors) -> SoftRows:
    """Anchors first. Failed judgments count for the spread of lengths, then leave."""
    own = make_anchors(judged, difficulty)
    both = join_anchors([anchors, own])
    of_model = np.repeat([0.0, 1.0], [anchors.wins.size, own.wins.size])
    return SoftRows(
        np.column_stack([both.lengths, both.difficulty, of_model]),
        both.wins,
        np.where(of_model > 0, 1.0, _ANCHOR_WEIGHT),
    )


def _lengths(judged: Sequence[Annotation]) -> Floats:
    """Tanh of how much longer the baseline's output is, in standard deviations; not centred. 0 where none differs."""
    longer = np.array([each.baseline_chars - each.model_chars for each in judged], dtype=np.float64)
    spread = float(np.std(longer, ddof=1)) if longer.size > 1 else math.nan
    lengths: Floats = np.tanh(longer / spread) if spread > 0 else np.zeros(longer.size)
    return lengths


def _is_baseline(judged: Sequence[Annotation]) -> bool:
    return all(each.preference == DRAW and each.model_chars == each.baseline_chars for each in judged)
