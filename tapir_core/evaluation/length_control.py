"""The length-controlled win rate of AlpacaEval 2.0: what the win rate would be, were both outputs equally long. Pure.

One small regression a model: the log-odds of the model's win are ``theta t + phi d + psi``, with t the tanh of how much
longer the baseline's output is, in standard deviations; d how beatable the baseline is on the instruction (a published
table); psi the model. *Anchors* hold theta and phi: judgments of the baseline model told to be long, or brief, against
itself, for which psi counts nothing. The rate is the mean prediction with t = 0.

Kept from the original, since its published figures rest on it: d is looked up by the row's place in its file, so a file
that lacks rows shifts it; `lc_standard_error` is the spread of predictions over instructions, no sampling error.
The sampling error is ours: the sandwich of the logistic fit (delta method), over instructions. An instruction moves the
rate by its own prediction and by what its judgment moves the coefficients; the standard error is that of the sum of
these moves. Anchors and table are taken as given. The penalty of a small C draws a rate towards 50: the interval spans
that of the chosen C and that of the largest one, so that what the penalty does is in it; with 805 judgments both are
nearly the same.
Departures: an exact solver (`fit_logistic`), and folds dealt row by row from the last, where the original's depend on
the build of numpy that sorts equal numbers (up to 0.15 points). And judgments that are all a win, a loss or a draw,
without log-probabilities, enter the fit as 99.8, 0.2 and 50 %: where lengths alone part wins from losses, psi could
else be anything.

Without tables (`length_alone`) this is the original's ``length_controlled_minimal``: never beside a published rate.

The difficulty table and the anchors are CSV files of the original's data set (``instruction_difficulty.csv``,
``df_gamed.csv``); anchors may be annotations too, of one or several models.

The fit (`fit_logistic`) is a logistic regression with soft labels and an L1 penalty, for a handful of features. It
minimises ``sum |beta_j| + C * sum_i w_i (log(1 + exp(eta_i)) - y_i eta_i)`` with ``eta = X beta``, no intercept, by
proximal Newton steps, to the last digits. scikit-learn's liblinear, with which AlpacaEval fits, stops short of the
minimum; that is worth 0.001 points of a win rate in the median and 0.016 at most.
"""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tapir_core.errors import ConfigError
from tapir_core.evaluation.rows import read_text
from tapir_core.judging.estimates import FEWEST_ROWS, Estimate, estimate_mean, student_t

_Floats = NDArray[np.float64]

STRENGTHS = tuple(10 ** (-4 + 8 * step / 9) for step in range(10))
"""Values of C that cross-validation chooses from."""

_FOLDS = 5
_ANCHOR_WEIGHT = 0.1
"""0.2 shared by the two anchor models."""
_ROUNDING = 1e-12
_LEFT = 0.01
"""Of a judgment (0-1) that the fit must leave over somewhere, if its error is to be known."""
_NOTHING_LEFT = "the fit predicts every judgment as it is, and leaves nothing to tell its error by"
_DOUBT = 0.002
"""Left to the other side of a judgment that only names a winner."""
_DIFFICULTY = ("difficulty", "instruction_difficulty")
_ANCHOR_COLUMNS = ("std_delta_len", "instruction_difficulty", "preference")

_LINE = "line of the file"

_STEPS = 200
_SWEEPS = 1_000
_SETTLED = 1e-12
_HALVINGS = 40


@dataclass(frozen=True, slots=True)
class Annotation:
    """One judgment of AlpacaEval, as its figures take it."""

    preference: float | None
    """1 the baseline's output is better, 2 the model's, between them a probability; None when it failed."""
    model_chars: int
    """Length of the model's output in code points."""
    baseline_chars: int
    """Length of the baseline's output in code points."""
    switched: bool | None = None
    """Whether the model's output was shown first; None where nobody wrote it down."""

    @property
    def win(self) -> float | None:
        """The probability that the model's output is better, 0-1; None when the judgment failed."""
        return None if self.preference is None else self.preference - 1


class LengthModel(NamedTuple):
    """Coefficients of one model's regression."""

    theta: float
    """Of the length; negative where the annotator favours the longer output."""
    phi: float
    """Of the difficulty."""
    psi: float
    """Of the model."""


class SoftRows(NamedTuple):
    """Rows of a regression; here a judgment each, with the features t, d and whether it is the model's (1) or not."""

    features: _Floats
    """Rows × features."""
    labels: _Floats
    """One a row, 0-1."""
    weights: _Floats
    """One a row, positive."""

    def take(self, rows: NDArray[np.bool_]) -> "SoftRows":
        """Only these rows."""
        return SoftRows(self.features[rows], self.labels[rows], self.weights[rows])


