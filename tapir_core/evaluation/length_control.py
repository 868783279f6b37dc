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
Departures: an exact minimum (`fit_logistic`), and folds dealt row by row from the last, where the original's depend on
the build of numpy that sorts equal numbers (up to 0.15 points). And judgments that are all a win, a loss or a draw,
without log-probabilities, enter the fit as 99.8, 0.2 and 50 %: where lengths alone part wins from losses, psi could
else be anything.

Without tables (`length_alone`) this is the original's ``length_controlled_minimal``: never beside a published rate.

The difficulty table and the anchors are CSV files of the original's data set (``instruction_difficulty.csv``,
``df_gamed.csv``); anchors may be annotations too, of one or several models.

The fit is a logistic regression with soft labels and an L1 penalty, without an intercept. It minimises ``sum |beta_j| +
C * sum_i w_i (log(1 + exp(eta_i)) - y_i eta_i)`` with ``eta = X beta``: scipy's SLSQP, over the positive and the
negative part of each coefficient, and then its root finder, to the last digits. scikit-learn's liblinear, with which
AlpacaEval fits, stops short of the minimum as it is set there; that is worth 0.001 points in the median and 0.016 at
most.
"""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tapir_core import errors, statistics
from tapir_core.data.records import read_text

_Floats = NDArray[np.float64]

STRENGTHS = tuple(10 ** (-4 + 8 * step / 9) for step in range(10))
"""Values of C that cross-validation chooses from."""

_FOLDS = 5
_AWAY = 1e-6
"""A coefficient this near to 0 is 0."""
_ANCHOR_WEIGHT = 0.1
"""0.2 shared by the two anchor models."""
_ROUNDING = 1e-12
_LEFT = 0.01
"""Of a judgment (0-1) that the fit must leave over somewhere, if its error is to be known."""
_DOUBT = 0.002
"""Left to the other side of a judgment that only names a winner."""
_DIFFICULTY = ("difficulty", "instruction_difficulty")
_ANCHOR_COLUMNS = ("std_delta_len", "instruction_difficulty", "preference")
_LINE = "line of the file"


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


class SoftRows(NamedTuple):
    """Rows of the regression, a judgment each, with the features t, d and whether it is the model's (1) or not."""

    features: _Floats
    """Rows × features."""
    labels: _Floats
    """One a row, 0-1."""
    weights: _Floats
    """One a row, positive."""

    def losses(self, features: _Floats, beta: _Floats) -> tuple[_Floats, _Floats]:
        """The weighted log loss of each row by these ``features``, and the slope of their sum for each coefficient."""
        eta = features @ beta
        losses = self.weights * (np.logaddexp(0.0, eta) - self.labels * eta)
        return losses, features.T @ (self.weights * (sigmoid(eta) - self.labels))

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
class ControlledRate(statistics.Estimate):
    """The length-controlled win rate in per cent, with two errors that answer different questions.

    ``stderr`` and interval are of sampling: what other instructions would have made of it.
    """

    spread: float | None = field(default=None, kw_only=True)
    """The original's ``lc_standard_error``: the spread of predictions over the instructions, in points."""


def length_alone(n: int) -> LengthTables:
    """For ``n`` instructions that have no tables (``length_controlled_minimal``): all equally hard, no anchors."""
    return LengthTables([0.0] * n, _NO_ROWS)


def soft_rows(judged: Sequence[Annotation], difficulty: Sequence[float], *, anchors: bool = False) -> SoftRows:
    """One model's judgments, in the order of the table, or those of one anchor model.

    Failed judgments count for the spread of lengths, then leave.
    """
    kept = np.array([each.win is not None for each in judged], dtype=bool)
    wins = np.array([each.win for each in judged if each.win is not None], dtype=np.float64)
    if np.isin(wins, (0.0, 0.5, 1.0)).all():
        wins = wins.clip(_DOUBT, 1 - _DOUBT)
    of_model, weight = (0.0, _ANCHOR_WEIGHT) if anchors else (1.0, 1.0)
    features = np.column_stack(
        [_lengths(judged)[kept], np.array(difficulty[: len(judged)])[kept], np.full(wins.size, of_model)]
    )
    return SoftRows(features, wins, np.full(wins.size, weight))


def join_rows(parts: Sequence[SoftRows]) -> SoftRows:
    """The rows of each, one after the other."""
    features, labels, weights = zip(_NO_ROWS, *parts, strict=True)
    return SoftRows(np.concatenate(features), np.concatenate(labels), np.concatenate(weights))


def regression_rows(judged: Sequence[Annotation], tables: LengthTables) -> SoftRows:
    """What the regression of one model is fitted to: the anchors, then its judgments."""
    return join_rows([tables.anchors, soft_rows(judged, tables.difficulty)])


