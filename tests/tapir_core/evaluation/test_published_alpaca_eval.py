"""AlpacaEval's figures of every model whose judgments or coefficients are at hand, against the leaderboard's."""

import math
from functools import cache

import numpy as np
import pytest

from tapir_core.evaluation.alpaca_eval import (
    measure_annotations,
    preference_from_logprobs,
    read_annotations,
    read_length_tables,
)
from tapir_core.evaluation.length_control import (
    Annotation,
    LengthTables,
    control_length,
    fit_logistic,
    predict_win_rate,
    regression_rows,
)
from tests.evalref import csv_rows, evalref, json_rows

pytestmark = pytest.mark.slow

FOLDER = "alpaca_eval"

SHORT_FILES = {"platolm-7b": 803}
"""Rows of published annotation files that are not at hand and lack instructions."""


@cache
def leaderboard() -> dict[str, dict[str, str]]:
    return {row["model"]: row for row in csv_rows(f"{FOLDER}/expected.csv")}


@cache
def judged() -> dict[str, list[Annotation]]:
    return {
        path.stem: read_annotations(str(path)).judged for path in sorted(evalref(f"{FOLDER}/models").glob("*.jsonl"))
    }


@cache
def tables() -> LengthTables:
    difficulty, anchors = (str(evalref(f"{FOLDER}/{file}")) for file in ("difficulty.csv", "anchor_pseudo.jsonl"))
    found = read_length_tables(difficulty, anchors)
    assert found is not None
    return found


def test_win_rates_standard_errors_and_counts_of_all_models() -> None:
    assert len(judged()) == 57
    for name, annotations in judged().items():
        published, found = leaderboard()[name], measure_annotations(annotations)
        assert found.win_rate.value == pytest.approx(float(published["win_rate"]), abs=1e-6), name
        assert found.win_rate.stderr == pytest.approx(float(published["standard_error"]), abs=1e-6), name
        assert found.discrete.value == pytest.approx(float(published["discrete_win_rate"]), abs=1e-6), name
        assert found.win_rate.n == int(published["n_total"]), name
        wins, losses, draws = (published[key] for key in ("n_wins", "n_wins_base", "n_draws"))
        assert found.outcomes == f"{wins} wins, {losses} losses, {draws} draws", name
        assert found.win_rate.failed == 0


def test_length_controlled_rates_from_the_published_coefficients() -> None:
    files = evalref(f"{FOLDER}/lengths_only").glob("*.jsonl")
    lengths = {path.stem: len(path.read_text().splitlines()) for path in files}
    checked = 0
    for name, published in leaderboard().items():
        if not published["w_model"] or published["weights_stale"] == "1":
            continue
        rows = SHORT_FILES.get(name) or len(judged().get(name, ())) or lengths.get(name, 805)
        beta = np.array([float(published[key]) for key in ("w_len", "w_difficulty", "w_model")])
        found = predict_win_rate(beta, tables().difficulty[:rows])
        assert found.value == pytest.approx(float(published["length_controlled_winrate"]), abs=1e-6), name
        if published["lc_standard_error"]:
            assert found.spread == pytest.approx(float(published["lc_standard_error"]), abs=1e-6), name
        checked += 1
    assert checked == 197


def test_length_controlled_rates_fitted_at_the_published_strength() -> None:
    checked = 0
    for name, annotations in judged().items():
        published = leaderboard()[name]
        if published["C"]:
            beta = fit_logistic(regression_rows(annotations, tables()), float(published["C"]))
            found = predict_win_rate(beta, tables().difficulty[: len(annotations)])
            assert found.value == pytest.approx(float(published["length_controlled_winrate"]), abs=0.03), name
            checked += 1
    assert checked == 56


def test_length_controlled_rates_with_own_folds() -> None:
    for name, annotations in judged().items():
        found = control_length(annotations, tables())
        published = float(leaderboard()[name]["length_controlled_winrate"])
        assert found.value == pytest.approx(published, abs=0.2), name
        assert found.value is not None
        assert math.isfinite(found.value)


def test_the_published_error_of_the_length_controlled_rate_is_no_sampling_error() -> None:
    """Ours is larger for every model; the baseline, which stands against itself, has none."""
    for name, annotations in judged().items():
        found = control_length(annotations, tables())
        if name == "gpt4_1106_preview":
            assert (found.low, found.spread) == (None, 0.0)
            continue
        assert found.low < found.value < found.high, name
        assert found.stderr > 1.3 * found.spread, name


def test_the_preferences_of_published_logprobs() -> None:
    cases = json_rows(f"{FOLDER}/logprob_cases.jsonl")
    for case in cases:
        tokens = {token: case[f"logprob_{token}"] for token in ("m", "M") if case[f"logprob_{token}"] is not None}
        found = preference_from_logprobs(tokens, switched=case["switched"])
        assert found == pytest.approx(case["preference"], abs=1e-9), case
    assert len(cases) == 505