_NO_ROWS = SoftRows(np.zeros((0, 3)), np.zeros(0), np.zeros(0))


@dataclass(frozen=True, slots=True)
class LengthTables:
    """What length control needs beside the judgments."""

    difficulty: Sequence[float]
    """d: how beatable the baseline is on each instruction, in the order of the judgments; at least as many."""
    anchors: SoftRows
    """Judgments of the anchor models."""


@dataclass(frozen=True, slots=True)
class ControlledRate:
    """The length-controlled win rate, with two errors that answer different questions."""

    rate: Estimate
    """In per cent; ``stderr`` and interval are of sampling: what other instructions would have made of it."""
    spread: float | None
    """The original's ``lc_standard_error``: the spread of predictions over the instructions, in points."""


def make_anchors(judged: Sequence[Annotation], difficulty: Sequence[float]) -> SoftRows:
    """One anchor model's judgments, in the order of the table; the failed ones are left out."""
    return _make_rows(judged, difficulty, of_model=0.0, weight=_ANCHOR_WEIGHT)


def join_rows(parts: Sequence[SoftRows]) -> SoftRows:
    """The rows of each, one after the other."""
    features, labels, weights = zip(_NO_ROWS, *parts, strict=True)
    return SoftRows(np.concatenate(features), np.concatenate(labels), np.concatenate(weights))


def length_alone(n: int) -> LengthTables:
    """For ``n`` instructions that have no tables (``length_controlled_minimal``): all equally hard, no anchors."""
    return LengthTables([0.0] * n, _NO_ROWS)


def control_length(judged: Sequence[Annotation], tables: LengthTables) -> ControlledRate:
    """The length-controlled win rate, with the strength chosen by cross-validation.

    Args:
        judged: the model's judgments, in the order of the file.
        tables: difficulty of at least as many instructions, and the anchors.
    """
    if all(each.win == 0.5 and each.model_chars == each.baseline_chars for each in judged):
        found = predict_win_rate(LengthModel(0.0, 0.0, 0.0), tables.difficulty[: len(judged)])
        return replace(found, rate=replace(found.rate, why="the baseline against itself"))
    strengths = (choose_strength(judged, tables), STRENGTHS[-1])
    found, freely = (_with_error(judged, tables, fit_length_model(judged, tables, each)) for each in strengths)
    if found.rate.low is None or found.rate.high is None or freely.rate.low is None or freely.rate.high is None:
        return found
    low, high = min(found.rate.low, freely.rate.low), max(found.rate.high, freely.rate.high)
    return replace(found, rate=replace(found.rate, low=low, high=high))


def fit_length_model(judged: Sequence[Annotation], tables: LengthTables, strength: float) -> LengthModel:
    """The coefficients at C = ``strength``."""
    return LengthModel(*map(float, fit_logistic(_rows(judged, tables), strength)))


def choose_strength(judged: Sequence[Annotation], tables: LengthTables) -> float:
    """The C with the lowest loss over five folds; the first of equals."""
    rows = _rows(judged, tables)
    n = rows.labels.size
    fold_of = np.arange(n)[::-1] % _FOLDS
    losses = np.zeros(len(STRENGTHS))
    for fold in range(min(_FOLDS, n)):
        inside, beta = fold_of == fold, None
        for place, strength in enumerate(STRENGTHS):
            beta = fit_logistic(rows.take(~inside), strength, beta)
            losses[place] += log_loss(rows.take(inside), beta)
    return STRENGTHS[int(np.argmin(losses))]


def predict_win_rate(model: LengthModel, difficulty: Sequence[float]) -> ControlledRate:
    """The rate that the coefficients predict at equal lengths, over these instructions; without a sampling error."""
    found = estimate_mean((100 * sigmoid(model.phi * np.array(difficulty) + model.psi)).tolist())
    return ControlledRate(Estimate(found.value, found.n, why="coefficients alone have no sampling error"), found.stderr)


def is_far_from(controlled: float, raw: float) -> bool:
    """True when the controlled rate is so far from the raw one (per cent) that the regression is to be doubted."""
    return controlled < min(raw - raw / 4, raw - 10) or controlled > max(raw + (100 - raw) / 4, raw + 10)