def control_length(judged: Sequence[Annotation], tables: LengthTables) -> ControlledRate:
    """The length-controlled win rate, with the strength chosen by cross-validation.

    Args:
        judged: the model's judgments, in the order of the file.
        tables: difficulty of at least as many instructions, and the anchors.
    """
    if all(each.win == 0.5 and each.model_chars == each.baseline_chars for each in judged):
        return predict_win_rate(np.zeros(3), tables.difficulty[: len(judged)], "the baseline against itself")
    rows = regression_rows(judged, tables)
    found, freely = (
        _with_error(judged, tables, rows, fit_logistic(rows, each)) for each in (choose_strength(rows), STRENGTHS[-1])
    )
    ends = [end for each in (found, freely) for end in (each.low, each.high) if end is not None]
    return found if len(ends) < 4 else replace(found, low=min(ends), high=max(ends))


def choose_strength(rows: SoftRows) -> float:
    """The C with the lowest loss over five folds; the first of equals."""
    fold_of = np.arange(rows.labels.size)[::-1] % _FOLDS
    folds = [fold_of == fold for fold in range(min(_FOLDS, rows.labels.size)) if rows.labels.size > 1]
    return min(STRENGTHS, key=lambda strength: sum(_loss_outside(rows, fold, strength) for fold in folds))


def _loss_outside(rows: SoftRows, fold: NDArray[np.bool_], strength: float) -> float:
    """Of a fold, by the coefficients of all others: divided by its rows, and not by the sum of their weights."""
    inside, beta = rows.take(fold), fit_logistic(rows.take(~fold), strength)
    return float(inside.losses(inside.features, beta)[0].mean())


def fit_logistic(rows: SoftRows, c: float) -> _Floats:
    """The coefficients at strength ``c`` of the data against the penalty: of length, difficulty and model."""
    from scipy.optimize import minimize, root

    n, width = rows.features.shape
    signed, penalty = np.hstack([rows.features, -rows.features]), 1 / (c * n)

    def penalised(parts: _Floats) -> tuple[float, _Floats]:
        losses, slopes = rows.losses(signed, parts)
        return penalty * parts.sum() + losses.mean(), penalty + slopes / n

    parts = minimize(
        penalised,
        np.zeros(2 * width),
        method="SLSQP",
        jac=True,
        bounds=[(0, None)] * (2 * width),
        options={"ftol": 1e-16, "maxiter": 1_000},
    ).x
    beta: _Floats = parts[:width] - parts[width:]
    away = np.abs(beta) > _AWAY
    beta[~away], signs = 0.0, np.sign(beta[away])
    if away.any():
        # What is not 0 has no corner there: its slopes are solved to the last digits.
        features = rows.features[:, away]
        beta[away] = root(lambda part: penalty * signs + rows.losses(features, part)[1] / n, beta[away], tol=1e-14).x
    return beta


def predict_win_rate(beta: _Floats, difficulty: Sequence[float], why: str = "") -> ControlledRate:
    """The rate that the coefficients predict at equal lengths, over these instructions; ``why`` it has no interval."""
    found = statistics.estimate_mean((100 * sigmoid(beta[1] * np.array(difficulty) + beta[2])).tolist())
    return ControlledRate(found.value, n=found.n, note=why, spread=found.stderr)


def is_far_from(controlled: float, raw: float) -> bool:
    """True when the controlled rate is so far from the raw one (per cent) that the regression is to be doubted."""
    return controlled < min(raw - raw / 4, raw - 10) or controlled > max(raw + (100 - raw) / 4, raw + 10)


def sigmoid(values: _Floats) -> _Floats:
    """1 / (1 + exp(-x)), without overflow."""
    return np.exp(-np.logaddexp(0.0, -values))


def _with_error(judged: Sequence[Annotation], tables: LengthTables, rows: SoftRows, beta: _Floats) -> ControlledRate:
    """The predicted rate with the standard error of the sum of all moves; its interval is taken on the log-odds."""
    difficulty, n = np.array(tables.difficulty[: len(judged)]), len(judged)
    found = predict_win_rate(beta, difficulty.tolist())
    if found.value is None or n < statistics.FEWEST_ROWS:
        return replace(found, note=f"{n} judgments only")
    if np.abs(rows.labels - sigmoid(rows.features @ beta))[_of_model(rows)].max() < _LEFT:
        return replace(found, note="the fit predicts every judgment as it is, and leaves nothing to tell its error by")
    kept = np.array([each.win is not None for each in judged])
    stderr = math.sqrt(n) * float(np.std(_moves(difficulty, kept, rows, beta), ddof=1))
    share = min(max(found.value / 100, _ROUNDING), 1 - _ROUNDING)
    margin = statistics.student_t(n - 1) * stderr / (share * (1 - share))
    low, high = map(float, 100 * sigmoid(math.log(share / (1 - share)) + np.array([-margin, margin])))
    return replace(found, low=low, high=high, stderr=100 * stderr)


