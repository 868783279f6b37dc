"""Judging: fill in a judge prompt, parse a verdict, put the scores of both orders where they belong."""

from tapir_core.judging.combine import (
    POINTWISE,
    VERDICTS,
    ShownAnswers,
    Verdict,
    arrange,
    combine_points,
    pair_verdict,
    unscored,
    verdict_rows,
)
from tapir_core.judging.modes import JudgeMode, expected_orders, mode_of, verdicts_per_instruction
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