def read_difficulty(path: str) -> list[float]:
    """How beatable the baseline is on each instruction, larger is easier, in the order of the instructions.

    A CSV file with a column ``difficulty`` or ``instruction_difficulty``, or with an index and one column of numbers.
    Where a column ``index`` names an instruction twice, its first row counts.

    Raises:
        ConfigError: the file cannot be read, or has no such column.
    """
    table = _read_csv(read_text(path), path)
    columns = table.columns[1:]
    named = [name for name in _DIFFICULTY if name in columns] or columns[1:] * (len(columns) == 2)
    if not named:
        raise ConfigError(f"{path!r} has no column {' or '.join(_DIFFICULTY)} (found {', '.join(columns)})")
    found = pl.Series(_numbers(table, named[0], path))
    return found.filter(table["index"].is_first_distinct()).to_list() if "index" in columns else found.to_list()


def fit_logistic(rows: SoftRows, c: float, start: _Floats | None = None) -> _Floats:
    """The coefficients at strength ``c`` of the data against the penalty; ``start`` only saves steps."""
    beta = np.zeros(rows.features.shape[1]) if start is None else start
    objective = _objective(rows, c, beta)
    for _ in range(_STEPS):
        shares = sigmoid(rows.features @ beta)
        gradient = c * rows.features.T @ (rows.weights * (shares - rows.labels))
        spread = c * rows.weights * shares * (1 - shares)
        step = _newton_target(beta, gradient, (rows.features.T * spread) @ rows.features) - beta
        for _ in range(_HALVINGS):
            lower = _objective(rows, c, beta + step)
            if lower <= objective:
                break
            step = step / 2
        else:
            break  # rounding errors are all that is left to gain
        beta, objective = beta + step, lower
        if np.abs(step).max() < _SETTLED:
            break
    return beta


def log_loss(rows: SoftRows, beta: _Floats) -> float:
    """Weighted loss of the rows, divided by their number (not by the sum of their weights)."""
    return float(np.mean(_losses(rows, beta)))


def sigmoid(values: _Floats) -> _Floats:
    """1 / (1 + exp(-x)), without overflow."""
    return np.exp(-np.logaddexp(0.0, -values))


def _rows(judged: Sequence[Annotation], tables: LengthTables) -> SoftRows:
    """Anchors first. Failed judgments count for the spread of lengths, then leave."""
    return join_rows([tables.anchors, _make_rows(judged, tables.difficulty, of_model=1.0, weight=1.0)])


def _make_rows(
    judged: Sequence[Annotation], difficulty: Sequence[float], *, of_model: float, weight: float
) -> SoftRows:
    kept = np.array([each.win is not None for each in judged], dtype=bool)
    wins = np.array([each.win for each in judged if each.win is not None], dtype=np.float64)
    if np.isin(wins, (0.0, 0.5, 1.0)).all():
        wins = wins.clip(_DOUBT, 1 - _DOUBT)
    features = [_lengths(judged)[kept], np.array(difficulty[: len(judged)])[kept], np.full(wins.size, of_model)]
    return SoftRows(np.column_stack(features), wins, np.full(wins.size, weight))


def _with_error(judged: Sequence[Annotation], tables: LengthTables, model: LengthModel) -> ControlledRate:
    """The predicted rate with the standard error of the sum of all moves; its interval is taken on the log-odds."""
    found, n = predict_win_rate(model, tables.difficulty[: len(judged)]), len(judged)
    rate = found.rate
    if rate.value is None or n < FEWEST_ROWS:
        return replace(found, rate=replace(rate, why=f"{n} judgments only"))
    rows = _rows(judged, tables)
    left = np.abs(rows.labels - sigmoid(rows.features @ np.array(model)))[rows.features[:, -1] > 0]
    if left.max() < _LEFT:
        return replace(found, rate=replace(rate, why=_NOTHING_LEFT))
    moves = _moves(judged, tables, rows, model)
    stderr = math.sqrt(n / (n - 1) * float(np.sum((moves - moves.mean()) ** 2)))
    share = min(max(rate.value / 100, _ROUNDING), 1 - _ROUNDING)
    margin = student_t(n - 1) * stderr / (share * (1 - share))
    low, high = 100 * sigmoid(math.log(share / (1 - share)) + np.array([-margin, margin]))
    return replace(found, rate=replace(rate, stderr=100 * stderr, low=float(low), high=float(high), why=""))


def _moves(judged: Sequence[Annotation], tables: LengthTables, rows: SoftRows, model: LengthModel) -> _Floats:
    """How far each instruction moves the rate (0-1): by its own prediction, and by its judgment through the fit."""
    table, n = np.array(tables.difficulty[: len(judged)]), len(judged)
    predicted = sigmoid(model.phi * table + model.psi)
    slopes = predicted * (1 - predicted)
    of_beta = np.array([0.0, float(np.mean(slopes * table)), float(np.mean(slopes))])
    kept = np.array([each.win is not None for each in judged])
    moves: _Floats = (predicted - predicted.mean()) / n
    moves[kept] += _move_of_rows(rows, np.array(model))[tables.anchors.labels.size :] @ of_beta
    return moves


