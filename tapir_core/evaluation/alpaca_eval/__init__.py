"""AlpacaEval 2.0: order of the outputs, preferences, win rates, length control. Makes no call."""

from tapir_core.evaluation.alpaca_eval.annotations import (
    AnnotationFile,
    read_anchors,
    read_annotations,
    read_difficulty,
    read_length_tables,
    read_outputs,
)
from tapir_core.evaluation.alpaca_eval.figures import AlpacaEvalFigures, measure_annotations
from tapir_core.evaluation.alpaca_eval.length_control import (
    Anchors,
    LengthModel,
    LengthTables,
    choose_strength,
    control_length,
    fit_length_model,
    length_alone,
    predict_win_rate,
)
from tapir_core.evaluation.alpaca_eval.preference import (
    Annotation,
    Comparison,
    is_switched,
    preference_from_choice,
    preference_from_logprobs,
)
from tapir_core.evaluation.alpaca_eval.win_rate import WinRates, measure_position, measure_win_rates

__all__ = [
    "AlpacaEvalFigures",
    "Anchors",
    "Annotation",
    "AnnotationFile",
    "Comparison",
    "LengthModel",
    "LengthTables",
    "WinRates",
    "choose_strength",
    "control_length",
    "fit_length_model",
    "is_switched",
    "length_alone",
    "measure_annotations",
    "measure_position",
    "measure_win_rates",
    "predict_win_rate",
    "preference_from_choice",
    "preference_from_logprobs",
    "read_anchors",
    "read_annotations",
    "read_difficulty",
    "read_length_tables",
    "read_outputs",
]
