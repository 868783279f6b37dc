"""Judging: fill in a judge prompt, parse a verdict, put the scores of both orders where they belong."""

from tapir_core.judging.orders import (
    JudgeMode,
    Verdict,
    expected_orders,
    mode_of,
    unscored,
    verdict_rows,
    verdicts_per_instruction,
    verified,
)
from tapir_core.judging.prompt import neutralise, show_instruction
