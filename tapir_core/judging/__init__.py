"""Judging: fill in a judge prompt, parse a verdict, put the scores of both orders where they belong."""

from tapir_core.judging.orders import (
    POINTWISE,
    VERDICTS,
    JudgeMode,
    Verdict,
    expected_orders,
    mode_of,
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
    "Verdict",
    "expected_orders",
    "mode_of",
    "neutralise",
    "parse_pointwise",
    "parse_verdict",
    "render_pairwise",
    "render_pointwise",
    "unscored",
    "verdict_rows",
    "verdicts_per_instruction",
]
