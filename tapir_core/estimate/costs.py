"""What the work of a run takes under one scenario: tokens a call and their price. Pure.

Limits: cached prompts are not counted as cheaper, and attempts that fail are not counted.
"""

from dataclasses import replace

from tapir_core.calls import Role
from tapir_core.calls.prices import Price
from tapir_core.config import RunConfig
from tapir_core.estimate.assumptions import BACKBONE_SHARE, KNOWN_POWER, Scenario, priors_of
from tapir_core.estimate.evidence import Evidence
from tapir_core.estimate.hours import call_seconds, training_seconds
from tapir_core.estimate.line import ASKS, Line, Prices
from tapir_core.estimate.workload import Pool, workload
from tapir_core.paths import BACKBONE

__all__ = ["cost_lines"]

_NO_MONEY = Price(0.0, 0.0, 0.0, source="the student's answers cost time and no money")


def cost_lines(
    config: RunConfig, pool: Pool, evidence: Evidence, scenario: Scenario, prices: Prices, batched: frozenset[str]
) -> list[Line]:
    """The whole run under one scenario; ``batched`` are the roles (teacher, judge) that go through a Batch API."""
    lengths = _lengths(config, evidence, scenario)
    lines = []
    for work in workload(config, pool, scenario, lengths["answer"]):
        if work.role is None:
            lines.append(Line(work, "", seconds=training_seconds(work, evidence, scenario)))
            continue
        asks, completion = ASKS[work.role], lengths[work.role]
        if work.round == BACKBONE:
            completion = BACKBONE_SHARE * config.student.sampling.max_tokens
        price = prices.get(asks, _NO_MONEY)
        known = price if isinstance(price, Price) else None
        line = Line(work, asks, evidence.prompts.of(work.role, lengths), completion, known)
        lines.append(replace(line, seconds=call_seconds(config, line, evidence, scenario, batched=asks in batched)))
    return lines


def _lengths(config: RunConfig, evidence: Evidence, scenario: Scenario) -> dict[Role, float]:
    """Completion tokens of one reply by role, at most what the configuration allows."""
    teacher, judge = priors_of(config.teacher.endpoint), priors_of(config.judge.endpoint)
    most: dict[Role, int] = {
        "label": config.teacher.labelling.max_tokens,
        "teach": config.teacher.answering.max_tokens,
        "answer": config.student.sampling.max_tokens,
        "judge": config.judge.sampling.max_tokens,
        "expand": config.teacher.expanding.max_tokens,
        "refine": config.teacher.refining.max_tokens,
    }
    found: dict[Role, float] = {}
    for role, limit in most.items():
        # S_0 learns to answer as the teacher does, so the student's answers are as long as the teacher's.
        known = evidence.lengths.get("teach" if role == "answer" else role)
        prior = (judge if role == "judge" else teacher).completion_tokens[role]
        assumed = prior + (evidence.prompts.instruction if role == "expand" else 0.0)
        tokens = known.tokens * scenario.length**KNOWN_POWER if known else assumed * scenario.length
        found[role] = min(float(limit), tokens)
    return found
