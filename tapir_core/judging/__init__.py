"""Judging: fill in a judge prompt, parse a verdict, put the scores of both orders where they belong."""

from tapir_core.judging.modes import (
    JudgeMode,
    Verdict,
    combine_judges,
    levelled,
    mode_of,
    unscored,
    verdict_rows,
    verified,
)
from tapir_core.judging.prompt import neutralise, show_instruction