def _of_model(rows: SoftRows) -> NDArray[np.bool_]:
    return rows.features[:, -1] > 0


def _moves(difficulty: _Floats, kept: NDArray[np.bool_], rows: SoftRows, beta: _Floats) -> _Floats:
    """How far each instruction moves the rate (0-1): by its own prediction, and by its judgment through the fit.

    A judgment moves the coefficients, to first order (its influence), by its weighted residual times its features,
    through the inverse curvature of the loss. The penalty is left out, since it pulls alike whatever rows are drawn; a
    feature that is 0 in all rows moves nothing. ``kept`` tells the instructions whose judgment did not fail.
    """
    shares = sigmoid(rows.features @ beta)
    curvature = (rows.features.T * (rows.weights * shares * (1 - shares))) @ rows.features
    residuals = rows.weights * (rows.labels - shares)
    of_rows = (rows.features * residuals[:, np.newaxis]) @ np.linalg.pinv(curvature, hermitian=True)
    predicted = sigmoid(beta[1] * difficulty + beta[2])
    slopes = predicted * (1 - predicted)
    moves: _Floats = (predicted - predicted.mean()) / difficulty.size
    moves[kept] += of_rows[_of_model(rows)] @ [0.0, np.mean(slopes * difficulty), np.mean(slopes)]
    return moves


def _lengths(judged: Sequence[Annotation]) -> _Floats:
    """Tanh of how much longer the baseline's output is, in standard deviations; not centred. 0 where none differs."""
    longer = np.array([each.baseline_chars - each.model_chars for each in judged], dtype=np.float64)
    spread = float(np.std(longer, ddof=1)) if longer.size > 1 else math.nan
    return np.tanh(longer / spread) if spread > 0 else np.zeros(longer.size)


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
        raise errors.ConfigError(f"{path!r} has no column {' or '.join(_DIFFICULTY)} (found {', '.join(columns)})")
    found = pl.Series(_numbers(table, named[0], path))
    return found.filter(table["index"].is_first_distinct()).to_list() if "index" in columns else found.to_list()


def read_standardised(text: str, path: str) -> SoftRows:
    """Anchors of the original's CSV file; ``path`` is named in messages.

    Raises:
        ConfigError: ``text`` is damaged, or a column lacks or holds something else.
    """
    table = _read_csv(text, path)
    if lacking := [name for name in _ANCHOR_COLUMNS if name not in table.columns]:
        raise errors.ConfigError(
            f"{path!r} has no column {', '.join(lacking)} (found {', '.join(table.columns[1:])}); "
            f"anchors are annotations of the anchor models, or a CSV file with {', '.join(_ANCHOR_COLUMNS)}"
        )
    judged = table.filter(pl.col("preference") != "")
    lengths, difficulty, wins = (_numbers(judged, name, path) for name in _ANCHOR_COLUMNS)
    if not ((wins >= 0) & (wins <= 1)).all():
        raise errors.ConfigError(f"{path!r}: preference of standardised anchors is a share, 0-1; got {wins.max():g}")
    return SoftRows(
        np.column_stack([np.tanh(lengths), difficulty, np.zeros(wins.size)]), wins, np.full(wins.size, _ANCHOR_WEIGHT)
    )


def _read_csv(text: str, path: str) -> pl.DataFrame:
    """The cells as texts, behind the lines that they stand in."""
    try:
        table = pl.read_csv(
            io.StringIO(text),
            infer_schema=False,
            truncate_ragged_lines=True,
            empty_string_is_null=False,
            raise_if_empty=False,
        )
    except pl.exceptions.PolarsError as exc:
        why = str(exc).partition("\n")[0]
        raise errors.ConfigError(
            f"{path!r} is damaged CSV: {why}; quote cells that hold commas, quotes or line breaks"
        ) from exc
    if table.is_empty():
        raise errors.ConfigError(f"{path!r} holds no row; expected CSV with a header")
    return table.with_row_index(_LINE, offset=2).filter(pl.any_horizontal(pl.exclude(_LINE) != ""))


def _numbers(table: pl.DataFrame, column: str, path: str) -> _Floats:
    """The finite numbers of a column."""
    found = table[column].str.strip_chars().cast(pl.Float64, strict=False)
    broken = table.filter(~found.is_finite().fill_null(False))
    if broken.height:
        line, cell = broken.select(_LINE, column).row(0)
        raise errors.ConfigError(f"{path!r}, line {line}: {column} must be a number, got {cell or ''!r}")
    return found.to_numpy()