def _move_of_rows(rows: SoftRows, beta: _Floats) -> _Floats:
    """How far each row moves the coefficients, rows × coefficients, to first order (its influence).

    A row's weighted residual times its features, through the inverse curvature of the loss. The penalty is left out,
    since it pulls alike whatever rows are drawn; a feature that is 0 in all rows moves nothing.
    """
    shares = sigmoid(rows.features @ beta)
    curvature = (rows.features.T * (rows.weights * shares * (1 - shares))) @ rows.features
    residuals = rows.weights * (rows.labels - shares)
    return (rows.features * residuals[:, np.newaxis]) @ np.linalg.pinv(curvature, hermitian=True)


def _lengths(judged: Sequence[Annotation]) -> _Floats:
    """Tanh of how much longer the baseline's output is, in standard deviations; not centred. 0 where none differs."""
    longer = np.array([each.baseline_chars - each.model_chars for each in judged], dtype=np.float64)
    spread = float(np.std(longer, ddof=1)) if longer.size > 1 else math.nan
    return np.tanh(longer / spread) if spread > 0 else np.zeros(longer.size)


def _objective(rows: SoftRows, c: float, beta: _Floats) -> float:
    return float(np.abs(beta).sum() + c * _losses(rows, beta).sum())


def _losses(rows: SoftRows, beta: _Floats) -> _Floats:
    eta = rows.features @ beta
    return rows.weights * (np.logaddexp(0.0, eta) - rows.labels * eta)


def _newton_target(beta: _Floats, gradient: _Floats, curvature: _Floats) -> _Floats:
    """Where the penalty plus the quadratic around ``beta`` is lowest, coordinate after coordinate."""
    target = beta.copy()
    for _ in range(_SWEEPS):
        before = target.copy()
        for j, bend in enumerate(np.diag(curvature)):
            if bend > 0:
                pull = bend * target[j] - gradient[j] - curvature[j] @ (target - beta)
                target[j] = np.sign(pull) * max(abs(pull) - 1, 0.0) / bend
        if np.abs(target - before).max() < _SETTLED:
            break
    return target


def read_standardised(text: str, path: str) -> SoftRows:
    """Anchors of the original's CSV file; ``path`` is named in messages.

    Raises:
        ConfigError: ``text`` is damaged, or a column lacks or holds something else.
    """
    table = _read_csv(text, path)
    if lacking := [name for name in _ANCHOR_COLUMNS if name not in table.columns]:
        raise ConfigError(
            f"{path!r} has no column {', '.join(lacking)} (found {', '.join(table.columns[1:])}); "
            f"anchors are annotations of the anchor models, or a CSV file with {', '.join(_ANCHOR_COLUMNS)}"
        )
    judged = table.filter(pl.col("preference") != "")
    lengths, difficulty, wins = (_numbers(judged, name, path) for name in _ANCHOR_COLUMNS)
    if not ((wins >= 0) & (wins <= 1)).all():
        raise ConfigError(f"{path!r}: preference of standardised anchors is a share, 0-1; got {wins.max():g}")
    features = np.column_stack([np.tanh(lengths), difficulty, np.zeros(wins.size)])
    return SoftRows(features, wins, np.full(wins.size, _ANCHOR_WEIGHT))


def _read_csv(text: str, path: str) -> pl.DataFrame:
    """The cells as texts, behind the lines that they stand in."""
    try:
        table = pl.read_csv(
            io.StringIO(text), infer_schema=False, truncate_ragged_lines=True, empty_string_is_null=False
        )
    except pl.exceptions.NoDataError:
        table = pl.DataFrame()
    except pl.exceptions.PolarsError as exc:
        why = str(exc).partition("\n")[0]
        raise ConfigError(
            f"{path!r} is damaged CSV: {why}; quote cells that hold commas, quotes or line breaks"
        ) from exc
    if table.is_empty():
        raise ConfigError(f"{path!r} holds no row; expected CSV with a header")
    return table.with_row_index(_LINE, offset=2).filter(pl.any_horizontal(pl.exclude(_LINE) != ""))


def _numbers(table: pl.DataFrame, column: str, path: str) -> _Floats:
    """The finite numbers of a column."""
    found = table[column].str.strip_chars().cast(pl.Float64, strict=False)
    broken = table.filter(~found.is_finite().fill_null(False))
    if broken.height:
        line, cell = broken.select(_LINE, column).row(0)
        raise ConfigError(f"{path!r}, line {line}: {column} must be a number, got {cell or ''!r}")
    return found.to_numpy()
