"""Logistic regression with soft labels and an L1 penalty, for a handful of features. Pure.

Minimises ``sum |beta_j| + C * sum_i w_i (log(1 + exp(eta_i)) - y_i eta_i)`` with ``eta = X beta``, no intercept, by
proximal Newton steps, to the last digits. scikit-learn's liblinear, with which AlpacaEval fits, stops short of the
minimum; that is worth 0.001 points of a win rate in the median and 0.016 at most.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["SoftRows", "fit_logistic", "log_loss", "move_of_rows", "sigmoid"]

Floats = NDArray[np.float64]

_STEPS = 200
_SWEEPS = 1_000
_SETTLED = 1e-12
_HALVINGS = 40


@dataclass(frozen=True, slots=True)
class SoftRows:
    """Rows of a regression."""

    features: Floats
    """Rows × features."""
    labels: Floats
    """One a row, 0-1."""
    weights: Floats
    """One a row, positive."""

    def take(self, rows: NDArray[np.bool_]) -> "SoftRows":
        """Only these rows."""
        return SoftRows(self.features[rows], self.labels[rows], self.weights[rows])


def fit_logistic(rows: SoftRows, c: float, start: Floats | None = None) -> Floats:
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


def move_of_rows(rows: SoftRows, beta: Floats) -> Floats:
    """How far each row moves the coefficients, rows × coefficients, to first order (its influence).

    A row's weighted residual times its features, through the inverse curvature of the loss. The penalty is left out,
    since it pulls alike whatever rows are drawn; a feature that is 0 in all rows moves nothing.
    """
    shares = sigmoid(rows.features @ beta)
    curvature = (rows.features.T * (rows.weights * shares * (1 - shares))) @ rows.features
    residuals = rows.weights * (rows.labels - shares)
    moves: Floats = (rows.features * residuals[:, np.newaxis]) @ np.linalg.pinv(curvature, hermitian=True)
    return moves


def log_loss(rows: SoftRows, beta: Floats) -> float:
    """Weighted loss of the rows, divided by their number (not by the sum of their weights)."""
    return float(np.mean(_losses(rows, beta)))


def sigmoid(values: Floats) -> Floats:
    """1 / (1 + exp(-x)), without overflow."""
    shares: Floats = np.exp(-np.logaddexp(0.0, -values))
    return shares


def _objective(rows: SoftRows, c: float, beta: Floats) -> float:
    return float(np.abs(beta).sum() + c * _losses(rows, beta).sum())


def _losses(rows: SoftRows, beta: Floats) -> Floats:
    eta = rows.features @ beta
    losses: Floats = rows.weights * (np.logaddexp(0.0, eta) - rows.labels * eta)
    return losses


def _newton_target(beta: Floats, gradient: Floats, curvature: Floats) -> Floats:
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
