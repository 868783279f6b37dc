"""Judging: fill in a judge prompt, parse a verdict, put the scores of both orders where they belong."""

from tapir_core.judging.orders import (
    POINTWISE,
    VERDICTS,
    JudgeMode,
    ShownAnswers,
    Verdict,
    arrange,
    combine_points,
    expected_orders,
    mode_of,
    pair_verdict,
    unscored,
    verdict_rows,
    verdicts_per_instruction,
)
from tapir_core.judging.prompt import MAX_SECTION_CHARS, neutralise, render_pairwise, render_pointwise
from tapir_core.judging.verdict import SCALE, PairScores, parse_pointwise, parse_verdict

__all__ = [
    "MAX_SECTION_CHARS",
    "POINTWISE",
    "SCALE",
    "VERDICTS",
    "JudgeMode",
    "PairScores",
    "ShownAnswers",
    "Verdict",
    "arrange",
    "combine_points",
    "expected_orders",
    "mode_of",
    "neutralise",
    "pair_verdict",
    "parse_pointwise",
    "parse_verdict",
    "render_pairwise",
    "render_pointwise",
    "unscored",
    "verdict_rows",
    "verdicts_per_instruction",
]
